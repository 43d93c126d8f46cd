"""The run, from a recipe to a run folder. Reads top to bottom: set up, loop, step, log, save.

The unit is the optimizer step, known before anything runs (`ktotrain.plan`). Within a step: the reference point from
mismatched pairs (no gradient, once), then the graded rows pack by pack, then one update.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch

from ktotrain.cache import ScoreCache, cache_folder, fingerprint
from ktotrain.errors import TrainingError
from ktotrain.evaluate import evaluate
from ktotrain.files import write_atomic
from ktotrain.log import MetricsLog, holds_a_run
from ktotrain.memory import available_bytes
from ktotrain.metrics import RowValues, step_metrics
from ktotrain.outputs import finish, sample
from ktotrain.plan import Step
from ktotrain.precompute import missing_sequences, precompute
from ktotrain.prepare import Policy, RunData, prepare_data, prepare_policy, refuse_what_is_missing
from ktotrain.preview import memory_estimate, notices, plan_lines, preview
from ktotrain.progress import Progress
from ktotrain.recipe import Recipe, recipe_to_dict
from ktotrain.reference import FrozenCopy
from ktotrain.step import Machinery, Packing, StepPacks, build_packs, run_step
from ktotrain.update import Update, autocast, make_optimizer


@dataclasses.dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left behind. `metrics` are the last logged step's; `evaluation` has `eval_` keys."""

    output_dir: Path
    steps: int
    metrics: dict[str, float]
    evaluation: dict[str, float]
    plots: list[Path]


def run(recipe: Recipe, *, dry_run: bool = False) -> RunResult | None:
    """Train as the recipe says, into its `train.output_dir`; with `dry_run`, print the plan and return None.

    Raises:
        RecipeError: the recipe asks for something that is not there.
        DataError, KtodataError: the rows cannot be used.
        ModelError: the model, tokenizer, adapter or reference cannot be used.
        TrainingError: the run cannot start or go on. What was logged up to then stays.
    """
    from accelerate import Accelerator

    refuse_what_is_missing(recipe)
    output_dir = Path(recipe.train.output_dir)
    if not dry_run:
        _require_fresh(output_dir)
    run_data = prepare_data(recipe)
    if dry_run:
        _show_plan(recipe, run_data)
        return None
    # Without a GPU accelerate must be told, or several processes on a CPU would not find each other.
    cpu = torch.accelerator.current_accelerator() is None
    accelerator = Accelerator(cpu=cpu, log_with=list(recipe.train.trackers) or None, project_dir=str(output_dir))
    _require_all_processes(accelerator)
    torch.manual_seed(recipe.train.seed)  # a fresh adapter's first matrices
    policy = prepare_policy(recipe, run_data, accelerator.device)
    if recipe.train.trackers:
        output_dir.mkdir(parents=True, exist_ok=True)
        accelerator.init_trackers("ktokit", config=_flat(recipe_to_dict(recipe)))
    try:
        return train(recipe, run_data, policy, accelerator, output_dir)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise _out_of_memory(recipe, error) from error
    finally:
        accelerator.end_training()


def train(recipe: Recipe, run_data: RunData, policy: Policy, accelerator: Any, output_dir: Path) -> RunResult:
    """The whole loop, and everything that is written."""
    settings = recipe.train
    parts = _assemble(recipe, run_data, policy, accelerator)
    if accelerator.is_main_process:
        write_atomic(output_dir / "recipe.json", json.dumps(recipe_to_dict(recipe), indent=2) + "\n")
    metrics: dict[str, float] = {}
    evaluation: dict[str, float] = {}
    last = len(run_data.steps)
    seen = 0
    started = time.perf_counter()
    with (
        MetricsLog(output_dir / "metrics.jsonl", accelerator) as log,
        Progress(last, enabled=accelerator.is_main_process) as bar,
    ):
        _announce(bar, recipe, run_data, policy)
        prompts, before = sample(recipe, run_data, policy)
        known = _reference_scores(bar, recipe, run_data, policy, parts, accelerator)
        finished = time.perf_counter()
        for number, step in enumerate(run_data.steps, start=1):
            values = train_step(number, step, run_data, parts, known)
            seen += len(step.rows)
            finished, seconds = time.perf_counter(), time.perf_counter() - finished
            metrics = {"step": number, "epoch": seen / len(run_data.train.rows)} | _with_rates(values, seconds)
            bar.update(number, metrics)
            if number % settings.log_every == 0 or number == last:
                log.write(metrics)
            if run_data.eval_steps and (number == last or (settings.eval_every and number % settings.eval_every == 0)):
                evaluation = _evaluate(run_data, parts, known)
                log.write({"step": number, "epoch": metrics["epoch"]} | evaluation)
                finished = time.perf_counter()
    plots: list[Path] = []
    if accelerator.is_main_process:
        plots = finish(
            recipe,
            run_data,
            policy,
            output_dir=output_dir,
            prompts=prompts,
            before=before,
            seconds=time.perf_counter() - started,
        )
    return RunResult(output_dir, last, metrics, evaluation, plots)


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """What every step of a run is made with."""

    machinery: Machinery
    packing: Packing
    update: Update


