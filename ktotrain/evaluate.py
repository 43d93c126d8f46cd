"""Evaluation: the same numbers as in training, over rows that are not learned from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ktotrain.batch import TokenizedRow
from ktotrain.metrics import RowValues, step_metrics
from ktotrain.plan import Step
from ktotrain.step import Machinery, Objective, Packing, build_packs, estimate_reference_point, score_rows


def evaluate(
    steps: Sequence[Step], rows: Sequence[TokenizedRow], packing: Packing, machinery: Machinery, objective: Objective
) -> dict[str, float]:
    """Metrics over all rows of `steps`, under `eval_` keys.

    Each step has its own reference point, as in training. Losses, rewards and AUC are over all rows at once; `kl`
    and `kl_raw` are means over the steps that have an estimate, weighted by their mismatched pairs.
    """
    parts: list[RowValues] = []
    z_refs: list[torch.Tensor] = []
    raw = clamped = 0.0
    pairs = 0
    for step in steps:
        packs = build_packs(step, rows, packing, objective.loss)
        point = estimate_reference_point(packs, step, machinery, objective.loss)
        policy, reference, losses = score_rows(packs, machinery, objective, point, learn=None)
        parts.append(RowValues(packs.labels_n, policy, policy - reference, losses))
        z_refs.append(torch.full_like(policy, point.z_ref))
        raw += point.raw * len(step.mismatched)
        clamped += point.z_ref * len(step.mismatched)
        pairs += len(step.mismatched)
    values = RowValues(
        labels=torch.cat([part.labels for part in parts]),
        policy_logps=torch.cat([part.policy_logps for part in parts]),
        log_ratios=torch.cat([part.log_ratios for part in parts]),
        losses=torch.cat([part.losses for part in parts]),
    )
    metrics = step_metrics(
        values,
        z_ref_n=torch.cat(z_refs),
        kl=clamped / max(1, pairs),
        kl_raw=raw / max(1, pairs),
        beta=objective.beta,
    )
    return {f"eval_{name}": value for name, value in metrics.items()}
