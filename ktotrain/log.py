"""metrics.jsonl: a line for each logged step and each evaluation."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ktotrain.errors import TrainingError


class MetricsLog:
    """metrics.jsonl, a line at a time, and the trackers."""

    def __init__(self, path: Path, accelerator: Any) -> None:
        self.path, self.accelerator = path, accelerator

    def __enter__(self) -> Self:
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


def holds_a_run(output_dir: Path) -> bool:
    """Whether a run got anywhere in this folder: a model, or a logged step. What failed before that is no loss."""
    metrics = output_dir / "metrics.jsonl"
    return (output_dir / "model").exists() or (metrics.is_file() and metrics.stat().st_size > 0)
