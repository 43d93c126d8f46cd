"""Shows how a run is going: a live bar on a terminal, a bounded number of plain lines everywhere else.

Both go to stderr. In a file or a pipe there are no control characters, and no more than about `MOST_LINES` lines a run,
and as many notes as have something to say, up to `MOST_NOTES`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from ktotrain.redact import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichBar

MOST_LINES = 100
# Notes that are shown besides, where there is no terminal: a disk that is full for days would fill the log as well.
MOST_NOTES = 200
# What is shown of a step's metrics: key, name, format.
SHOWN = (
    ("loss", "loss", ".4f"),
    ("rewards/margins", "margin", "+.4f"),
    ("kl", "kl", ".3f"),
    ("tokens_per_second", "tok/s", ",.0f"),
)


class Progress:
    """A run's progress, as a context manager.

    `done` steps are behind already (a resumed run). With `enabled=False` (all processes but the first) nothing is
    shown. `file` is stderr unless given; `clock` is for tests, in seconds.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        done: int = 0,
        title: str = "training",
        enabled: bool = True,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done, self.title, self.enabled = total_steps, done, title, enabled
        self._first = done
        self._file = file if file is not None else sys.stderr
        self._clock = clock
        self._start = clock()
        # Steps between two plain lines; the first and the last step always get one.
        self._stride = max(1, -(-(total_steps - done) // (MOST_LINES - 2)))
        self._metrics: dict[str, float] = {}
        self._notes = 0
        self._console: Console | None = None
        self._bar: RichBar | None = None

    def __enter__(self) -> Self:
        self._start = self._clock()
        if self.enabled and self._file.isatty():
            self._open_bar()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._console = None

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Says that `step` steps (from 1) are done, with what that step measured.

        A key that a step lacks, because a class is absent from it, keeps its last value on the bar and is left out
        of a plain line.
        """
        self.done = step
        self._metrics.update(metrics)
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, shown=_shown(self._metrics))
        elif step in (self._first + 1, self.total) or (step - self._first) % self._stride == 0:
            elapsed = self._clock() - self._start
            left = elapsed / max(1, step - self._first) * (self.total - step)
            times = f"{_duration(elapsed)} elapsed, {_duration(left)} left"
            percent = 100 * step // max(1, self.total)
            self._write("  ".join(filter(None, [f"step {step}/{self.total}", f"{percent}%", _shown(metrics), times])))

    def say(self, text: str) -> None:
        """Prints a line of its own, above the bar if there is one."""
        if not self.enabled:
            return
        if self._console is not None:
            self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
        elif self._notes < MOST_NOTES:
            self._notes += 1
            self._write(text)
            if self._notes == MOST_NOTES:
                self._write("further notes are not shown")

    def _write(self, text: str) -> None:
        try:
            self._file.write(printable(text) + "\n")
            self._file.flush()
        except (OSError, ValueError):  # `| head` has seen enough, the disk behind a redirect is full, or it is closed
            self._unread()

    def _unread(self) -> None:
        """A run goes on without its reader.

        What else writes to stderr is silenced as well: a library's warning, or Python itself, which would end with an
        error because it cannot write out what was left.
        """
        self.enabled = False
        if self._file is sys.stderr:
            with contextlib.suppress(OSError, ValueError):  # of a test, with no file behind it
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._file.fileno())
                os.close(nowhere)

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichBar

        console = Console(file=self._file)
        if console.is_dumb_terminal:
            return
        bar = RichBar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=4,  # drawing takes the interpreter away from the training loop
            speed_estimate_period=120,
        )
        bar.add_task(self.title, total=self.total, completed=self._first, shown="")
        bar.start()
        self._console, self._bar = console, bar


def _shown(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {metrics[key]:{style}}" for key, name, style in SHOWN if key in metrics)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
