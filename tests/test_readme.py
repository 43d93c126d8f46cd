"""The README is true: every block in it runs, and its file tree is the tree."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import SHARED, text_records, write_jsonl

from ktotrain.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def sh(text: str, folder: Path, **environment: str) -> str:
    """The block, line by line, stopping at the first that fails."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_every_block_is_of_a_kind_that_is_run_here() -> None:
    assert [kind for kind, _ in BLOCKS] == ["sh", "sh", "sh", "toml", "sh", "python", "sh", "sh", "sh", ""]


def test_make_targets() -> None:
    """`make demo` and `make test` run elsewhere (this is `make test`); here, that make knows how."""
    for line in blocks("sh")[0].splitlines():
        assert line.startswith("make ")
        assert "pytest" in sh(f"{line} --dry-run", ROOT) or "demo.py" in sh(f"{line} --dry-run", ROOT)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the stand-in for the Hub is not here (shared/tools/hub_stub.py)")
def test_the_hub_block(tmp_path: Path) -> None:
    sys.path.insert(0, str(SHARED / "tools"))
    try:
        import hub_stub
    finally:
        sys.path.pop(0)
    pairs = [
        {
            "chosen": f"\n\nHuman: is {n} even?\n\nAssistant: Let me see, I think {n} is {'odd' if n % 2 else 'even'}.",
            "rejected": f"\n\nHuman: is {n} even?\n\nAssistant: Who could say what {n} is.",
        }
        for n in range(250)
    ]
    folder = tmp_path / "hub" / "datasets" / "Anthropic" / "hh-rlhf" / "harmless-base"
    folder.mkdir(parents=True)
    write_jsonl(folder / "train.jsonl", pairs)
    work = tmp_path / "work"
    work.mkdir()
    with hub_stub.serve(tmp_path / "hub") as url:
        sh(
            blocks("sh")[1],
            work,
            HF_ENDPOINT=url,
            HF_HOME=str(tmp_path / "home"),
            HF_HUB_DISABLE_XET="1",
            NO_PROXY="127.0.0.1",
        )
        sh(blocks("sh")[2], work)
    assert (work / "hh.parquet").is_file()
    assert len((work / "trl.jsonl").read_text(encoding="utf-8").splitlines()) > 600
    assert (work / "to-push" / "README.md").is_file()
    assert len((work / "train.jsonl").read_text(encoding="utf-8").splitlines()) == 600  # 400 rows, 200 negatives


@pytest.mark.slow
def test_from_data_to_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block is run as it is written: the one in Python, dry runs and what stands before `||` in this process."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (toml,) = blocks("toml")
    name = toml.splitlines()[0].removeprefix("# ")
    (tmp_path / name).write_text(toml, encoding="utf-8")
    printed = sh(blocks("sh")[3], tmp_path)
    assert "both classes" in printed
    assert "desirable_weight" in (tmp_path / name).read_text(encoding="utf-8")
    run = tmp_path / "runs" / "first"
    named = {"model", "metrics.jsonl", "samples.jsonl", "plots", "recipe.json", "README.md"}
    assert {path.name for path in run.iterdir()} == named
    assert all(f"`{word}" in README for word in named)
    (python,) = blocks("python")
    (tmp_path / "example.py").write_text(python, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path("example.py", run_name="__main__")
    assert "runs/second/model" in capsys.readouterr().out
    first, _, second = blocks("sh")[4].rstrip("\n").partition(" ||\n")
    assert second == f"{first} --resume"
    begun = CliRunner().invoke(main, shlex.split(first)[1:])
    assert begun.exit_code == 0, begun.output
    assert "step 4/4" in begun.stderr
    (tmp_path / "runs" / "long" / "README.md").unlink()  # as if it had been killed right before its last line
    assert "going on from runs/long/checkpoints/step-4" in sh(blocks("sh")[4], tmp_path)
    plans = [CliRunner().invoke(main, shlex.split(line)[1:]) for line in blocks("sh")[5].splitlines()]
    assert [plan.exit_code for plan in plans] == [0, 0]
    planned = "".join(plan.output for plan in plans)
    assert "8 processes; each holds the whole model" in planned
    assert "16 processes on 2 machines; FSDP2" in planned


@pytest.mark.slow
def test_several_processes(tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    write_jsonl(tmp_path / "train.parquet.jsonl", text_records(48))
    (toml,) = blocks("toml")
    recipe = toml.replace('"train.parquet"', '"train.parquet.jsonl"')
    (tmp_path / "recipe.toml").write_text(recipe, encoding="utf-8")
    sh(blocks("sh")[6], tmp_path, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    logs = [(tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines() for name in ("two", "shards")]
    losses = [[json.loads(line)["loss"] for line in log] for log in logs]
    assert losses[0][:2] == pytest.approx(losses[1][:2], rel=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)  # Adam's first steps at 3e-3 make much of rounding


def test_the_file_tree_is_the_tree() -> None:
    (tree,) = blocks("")
    listed: set[str] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, sentence = line.strip().partition(" ")
        assert sentence.strip(), f"{name} has no line of its own"
        folders[depth:] = [name]
        listed.add("".join(folders[:depth]) + name if depth else name)
    for name in listed:
        assert (ROOT / name).exists(), f"{name} is not there"
    small = {"__init__.py", "__main__.py"}
    for package in ("ktodata", "ktotrain", "benchmarks", "recipes"):
        found = [path for path in (ROOT / package).rglob("*.py") if path.name not in small]
        assert found
        for path in found:
            assert str(path.relative_to(ROOT)) in listed, f"{path.relative_to(ROOT)} is not in README's tree"


def test_metrics_named_in_the_readme_are_logged(tmp_path: Path) -> None:
    from test_train_run import KEYS

    table = README.split("## What it logs")[1].split("## Negatives")[0]
    named = set(re.findall(r"`([a-z_]+(?:/[a-z]+)?)`", table)) - {"metrics"}
    assert named == KEYS
