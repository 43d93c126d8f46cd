"""The losses equal a plain-Python transcription of the paper, row by row, and so do their gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ktotrain.losses import LOSSES, class_weights, gradient_factor, kto_loss

nats = st.floats(-200, 200)
rows = st.lists(st.tuples(nats, st.booleans()), min_size=1, max_size=12)


def paper(log_ratio: float, label: bool, z_ref: float, beta: float, lambda_d: float, lambda_u: float) -> float:
    """Equations 7 and 8: lambda_y - v(x, y), with v = lambda_y * sigmoid(...)."""

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

    if label:
        return lambda_d - lambda_d * sigmoid(beta * (log_ratio - z_ref))
    return lambda_u - lambda_u * sigmoid(beta * (z_ref - log_ratio))


@given(rows, st.floats(0, 50), st.sampled_from([0.01, 0.1, 0.5]), st.floats(0.1, 20), st.floats(0.1, 20))
def test_kto_is_the_papers(
    drawn: list[tuple[float, bool]], z_ref: float, beta: float, lambda_d: float, lambda_u: float
) -> None:
    ratios = torch.tensor([ratio for ratio, _ in drawn])
    labels = torch.tensor([label for _, label in drawn])
    weights = class_weights(labels, desirable_weight=lambda_d, undesirable_weight=lambda_u)
    got = kto_loss(ratios, labels, weights, torch.tensor(z_ref), beta=beta)
    expected = [paper(ratio, label, z_ref, beta, lambda_d, lambda_u) for ratio, label in drawn]
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-4, atol=1e-5)


@given(rows)
def test_apo_zero_is_kto_at_a_reference_point_of_zero(drawn: list[tuple[float, bool]]) -> None:
    ratios = torch.tensor([ratio for ratio, _ in drawn])
    labels = torch.tensor([label for _, label in drawn])
    weights = torch.ones(len(drawn))
    apo = LOSSES["apo_zero_unpaired"].per_row(ratios, labels, weights, torch.tensor(7.0), beta=0.1)
    expected = torch.tensor([paper(ratio, label, 0.0, 0.1, 1, 1) for ratio, label in drawn])
    torch.testing.assert_close(apo, expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_raises_desirable_rows_lowers_undesirable_ones_and_fades_with_saturation() -> None:
    ratios = torch.tensor([0.0, 0.0, 90.0, -90.0], requires_grad=True)
    labels = torch.tensor([True, False, True, False])
    beta = 0.1
    kto_loss(ratios, labels, torch.tensor([1.0, 3.0, 1.0, 1.0]), torch.tensor(0.0), beta=beta).sum().backward()
    assert ratios.grad is not None
    factor = gradient_factor(ratios.detach(), labels, torch.tensor(0.0), beta=beta)
    expected = torch.tensor([-1.0, 3.0, -1.0, 1.0]) * beta * factor
    torch.testing.assert_close(ratios.grad, expected)
    assert factor[0] == pytest.approx(0.25)
    assert factor[2] < 1e-3
