"""One optimizer step of a run: packs, scores, one update, its metrics; and what makes it one that is skipped."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ktotrain.cache import ScoreCache
from ktotrain.lockstep import even_out
from ktotrain.metrics import RowValues, step_metrics
from ktotrain.parallel import Processes
from ktotrain.plan import Step
from ktotrain.prepare import Policy, RunData
from ktotrain.recipe import Recipe
from ktotrain.step import Machinery, Packing, StepPacks, StepScores, build_packs, run_step
from ktotrain.update import BadGradientError, Update, autocast, make_optimizer
from ktotrain.zero import ZeroUpdate

# Rows that an error names.
NAMED = 3


class BadStepError(Exception):
    """The loss, the reference point or the gradient of a step is not finite. Nothing has been updated."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """What every step of a run is made with."""

    machinery: Machinery
    packing: Packing
    update: Update


def assemble(
    recipe: Recipe, run_data: RunData, policy: Policy, processes: Processes, total: Callable[[Tensor], Tensor]
) -> Parts:
    """The parts of a run. `total` sums a tensor over processes."""
    settings, accelerator = recipe.train, processes.accelerator
    device = accelerator.device
    parameters = [parameter for _, parameter in policy.parameters]
    optimizer, scheduler = make_optimizer(parameters, recipe.optim, len(run_data.steps))
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
    kind: Callable[..., Update] = Update
    if processes.kind == "deepspeed":
        kind = functools.partial(ZeroUpdate, config=processes.plugin.deepspeed_config)
    layout = policy.choice.layout
    even: dict[str, Any] = {}
    if processes.lockstep:
        most = functools.partial(accelerator.reduce, reduction="max")
        even["even"] = functools.partial(even_out, layout=layout, most=most, device=device)
    return Parts(
        Machinery(
            policy.scorer,
            policy.reference,
            device,
            total=total,
            autocast=functools.partial(autocast, device.type, settings.precision),
            **even,
        ),
        Packing(
            recipe.data.max_length,
            settings.pack_tokens,
            layout,
            pad_id=run_data.tokenizer.pad_token_id or 0,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
            follow=policy.choice.follows,
            lockstep=processes.lockstep,
        ),
        kind(optimizer, scheduler, scaler, policy.parameters, recipe.optim.max_grad_norm, accelerator),
    )


def train_step(step: Step, run_data: RunData, parts: Parts, known: ScoreCache | None) -> dict[str, float]:
    """One optimizer step; returns its metrics, but for rates and places.

    Raises:
        BadStepError: see there. All processes raise it together: they hold the same numbers.
    """
    objective = run_data.objective
    packs = build_packs(step, run_data.train.rows, parts.packing, objective.loss, known)
    scores = run_step(packs, parts.machinery, objective, learn=parts.update.backward)
    _require_finite(scores, step, run_data)
    metrics = step_metrics(
        RowValues(packs.labels_n, scores.policy_n, scores.policy_n - scores.reference_n, scores.losses_n),
        z_ref_n=torch.full_like(scores.policy_n, scores.z_ref),
        kl=scores.z_ref,
        kl_raw=scores.raw,
        beta=objective.beta,
    )
    infinite = [f"{name} {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if infinite:  # sums of finite numbers that are too large for a float32
        raise BadStepError(f"{', '.join(infinite)} ({_first_rows(step, run_data)})")
    try:
        updated = parts.update.apply()
    except BadGradientError as error:
        raise BadStepError(f"{error} ({_first_rows(step, run_data)}; loss {metrics['loss']:.4g})") from None
    return metrics | updated | _counts(packs, parts.machinery)


def _require_finite(scores: StepScores, step: Step, run_data: RunData) -> None:
    """Look at scores, not at losses alone: a sigmoid makes a finite loss of an infinite score, and a clamp 0 of a
    z_ref that is not a number.

    Raises:
        BadStepError: a row's numbers or the reference point are not finite.
    """
    finite_n = torch.isfinite(scores.losses_n) & torch.isfinite(scores.policy_n - scores.reference_n)
    places = torch.nonzero(~finite_n).flatten().tolist()
    if places:
        rows = [
            f"{run_data.train.rows[step.rows[place]].name}: log-probability {float(scores.policy_n[place]):.4g}, "
            f"reference's {float(scores.reference_n[place]):.4g}, loss {float(scores.losses_n[place]):.4g}"
            for place in places[:NAMED]
        ]
        more = f"; … {len(places)} of {len(step.rows)} rows" if len(places) > NAMED else ""
        raise BadStepError(f"the loss is not finite (rows: {'; '.join(rows)}{more})")
    if not math.isfinite(scores.raw):
        raise BadStepError(
            f"the reference point is not finite: a mismatched pair has no score, their mean is {scores.raw} "
            f"({_first_rows(step, run_data)})"
        )


def _first_rows(step: Step, run_data: RunData) -> str:
    names = [run_data.train.rows[row].name for row in step.rows]
    return f"rows: {', '.join(names[:NAMED])}" + (f" … {len(names)} in all" if len(names) > NAMED else "")


def _counts(packs: StepPacks, machinery: Machinery) -> dict[str, float]:
    """Tokens and rows of the step, and which share of all positions computed was padding, over all processes."""
    batches = packs.policy_batches
    local = torch.tensor(
        [sum(batch.tokens for batch in batches), sum(batch.positions for batch in batches)],
        dtype=torch.float64 if machinery.device.type != "mps" else torch.float32,
        device=machinery.device,
    )
    tokens, positions = machinery.total(local).tolist()
    return {"padding": 1 - tokens / positions, "tokens": packs.row_tokens, "rows": len(packs.labels_n)}


def with_rates(values: dict[str, float], seconds: float) -> dict[str, float]:
    """Token and row counts as rates; tokens are those of the rows as cut, each row's prompt counted."""
    tokens, rows = values.pop("tokens"), values.pop("rows")
    rates = {"tokens_per_second": tokens / seconds, "rows_per_second": rows / seconds, "step_seconds": seconds}
    return values | rates
