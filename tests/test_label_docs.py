"""docs/label.md is true: its blocks run on the files it shows, and it names every function of the language."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from test_readme import sh

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
    "train.parquet": (2, 2),
}


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], str]:
    for kind, name, text in BLOCKS:
        if name:
            (tmp_path / name).write_text(text, encoding="utf-8")
        assert bool(name) == (kind not in ("sh", "python"))

    def run(block: str) -> str:
        return sh(block, tmp_path)

    return run


def test_every_block_runs(tmp_path: Path, shell: Callable[[str], str]) -> None:
    for kind, _, text in BLOCKS:
        if kind == "sh":
            shell(text)
        elif kind == "python":
            (tmp_path / "example.py").write_text(text, encoding="utf-8")
            assert "neither holds" in shell("python example.py")
    found = {path.name: read_rows(str(path)) for path in tmp_path.iterdir() if path.name in WRITTEN}
    assert {
        name: (sum(row.label for row in rows), sum(not row.label for row in rows)) for name, rows in found.items()
    } == WRITTEN


def test_every_function_is_named() -> None:
    assert all(f"`{name}`" in TEXT for name in FUNCTIONS)
