"""The losses: pure functions of log-probabilities, above everything else in this package.

Shapes: N rows of an optimizer step, or of one pack of it. All values float32.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch
from torch import Tensor


class RowLoss(Protocol):
    """A loss per row; see `kto_loss` for the arguments."""

    def __call__(
        self, log_ratios_N: Tensor, labels_N: Tensor, weights_N: Tensor, z_ref: Tensor, *, beta: float
    ) -> Tensor: ...


def signs(labels_N: Tensor) -> Tensor:
    """+1 for desirable (True) and -1 for undesirable rows, float32 of shape N."""
    return labels_N.to(torch.float32) * 2 - 1


def kto_loss(log_ratios_N: Tensor, labels_N: Tensor, weights_N: Tensor, z_ref: Tensor, *, beta: float) -> Tensor:
    """The KTO loss of each row (arXiv 2402.01306, equations 7 and 8).

        r(x, y)  = log pi_theta(y | x) - log pi_ref(y | x)
        desirable:   lambda_D * (1 - sigmoid(beta * (r - z_ref)))
        undesirable: lambda_U * (1 - sigmoid(beta * (z_ref - r)))

    Args:
        log_ratios_N: r, summed over completion tokens (nats).
        labels_N: bool, True for desirable rows.
        weights_N: lambda_D or lambda_U of each row.
        z_ref: the reference point, a scalar without gradient, already clamped at 0 (nats).
        beta: how sharply utility saturates (1 / nats).

    Returns:
        The loss of each row; the loss of a step is their mean over all of the step's rows.
    """
    return weights_N * torch.sigmoid(-beta * signs(labels_N) * (log_ratios_N - z_ref))


def apo_zero_unpaired_loss(
    log_ratios_N: Tensor, labels_N: Tensor, weights_N: Tensor, z_ref: Tensor, *, beta: float
) -> Tensor:
    """APO-zero on unpaired rows (arXiv 2408.06266): KTO with the reference point fixed at 0.

    `z_ref` is not used; shapes as in `kto_loss`.
    """
    return kto_loss(log_ratios_N, labels_N, weights_N, torch.zeros_like(z_ref), beta=beta)


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """A loss by name, and whether its reference point is estimated from mismatched pairs."""

    per_row: RowLoss
    estimates_z_ref: bool


LOSSES: dict[str, Loss] = {
    "kto": Loss(kto_loss, estimates_z_ref=True),
    "apo_zero_unpaired": Loss(apo_zero_unpaired_loss, estimates_z_ref=False),
}


def gradient_factor(log_ratios_N: Tensor, labels_N: Tensor, z_ref: Tensor, *, beta: float) -> Tensor:
    """sigma(z) * sigma(-z) of each row, in (0, 1/4]: how much a row still teaches (paper, proposition 4.1)."""
    utility_N = torch.sigmoid(beta * signs(labels_N) * (log_ratios_N - z_ref))
    return utility_N * (1 - utility_N)


def class_weights(labels_N: Tensor, *, desirable_weight: float, undesirable_weight: float) -> Tensor:
    """lambda_D or lambda_U for each row, float32 of shape N."""
    labels = labels_N.to(torch.float32)
    return labels * desirable_weight + (1 - labels) * undesirable_weight
