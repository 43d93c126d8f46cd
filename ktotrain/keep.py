"""Keeps a run: where it is, its checkpoints, steps that were skipped, and what is said when it ends early."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ktotrain import checkpoint
from ktotrain.errors import StoppedError, TrainingError
from ktotrain.log import MetricsLog
from ktotrain.recipe import TrainRecipe
from ktotrain.run_state import Large, Position, Saved, random_state, write_state
from ktotrain.stop import StopRequest
from ktotrain.update import Update

# Skipped steps that are said aloud; all are in metrics.jsonl.
SAID = 10


class Keeper:
    """A run's place and its checkpoints. Every process has one, and calls it at the same places."""

    def __init__(
        self,
        output_dir: Path,
        settings: TrainRecipe,
        accelerator: Any,
        *,
        large: Large,
        update: Update,
        identity: dict[str, Any],
        log: MetricsLog,
        say: Callable[[str], None],
        saved: Saved | None,
        steps: int,
    ) -> None:
        self.output_dir, self.settings, self.accelerator = output_dir, settings, accelerator
        self.large, self.update, self.identity, self.log, self.say = large, update, identity, log, say
        self.steps = steps
        self.position = saved.position if saved else Position()
        self.newest = saved.folder if saved else None
        self._newest_step = saved.position.step if saved else 0
        self._began = time.perf_counter() - self.position.seconds
        self._why = ""  # of the last skipped step

    @property
    def seconds(self) -> float:
        """Spent in training so far, over all parts of the run."""
        return time.perf_counter() - self._began

    def learned(self, rows: int) -> None:
        """A step was made."""
        self.position.step += 1
        self.position.rows += rows
        self.position.bad_in_a_row = 0

    def skipped(self, rows: int, why: str) -> None:
        """A step was skipped."""
        position = self.position
        position.step += 1
        position.rows += rows
        position.bad_in_a_row += 1
        position.skipped += 1
        self._why = why
        if position.skipped <= SAID:
            self.say(f"step {position.step} is skipped: {why}")
        if position.skipped == SAID:
            self.say("further skipped steps are in metrics.jsonl only")

    def save(self, *, alone: bool = False) -> str:
        """Save a checkpoint, if there is none of this step; returns why that was impossible, which is also said.

        All processes call this, unless the main one is `alone` by now.
        """
        position = self.position
        if self._newest_step == position.step and self.newest:
            return ""
        if not self.large.finite():
            return self._not_saved(f"no checkpoint of step {position.step} is saved: the weights are not finite")
        position.seconds = self.seconds
        several, main = self.accelerator.num_processes > 1 and not alone, self.accelerator.is_main_process
        states = [random_state()]
        if several:
            from accelerate.utils import gather_object

            states = gather_object(states)
        log = self.log.state() if main else {}

        def fill(folder: Path) -> None:
            write_state(
                folder, position, self.identity, log, large=self.large, update=self.update, rng=states, main=main
            )

        try:
            self.newest = checkpoint.save(
                self.output_dir,
                position.step,
                fill,
                keep=self.settings.keep_checkpoints,
                main=main,
                agree=self._agree if several else bool,
            )
        except TrainingError as error:
            return self._not_saved(str(error))
        self._newest_step = position.step
        return ""

    def save_or_end(self) -> None:
        """Save a checkpoint. If that is impossible it is said, and the run goes on, unless it would be for nothing.

        Raises:
            TrainingError: the weights are not finite.
        """
        if self.save() and not self.large.finite():
            raise TrainingError(
                "the weights are not finite, and nothing can be learned any more",
                where=f"step {self.position.step}",
                do=f"Lower optim.learning_rate; {self._way_on()}",
            )

    def stopped(self, stop: StopRequest) -> StoppedError:
        """Save, and make the error that ends the run."""
        step = self.position.step
        if not step:
            return stop.error("stopped before the first step, with nothing to save", do="Start it again")
        trouble = self.save()
        after = f"stopped after step {step} of {self.steps}"
        error = stop.error(f"{after}; {trouble or f'{self.newest} is saved'}", do=self._way_on())
        error.resumable = self.newest is not None
        return error

    def give_up_if_bad(self) -> None:
        """End the run after too many bad steps in a row, with its last good state saved.

        Raises:
            TrainingError: there were so many.
        """
        position, many = self.position, self.position.bad_in_a_row
        if many < self.settings.max_bad_steps:
            return
        first = position.step - many + 1
        where = f"steps {first} to {position.step}" if many > 1 else f"step {first}"
        position.bad_in_a_row = 0  # who resumes gets as many tries again
        advice = "Lower optim.learning_rate, or look at those rows and the model's weights"
        if position.skipped == position.step:
            saved = "nothing has been learned"
        elif trouble := self.save():
            saved = trouble
            advice += f"; {self._way_on()}"
        else:
            saved = f"what was learned before them is saved in {self.newest}"
            advice += "; --resume passes over those rows"
        reason = f"{many} steps in a row are" if many > 1 else "a step is"
        raise TrainingError(f"{reason} no good: {self._why}; {saved}", where=where, do=advice)

    def require_learned(self) -> None:
        """At the end of all steps: something was learned, and the weights can be saved.

        Raises:
            TrainingError: not so.
        """
        position = self.position
        if position.skipped == position.step:
            raise TrainingError(f"every step had to be skipped, the last: {self._why}", where="the whole run")
        if position.skipped:
            self.say(f"{position.skipped} of {position.step} steps were skipped; metrics.jsonl says why")
        if not self.large.finite():
            raise TrainingError(
                "the trained weights are not finite, and no model is saved",
                where=str(self.output_dir),
                do=f"Lower optim.learning_rate; {self._way_on()}",
            )

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """Within it the main process alone writes what a run leaves; if that fails, a checkpoint holds what it needs.

        Raises:
            TrainingError: what was raised within, with the way to go on.
        """
        try:
            yield
        except Exception as error:
            if not self.large.in_parts:
                self.save(alone=True)
            if not isinstance(error, TrainingError):
                raise
            raise TrainingError(error.what, where=error.where, do=f"{error.do}. {self._way_on()}") from None

    def _way_on(self) -> str:
        return f"--resume goes on from {self.newest}" if self.newest else "There is no checkpoint to go on from"

    def _not_saved(self, trouble: str) -> str:
        self.say(f"{trouble}. {f'{self.newest} stays' if self.newest else 'There is no earlier one'}")
        return trouble

    def _agree(self, good: bool) -> bool:
        """Whether it is so in all processes."""
        bad = torch.tensor([float(not good)], device=self.accelerator.device)
        return not float(self.accelerator.reduce(bad, reduction="sum"))
