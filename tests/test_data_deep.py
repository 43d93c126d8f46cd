"""JSON nested more deeply than any layout has: one reason in every format, command and number of workers."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ktodata.cli import main
from ktodata.encoded import DEEPEST, TOO_DEEP, is_too_deep
from ktodata.errors import RowError
from ktodata.io import read_records
from ktodata.io.records import Raw
from ktodata.schema import named, parse_label

GOOD: list[dict[str, Any]] = [{"prompt": f"p{n}", "completion": f"c{n}", "label": n % 2 > 0} for n in range(4)]


def nested(levels: int) -> str:
    """Arrays within each other, as JSON."""
    return "[" * levels + "]" * levels


def bad(levels: int, column: str = "label") -> str:
    """A record of so many levels, its own included."""
    record = {"prompt": "q", "completion": "c", "label": True} | {column: "HERE"}
    return json.dumps(record).replace('"HERE"', nested(levels - 1))


def write(folder: Path, suffix: str, record: str) -> Path:
    lines = [*map(json.dumps, GOOD[:-1]), record, json.dumps(GOOD[-1])]
    path = folder / f"a{suffix}"
    path.write_text("\n".join(lines) if suffix == ".jsonl" else "[\n" + ",\n".join(lines) + "\n]", encoding="utf-8")
    return path


@pytest.mark.parametrize("value", ["1", "{}", "[]", '[1, {"a": []}]'])
def test_levels_are_objects_and_arrays(value: str) -> None:
    around = json.loads(value)
    own = {"1": 0, "{}": 1, "[]": 1}.get(value, 3)
    for place in range(DEEPEST - own):
        around = [0, around] if place % 2 else {"a": around, "b": "x"}
    assert not is_too_deep(around)
    assert is_too_deep([around])


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize("levels", [DEEPEST, DEEPEST + 1, 975, 1024, 1025, 5000, 200_000])
@pytest.mark.parametrize("column", ["label", "more"])
def test_lines_and_arrays_have_one_bound(suffix: str, levels: int, column: str, tmp_path: Path) -> None:
    *good, deep, last = read_records(str(write(tmp_path, suffix, bad(levels, column))))
    assert [raw.values() for raw in (*good, last)] == GOOD
    if levels <= DEEPEST:
        assert deep.values()["prompt"] == "q"
        return
    with pytest.raises(RowError, match=TOO_DEEP):
        deep.values()
    assert deep.shown() == bad(levels, column), "as text: nobody who reads the quarantine file has to follow it"


def test_what_is_read_the_slow_way_has_it_too() -> None:
    for levels in (DEEPEST + 1, 5000):
        line = bad(levels, "more").removesuffix("}") + ', "n": NaN}'
        with pytest.raises(RowError, match=TOO_DEEP):
            Raw(line.encode(), "a", "a").values()


COMMANDS: dict[str, list[str]] = {
    "unpair": ["-o", "o.jsonl"],
    "convert": ["-o", "o.jsonl", "--to", "trl"],
    "negatives": ["-o", "o.jsonl", "--strategy", "template", "--no-leakage"],
    "mix": ["-o", "o.jsonl"],
    "label --thumbs": ["-o", "o.jsonl", "--thumbs", "label"],
    "label --desirable": ["-o", "o.jsonl", "--desirable", "label is true", "--undesirable", "label == false"],
    "check": [],
    "balance": [],
}


@pytest.mark.parametrize("levels", [600, 980])
@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_one_line_or_sets_the_record_aside(
    command: str, levels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, ".jsonl", bad(levels))
    given = [command.split()[0], "a.jsonl", *COMMANDS[command]]
    refused = CliRunner().invoke(main, given)
    assert refused.exit_code == 1, refused.output
    assert f"a.jsonl:4: {TOO_DEEP}" in refused.stderr
    if "-o" in given:
        kept = CliRunner().invoke(main, [*given, "--quarantine", "bad.jsonl"])
        assert kept.exit_code == 0, kept.stderr
        (line,) = map(json.loads, Path("bad.jsonl").read_text(encoding="utf-8").splitlines())
        assert (line["where"], line["record"]) == ("a.jsonl:4", bad(levels))
        assert TOO_DEEP in (line["reason"], line.get("detail"))


@pytest.mark.slow
def test_a_cell_of_messages_does_too_whatever_the_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of csv are parsed before workers get them, and pickling them is a walk as deep as they are."""
    monkeypatch.chdir(tmp_path)
    for levels in (150, 900, 5000):
        cells = [f'[{{""role"": ""user"", ""content"": {nested(levels)}}}]', *("p" * n for n in (1, 2))]
        Path("a.csv").write_text("".join(["prompt,completion,label\n", *(f'"{one}",c,true\n' for one in cells)]))
        found = []
        for workers in "12":
            given = ["unpair", "a.csv", "-o", "o.jsonl", "--quarantine", "bad.jsonl", "--workers", workers]
            result = CliRunner().invoke(main, given)
            assert result.exit_code == 0, repr(result.exception)
            found.append((Path("o.jsonl").read_bytes(), Path("bad.jsonl").read_bytes()))
        assert found[0] == found[1]
        (line,) = map(json.loads, found[0][1].splitlines())
        assert line["where"] == "a.csv:2"
        assert line["detail"] == TOO_DEEP if levels > DEEPEST else "not a string" in line["detail"]


def test_text_of_csv_that_is_no_message_stays_text_however_deep(tmp_path: Path) -> None:
    texts = [nested(5000), "[" * 5000, '{"a": ' * 5000, nested(500)]
    cells = ["".join(['"', text.replace('"', '""'), '"']) for text in texts]
    (tmp_path / "a.csv").write_text("".join(["prompt,label\n", *(f"{cell},true\n" for cell in cells)]))
    assert [raw.values()["prompt"] for raw in read_records(str(tmp_path / "a.csv"))] == texts


def test_a_long_label_is_quoted_by_its_beginning() -> None:
    for value in ("x" * 7500, [["y"] * 2000], {"a": "z" * 100}):
        with pytest.raises(RowError) as caught:
            parse_label(value, name="label", where="a:1")
        assert f"label is {named(value)}, not true or false" in str(caught.value)
        assert len(str(caught.value)) < 200
