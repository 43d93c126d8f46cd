"""Two processes give the numbers of one, with unequal packs, a cache or none, and every process has something to do."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import forked
import pytest
from click.testing import CliRunner
from runs import in_this_process
from support import model_folder, random_rows, text_records, write_jsonl

from ktotrain.cli import main
from ktotrain.losses import LOSSES
from ktotrain.plan import plan_run
from ktotrain.step import Packing, build_packs


def start(folder: Path, processes: int, *overrides: str) -> subprocess.CompletedProcess[str]:
    arguments = [part for override in overrides for part in ("--set", override)]
    run = ["run", str(folder / "recipe.toml"), *arguments, "--set", f"train.output_dir={folder / 'run'}"]
    if processes == 1:
        return in_this_process(run)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return forked.run("-m", "ktotrain", *run, "--processes", str(processes), env=environment)


def launch(folder: Path, processes: int, *overrides: str) -> list[dict[str, Any]]:
    """A run in so many processes; its metrics."""
    done = start(folder, processes, *overrides)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the trained model is in") == 1, "one process speaks"
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    (folder / "run").rename(folder / f"run-{processes}-{len(list(folder.iterdir()))}")
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("train.pack_tokens=200", "model.reference_logps=online"),
        ("adapter.rank=2", "model.reference_logps=cached", "model.attention=padded"),
    ],
    ids=str,
)
def test_two_processes_are_one(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    model = model_folder(tmp_path / "model")
    rows = write_jsonl(tmp_path / "rows.jsonl", text_records(26))
    (tmp_path / "recipe.toml").write_text(
        f'[model]\npath = "{model}"\n[data]\ntrain = "{rows}"\n[optim]\nlearning_rate = 1e-2\n'
        f'[train]\nbatch_size = 8\nprecision = "no"\nmax_steps = 5\n[samples]\ncount = 0\n'
    )
    one, two = (launch(tmp_path, processes, *overrides) for processes in (1, 2))
    assert len(one) == len(two) == 5
    assert any(record["kl"] > 0 or record["kl_raw"] < -0.01 for record in one)
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-5)
        assert b["kl"] == pytest.approx(a["kl"], rel=1e-4, abs=1e-4)
        assert b["kl_raw"] == pytest.approx(a["kl_raw"], rel=1e-4, abs=1e-4)
        assert b["rewards/margins"] == pytest.approx(a["rewards/margins"], rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_an_error_in_several_processes_is_said_once(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model")
    rows = write_jsonl(tmp_path / "rows.jsonl", [record for record in text_records() if record["label"]])
    (tmp_path / "recipe.toml").write_text(f'[model]\npath = "{model}"\n[data]\ntrain = "{rows}"\n')
    done = start(tmp_path, 2)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 2
    assert "needs both classes" in errors[0]
    assert "ended with exit code 1. Its error stands above" in errors[1]
    assert "Traceback" not in done.stderr


def test_more_processes_than_rows_of_a_step(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[model]\npath = "m"\n[data]\ntrain = "r"\n[train]\nbatch_size = 2\n')
    result = CliRunner().invoke(main, ["run", str(recipe), "--processes", "3"])
    assert result.exit_code == 2
    assert "3 processes and 2 rows a step" in result.stderr


@pytest.mark.parametrize("processes", [2, 3])
def test_packs_are_dealt_out_so_that_nobody_is_idle(processes: int) -> None:
    rows = random_rows([0, 0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8])
    groups, labels = [row.group for row in rows], [row.label for row in rows]
    (step,) = plan_run(groups, labels, batch_size=12, seed=0, shuffle=True, epochs=1, max_steps=0)
    shares = [
        build_packs(
            step, rows, Packing(512, 10_000, "shared", process=p, processes=processes, follow=True), LOSSES["kto"]
        )
        for p in range(processes)
    ]
    assert all(share.graded for share in shares)
    graded = [row for share in shares for batch in share.graded for row in batch.rows]
    lent = [row for share in shares for batch in share.policy_batches for row in batch.rows]
    assert sorted(graded) == list(range(12))
    assert sorted(lent) == sorted([*range(12)] * 2)
