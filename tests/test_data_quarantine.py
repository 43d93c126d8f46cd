"""The quarantine file: what is refused is kept by every command that has one, most of all where nothing is left."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ktodata.chats.export import label_chat
from ktodata.chats.voice import voice_of
from ktodata.cli import main
from ktodata.errors import NothingLeftError
from ktodata.io import Quarantine
from ktodata.label import Outcomes, label
from ktodata.peek import PEEK

PAIRS = [{"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(3)]
ROWS = [{"prompt": f"q{n}", "completion": f"c{n}", "label": bool(n % 2)} for n in range(4)]
UNREADABLE = {  # name of the file, its text, its records, what the error says of them
    "no JSON": ("a.jsonl", "{oops\n[1\n", 2, "none of its 2 records can be read; the first: not JSON"),
    "no JSON, one line": ("a.jsonl", "{oops\n", 1, "not JSON"),
    "no objects": ("a.jsonl", "1\nnull\n[]\n", 3, "none of its 3 records can be read; the first: a JSON number"),
    "not UTF-8": ("a.jsonl", '{"prompt": "\udcff"}\n', 1, "is not UTF-8"),
    "cells missing": ("a.csv", "prompt,completion,label\na,b\nc\n", 2, "2 cells, but the header names 3"),
}
COMMANDS = {
    "unpair": (),
    "convert": ("--to", "trl"),
    "convert back": ("--to", "ktokit"),
    "mix": (),
    "split": ("--eval", "e.jsonl"),
    "negatives": ("--strategy", "corrupt"),
    "label": ("--desirable", "label"),
    "label by thumbs": ("--thumbs", "label"),
    "label of edits": ("--original", "prompt", "--edited", "completion"),
    "label of a chat": ("--speaker", "Anna"),
}


def save(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def refuse(verb: str, *sources: object, arguments: tuple[str, ...] = ()) -> tuple[Result, list[dict[str, Any]]]:
    """Runs a command in the current folder, where nothing may be left but the quarantine file, if one is named."""
    given = [verb.split()[0], *map(str, sources), *COMMANDS[verb], *arguments, "-o", "o.jsonl"]
    before = {path.name for path in Path().iterdir()}
    told = CliRunner().invoke(main, given)
    assert told.exit_code == 1
    assert {path.name for path in Path().iterdir()} == before, "nothing is written without a quarantine file"
    result = CliRunner().invoke(main, [*given, "--quarantine", "bad.jsonl"])
    assert result.exit_code == 1
    assert {path.name for path in Path().iterdir()} - before == {"bad.jsonl"}, result.stderr
    assert result.stderr.count("error: ") == 1
    assert "All of them are in bad.jsonl, with reasons" in result.stderr
    lines = [json.loads(line) for line in Path("bad.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(line["reason"] and line["where"] and "record" in line for line in lines)
    return result, lines


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_records_that_are_all_unreadable_are_kept_by_every_command(verb: str, kind: str) -> None:
    name, text, count, told = UNREADABLE[kind]
    Path(name).write_text(text, encoding="utf-8", errors="surrogateescape")
    result, lines = refuse(verb, name)
    assert len(lines) == count
    if verb == "negatives":
        assert f"nothing to work on: {count} records read, all unreadable" in result.stderr
    else:
        assert told in result.stderr


@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if not verb.startswith("label of")])
def test_rows_of_wrong_values_are_kept_by_every_command(verb: str) -> None:
    source = save(Path("a.jsonl"), [{"prompt": n, "completion": "c", "label": True} for n in range(3)])
    result, lines = refuse(verb, source)
    assert [line["record"]["prompt"] for line in lines] == [0, 1, 2]
    assert "3 completions read, 3 unreadable" in result.stderr or verb == "negatives"
    assert "prompt is int 0, not a string" in result.stderr
    assert "a.jsonl" in result.stderr


@pytest.mark.parametrize("verb", ["unpair", "convert", "convert back", "mix", "split"])
def test_pairs_that_are_all_unusable_are_kept_and_counted(verb: str) -> None:
    source = save(Path("a.jsonl"), [{**pair, "rejected": pair["chosen"]} for pair in PAIRS])
    result, lines = refuse(verb, source)
    assert "a.jsonl: nothing to write: 6 completions read, 6 identical completions. All" in result.stderr
    assert [line["record"]["prompt"] for line in lines] == ["p0", "p1", "p2"]


@pytest.mark.parametrize(
    ("verb", "name", "text", "count", "told"),
    [
        ("unpair", "a.csv", "who,what\na,b\nc,d\n", 2, "none of its 2 records can be read"),
        ("unpair --preset pairs", "a.jsonl", '{"oops": 1}\n{"oops": 2}\n{"oops\n', 3, "none of its 3"),
        ("unpair", "a.jsonl", '{"prompt": "p", "completion": "", "label": true}\n', 1, "1 empty completion"),
        ("convert", "a.csv", "who,what\na,b\nc,d\n", 2, "none of its 2 records can be read"),
        ("convert", "a.jsonl", '{"prompt": "p", "completion": "", "label": true}\n', 1, "1 empty completion"),
    ],
)
def test_what_is_refused_is_kept_where_nothing_is_left(verb: str, name: str, text: str, count: int, told: str) -> None:
    Path(name).write_text(text, encoding="utf-8")
    verb, *arguments = verb.split(maxsplit=1)
    result, lines = refuse(verb, name, arguments=tuple(" ".join(arguments).split()))
    assert told in result.stderr
    assert len(lines) == count


def test_a_mix_tells_a_file_that_gave_no_rows_from_one_whose_rows_are_elsewhere() -> None:
    good, bad = save(Path("good.jsonl"), ROWS), save(Path("a.jsonl"), [{**row, "prompt": 1} for row in ROWS])
    result, lines = refuse("mix", f"{good}=1", f"{bad}=1")
    assert (
        "a.jsonl: nothing to write: 4 completions read, 4 unreadable; the first unreadable: a.jsonl:1" in result.stderr
    )
    assert len(lines) == 4
    Path("bad.jsonl").unlink()
    copy = save(Path("copy.jsonl"), [{**row, "source": "z"} for row in ROWS])
    result, lines = refuse("mix", f"{good}=1", copy)
    assert "no rows of it are left: they are in another file too, or contradict one (4 duplicate" in result.stderr
    assert [line["reason"] for line in lines] == ["duplicate"] * 4


def test_label_looks_for_columns_beyond_records_that_cannot_be_read() -> None:
    save(Path("a.jsonl"), ROWS)
    good = Path("a.jsonl").read_text(encoding="utf-8")
    Path("a.jsonl").write_text("{oops\n" * (PEEK + 5) + good, encoding="utf-8")
    given = ["label", "a.jsonl", "-o", "o.jsonl", "--desirable", "label", "--undesirable", "not label"]
    assert "a.jsonl:1: not JSON" in CliRunner().invoke(main, given).stderr
    result = CliRunner().invoke(main, [*given, "--quarantine", "bad.jsonl"])
    assert result.exit_code == 0, result.stderr
    assert "written 4 rows" in result.stderr
    assert Path("bad.jsonl").read_text(encoding="utf-8").count("\n") == PEEK + 5


def test_messages_that_say_nothing_are_kept_with_those_that_cannot_be_read() -> None:
    moment = {"author": "Anna", "time": "2024-03-12T18:05:00"}
    save(Path("a.jsonl"), [{**moment, "text": 3}, {**moment, "text": ""}, {**moment, "author": None, "text": "ok"}])
    result, lines = refuse("label of a chat", "a.jsonl")
    assert "1 of 3 messages cannot be read, and nobody says anything in the others" in result.stderr
    assert [line["reason"] for line in lines] == ["unreadable", "no text", "no author"]


def test_the_functions_keep_what_they_refuse_too() -> None:
    Path("a.jsonl").write_text("{oops\n", encoding="utf-8")
    for make in (
        lambda refused: label("a.jsonl", Outcomes(None, None), quarantine=refused),
        lambda refused: label_chat("a.jsonl", voice_of(["Anna"]), quarantine=refused),
    ):
        with (
            pytest.raises(NothingLeftError, match=r"All of them are in bad\.jsonl"),
            Quarantine("bad.jsonl") as refused,
        ):
            make(refused)
        assert json.loads(Path("bad.jsonl").read_text(encoding="utf-8"))["record"] == "{oops"
        Path("bad.jsonl").unlink()
        with pytest.raises(NothingLeftError, match="not JSON"), Quarantine(None) as refused:
            make(refused)


def test_a_message_that_is_its_own_parent_is_counted() -> None:
    one = {"message_id": "a", "parent_id": "a", "message_tree_id": "a", "text": "q", "role": "prompter", "rank": None}
    bad = Path("bad.jsonl")
    source = save(Path("a.jsonl"), [one])
    arguments = ["unpair", source, "-o", "o.jsonl", "--quarantine", str(bad)]
    result = CliRunner().invoke(main, arguments)
    assert "nothing to write: 1 completions read, 1 messages in a circle. All of them are in" in result.stderr
    assert json.loads(bad.read_text(encoding="utf-8"))["record"] == one
    save(Path("a.jsonl"), [one | {"parent_id": None}])
    result = CliRunner().invoke(main, arguments)
    assert result.stderr.rstrip().endswith("nothing to write: 0 completions read, none skipped")


def test_an_empty_quarantine_file_is_not_spoken_of() -> None:
    source, bad = save(Path("a.jsonl"), PAIRS), Path("bad.jsonl")
    arguments = ["unpair", source, "-o", "o.jsonl", "--quarantine", str(bad)]
    assert "skipped ones are in" not in CliRunner().invoke(main, arguments).stderr
    save(Path("a.jsonl"), [*PAIRS, {"oops": 1}])
    assert f"skipped ones are in {bad}" in CliRunner().invoke(main, arguments).stderr


def test_negatives_speaks_of_its_quarantine_file_only_if_something_is_in_it() -> None:
    save(Path("a.jsonl"), [{**row, "completion": "all the words of a reply", "label": True} for row in ROWS])
    given = ["negatives", "a.jsonl", "-o", "o.jsonl", "--strategy", "corrupt", "--quarantine", "bad.jsonl"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.stderr
    assert "skipped 0" in result.stderr
    assert "skipped ones are in" not in result.stderr
    save(Path("a.jsonl"), [*ROWS, {"oops": 1}])
    assert "skipped ones are in bad.jsonl" in CliRunner().invoke(main, given).stderr


def row(n: int) -> str:
    return json.dumps(ROWS[n])


BROKEN_ARRAYS = {  # the file, rows that are written, records that are set aside, where
    "a line of its own": (
        f'[\n{row(0)},\n{{"prompt": oops}},\n{row(2)}\n]',
        "02",
        ['{"prompt": oops}'],
        [3],
    ),
    "a bad first item": (f'[\n  {{"prompt": "a\n"}},\n  {row(1)}\n]', "1", ['{"prompt": "a\n"}'], [2]),
    "two bad items": (f"[\n{row(0)},\n{{,\n}},\n{row(1)},\n{{]\n,\n{row(2)}]", "012", ["{,\n}", "{]"], [3, 6]),
    "a comma too few": (f"[\n{row(0)}\n{row(1)},\n{row(2)}]", "02", [row(1)], [3]),
    "a comma too many": (f"[\n{row(0)},\n]", "0", ["]"], [3]),
    "cut off in an item": (f'[{row(0)},\n{{"prompt": "p', "0", ['{"prompt": "p'], [2]),
    "cut off between items": (f"[{row(0)}\n", "0", [""], [2]),
    "one line": (f"[{row(0)}, {{oops}}, {row(2)}]", "0", [f"{{oops}}, {row(2)}]"], [1]),
    "more than an array": (f"[{row(0)}]\n[{row(1)}]\n", "0", [f"[{row(1)}]"], [2]),
}


def unpaired(source: str) -> tuple[str, list[dict[str, Any]], str]:
    """The numbers of the rows that `unpair` writes, what it sets aside, and what it says without a place for that."""
    arguments = ["unpair", source, "-o", "o.jsonl"]
    strict = CliRunner().invoke(main, arguments)
    assert (strict.exit_code, strict.stderr.count("\n")) == (1, 1)
    result = CliRunner().invoke(main, [*arguments, "--quarantine", "bad.jsonl"])
    assert result.exit_code == 0, result.stderr
    written = sorted(json.loads(line)["prompt"][1:] for line in Path("o.jsonl").read_text("utf-8").splitlines())
    kept = [json.loads(line) for line in Path("bad.jsonl").read_text("utf-8").splitlines()]
    return "".join(written), kept, strict.stderr


@pytest.mark.parametrize("block", [7, 2**20])
@pytest.mark.parametrize("case", BROKEN_ARRAYS)
def test_what_is_broken_in_an_array_is_set_aside(case: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktodata.io.records.BLOCK", block)
    text, rows, bad, lines = BROKEN_ARRAYS[case]
    Path("a.json").write_text(text, encoding="utf-8")
    written, kept, told = unpaired("a.json")
    assert written == rows
    assert [one["record"] if isinstance(one["record"], str) else json.dumps(one["record"]) for one in kept] == bad
    assert [one["where"] for one in kept] == [f"a.json:{line}" for line in lines]
    assert told.startswith(f"error: a.json:{lines[0]}: ")
    assert "name a --quarantine FILE" in told


HEADER = "prompt,completion,label\n"
BROKEN_TABLES = {
    "a stray quote": (f'{HEADER}q0,c,true\n"a "b" c",d,true\n"q2",c,false\n', "02", ['"a "b" c",d,true\n'], 3),
    "a quote that stays open": (f'{HEADER}q0,c,true\n"a,b,true\nx,y,true\n', "0", ['"a,b,true\nx,y,true\n'], 3),
    "a stray quote in the second line of a row": (
        f'{HEADER}\nq0,"c\nc",true\n"a\n"b" c",d,true\n"q2",c,false\n',
        "02",
        ['"a\n"b" c",d,true\n'],
        5,
    ),
    "a text over lines": (
        f'{HEADER}q0,c,true\nq1,"he said "hi\nthere" and, left",true\nq2,c,true\n',
        "0",
        ['q1,"he said "hi\nthere" and, left",true\nq2,c,true\n'],
        3,
    ),
    "the last row": (f'{HEADER}q0,c,true\n"a"b,c,true', "0", ['"a"b,c,true'], 3),
}


@pytest.mark.parametrize("case", BROKEN_TABLES)
def test_what_is_broken_in_csv_is_set_aside(case: str) -> None:
    text, rows, bad, line = BROKEN_TABLES[case]
    Path("a.csv").write_text(text, encoding="utf-8")
    written, kept, told = unpaired("a.csv")
    assert (written, [one["record"] for one in kept], kept[0]["where"]) == (rows, bad, f"a.csv:{line}")
    assert told.startswith(f"error: a.csv:{line}: not csv: ")


@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_what_is_too_long_to_be_set_aside_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktodata.io.records.LONGEST", 1000)
    monkeypatch.setattr("ktodata.io.records.BLOCK", 100)
    more = "x" * 500 + "\n"
    begin = f"[{row(0)},\n{{oops" if name == "a.json" else f'{HEADER}q0,c,true\n"a" b,c,true\n'
    Path(name).write_text(begin + 10 * more, encoding="utf-8")
    result = CliRunner().invoke(main, ["unpair", name, "-o", "o.jsonl", "--quarantine", "bad.jsonl"])
    assert result.exit_code == 1
    assert "what follows is too long to be set aside" in result.stderr
    assert not Path("o.jsonl").exists()
