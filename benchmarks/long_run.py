"""Memory over a long run: 2,000 steps of a tiny model, with evaluation, checkpoints and rows of many lengths.

    python -m benchmarks.long_run [--steps 2000] [--trace]

The run is in this process; every 50 steps its resident memory is read, and every 500 the objects and tensors that the
garbage collector knows are counted. After the first tenth nothing may grow but by accident: the slope of a straight
line through the rest is printed, by step and for all of them. `--trace` names the lines of code that hold more at the
end than after the first tenth (tracemalloc: slower). Then the plots of 100,000 logged steps: seconds, bytes, points.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import random
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch

MEBIBYTE = 2**20
EVERY, COUNTED = 50, 500


def write_rows(path: Path, count: int, seed: int) -> Path:
    """Rows with two completions a prompt, of 1 to 40 words: as many lengths as a real file has."""
    rng = random.Random(seed)
    words = ["so", "well", "good", "day", "never", "mind", "thanks", "for", "asking", "rain"]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count // 2):
            prompt = f"Q{number}: {' '.join(rng.choices(words, k=rng.randrange(1, 40)))}?"
            for label in (True, False):
                text = " " + " ".join(rng.choices(words, k=rng.randrange(1, 40)))
                file.write(json.dumps({"prompt": prompt, "completion": text, "label": label}) + "\n")
    return path


def write_model(folder: Path) -> Path:
    """A Llama of two layers and 32 dimensions, with the quickstart's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from ktotrain.model import quiet

    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "recipes" / "quickstart" / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    with quiet():
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Watch:
    """Samples of this process by step: resident bytes, and how many objects and tensors are alive."""

    def __init__(self, *, trace: bool, warm: int) -> None:
        self.resident: dict[int, int] = {}
        self.alive: dict[int, tuple[int, int]] = {}
        self.first: Any = None
        self.trace, self.warm = trace, warm
        self._process = psutil.Process()

    def at(self, step: int) -> None:
        """Called before each step."""
        if step % EVERY == 0:
            self.resident[step] = self._process.memory_info().rss
        if step % COUNTED == 0:
            gc.collect()
            kinds = Counter(type(one) for one in gc.get_objects())
            tensors = sum(count for kind, count in kinds.items() if issubclass(kind, torch.Tensor))
            self.alive[step] = sum(kinds.values()), tensors
        if self.trace and step == self.warm:
            tracemalloc.start(8)
            self.first = tracemalloc.take_snapshot()


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Has `watch` called before each step that the trainer makes."""
    from ktotrain import learn, trainer

    honest, made = learn.train_step, 0

    def train_step(*arguments: Any, **named: Any) -> Any:
        nonlocal made
        watch.at(made)
        made += 1
        return honest(*arguments, **named)

    with mock.patch.object(trainer, "train_step", train_step):
        yield


def train(folder: Path, steps: int, watch: Watch, every: int = 100) -> str:
    """The run, with a checkpoint and an evaluation every so many steps; gives what it printed."""
    from ktotrain import trainer
    from ktotrain.recipe import recipe_from_dict

    tables = {
        "model": {"path": str(write_model(folder / "model")), "reference_logps": "online"},
        "adapter": {"rank": 4},
        "data": {
            "train": str(write_rows(folder / "rows.jsonl", 4000, 0)),
            "eval": str(write_rows(folder / "eval.jsonl", 40, 1)),
            "max_length": 128,
        },
        "optim": {"learning_rate": 1e-4},
        "train": {
            "output_dir": str(folder / "run"),
            "max_steps": steps,
            "batch_size": 8,
            "pack_tokens": 1024,
            "precision": "no",
            "save_every": every,
            "eval_every": every,
        },
    }
    recipe = recipe_from_dict(tables)
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown), watched(watch):
        trainer.run(recipe)
    return shown.getvalue()


def slope(points: dict[int, int], after: int) -> float:
    """Growth by step of a straight line through the points after so many steps."""
    kept = {step: value for step, value in points.items() if step >= after}
    return statistics.linear_regression(list(kept), list(kept.values())).slope


def plots_of(steps: int) -> None:
    """Draw the plots of a run of so many logged steps, and print what that costs."""
    from ktotrain.plots import draw_plots

    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "metrics.jsonl"
        keys = ("loss", "kl", "kl_raw", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/auc")
        with log.open("w", encoding="utf-8") as file:
            for step in range(1, steps + 1):
                file.write(json.dumps({"step": step} | {key: rng.random() for key in keys}) + "\n")
        size, began = log.stat().st_size, time.process_time()
        drawn = draw_plots(log, Path(name) / "plots")
        spent = time.process_time() - began
        bytes_drawn = sum(path.stat().st_size for path in drawn)
    print(
        f"plots of {steps:,} logged steps ({size / MEBIBYTE:.0f} MiB of metrics.jsonl): {spent:.1f} s of CPU, "
        f"{len(drawn)} files of {bytes_drawn / 1024:.0f} KiB together"
    )


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--trace", action="store_true")
    options = parser.parse_args()
    warm = max(EVERY, options.steps // 10)
    watch = Watch(trace=options.trace, warm=warm)
    with tempfile.TemporaryDirectory(prefix="ktokit-long-") as name:
        os.environ["KTOKIT_CACHE"] = f"{name}/cache"
        began = time.perf_counter()
        shown = train(Path(name), options.steps, watch)
        spent = time.perf_counter() - began
        last = tracemalloc.take_snapshot() if options.trace else None
        log = (Path(name) / "run" / "metrics.jsonl").read_text(encoding="utf-8")
        samples = (Path(name) / "run" / "samples.jsonl").stat().st_size
    by_step = slope(watch.resident, warm)
    steps = [step for step in watch.resident if step >= warm]
    first, end = watch.resident[steps[0]], watch.resident[steps[-1]]
    print(f"{options.steps:,} steps in {spent:.0f} s; resident memory by step, MiB:")
    print(
        "  "
        + "  ".join(f"{step}: {watch.resident[step] / MEBIBYTE:.1f}" for step in steps[:: max(1, len(steps) // 10)])
    )
    print(f"  from step {steps[0]} to {steps[-1]}: {(end - first) / MEBIBYTE:+.2f} MiB ({(end - first) / first:+.2%})")
    print(
        f"  slope: {by_step:+.0f} bytes a step, {by_step * (steps[-1] - steps[0]) / MEBIBYTE:+.2f} MiB over all of them"
    )
    for step, (objects, tensors) in watch.alive.items():
        print(f"  objects alive at step {step}: {objects:,}, of them {tensors:,} tensors")
    print(f"metrics.jsonl: {log.count(chr(10)):,} lines, {len(log) / 1024:.0f} KiB; samples.jsonl: {samples:,} bytes")
    print(f"stderr, redirected: {shown.count(chr(10)):,} lines, {len(shown):,} characters")
    if last is not None:
        for one in last.compare_to(watch.first, "lineno")[:15]:
            print(f"  {one}")
    plots_of(100_000)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
