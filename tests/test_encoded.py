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
from ktodata.schema import parse_row
from ktodata.sources import Example
from ktodata.sources.pairs import read_pair
from ktodata.unpair import unpair

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
        "[{'content': 1, 'role':" + " " * 30_000 + "'x'}]",
        "[{'role': 'user', " + ("'content':" + " " * 100 + "1 ") * 300 + "}]",
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


RATES: list[dict[str, Any]] = [{"from": "EUR", "to": "USD", "value": 1.08}]
NO_CHATS: list[list[dict[str, Any]]] = [
    RATES,
    [{"from": "EUR", "value": "1.08"}],
    [{"from": "user", "to": "admin", "value": 3}],
    [{"from": "system", "value": True}],
    [{"role": "Narrator", "content": "It was night."}],
    [{"role": 1, "content": "x"}],
    [{"role": ["user"], "content": "x"}],
    [{"role": "user", "name": "x"}],
]
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "x"}],
    [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}],
    [{"from": None, "value": None, "role": "user", "content": "x"}],
    # Badly written, or more than a row can hold: an error, and no text to be learned.
    [{"from": "human", "value": "x"}, {"from": "bing", "value": "y"}],
    [{"role": "user", "content": "x"}, {"role": "bot", "content": "y"}],
    [{"role": "User", "content": "x"}],
    [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
    [{"role": "assistant", "content": None, "tool_calls": [{}]}],
]


def test_messages_are_from_somebody_who_speaks_in_chats() -> None:
    for items in NO_CHATS:
        assert messages_in(json.dumps(items)) is None
        assert not is_printed(repr(items))
    for items in CHATS:
        assert messages_in(json.dumps(items)) == items
        assert is_printed(repr(items))
    for (item, *_), taken in [*((items, False) for items in NO_CHATS), *((items, True) for items in CHATS)]:
        assert decoded(json.dumps(item), name="", where="") == json.dumps(item)
        assert decoded(repr(item), name="", where="") == repr(item)
        assert decoded(json.dumps(item), name="", where="", alone=True) == (item if taken else json.dumps(item))
        if taken:
            with pytest.raises(RowError, match="as Python prints them"):
                decoded(repr(item), name="", where="", alone=True)
        else:
            assert decoded(repr(item), name="", where="", alone=True) == repr(item)


OBJECT = json.dumps(RATES[0])
MESSAGE = '{"role": "user", "content": "hi?"}'
SAID = '{"role": "assistant", "content": "ok"}'
TEXTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a completion": ({"prompt": "p", "completion": json.dumps(RATES), "label": True}, []),
    "a completion that Python printed": ({"prompt": "p", "completion": repr(RATES), "label": True}, []),
    "a prompt": ({"prompt": OBJECT, "chosen": "a", "rejected": "b"}, []),
    "both replies": ({"prompt": "p", "chosen": OBJECT, "rejected": OBJECT.replace("EUR", "GBP")}, []),
    "a prompt that is a message": ({"prompt": MESSAGE, "chosen": "a", "rejected": "b"}, []),
    "a row's prompt that is a message": ({"prompt": MESSAGE, "completion": "a", "label": True}, []),
    "a thumb": ({"prompt": "p", "reply": OBJECT, "vote": "up"}, ["--thumbs", "vote"]),
    "a list with a thumb": ({"prompt": "p", "reply": json.dumps(RATES), "vote": "up"}, ["--thumbs", "vote"]),
    "a thumb for a message": ({"prompt": MESSAGE, "reply": SAID, "vote": "up"}, ["--thumbs", "vote"]),
    "a condition": ({"prompt": "p", "reply": SAID, "ok": "yes"}, ["--desirable", "ok == 'yes'"]),
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
@pytest.mark.parametrize("case", TEXTS)
def test_text_that_is_json_stays_text(case: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record, options = TEXTS[case]
    plain = {column: "other" if column in ("prompt", "completion", "reply") else v for column, v in record.items()}
    write(Path(name), [plain, record])
    done = CliRunner().invoke(main, ["label" if options else "unpair", name, "-o", "o.jsonl", *options])
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(line) for line in Path("o.jsonl").read_text(encoding="utf-8").splitlines()]
    written = {(row["prompt"], row["completion"]) for row in rows}
    replies = [record[column] for column in ("completion", "chosen", "rejected", "reply") if column in record]
    assert written >= {(record["prompt"], reply) for reply in replies}


ASKED = [{"role": "user", "content": "q"}]
ANSWER = [{"role": "assistant", "content": "a"}]
OTHER = [{"role": "assistant", "content": "b"}]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "native"])
@pytest.mark.parametrize("empty", ["", " \n"])
@pytest.mark.parametrize("better", [True, False])
@pytest.mark.parametrize(
    ("prompt", "reply"),
    [
        ("q", [*ASKED, *ANSWER]),
        ("", [*ASKED, *ANSWER]),
        ("q", ANSWER),
        (ASKED, [*ASKED, *ANSWER]),
        (ASKED, ANSWER),
        (ASKED, ANSWER[0]),
        ("q", [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]),
    ],
)
def test_of_messages_beside_an_empty_reply_the_messages_stay(
    prompt: Any, reply: Any, better: bool, empty: str, suffix: str, tmp_path: Path
) -> None:
    record = {"prompt": prompt, "chosen": reply if better else empty, "rejected": empty if better else reply}
    if suffix != "native":
        record = {name: value if isinstance(value, str) else json.dumps(value) for name, value in record.items()}
    path = tmp_path / f"a.{suffix}"
    write(path.with_suffix(".jsonl") if suffix == "native" else path, [record])
    made = unpair(str(path.with_suffix(".jsonl") if suffix == "native" else path))
    assert [(row.prompt, row.completion, row.label) for row in made.rows] == [(ASKED, ANSWER, better)]
    assert made.skipped == {"empty completion": 1}