def _assemble(recipe: Recipe, run_data: RunData, policy: Policy, accelerator: Any) -> Parts:
    settings, device = recipe.train, accelerator.device
    parameters = [parameter for _, parameter in policy.parameters]
    optimizer, scheduler = make_optimizer(parameters, recipe.optim, len(run_data.steps))
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
    return Parts(
        Machinery(
            policy.scorer,
            policy.reference,
            device,
            total=functools.partial(accelerator.reduce, reduction="sum"),
            autocast=functools.partial(autocast, device.type, settings.precision),
        ),
        Packing(
            recipe.data.max_length,
            settings.pack_tokens,
            policy.choice.layout,
            pad_id=run_data.tokenizer.pad_token_id or 0,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
            follow=policy.choice.follows,
        ),
        Update(optimizer, scheduler, scaler, parameters, recipe.optim.max_grad_norm, accelerator),
    )


def _evaluate(run_data: RunData, parts: Parts, known: ScoreCache | None) -> dict[str, float]:
    assert run_data.evaluation is not None, "there are steps to evaluate"
    rows, objective = run_data.evaluation.rows, run_data.objective
    return evaluate(run_data.eval_steps, rows, parts.packing, parts.machinery, objective, known)


def train_step(
    number: int,
    step: Step,
    run_data: RunData,
    parts: Parts,
    known: ScoreCache | None,
) -> dict[str, float]:
    """One optimizer step; returns its metrics, but for rates and places.

    Raises:
        TrainingError: the loss or the gradient is not finite; nothing has been updated then.
    """
    objective = run_data.objective
    packs = build_packs(step, run_data.train.rows, parts.packing, objective.loss, known)
    scores = run_step(packs, parts.machinery, objective, learn=parts.update.backward)
    # A sigmoid makes a finite loss of an infinite score, and a clamp 0 of a z_ref that is not a number: look at both.
    finite_n = torch.isfinite(scores.losses_n) & torch.isfinite(scores.policy_n - scores.reference_n)
    if not finite_n.all():
        parts.update.forget()
        names = [run_data.train.rows[step.rows[place]].name for place in torch.nonzero(~finite_n).flatten().tolist()]
        raise TrainingError(
            f"the loss is not finite (rows: {', '.join(names[:3])}{' …' if len(names) > 3 else ''})",
            where=f"step {number}",
            do="Lower optim.learning_rate, or look at those rows",
        )
    if not math.isfinite(scores.raw):
        parts.update.forget()
        raise TrainingError(
            "the reference point is not finite: a mismatched pair has no score",
            where=f"step {number}",
            do="Lower optim.learning_rate, or look at the model's weights",
        )
    metrics = step_metrics(
        RowValues(packs.labels_n, scores.policy_n, scores.policy_n - scores.reference_n, scores.losses_n),
        z_ref_n=torch.full_like(scores.policy_n, scores.z_ref),
        kl=scores.z_ref,
        kl_raw=scores.raw,
        beta=objective.beta,
    )
    return metrics | parts.update.apply(f"step {number}") | _counts(packs, parts.machinery)


