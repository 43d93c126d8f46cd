"""The run, from a recipe to a run folder. Reads top to bottom: set up, loop, step, log, save.

The unit is the optimizer step, known before anything runs (`ktotrain.plan`). Within a step: the reference point from
mismatched pairs (no gradient, once), then the graded rows pack by pack, then one update (`ktotrain.learn`). Between
two steps the run can be saved and stopped (`ktotrain.keep`), and goes on as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch

from ktotrain.cache import ScoreCache
from ktotrain.errors import TrainingError, is_shortage
from ktotrain.evaluate import evaluate
from ktotrain.files import write_atomic
from ktotrain.keep import Keeper
from ktotrain.launch import PATIENCE, is_main_process
from ktotrain.learn import BadStepError, Parts, assemble, train_step, with_rates
from ktotrain.lock import RunLock
from ktotrain.log import MetricsLog, cut_back
from ktotrain.outputs import finish, made_together, sample
from ktotrain.parallel import (
    LostProcessError,
    Processes,
    asked_for,
    join,
    lost_another,
    processes_launched,
    require_rows_for_all,
)
from ktotrain.plan import Step
from ktotrain.precompute import precompute
from ktotrain.prepare import Policy, RunData, prepare_data, prepare_policy, refuse_what_is_missing
from ktotrain.preview import announce, show_plan
from ktotrain.progress import Progress
from ktotrain.recipe import Recipe, recipe_to_dict
from ktotrain.redact import printable
from ktotrain.resume import find_start, identity, other_machine, refuse_others
from ktotrain.run_state import Saved, read_state, restore
from ktotrain.sharded_state import large_of
from ktotrain.shares import LaunchPlan, read_launch
from ktotrain.shortage import shortage
from ktotrain.stop import StopRequest


@dataclasses.dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left behind. `metrics` are the last logged step's; `evaluation` has `eval_` keys.

    `skipped` steps had a loss or gradient that was not finite.
    """

    output_dir: Path
    steps: int
    metrics: dict[str, float]
    evaluation: dict[str, float]
    plots: list[Path]
    skipped: int = 0


def dry_run(recipe: Recipe, *, processes: int = 1, accelerate_config: Path | None = None) -> None:
    """Print the plan of a run, the memory it needs, and what each process gets; nothing is trained or written.

    Args:
        processes: how many there will be, none of which is started.
        accelerate_config: or accelerate's config file that says so.

    Raises:
        RecipeError, DataError, KtodataError, ModelError, TrainingError: as `run`.
    """
    refuse_what_is_missing(recipe)
    launched = processes_launched()
    if accelerate_config is not None:
        plan = read_launch(accelerate_config)
    elif launched > 1:
        plan = LaunchPlan(launched, kind=asked_for())
    else:
        plan = LaunchPlan(processes)
    require_rows_for_all(recipe.train.batch_size, plan.processes)
    if is_main_process():
        show_plan(recipe, prepare_data(recipe), plan)


def run(recipe: Recipe, *, resume: bool = False, force: bool = False) -> RunResult:
    """Train as the recipe says, into its `train.output_dir`.

    Args:
        resume: go on from the newest whole checkpoint in that folder.
        force: let the recipe differ from the checkpoint's in keys that do not decide the numbers.

    Raises:
        RecipeError: the recipe asks for something that is not there.
        DataError, KtodataError: the rows cannot be used.
        ModelError: the model, tokenizer, adapter or reference cannot be used.
        TrainingError: the run cannot start or go on. What was logged and saved up to then stays.
        StoppedError: Ctrl-C or SIGTERM. The run has been saved.
    """
    refuse_what_is_missing(recipe)
    require_rows_for_all(recipe.train.batch_size, processes_launched())
    output_dir = Path(recipe.train.output_dir)
    main = is_main_process()
    if output_dir.exists() and not output_dir.is_dir():
        raise TrainingError("is a file", where=str(output_dir), do="Name another train.output_dir")
    with RunLock(output_dir, enabled=main):
        start = None
        if main:
            start = find_start(output_dir, recipe, resume=resume, force=force, say=_say)
        return _run(recipe, output_dir, start)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # a reader that is gone misses the notes, and the run goes on
        click.echo(printable(text), err=True)


