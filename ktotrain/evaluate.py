"""Evaluation: the same numbers as in training, over rows that are not learned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ktotrain.batch import TokenizedRow
from ktotrain.cache import ScoreCache
from ktotrain.metrics import RowValues, step_metrics
from ktotrain.plan import Step
from ktotrain.step import Machinery, Objective, Packing, build_packs, run_step


def evaluate(
    steps: Sequence[Step],
    rows: Sequence[TokenizedRow],
    packing: Packing,
    machinery: Machinery,
    objective: Objective,
    known: ScoreCache | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Metrics over all rows of `steps`, under `eval_` keys.

    Each step has its own reference point, as in training. Losses, rewards and AUC are over all rows at once; `kl`
    and `kl_raw` are means over the steps that have an estimate, weighted by their mismatched pairs. None if it was
    `stopping` in between.
    """
    parts: list[RowValues] = []
    z_refs: list[torch.Tensor] = []
    raw = clamped = 0.0
    pairs = 0
    for step in steps:
        if stopping():
            return None
        packs = build_packs(step, rows, packing, objective.loss, known)
        scores = run_step(packs, machinery, objective, learn=None)
        parts.append(RowValues(packs.labels_n, scores.policy_n, scores.policy_n - scores.reference_n, scores.losses_n))
        z_refs.append(torch.full_like(scores.policy_n, scores.z_ref))
        raw += scores.raw * packs.pairs
        clamped += scores.z_ref * packs.pairs
        pairs += packs.pairs
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