def _reference_scores(
    bar: Progress,
    recipe: Recipe,
    run_data: RunData,
    policy: Policy,
    parts: Parts,
    accelerator: Any,
) -> ScoreCache | None:
    """The reference's scores of the whole plan, from the cache and by computing the rest; None if it stays online."""
    mode = recipe.model.reference_logps
    epochs = 1 + max(step.epoch for step in run_data.steps)
    if mode == "online" or (mode == "auto" and epochs == 1 and not isinstance(policy.reference, FrozenCopy)):
        return None
    reference = policy.reference
    name = fingerprint(reference.weights(), precision=recipe.train.precision, config=reference.settings())
    cache = ScoreCache(cache_folder(), name)
    if cache.trouble:
        bar.say(cache.trouble)
    length, loss = recipe.data.max_length, run_data.objective.loss
    missing = missing_sequences(run_data.steps, run_data.train.rows, length, loss, cache)
    if run_data.evaluation is not None:
        missing |= missing_sequences(run_data.eval_steps, run_data.evaluation.rows, length, loss, cache)
    bar.say(f"reference: {len(missing):,} sequences to score; {len(cache.scores):,} known from {cache.path}")
    if missing:
        precompute(
            missing,
            parts.packing,
            parts.machinery,
            cache,
            main=accelerator.is_main_process,
            report=lambda done: bar.say(f"reference: {done:,} of {len(missing):,} sequences scored"),
        )
    reference.release()
    return cache


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


def _with_rates(values: dict[str, float], seconds: float) -> dict[str, float]:
    """Token and row counts as rates; tokens are those of the rows as cut, each row's prompt counted."""
    tokens, rows = values.pop("tokens"), values.pop("rows")
    rates = {"tokens_per_second": tokens / seconds, "rows_per_second": rows / seconds, "step_seconds": seconds}
    return values | rates


def _out_of_memory(recipe: Recipe, error: BaseException) -> TrainingError:
    """Which knob to turn, and to what."""
    settings = recipe.train
    knobs = [f"train.pack_tokens = {settings.pack_tokens // 2} (results stay the same)"]
    if not recipe.model.gradient_checkpointing:
        knobs.append("model.gradient_checkpointing = true")
    if recipe.adapter is None:
        knobs.append("an [adapter]")
    return TrainingError(
        f"out of memory: {str(error).strip().splitlines()[0].partition('. ')[0]}",
        where=f"pack_tokens = {settings.pack_tokens}",
        do=f"Try {', or '.join(knobs)}; `--dry-run` estimates what is needed",
    )


def _require_all_processes(accelerator: Any) -> None:
    """Refuse to train apart: launched side by side, each process would write the same folder.

    Raises:
        TrainingError: the launcher started more processes than have found each other.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise TrainingError(
            f"{launched} processes were launched and {accelerator.num_processes} found each other",
            do="Look at the launcher's settings (`accelerate env`)",
        )


def _require_fresh(output_dir: Path) -> None:
    """A run folder is written once: a second run in it would mix with the first.

    Raises:
        TrainingError: it holds a run, or is no folder.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise TrainingError("is a file", where=str(output_dir), do="Name another train.output_dir")
    if holds_a_run(output_dir):
        raise TrainingError(
            "there is a run in it already",
            where=str(output_dir),
            do="Name another train.output_dir, or delete that one",
        )


def _announce(bar: Progress, recipe: Recipe, run_data: RunData, policy: Policy) -> None:
    trained = sum(parameter.numel() for _, parameter in policy.parameters)
    whole = sum(parameter.numel() for parameter in policy.model.parameters())
    bar.say(
        f"{recipe.model.path}: {trained:,} of {whole:,} parameters trained, precision {recipe.train.precision} on "
        f"{policy.base.device}; layout {policy.choice.layout} ({policy.choice.reason})"
    )
    seen = preview(run_data, recipe, policy.choice)
    for name, value in plan_lines(run_data, seen, policy.choice.layout):
        bar.say(f"{name}: {value}")
    for notice in notices(run_data, recipe):
        bar.say(f"note: {notice}")


def _show_plan(recipe: Recipe, run_data: RunData) -> None:
    seen = preview(run_data, recipe)
    lines = plan_lines(run_data, seen)
    width = max(len(name) for name, _ in lines)
    click.echo("plan")
    for name, value in lines:
        click.echo(f"  {name:<{width}}  {value}")
    click.echo("memory, estimated")
    click.echo(memory_estimate(recipe, seen).table(available_bytes()))
    for notice in notices(run_data, recipe):
        click.echo(f"note: {notice}", err=True)


def _flat(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`table.key: value` with values that every tracker takes."""
    simple = (str, int, float, bool)
    return {
        f"{table}.{key}": value if isinstance(value, simple) else json.dumps(value)
        for table, values in tables.items()
        for key, value in values.items()
    }
