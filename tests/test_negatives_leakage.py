"""`python -m benchmarks.leakage`: what it reads, and its errors, one line each."""

import subprocess
import sys
from pathlib import Path

import pytest

from ktodata.io import write_rows
from ktodata.schema import make_row

ROOT = Path(__file__).parents[1]


def leakage(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.leakage", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    made = [
        make_row(f"Question {n}", f"There are {n} ways to write a good long reply.", n > 1, source="s", origin="rated")
        for n in range(12)
    ]
    write_rows(made, str(tmp_path / "rows.parquet"))
    return str(tmp_path / "rows.parquet")


@pytest.mark.slow
def test_rows_of_any_format_and_all_operations(rows: str) -> None:
    done = leakage(rows)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("10 desirable rows")
    assert len(done.stdout.splitlines()) > 10


@pytest.mark.slow
def test_the_default_by_name_with_options_between(rows: str, tmp_path: Path) -> None:
    done = leakage(rows, "--limit", "8", "default")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("8 desirable rows")
    assert len(done.stdout.splitlines()) == 3
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"chosen": "\\n\\nHuman: hi\\n\\nAssistant: hello there", "rejected": ""}\n', encoding="utf-8")
    assert leakage(str(pairs), "delete").stdout.startswith("1 desirable rows")


@pytest.mark.parametrize(
    ("operations", "code", "message"), [(["delte"], 2, "delte"), ([], 1, "no such file or folder")]
)
def test_errors_are_one_line(tmp_path: Path, operations: list[str], code: int, message: str) -> None:
    done = leakage(str(tmp_path / "none.jsonl"), *operations)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