def _run(recipe: Recipe, output_dir: Path, start: Path | None) -> RunResult:
    """The run in a folder that is locked, from the checkpoint `start`, which the main process has found."""
    from accelerate.utils import broadcast_object_list

    run_data = prepare_data(recipe)
    processes = join(trackers=recipe.train.trackers, output_dir=output_dir, precision=recipe.train.precision)
    accelerator = processes.accelerator
    if accelerator.num_processes > 1:
        (start,) = broadcast_object_list([start])
    torch.manual_seed(recipe.train.seed)  # a fresh adapter's first matrices
    policy: Policy | None = None
    try:
        policy = prepare_policy(
            recipe, run_data, processes.load_device, processes.place, processes.turn, processes.agree
        )
        if recipe.train.trackers:
            output_dir.mkdir(parents=True, exist_ok=True)
            accelerator.init_trackers("ktokit", config=_flat(recipe_to_dict(recipe)))
        return train(recipe, run_data, policy, processes, output_dir, read_state(start) if start else None)
    except (RuntimeError, MemoryError) as error:
        if lost_another(error):
            time.sleep(2 * PATIENCE)  # that one says why, and then the launcher ends this one
            raise LostProcessError("another process has ended", do="Look for its error") from error
        if not is_shortage(error):
            raise
        raise shortage(error, recipe, run_data, loaded=policy is not None) from error
    finally:
        accelerator.end_training()


def train(
    recipe: Recipe,
    run_data: RunData,
    policy: Policy,
    processes: Processes,
    output_dir: Path,
    saved: Saved | None = None,
) -> RunResult:
    """The whole loop, and everything that is written. `saved` is the checkpoint that it goes on from."""
    accelerator = processes.accelerator
    stop = StopRequest(accelerator)
    parts = assemble(recipe, run_data, policy, processes, total=stop.total)
    large = large_of(processes.kind, policy.parameters, parts.update)
    belongs = identity(recipe, run_data, policy, large.layout(), processes=accelerator.num_processes)
    if saved:
        refuse_others(saved, belongs)
    main, last = accelerator.is_main_process, len(run_data.steps)
    lines = saved.log["lines"] if saved else 0
    with stop, Progress(last, done=saved.position.step if saved else 0, enabled=main) as bar:
        if main:
            write_atomic(output_dir / "recipe.json", json.dumps(recipe_to_dict(recipe), indent=2) + "\n")
            _start_log(bar, output_dir / "metrics.jsonl", saved, last)
            if saved and (differing := other_machine(saved, belongs)):
                bar.say(f"note: {differing}")
        with MetricsLog(output_dir / "metrics.jsonl", accelerator, lines=lines, say=bar.say) as log:
            keeper = Keeper(
                output_dir,
                recipe.train,
                accelerator,
                large=large,
                update=parts.update,
                identity=belongs,
                log=log,
                say=bar.say,
                saved=saved,
                steps=last,
            )
            announce(bar.say, recipe, run_data, policy)
            position = keeper.position
            if not saved:
                prompts, position.before = sample(recipe, run_data, policy)
                position.prompts = list(prompts)
            known = _reference_scores(bar, policy, parts, accelerator, stop)
            if saved:
                restore(saved, large=large, update=parts.update, process=accelerator.process_index)
            _loop(_Run(recipe, run_data, parts, known, keeper, log, bar, stop))
            plots = _end(recipe, run_data, policy, output_dir, keeper, log, main=main)
            if processes.lockstep:
                accelerator.wait_for_everyone()  # DeepSpeed does not end well where one process leaves before another
    return RunResult(output_dir, last, position.metrics, position.evaluation, plots, position.skipped)


def _end(
    recipe: Recipe, run_data: RunData, policy: Policy, output_dir: Path, keeper: Keeper, log: MetricsLog, *, main: bool
) -> list[Path]:
    """What is done once the last step is over: samples, plots, card and weights. Returns the plots written."""
    keeper.require_learned()
    position = keeper.position
    together = made_together(recipe, run_data, policy, position.prompts, main=main)
    if not main:
        return []
    with keeper.finishing():
        plots = finish(
            recipe,
            run_data,
            policy,
            output_dir=output_dir,
            prompts=position.prompts,
            before=position.before,
            seconds=keeper.seconds,
            together=together,
        )
        log.require_written()
    return plots


@dataclasses.dataclass(frozen=True, slots=True)
class _Run:
    """What the loop works with."""

    recipe: Recipe
    data: RunData
    parts: Parts
    known: ScoreCache | None
    keeper: Keeper
    log: MetricsLog
    bar: Progress
    stop: StopRequest

    def place(self) -> dict[str, float]:
        """Where the run is, as metrics have it."""
        position = self.keeper.position
        return {"step": position.step, "epoch": position.rows / len(self.data.train.rows)}


