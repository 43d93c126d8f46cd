"""Messages that stand in a column as text: what they cost to look for, and those that cannot be read."""

import json
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from ktodata.cli import main
from ktodata.encoded import BROKEN_EMOJI, DEEPEST, decoded, is_printed, is_too_deep, messages_in
from ktodata.errors import RowError

BROKEN = r'[{"role": "user", "content": "half \ud83d of one"}]'
WHOLE = r'[{"role": "user", "content": "\ud83d\ude00"}]'


def seconds(times: int, asked: Any, *given: object) -> float:
    """The CPU time of so many calls."""
    begin = time.process_time()
    for _ in range(times):
        asked(*given)
    return time.process_time() - begin


def test_a_flat_value_is_looked_at_and_no_more() -> None:
    """Two levels are to cost what two levels do, and not `DEEPEST` of them."""
    flat = [{"role": "user", "content": "hello"}]
    deep: object = 0
    for _ in range(DEEPEST - 1):
        deep = [deep]
    assert seconds(2000, is_too_deep, flat) < seconds(2000, is_too_deep, deep) / 5


@pytest.mark.parametrize(
    "text",
    [
        "{'role': 'content':}" + " " * 30_000 + "x",
        "[{'role': 'content':}]" + " " * 30_000 + "x",
        "[" + " " * 30_000 + "'role': 'content': }",
        "{'role': 'content':" + "} " * 15_000 + "x",
    ],
)
def test_long_runs_of_spaces_cost_no_more_than_other_text(text: str) -> None:
    assert not is_printed(text)
    assert seconds(1, is_printed, text) < 0.3


@pytest.mark.parametrize("end", ["}", "}]", "} ]\n ", "}\n\n]", "}} ]  "])
@pytest.mark.parametrize("begin", ["[{", "{", "[ \n{ "])
def test_what_python_prints_is_known_by_its_ends(begin: str, end: str) -> None:
    inside = "'role': 'user', 'content': 'a } ] b'"
    assert is_printed(f"{begin}{inside}{end}")
    assert not is_printed(f"{begin}{inside}{end}]]")


def test_half_an_emoji_makes_messages_unreadable_and_not_text() -> None:
    assert messages_in(BROKEN) is not None
    with pytest.raises(RowError, match=r"^a:1: reply: half of a surrogate pair"):
        decoded(BROKEN, name="reply", where="a:1")
    assert decoded(WHOLE, name="reply", where="a:1") == [{"role": "user", "content": "\U0001f600"}]
    for text in (r"[\ud83d]", r'{"a": "\ud83d"}', r"half \ud83d of one"):
        assert decoded(text, name="reply", where="a:1") == text, "what is no messages is text, as it stands there"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
@pytest.mark.parametrize("columns", ["prompt completion label", "prompt chosen rejected"])
def test_each_format_sets_it_aside_as_it_stands_there(
    name: str, columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    replies = [json.dumps([{"role": "assistant", "content": reply}]) for reply in ("good", "bad")]
    values = [*replies, "x"][: 1 if "label" in columns else 2]
    rows = [
        dict(zip(columns.split(), [prompt, *values, *([label] if "label" in columns else [])], strict=True))
        for prompt, label in ((WHOLE, True), (WHOLE.replace("ud83d", "ud83e"), False), (BROKEN, True))
    ]
    write(Path(name), rows)
    refused = CliRunner().invoke(main, ["unpair", name, "-o", "o.jsonl"])
    assert refused.exit_code == 1
    assert BROKEN_EMOJI in refused.stderr
    done = CliRunner().invoke(main, ["unpair", name, "-o", "o.jsonl", "--quarantine", "bad.jsonl"])
    assert done.exit_code == 0, done.stderr
    (kept,) = map(json.loads, Path("bad.jsonl").read_text(encoding="utf-8").splitlines())
    assert BROKEN_EMOJI in kept["detail"]
    assert kept["record"]["prompt"] == BROKEN
    written = [json.loads(line)["prompt"] for line in Path("o.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(written) == 2 if "label" in columns else 4
    assert all(isinstance(prompt, list) for prompt in written)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        shown = [[json.dumps(value) if isinstance(value, bool) else value for value in row.values()] for row in rows]
        cells = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [list(rows[0]), *shown]]
        path.write_text("\n".join(cells) + "\n", encoding="utf-8")
    else:
        lines = [json.dumps(row) for row in rows]
        text = "\n".join(lines) if path.suffix == ".jsonl" else "[\n" + ",\n".join(lines) + "\n]"
        path.write_text(text, encoding="utf-8")
