"""Files and folders whose names are not UTF-8, which most file systems allow: data like any other."""

import json
import os
from pathlib import Path

import pyarrow
import pytest
from click.testing import CliRunner

from ktodata.cli import main
from ktodata.io import Spill, read_rows

BAD = os.fsdecode(b"\xff")
ROWS = [{"prompt": f"p{n}", "completion": f"c{n} is so", "label": n % 2 > 0} for n in range(8)]
COMMANDS: dict[str, list[str]] = {
    "unpair": [],
    "convert": ["--to", "trl"],
    "mix": [],
    "split": ["--eval", f"e{BAD}.jsonl"],
    "negatives": ["--strategy", "template", "--no-leakage"],
    "label": ["--thumbs", "label"],
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        Path(f"in{BAD}").mkdir()
    except OSError:
        pytest.skip("no such names on this file system")
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    Path(f"in{BAD}", f"r{BAD}.jsonl").write_text(text, encoding="utf-8")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.exception or result.stderr
    return result.stderr


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("command", COMMANDS)
def test_they_are_read_and_written(command: str, suffix: str) -> None:
    source, out, bad = f"in{BAD}/r{BAD}.jsonl", f"out{BAD}/o{BAD}{suffix}", f"bad{BAD}.jsonl"
    given = [] if command == "split" else ["--quarantine", bad]
    told = run(command, source, "-o", out, *COMMANDS[command], *given)
    assert Path(out).exists()
    assert BAD not in told
    assert {row.source for row in read_rows(out)} == {"in\\udcff/r\\udcff.jsonl"} or command == "convert"
    if command == "negatives":
        card = Path(f"{out}.card.md").read_text(encoding="utf-8")
        assert json.loads(card.split("```json")[1].split("```")[0])["sources"] == ["in\\udcff/r\\udcff.jsonl"]


def test_places_in_them_are_told() -> None:
    with Path(f"in{BAD}", f"r{BAD}.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"prompt": 1}\n')
    for source in (f"in{BAD}/r{BAD}.jsonl", f"in{BAD}"):
        result = CliRunner().invoke(main, ["unpair", source, "-o", "o.jsonl"])
        assert result.stderr.startswith("error: in\\udcff/r\\udcff.jsonl:9: "), result.stderr
        run("unpair", source, "-o", "o.jsonl", "--quarantine", "bad.jsonl")
        (line,) = map(json.loads, Path("bad.jsonl").read_text(encoding="utf-8").splitlines())
        assert line["where"] == "in\\udcff/r\\udcff.jsonl:9"


def test_a_folder_that_datasets_itself_cannot_open_is_one_line() -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(ROWS).save_to_disk("saved")
    Path("saved").rename(f"saved{BAD}")
    result = CliRunner().invoke(main, ["unpair", f"saved{BAD}", "-o", "o.jsonl"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: saved\\udcff: not a readable dataset folder: ")
    assert result.stderr.count("\n") == 1


def test_rows_are_set_aside_in_such_a_folder() -> None:
    import numpy

    table = pyarrow.table({"a": list(range(100))})
    with Spill(2, Path(f"in{BAD}"), budget=100) as spill:
        spill.add(table, numpy.arange(100) % 2)
        spill.finish()
        assert spill.on_disk
        assert spill.read(1).column("a").to_pylist() == list(range(1, 100, 2))  # type: ignore[union-attr]


def test_a_dataset_to_be_pushed_is_made_of_them() -> None:
    run("push", f"in{BAD}/r{BAD}.jsonl", "me/x", "--dry-run", f"made{BAD}")
    assert "in\\udcff/r\\udcff.jsonl" in Path(f"made{BAD}", "README.md").read_text(encoding="utf-8")