def _loop(run: _Run) -> None:
    """Step after step, from where the run is.

    Raises:
        StoppedError: a signal asked for it. The run is saved, as far as it has come.
        TrainingError: too many bad steps in a row.
    """
    settings, position, keeper = run.recipe.train, run.keeper.position, run.keeper
    if run.stop.requested:
        raise keeper.stopped(run.stop)
    _evaluate_if_due(run)
    finished = time.perf_counter()
    for step in run.data.steps[position.step :]:
        _learn(run, step, finished)
        finished = time.perf_counter()
        number = position.step
        last = number == len(run.data.steps)
        if run.data.eval_steps and (last or (settings.eval_every and number % settings.eval_every == 0)):
            position.owes_evaluation = True
        keeper.give_up_if_bad()
        if run.stop.requested:
            raise keeper.stopped(run.stop)
        if _evaluate_if_due(run):
            finished = time.perf_counter()
        if settings.save_every and (last or number % settings.save_every == 0):
            keeper.save_or_end()
            finished = time.perf_counter()


def _learn(run: _Run, step: Step, finished: float) -> None:
    """One step, made or skipped, and its line of the log. `finished` is when the one before it was."""
    keeper, rows = run.keeper, len(step.rows)
    try:
        values = train_step(step, run.data, run.parts, run.known)
    except BadStepError as bad:
        run.parts.update.skip()
        keeper.skipped(rows, str(bad))
        run.bar.update(keeper.position.step, {})
        run.log.write(run.place() | {"skipped": str(bad)})
        return
    rated = with_rates(values, time.perf_counter() - finished)
    keeper.learned(rows)
    keeper.position.metrics = metrics = run.place() | rated
    run.bar.update(keeper.position.step, metrics)
    if keeper.position.step % run.recipe.train.log_every == 0 or keeper.position.step == len(run.data.steps):
        run.log.write(metrics)


def _evaluate_if_due(run: _Run) -> bool:
    """The evaluation that is owed, if any; a run that is stopped within it still owes it when it goes on.

    It draws nothing at random, so steps after it do not depend on it.

    Raises:
        StoppedError: a signal asked for it.
    """
    position = run.keeper.position
    if not position.owes_evaluation or run.data.evaluation is None:
        return False
    found = evaluate(
        run.data.eval_steps,
        run.data.evaluation.rows,
        run.parts.packing,
        run.parts.machinery,
        run.data.objective,
        run.known,
        lambda: run.stop.requested,
    )
    if found is None:
        raise run.keeper.stopped(run.stop)
    position.owes_evaluation, position.evaluation = False, found
    run.log.write(run.place() | found)
    return True


def _start_log(bar: Progress, path: Path, saved: Saved | None, last: int) -> None:
    """An empty metrics.jsonl, or what it was when the checkpoint was saved."""
    if saved is None:
        write_atomic(path, "")
        return
    trouble = cut_back(path, saved.position.step, saved.log)
    bar.say(f"going on from {saved.folder}: {saved.position.step:,} of {last:,} steps are done")
    if trouble:
        bar.say(f"note: {trouble}")


def _reference_scores(
    bar: Progress, policy: Policy, parts: Parts, accelerator: Any, stop: StopRequest
) -> ScoreCache | None:
    """The reference's scores of the whole plan: what is known, and the rest computed; None if it stays online."""
    if policy.known is None:
        return None
    cache, missing = policy.known.cache, policy.known.missing
    if cache.trouble:
        bar.say(f"note: {cache.trouble}")
        cache.trouble = ""
    bar.say(f"reference: {len(missing):,} sequences to score; {len(cache.scores):,} known from {cache.path}")
    if missing:
        complete = precompute(
            missing,
            parts.packing,
            parts.machinery,
            cache,
            main=accelerator.is_main_process,
            report=lambda done: bar.say(f"reference: {done:,} of {len(missing):,} sequences scored"),
            stopping=lambda: stop.requested,
        )
        if cache.trouble:
            bar.say(f"note: {cache.trouble}")
        if not complete:
            kept = "lost" if cache.trouble else "kept"
            raise stop.error(f"stopped while scoring with the reference; what is done is {kept}", do="Start it again")
    policy.reference.release()
    return cache


def _flat(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`table.key: value` with values that every tracker takes."""
    simple = (str, int, float, bool)
    return {
        f"{table}.{key}": value if isinstance(value, simple) else json.dumps(value)
        for table, values in tables.items()
        for key, value in values.items()
    }