def read(prompt: Any, chosen: Any, rejected: Any) -> list[Any]:
    return list(read_pair(prompt, {"chosen": chosen, "rejected": rejected}, "a:1"))


@pytest.mark.parametrize("space", [" ", "\n", "\r\n\t "])
def test_white_space_may_stand_before_messages(space: str) -> None:
    """It may after them too; and text with white space before it is as it was."""
    replies = [space + json.dumps([*ASKED, *reply]) for reply in (ANSWER, OTHER)]
    assert read("q", *replies) == [Example(ASKED, ANSWER, True), Example(ASKED, OTHER, False)]
    row = {"prompt": space + json.dumps(ASKED), "completion": space + json.dumps(ANSWER), "label": True}
    assert parse_row(row, where="", source="").completion == ANSWER
    printed = space + repr([*ASKED, *ANSWER])
    for bad, told in ((printed, "as Python prints them"), (replies[0][:-9], "begins as messages do")):
        with pytest.raises(RowError, match=told):
            read("q", bad, "b")
        with pytest.raises(RowError, match=told):
            parse_row({**row, "prompt": bad}, where="", source="")
    deep = space + '[{"role": "user", "content": ' + "[" * 100_000 + "]" * 100_000 + "}]"
    with pytest.raises(RowError, match="nested too deeply"):
        read("q", deep, deep)
    for text in (f"{space}[1]", f"{space}hi", f'{space}[{{"a": 1}}]'):
        assert read("q", text, "b")[0] == Example("q", text, True)


@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("plain", ["b", json.dumps(RATES)])
def test_messages_beside_text_are_text_only_where_they_are_no_answer(swapped: bool, plain: str) -> None:
    """A conversation of the prompt would be learned as JSON; a reply that merely is JSON has to stay as it is."""
    whole = json.dumps([*ASKED, *ANSWER])
    for prompt, text in (("q", whole), ("Be kind. q", whole), (None, whole), (" ", whole), (ASKED, whole)):
        for reply in (text, json.dumps(ANSWER), SAID):
            with pytest.raises(RowError, match=r"^a:1: one reply is a string, the other messages"):
                read(prompt, *((plain, reply) if swapped else (reply, plain)))
    for prompt, text in (
        ("Write some messages", whole),
        ("q", json.dumps(ASKED)),
        ("q", MESSAGE),
        ("q", json.dumps([{"role": "user", "content": [1]}])),
    ):
        replies = (plain, text) if swapped else (text, plain)
        assert read(prompt, *replies) == [Example(prompt, replies[0], True), Example(prompt, replies[1], False)]


@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("plain", ["b", ""])
def test_what_python_prints_beside_text_is_no_text(swapped: bool, plain: str) -> None:
    for items in ([*ASKED, *ANSWER], ANSWER[0]):
        for prompt in ("q", "other", "", None, ASKED):
            with pytest.raises(RowError, match="is messages as Python prints them"):
                read(prompt, *((plain, repr(items)) if swapped else (repr(items), plain)))


def test_messages_in_sharegpts_form_are_no_text_of_a_row() -> None:
    for text in (json.dumps(CHATS[1]), repr(CHATS[1])):
        with pytest.raises(RowError):
            parse_row({"prompt": "p", "completion": text, "label": True}, where="", source="")


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


COMMANDS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "both replies": (["unpair"], {"prompt": "q", "chosen": "CUT", "rejected": "CUT"}),
    "a reply beside none": (["unpair"], {"prompt": "q", "chosen": "CUT", "rejected": ""}),
    "a prompt": (["unpair"], {"prompt": "CUT", "chosen": "a", "rejected": "b"}),
    "no prompt": (["unpair"], {"chosen": "CUT", "rejected": "CUT"}),
    "a completion": (["unpair"], {"prompt": "q", "completion": "CUT", "label": True}),
    "a thumb": (["label", "--thumbs", "vote"], {"prompt": "q", "reply": "CUT", "vote": "up"}),
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
@pytest.mark.parametrize("case", COMMANDS)
def test_cells_as_spreadsheets_cut_them_are_set_aside(
    case: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (command, *options), record = COMMANDS[case]
    cut = json.dumps([{"role": "user", "content": "long " * 8000}, *ANSWER])[:32_767]
    text = "whole {}" if "prompt" in record else json.dumps([*ASKED, {"role": "assistant", "content": "{}"}])
    whole = {column: text.replace("{}", column) if value == "CUT" else value for column, value in record.items()}
    write(Path(name), [whole, {column: cut if value == "CUT" else value for column, value in record.items()}])
    refused = CliRunner().invoke(main, [command, name, "-o", "o.jsonl", *options])
    assert refused.exit_code == 1
    assert "begins as messages do, and is none: it may be cut off" in refused.stderr
    done = CliRunner().invoke(main, [command, name, "-o", "o.jsonl", "--quarantine", "bad.jsonl", *options])
    assert done.exit_code == 0, done.stderr
    (bad,) = [
        found
        for found in map(json.loads, Path("bad.jsonl").read_text(encoding="utf-8").splitlines())
        if found["reason"] == "unreadable"
    ]
    assert cut in bad["record"].values()
    assert "long long" not in Path("o.jsonl").read_text(encoding="utf-8")
