"""Parquet columns of the type Json, in which `datasets` keeps messages whose keys differ from one to the next."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ktodata.cli import main
from ktodata.io import read_records

CALL = {"name": "look_up", "arguments": {"word": "caffè", "n": 2}}
ASKED = {"role": "user", "content": "Which?"}


def write(path: Path, columns: dict[str, Any]) -> str:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def as_json(values: list[Any]) -> Any:
    """A column of the type Json of these values; those of bytes are the text itself."""
    import pyarrow

    texts = [v if v is None else v.decode() if isinstance(v, bytes) else json.dumps(v) for v in values]
    return pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(texts, pyarrow.string()))


def nested(kind: str) -> tuple[Any, list[Any]]:
    """A column with JSON somewhere in it, and its values."""
    import pyarrow

    inner = as_json([CALL, "text", None, [1]])
    offsets, mask = [0, 2, 2, 4], pyarrow.array([False, True, False])
    match kind:
        case "itself":
            return as_json([CALL, "say hi", None]), [CALL, "say hi", None]
        case "list":
            return pyarrow.ListArray.from_arrays(offsets, inner, mask=mask), [[CALL, "text"], None, [None, [1]]]
        case "struct":
            found = pyarrow.StructArray.from_arrays([inner[:3], pyarrow.array([1, 2, 3])], ["a", "b"], mask=mask)
            return found, [{"a": CALL, "b": 1}, None, {"a": None, "b": 3}]
        case "map":
            keys = pyarrow.array(["k", "l", "m", "n"])
            values = [[("k", CALL), ("l", "text")], [], [("m", None), ("n", [1])]]
            return pyarrow.MapArray.from_arrays(offsets, keys, inner), values
        case _:
            structs = pyarrow.StructArray.from_arrays([inner], ["a"])
            values = [[{"a": CALL}, {"a": "text"}], [], [{"a": None}, {"a": [1]}]]
            return pyarrow.LargeListArray.from_arrays(offsets, structs), values


@pytest.mark.parametrize("kind", ["itself", "list", "struct", "map", "list of structs"])
def test_json_is_read_as_what_it_stands_for(kind: str, tmp_path: Path) -> None:
    column, values = nested(kind)
    path = write(tmp_path / "a.parquet", {"plain": ['"a"', "[1]", None], "more": column, "last": [1, 2, 3]})
    found = [raw.values() for raw in read_records(path)]
    assert found == [
        {"plain": plain, "more": value, "last": last}
        for plain, value, last in zip(['"a"', "[1]", None], values, [1, 2, 3], strict=True)
    ]
    assert [list(record) for record in found] == [["plain", "more", "last"]] * 3


def unpair(path: str, *options: str) -> tuple[int, list[dict[str, Any]], str]:
    done = CliRunner().invoke(main, ["unpair", path, "-o", f"{path}.jsonl", *options])
    written = Path(f"{path}.jsonl")
    lines = written.read_text(encoding="utf-8").splitlines() if written.exists() else []
    return done.exit_code, [json.loads(line) for line in lines], done.stderr


def test_pairs_as_datasets_writes_them(tmp_path: Path) -> None:
    """Text without quotes that are none of it, and messages as they are."""
    import datasets

    kinds = {"prompt": datasets.Value("string"), "chosen": datasets.Json(), "rejected": datasets.Json()}
    pair = {"prompt": "q", "chosen": "say hi", "rejected": 'say "no"'}
    datasets.Dataset.from_list([pair], features=datasets.Features(kinds)).to_parquet(str(tmp_path / "a.parquet"))
    code, rows, told = unpair(str(tmp_path / "a.parquet"))
    assert code == 0, told
    assert {row["completion"] for row in rows} == {"say hi", 'say "no"'}

    kinds = {name: datasets.List(datasets.Json()) for name in ("chosen", "rejected")}
    told_by = {"good": {"role": "assistant", "content": "this"}, "bad": {"role": "assistant", "content": "that"}}
    pair = {"chosen": [ASKED, told_by["good"]], "rejected": [ASKED, told_by["bad"]]}
    datasets.Dataset.from_list([pair], features=datasets.Features(kinds)).to_parquet(str(tmp_path / "b.parquet"))
    code, rows, told = unpair(str(tmp_path / "b.parquet"))
    assert code == 0, told
    assert {json.dumps(row["completion"]) for row in rows} == {json.dumps([one]) for one in told_by.values()}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"a": ', "chosen: not JSON: Expecting value at character 7"),
        (b"", "chosen: not JSON: Expecting value at character 1"),
        (b'{"a": 1, "a": 2}', "chosen: the key 'a' is there more than once"),
        (rb'"\ud83d"', "chosen: half of a surrogate pair"),
        (b"[" * 300 + b"]" * 300, "chosen: JSON nested too deeply"),
    ],
)
def test_what_is_no_json_is_unreadable(text: bytes, problem: str, tmp_path: Path) -> None:
    """And stands in the quarantine file as it stands in the column."""
    columns = {"prompt": ["p", "q"], "chosen": as_json(["a", text]), "rejected": ["b", "c"]}
    path = write(tmp_path / "a.parquet", columns)
    code, rows, told = unpair(path)
    assert (code, rows) == (1, [])
    assert told.startswith(f"error: {path}: row 2: {problem}")
    code, rows, told = unpair(path, "--quarantine", str(tmp_path / "bad.jsonl"))
    assert (code, len(rows)) == (0, 2), told
    (kept,) = map(json.loads, (tmp_path / "bad.jsonl").read_text(encoding="utf-8").splitlines())
    assert kept["record"] == {"prompt": "q", "chosen": text.decode(), "rejected": "c"}


def test_a_row_that_is_not_utf8_beside_json(tmp_path: Path) -> None:
    import pyarrow

    broken = pyarrow.array([b"\xff", b"q"]).view(pyarrow.string())
    path = write(tmp_path / "a.parquet", {"prompt": broken, "chosen": as_json(["a", "b"]), "rejected": ["c", "c"]})
    first, second = read_records(path)
    assert "is not UTF-8" in first.problem
    assert second.values() == {"prompt": "q", "chosen": "b", "rejected": "c"}
