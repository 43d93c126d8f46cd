"""docs/label.md is true: its blocks run on the files it shows, and it names every function of the language."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from ktodata.cli import main
from ktodata.expressions import FUNCTIONS
from ktodata.io import read_rows

TEXT = (Path(__file__).parents[1] / "docs" / "label.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
# desirable and undesirable rows of each file that a block writes
WRITTEN = {
    "outcomes.parquet": (1, 1),
    "ratings.parquet": (2, 1),
    "long.jsonl": (0, 2),
    "votes.parquet": (1, 1),
    "edits.parquet": (1, 1),
    "anna.parquet": (2, 0),
    "short.parquet": (2, 0),
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page shows."""
    for kind, name, text in BLOCKS:
        assert bool(name) == (kind not in ("sh", "python"))
        if name:
            (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_runs(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for kind, _, text in BLOCKS if kind == "sh" for line in text.splitlines()]
    assert len(lines) == len(WRITTEN) + 1
    for line in lines:
        command, *arguments = shlex.split(line)
        assert command == "ktodata"
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f"{line}\n{result.stderr}"
    counts = {}
    for name in WRITTEN:
        labels = [row.label for row in read_rows(name)]
        counts[name] = (labels.count(True), labels.count(False))
    assert counts == WRITTEN
    assert not all(row.label for row in read_rows("train.parquet"))
    (example,) = [text for kind, _, text in BLOCKS if kind == "python"]
    (files / "example.py").write_text(example, encoding="utf-8")
    runpy.run_path("example.py")
    assert "'neither holds': 2" in capsys.readouterr().out


def test_every_function_is_named() -> None:
    assert all(f"`{name}`" in TEXT for name in FUNCTIONS)
