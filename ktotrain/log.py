"""metrics.jsonl: a line for each logged step, each skipped step and each evaluation."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from ktotrain.errors import TrainingError
from ktotrain.files import write_atomic


class MetricsLog:
    """metrics.jsonl, a line at a time, and the trackers.

    A disk that is full stops nobody: lines wait in memory until they can be written, a checkpoint keeps them, and
    the file never ends in half a line. A resumed run's file begins with so many `lines`.
    """

    def __init__(
        self,
        path: Path,
        accelerator: Any,
        *,
        lines: int = 0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.path, self.accelerator, self.say = path, accelerator, say
        self.waiting: list[str] = []
        self.lines = lines
        self._said = False

    def __enter__(self) -> Self:
        if self.accelerator.is_main_process:
            self.file = self.path.open("ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        if self.accelerator.is_main_process:
            with contextlib.suppress(OSError):
                self.file.close()

    def write(self, metrics: Mapping[str, Any]) -> None:
        """One line. Written out at once: whoever follows a run sees each step.

        Numbers that are not finite are left out, and named under `not_finite`: the file holds no NaN.
        """
        infinite = [name for name, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)]
        line = {name: value for name, value in metrics.items() if name not in infinite}
        if infinite:
            line["not_finite"] = infinite
            self.say(f"step {metrics['step']}: not finite: {', '.join(infinite)}")
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        self.accelerator.log(numbers, step=int(metrics["step"]))
        if self.accelerator.is_main_process:
            self.waiting.append(json.dumps(line, allow_nan=False) + "\n")
            self.lines += 1
            self._write_out()

    def state(self) -> dict[str, Any]:
        """For a checkpoint: how many lines there are, and those not written yet. What is written is on disk then."""
        self._write_out()
        with contextlib.suppress(OSError):
            os.fsync(self.file.fileno())
        return {"lines": self.lines, "waiting": self.waiting}

    def require_written(self) -> None:
        """At the end of a run.

        Raises:
            TrainingError: lines still wait.
        """
        if self.accelerator.is_main_process:
            self._write_out()
            if self.waiting:
                raise TrainingError(
                    f"the last {len(self.waiting)} lines could not be written",
                    where=str(self.path),
                    do="Look at free space and permissions",
                )

    def _write_out(self) -> None:
        if not self.waiting:
            return
        data = "".join(self.waiting).encode()
        end = self.file.seek(0, os.SEEK_END)
        written = 0
        try:
            while written < len(data):
                written += self.file.write(data[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                self.file.truncate(end)
            if not self._said:
                self.say(f"{self.path} cannot be written ({error.strerror}); training goes on and tries again")
            self._said = True
            return
        self.waiting.clear()
        self._said = False


def cut_back(path: Path, step: int, log: Mapping[str, Any]) -> str:
    """Make a metrics.jsonl what it was when a checkpoint was saved: no line of a later step, none cut off or missing.

    Args:
        log: what `MetricsLog.state` gave then.

    Returns:
        what cannot be put right, or "".

    Raises:
        TrainingError: it cannot be written.
    """
    kept = [line for line in _lines(path) if _step(line) <= step]
    kept = kept[: log["lines"]]
    missing = log["lines"] - len(kept)
    if 0 < missing <= len(log["waiting"]):
        kept += log["waiting"][-missing:]
        missing = 0
    write_atomic(path, "".join(kept))
    return f"{path} lacks {missing} of {log['lines']} lines up to step {step}" if missing else ""


def holds_a_run(output_dir: Path) -> bool:
    """Whether a run got anywhere in this folder: a model, or a logged step. What failed before that is no loss."""
    return (output_dir / "model").exists() or any(
        '"skipped"' not in line for line in _lines(output_dir / "metrics.jsonl")
    )


def is_finished(output_dir: Path) -> bool:
    """Whether a run wrote everything: its model, and the card, which comes last."""
    return (output_dir / "model").exists() and (output_dir / "README.md").exists()


def _lines(path: Path) -> list[str]:
    """Whole lines; what a kill cut off is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError:
        return []
    return [line for line in lines if line.endswith("\n") and line.strip()]


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # no line of ours
