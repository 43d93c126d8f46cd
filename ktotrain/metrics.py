"""The numbers of a step, under TRL's names and some that TRL lacks. Keys of a class that is absent are left out."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ktotrain.losses import gradient_factor, signs

# A row whose gradient factor sigma(z) sigma(-z) is under a tenth of its maximum 1/4 teaches next to nothing.
SATURATED = 0.025
# Two passes give sums of log-probabilities that differ by rounding, about 1e-7 of their size in float32. Ranked, that
# noise would be a result: before the first update every row is as good as the reference, and AUC must be .5, not .7.
GRAIN = 1e-6


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class RowValues:
    """What a step computed for each of its n rows: float32 of shape n, on the CPU, without gradient."""

    labels: Tensor
    policy_logps: Tensor
    log_ratios: Tensor
    losses: Tensor


def step_metrics(values: RowValues, *, z_ref_n: Tensor, kl: float, kl_raw: float, beta: float) -> dict[str, float]:
    """The metrics that follow from some rows and the reference point each was judged by.

    `loss` is the mean over rows. `rewards` are beta times the log-ratio. `kl` is z_ref, the reference point after
    the clamp at 0, and `kl_raw` before it (both 0 where nothing was estimated).
    `rewards/auc` is the chance that a desirable row has a higher reward than an undesirable one; `rewards/accuracy`
    the share of rows on their right side of the reference point; in both a tie counts half, and log-ratios are rounded
    to a millionth of the largest log-probability first. `saturation` is the share of rows that no longer teach (paper,
    proposition 4.1).
    """
    labels, rewards = values.labels, beta * values.log_ratios
    metrics = {"loss": float(values.losses.mean()), "kl": kl, "kl_raw": kl_raw}
    for name, chosen in (("chosen", labels), ("rejected", ~labels)):
        if chosen.any():
            metrics[f"rewards/{name}"] = float(rewards[chosen].mean())
            metrics[f"logps/{name}"] = float(values.policy_logps[chosen].mean())
    if labels.any() and not labels.all():
        from sklearn.metrics import roc_auc_score

        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
        if torch.isfinite(rewards).all():
            ranked = _without_noise(values.log_ratios, values.policy_logps)
            metrics["rewards/auc"] = float(roc_auc_score(labels.numpy(), ranked.numpy()))
    right = signs(labels) * _without_noise(values.log_ratios - z_ref_n, values.policy_logps)
    metrics["rewards/accuracy"] = float(((right > 0).float() + 0.5 * (right == 0).float()).mean())
    factor = gradient_factor(values.log_ratios, labels, z_ref_n, beta=beta)
    metrics["saturation"] = float((factor < SATURATED).float().mean())
    return metrics


def _without_noise(log_ratios: Tensor, policy_logps: Tensor) -> Tensor:
    """Log-ratios as multiples of what rounding can make of them, float64: differences of rounding alone are none."""
    grain = GRAIN * policy_logps.double().abs().max().clamp_min(1.0)
    return torch.round(log_ratios.double() / grain)
