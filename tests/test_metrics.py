"""The numbers of a step: what ranks rows does not rank rounding."""

from __future__ import annotations

import pytest
import torch

from ktotrain.losses import kto_loss
from ktotrain.metrics import RowValues, step_metrics


def metrics(log_ratios: list[float], labels: list[bool], logps: float = -50.0, z_ref: float = 0.0) -> dict[str, float]:
    ratios, classes = torch.tensor(log_ratios), torch.tensor(labels)
    point = torch.tensor(z_ref)
    losses = kto_loss(ratios, classes, torch.ones(len(labels)), point, beta=0.1)
    values = RowValues(classes, torch.full((len(labels),), logps), ratios, losses)
    return step_metrics(values, z_ref_n=point.expand(len(labels)), kl=z_ref, kl_raw=z_ref, beta=0.1)


def test_rounding_is_not_ranked() -> None:
    found = metrics([3e-6, -2e-6, -4e-6, 1e-6], [True, True, False, False])
    assert (found["rewards/auc"], found["rewards/accuracy"]) == (0.5, 0.5)
    assert found["rewards/margins"] != 0  # means are as computed


def test_the_noise_of_long_rows_is_larger() -> None:
    ratios, labels = [2e-4, -2e-4], [True, False]
    assert metrics(ratios, labels, logps=-20.0)["rewards/auc"] == 1.0
    assert metrics(ratios, labels, logps=-2000.0)["rewards/auc"] == 0.5


def test_what_is_more_than_rounding_is_ranked() -> None:
    # Of the four pairs of a desirable and an undesirable row, three are in order.
    found = metrics([0.02, 0.005, 0.01, -0.01], [True, True, False, False])
    assert found["rewards/auc"] == 0.75
    assert found["rewards/accuracy"] == 0.75  # the third row is above the reference point


def test_accuracy_is_relative_to_the_reference_point() -> None:
    found = metrics([0.5, 0.2, 0.3, 0.1], [True, True, False, False], z_ref=0.3)
    assert found["rewards/accuracy"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)


def test_rows_that_are_not_finite_have_no_auc() -> None:
    found = metrics([float("nan"), 0.1], [True, False])
    assert "rewards/auc" not in found
