"""The run, from a recipe to a run folder. Reads top to bottom: set up, loop, step, log, save.

The unit is the optimizer step, known before anything runs (`ktotrain.plan`). Within a step: the reference point from
mismatched pairs (no gradient, once), then the graded rows pack by pack, then one update.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from ktotrain.cache import ScoreCache, cache_folder, fingerprint
from ktotrain.errors import TrainingError
from ktotrain.evaluate import evaluate
from ktotrain.files import write_atomic
from ktotrain.memory import available_bytes
from ktotrain.metrics import RowValues, step_metrics
from ktotrain.outputs import finish, sample
from ktotrain.plan import Step
from ktotrain.precompute import missing_sequences, precompute
from ktotrain.prepare import Policy, RunData, prepare_data, prepare_policy, refuse_what_is_missing
from ktotrain.preview import memory_estimate, plan_lines
from ktotrain.progress import Progress
from ktotrain.recipe import OptimRecipe, Recipe, recipe_to_dict
from ktotrain.reference import FrozenCopy
from ktotrain.step import Machinery, Packing, StepPacks, build_packs, run_step


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
    accelerator = Accelerator(log_with=list(recipe.train.trackers) or None, project_dir=str(output_dir))
    torch.manual_seed(recipe.train.seed)  # a fresh adapter's first matrices
    policy = prepare_policy(recipe, run_data, accelerator.device)
    if recipe.train.trackers:
        output_dir.mkdir(parents=True, exist_ok=True)
        accelerator.init_trackers("ktokit", config=_flat(recipe_to_dict(recipe)))
    try:
        return train(recipe, run_data, policy, accelerator, output_dir)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"out of memory: {str(error).partition('. ')[0]}",
            do="Lower train.pack_tokens, or set model.gradient_checkpointing; `--dry-run` estimates what is needed",
        ) from error
    finally:
        accelerator.end_training()


def train(recipe: Recipe, run_data: RunData, policy: Policy, accelerator: Any, output_dir: Path) -> RunResult:
    """The whole loop, and everything that is written."""
    settings = recipe.train
    optimizer, scheduler = _optimizer(policy, recipe.optim, len(run_data.steps))
    scaler = torch.amp.GradScaler(accelerator.device.type, enabled=settings.precision == "fp16")
    machinery = Machinery(
        policy.scorer,
        policy.reference,
        accelerator.device,
        total=functools.partial(accelerator.reduce, reduction="sum"),
        autocast=functools.partial(_autocast, accelerator.device.type, settings.precision),
    )
    packing = Packing(
        recipe.data.max_length,
        settings.pack_tokens,
        policy.choice.layout,
        pad_id=run_data.tokenizer.pad_token_id or 0,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        follow=policy.choice.follows,
    )
    update = _Update(optimizer, scheduler, scaler, policy.parameters, recipe.optim.max_grad_norm, accelerator)
    if accelerator.is_main_process:
        write_atomic(output_dir / "recipe.json", json.dumps(recipe_to_dict(recipe), indent=2) + "\n")
    metrics: dict[str, float] = {}
    evaluation: dict[str, float] = {}
    last = len(run_data.steps)
    seen = 0
    started = time.perf_counter()
    with (
        _Log(output_dir / "metrics.jsonl", accelerator) as log,
        Progress(last, enabled=accelerator.is_main_process) as bar,
    ):
        _announce(bar, recipe, run_data, policy)
        prompts, before = sample(recipe, run_data, policy)
        known = _reference_scores(bar, recipe, run_data, policy, packing, machinery, accelerator)
        check = functools.partial(
            evaluate,
            run_data.eval_steps,
            run_data.evaluation.rows if run_data.evaluation else [],
            packing,
            machinery,
            run_data.objective,
            known,
        )
        finished = time.perf_counter()
        for number, step in enumerate(run_data.steps, start=1):
            values = train_step(number, step, run_data, packing, machinery, update, known)
            seen += len(step.rows)
            finished, seconds = time.perf_counter(), time.perf_counter() - finished
            metrics = {"step": number, "epoch": seen / len(run_data.train.rows)} | _with_rates(values, seconds)
            bar.update(number, metrics)
            if number % settings.log_every == 0 or number == last:
                log.write(metrics)
            if run_data.eval_steps and (number == last or (settings.eval_every and number % settings.eval_every == 0)):
                evaluation = check()
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


def train_step(
    number: int,
    step: Step,
    run_data: RunData,
    packing: Packing,
    machinery: Machinery,
    update: _Update,
    known: ScoreCache | None,
) -> dict[str, float]:
    """One optimizer step; returns its metrics, but for rates and places.

    Raises:
        TrainingError: the loss or the gradient is not finite; nothing has been updated then.
    """
    objective = run_data.objective
    packs = build_packs(step, run_data.train.rows, packing, objective.loss, known)
    scores = run_step(packs, machinery, objective, learn=update.backward)
    # A sigmoid makes a finite loss of an infinite score, and a clamp 0 of a z_ref that is not a number: look at both.
    finite_n = torch.isfinite(scores.losses_n) & torch.isfinite(scores.policy_n - scores.reference_n)
    if not finite_n.all():
        update.forget()
        names = [run_data.train.rows[step.rows[place]].name for place in torch.nonzero(~finite_n).flatten().tolist()]
        raise TrainingError(
            f"the loss is not finite (rows: {', '.join(names[:3])}{' …' if len(names) > 3 else ''})",
            where=f"step {number}",
            do="Lower optim.learning_rate, or look at those rows",
        )
    if scores.raw is not None and not math.isfinite(scores.raw):
        update.forget()
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
    return metrics | update.apply(f"step {number}") | _counts(packs, machinery)


def _reference_scores(
    bar: Progress,
    recipe: Recipe,
    run_data: RunData,
    policy: Policy,
    packing: Packing,
    machinery: Machinery,
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
            packing,
            machinery,
            cache,
            main=accelerator.is_main_process,
            report=lambda done: bar.say(f"reference: {done:,} of {len(missing):,} sequences scored"),
        )
    reference.release()
    return cache


class _Update:
    """Gradients of a step, and what is done with them at its end."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        scaler: torch.amp.GradScaler,
        parameters: list[tuple[str, torch.nn.Parameter]],
        max_norm: float,
        accelerator: Any,
    ) -> None:
        self.optimizer, self.scheduler, self.scaler = optimizer, scheduler, scaler
        self.parameters = [parameter for _, parameter in parameters]
        self.max_norm, self.accelerator = max_norm, accelerator

    def backward(self, loss: Tensor) -> None:
        """Add a pack's gradient. `loss` is already the pack's share of the step's mean over rows."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def forget(self) -> None:
        """Drop what has been added up."""
        self.optimizer.zero_grad(set_to_none=True)

    def apply(self, where: str) -> dict[str, float]:
        """Update the weights; returns `learning_rate`, as used, and `grad_norm`, before clipping.

        In fp16 the scaler skips a step whose gradient overflows, and tries the next with a smaller scale: such a
        step has no `grad_norm`.

        Raises:
            TrainingError: the gradient is not finite, and no scaler sees to it.
        """
        if self.accelerator.num_processes > 1:
            _sum_over_processes(self.parameters, self.accelerator)
        self.scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm or math.inf))
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            self.forget()
            raise TrainingError("the gradient is not finite", where=where, do="Lower optim.learning_rate")
        learning_rate = float(self.scheduler.get_last_lr()[0])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.forget()
        return ({"grad_norm": norm} if math.isfinite(norm) else {}) | {"learning_rate": learning_rate}


def _sum_over_processes(parameters: list[torch.nn.Parameter], accelerator: Any) -> None:
    """One flat sum of all gradients. Exact where DDP is not: its mean is over processes, whatever they hold.

    A process whose packs are fewer, or none, takes part with zeros, so nobody waits for anybody.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    summed = accelerator.reduce(flat, reduction="sum")
    for parameter, part in zip(parameters, summed.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def _optimizer(policy: Policy, settings: OptimRecipe, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW, without decay on biases and norms, and its schedule over `steps`."""
    from transformers import get_scheduler

    groups = [
        {"params": [p for _, p in policy.parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for _, p in policy.parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )
    warmup = math.ceil(settings.warmup * steps)
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    return optimizer, get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)


@contextlib.contextmanager
def _autocast(device: str, precision: str) -> Iterator[None]:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
        yield


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


class _Log:
    """metrics.jsonl, a line at a time, and the trackers."""

    def __init__(self, path: Path, accelerator: Any) -> None:
        self.path, self.accelerator = path, accelerator

    def __enter__(self) -> _Log:
        if self.accelerator.is_main_process:
            self.file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self.accelerator.is_main_process:
            with contextlib.suppress(OSError):  # a line that could not be written, which `write` has said
                self.file.close()

    def write(self, metrics: Mapping[str, float]) -> None:
        """One line. Written out at once: whoever follows a run sees each step."""
        infinite = [name for name, value in metrics.items() if not math.isfinite(value)]
        if infinite:
            raise TrainingError(
                f"not finite: {', '.join(infinite)}",
                where=f"step {metrics['step']}",
                do="Lower optim.learning_rate, or look at the rows",
            )
        self.accelerator.log(dict(metrics), step=int(metrics["step"]))
        if not self.accelerator.is_main_process:
            return
        try:
            self.file.write(json.dumps(metrics, allow_nan=False) + "\n")
            self.file.flush()
        except OSError as error:
            raise TrainingError(f"cannot be written: {error.strerror}", where=str(self.path)) from None


def _require_fresh(output_dir: Path) -> None:
    """A run folder is written once: a second run in it would mix with the first.

    Raises:
        TrainingError: it holds a run, or is no folder.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise TrainingError("is a file", where=str(output_dir), do="Name another train.output_dir")
    if any((output_dir / name).exists() for name in ("recipe.json", "metrics.jsonl", "model")):
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
    for name, value in plan_lines(run_data, recipe, policy.choice):
        bar.say(f"{name}: {value}")


def _show_plan(recipe: Recipe, run_data: RunData) -> None:
    lines = plan_lines(run_data, recipe)
    width = max(len(name) for name, _ in lines)
    click.echo("plan")
    for name, value in lines:
        click.echo(f"  {name:<{width}}  {value}")
    click.echo("memory, estimated")
    click.echo(memory_estimate(run_data, recipe).table(available_bytes()))


def _flat(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`table.key: value` with values that every tracker takes."""
    simple = (str, int, float, bool)
    return {
        f"{table}.{key}": value if isinstance(value, simple) else json.dumps(value)
        for table, values in tables.items()
        for key, value in values.items()
    }
