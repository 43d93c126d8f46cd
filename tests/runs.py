"""What tests of stopping and resuming share: a small run, a way to stop it at a step, and what it leaves."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import model_folder, text_records, write_jsonl

from ktotrain.cli import main

TIMES = {"tokens_per_second", "rows_per_second", "step_seconds"}
STEPS = 6


def small_home(folder: Path) -> Path:
    """A model, 24 rows to train on and 8 to evaluate on."""
    model_folder(folder / "model")
    write_jsonl(folder / "rows.jsonl", text_records(24))
    write_jsonl(folder / "eval.jsonl", text_records(8))
    return folder


def command(home: Path, folder: Path, *overrides: str, flags: Sequence[str] = ()) -> list[str]:
    """The arguments of `ktotrain` that train in `folder`/run: 6 steps of 4 rows unless overridden."""
    recipe = folder / "recipe.toml"
    if not recipe.exists():
        folder.mkdir(exist_ok=True)
        recipe.write_text(
            f'[model]\npath = "{home / "model"}"\n[data]\ntrain = "{home / "rows.jsonl"}"\n'
            f'[optim]\nlearning_rate = 1e-2\n[train]\noutput_dir = "{folder / "run"}"\nbatch_size = 4\n'
            f'precision = "no"\nmax_steps = {STEPS}\n[samples]\ncount = 0\n',
            encoding="utf-8",
        )
    return ["run", str(recipe), *(part for override in overrides for part in ("--set", override)), *flags]


def train(home: Path, folder: Path, *overrides: str, flags: Sequence[str] = ()) -> Result:
    """`ktotrain run`."""
    return CliRunner().invoke(main, command(home, folder, *overrides, flags=flags))


def in_this_process(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """`ktotrain` with these arguments, without a process of its own: what others are compared with."""
    result = CliRunner().invoke(main, arguments)
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


def trained(home: Path, folder: Path, *overrides: str, flags: Sequence[str] = ()) -> Path:
    """The run folder of a run that must end well."""
    result = train(home, folder, *overrides, flags=flags)
    assert result.exit_code == 0, (result.output, result.exception)
    return folder / "run"


def act_before(patch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    """Has something happen when the trainer begins its so many-th step of this process."""
    from ktotrain import trainer

    honest, begun = trainer.train_step, 0

    def train_step(*arguments: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun == step:
            act()
        return honest(*arguments)

    patch.setattr(trainer, "train_step", train_step)


def stopped(
    home: Path, folder: Path, step: int, *overrides: str, flags: Sequence[str] = (), number: int = signal.SIGTERM
) -> Result:
    """A run that gets a signal in the so many-th step of this process."""
    with pytest.MonkeyPatch.context() as patch:
        act_before(patch, step, lambda: os.kill(os.getpid(), number))
        result = train(home, folder, *overrides, flags=flags)
    assert result.exit_code == 128 + number, (result.output, result.exception)
    return result


def refused(result: Result, *words: str) -> None:
    """One error line, which holds these words, and no traceback."""
    assert result.exit_code == 1, (result.output, result.exception)
    assert result.stderr.count("error:") == 1
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr.strip().splitlines()[-1]


def refused_in_one_line(result: Result, code: int = 1) -> str:
    """One error line of whatever command, and no traceback; gives what stands on stderr."""
    assert result.exit_code == code, (result.output, result.exception)
    assert len(re.findall(r"(?im)^error:", result.stderr)) == 1
    assert "Traceback" not in result.output
    return result.stderr


def logged(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without times."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def same(one: Path, other: Path) -> None:
    """Two run folders hold the same weights, bit for bit, the same metrics and the same samples."""
    weights = [path.name for path in (one / "model").glob("*.safetensors")]
    assert weights
    for name in weights:
        assert (one / "model" / name).read_bytes() == (other / "model" / name).read_bytes(), name
    assert logged(one) == logged(other)
    assert (one / "samples.jsonl").exists() == (other / "samples.jsonl").exists()
    if (one / "samples.jsonl").exists():
        assert (one / "samples.jsonl").read_bytes() == (other / "samples.jsonl").read_bytes()
