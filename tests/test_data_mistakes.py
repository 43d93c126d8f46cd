"""Slips at the command line that must cost no data: files in each other's way, names that are none, lost columns."""

import errno
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ktodata.cli import main
from ktodata.errors import RowError, SourceError
from ktodata.io import Quarantine, is_there, read_rows
from ktodata.io.files import READERS
from ktodata.io.resolve import choose_files
from ktodata.unpair import unpair

PAIRS = [{"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(3)]
LONG = "x" * 300  # no file system has such names


def save(path: Path, records: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


SLIPS: dict[str, tuple[list[str], int, str]] = {
    "quarantine is the input": (["in/a.jsonl", "--quarantine", "in/../in/a.jsonl"], 2, "is the input, or in it"),
    "quarantine is a part of the input": (["in", "--quarantine", "in/a.jsonl"], 2, "is the input, or in it"),
    "the output is the input": (
        ["in/a.jsonl", "-o", "in/a.jsonl"],
        2,
        "in/a.jsonl is the input, or in it: it would be",
    ),
    "the output is the input, spelt another way": (["in/a.jsonl", "-o", "in/../in/a.jsonl"], 2, "is the input, or"),
    "the output is a part of the input": (["in", "-o", "in/a.jsonl"], 2, "is the input, or in it"),
    "the output is a link to the input": (["in/a.jsonl", "-o", "link.jsonl"], 2, "link.jsonl is the input, or in it"),
    "the input is a link to the output": (["link.jsonl", "-o", "in/a.jsonl"], 2, "in/a.jsonl is the input, or in it"),
    "a link in the input is the output": (["links", "-o", "in/a.jsonl"], 2, "in/a.jsonl is the input, or in it"),
    "quarantine is the output, spelt another way": (["in", "--quarantine", "in/../o.jsonl"], 2, "both the output"),
    "quarantine to stdout": (["in", "--quarantine", "-"], 2, "--quarantine is '-'. Name a file"),
    "an unset variable as quarantine": (["in", "--quarantine", ""], 2, "--quarantine is ''. Name a file"),
    "an unset variable as source": ([""], 2, "no SOURCE"),
    "too long a source": ([f"{LONG}.jsonl"], 1, f"{LONG}.jsonl: cannot be read: File name too long"),
    "too long an output": (["in", "-o", f"{LONG}.jsonl"], 1, f"{LONG}.jsonl: cannot be made: File name too long"),
    "too long a quarantine": (["in", "--quarantine", LONG], 1, "cannot be made: File name too long"),
    "nobody's home": (["~nobody-at-all/a.jsonl"], 1, "~nobody-at-all/a.jsonl: no such file or folder"),
    "an argument too many": (["in", "more"], 2, "unexpected extra argument (more). See `"),
    "a pair without a reply": (["null.jsonl"], 1, "rejected is null, not a string or messages. Mend it, or name"),
}


@pytest.mark.parametrize("case", SLIPS)
def test_slips_are_one_clear_error_and_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "in" / "a.jsonl", PAIRS)
    save(tmp_path / "null.jsonl", [PAIRS[0] | {"rejected": None}])
    (tmp_path / "links").mkdir()
    for link in ("link.jsonl", "links/a.jsonl"):
        (tmp_path / link).symlink_to(tmp_path / "in" / "a.jsonl")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    arguments, code, message = SLIPS[case]
    result = run("unpair", *arguments, *([] if "-o" in arguments else ["-o", "o.jsonl"]))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_a_new_output_and_a_new_quarantine_may_lie_beside_the_input(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.jsonl", PAIRS)
    out, bad = tmp_path / "in" / "out.jsonl", tmp_path / "in" / "bad"
    result = run("unpair", str(tmp_path / "in"), "-o", str(out), "--quarantine", str(bad))
    assert result.exit_code == 0, result.stderr
    assert len(read_rows(str(out))) == 6


def test_negatives_do_not_take_the_place_of_their_input(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", [{"prompt": "p", "completion": "some good words", "label": True}])
    before = Path(source).read_bytes()
    result = run("negatives", source, "-o", source, "--strategy", "corrupt")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "is the input, or in it: it would be overwritten. Name another file" in result.stderr
    assert Path(source).read_bytes() == before


def test_a_name_that_no_file_can_have_is_not_there() -> None:
    assert not is_there(f"owner/name:{LONG}")
    assert not is_there("~nobody-at-all/name")


def test_a_layouts_name_may_be_a_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "pairs" / "a.jsonl", PAIRS)
    assert unpair("pairs").read == 3


@pytest.mark.parametrize("command", [["negatives", "--strategy", "corrupt", "-o", "o.jsonl"], ["balance"]])
def test_pairs_are_not_rows_and_who_makes_rows_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(command[0], save(tmp_path / "a.jsonl", PAIRS), *command[1:])
    assert result.exit_code == 1
    assert "no column 'completion' (columns seen: prompt, chosen, rejected)" in result.stderr
    assert "`ktodata unpair` makes rows of pairs" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_an_unreadable_first_record_is_set_aside_like_any_other(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", [{"oops": 1}, *PAIRS])
    for preset in ("", "pairs"):
        with pytest.raises(SourceError, match="columns oops"):
            unpair(source, preset=preset)
        with Quarantine(tmp_path / "bad.jsonl") as quarantine:
            made = unpair(source, preset=preset, quarantine=quarantine)
        assert (made.read, len(made.rows), made.skipped) == (4, 6, {"unreadable": 2})
        assert json.loads((tmp_path / "bad.jsonl").read_text(encoding="utf-8"))["record"] == {"oops": 1}
    none = save(tmp_path / "b.jsonl", [{"oops": 1}, {"oops": 2}])
    with Quarantine(None) as quarantine, pytest.raises(SourceError, match="none of its 2 records can be read"):
        unpair(none, quarantine=quarantine)


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in pairs]


def test_a_system_prompt_in_its_own_column_is_a_turn(tmp_path: Path) -> None:
    asked = turns(("system", "Be kind."), ("user", "p"))
    record = {"system": "Be kind.", "prompt": "p", "chosen": "a", "rejected": "b"}
    for given in (
        record,
        record | {"prompt": asked[1:]},
        record | {"prompt": asked},
        {
            "system": "Be kind.",
            "chosen": [*asked[1:], *turns(("assistant", "a"))],
            "rejected": [asked[1], *turns(("assistant", "b"))],
        },
        {"system": "Be kind.", "prompt": "p", "completion": "a", "label": True},
    ):
        rows = unpair(save(tmp_path / "a.jsonl", [given])).rows
        assert [row.prompt for row in rows] == [asked] * len(rows)
        assert rows[0].completion[0]["role"] == "assistant"  # type: ignore[index]
        assert {row.completion[0]["content"] for row in rows} <= {"a", "b"}  # type: ignore[index]
    with pytest.raises(RowError, match="system is int 3, not a string"):
        unpair(save(tmp_path / "a.jsonl", [record | {"system": 3}]))


def test_an_empty_system_prompt_makes_no_turn_but_the_same_kind(tmp_path: Path) -> None:
    rows = [
        {"system": "Be kind.", "prompt": "p", "completion": "a", "label": True},
        {"system": "", "prompt": "q", "completion": "b", "label": False},
        {"system": None, "prompt": "r", "completion": "c", "label": False},
    ]
    made = unpair(save(tmp_path / "a.jsonl", rows)).rows
    assert {len(row.prompt) for row in made if row.kind == "chat"} == {1, 2}
    assert len(made) == 3


def test_a_system_prompt_is_not_lost_where_rows_are_read(tmp_path: Path) -> None:
    row = {"prompt": "p", "completion": "a", "label": True}
    with pytest.raises(RowError, match="a system prompt in a column of its own"):
        read_rows(save(tmp_path / "a.jsonl", [row | {"system": "Be kind."}]))
    assert len(read_rows(save(tmp_path / "a.jsonl", [row | {"system": ""}]))) == 1


def test_a_csv_reply_that_is_json_stays_text(tmp_path: Path) -> None:
    replies = ['{"value": 3}', '[{"content": "x"}]', '{"from": "Rome", "to": "Pisa"}', "[]", "{}"]
    lines = [f'p,"{reply.replace(chr(34), chr(34) * 2)}",true\n' for reply in replies]
    (tmp_path / "a.csv").write_text("prompt,completion,label\n" + "".join(lines), encoding="utf-8")
    assert [row.completion for row in read_rows(str(tmp_path / "a.csv"))] == replies


def test_files_that_are_passed_over_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert choose_files(["train.jsonl", "test.jsonl"], split="train", where="here") == ["train.jsonl"]
    assert caplog.text == ""
    names = ["train.jsonl", *(f"more{n}.jsonl" for n in range(7))]
    assert choose_files(names, split="train", where="here") == ["train.jsonl"]
    assert "here: not read, as their names tell no split: more0.jsonl" in caplog.text
    assert "more4.jsonl and 2 more" in caplog.text
    caplog.clear()
    transcript = {name: f"\n\nHuman: q\n\nAssistant: {name}" for name in ("chosen", "rejected")}
    for folder in ("helpful-base", "mine"):
        save(tmp_path / "all" / folder / "train.jsonl", [transcript])
    assert unpair(str(tmp_path / "all")).read == 1
    assert "not read, as hh-rlhf has its pairs in other folders: mine/train.jsonl" in caplog.text


def test_new_lines_of_a_recipe_end_like_the_others(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": f"c{n}", "label": n > 0} for n in range(3)]
    source, recipe = save(tmp_path / "a.jsonl", rows), tmp_path / "r.toml"
    recipe.write_bytes(b"[loss]\r\nbeta = 0.1 # b\r\n")
    assert run("balance", source, "--write", str(recipe)).exit_code == 0
    written = b"[loss]\r\nbeta = 0.1 # b\r\ndesirable_weight = 1.0\r\nundesirable_weight = 2.0\r\n"
    assert recipe.read_bytes() == written


CSV: dict[str, tuple[str, str]] = {
    "a word as label": (
        "prompt,completion,label\np,a,good\n",
        "label is str 'good', not true or false. "
        "Write true for a desirable completion and false for an undesirable one\n",
    ),
    "a number as label": ("prompt,completion,label\np,a,1\n", "label is str '1', not true or false. Write true for a"),
    "a misspelt column": (
        "prompt,completion,lable\np,a,true\n",
        "columns prompt, completion, lable: no layout that can be read. Column 'lable': did you mean 'label'?\n",
    ),
    "capitals": (
        "prompt,Chosen,Rejected\np,a,b\n",
        "Column 'Chosen': did you mean 'chosen'? Column 'Rejected': did you mean 'rejected'?\n",
    ),
    "nothing close": ("a,b,c\np,a,b\n", "These can: chosen + rejected"),
    "semicolons": (
        "prompt;completion;label\np;a;true\n",
        "separated by ';'. The separator of a csv file must be a comma\n",
    ),
    "tabs": ("prompt\tcompletion\tlabel\np\ta\ttrue\n", "The separator of a csv file must be a comma\n"),
    "quoted semicolons": ('"prompt";"completion"\n"p";"a"\n', "The separator of a csv file must be a comma\n"),
}


@pytest.mark.parametrize("case", CSV)
def test_slips_in_csv_get_advice_that_fits(tmp_path: Path, case: str) -> None:
    text, message = CSV[case]
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    result = run("unpair", str(tmp_path / "a.csv"), "-o", str(tmp_path / "o.jsonl"))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert message in result.stderr
    assert "JSON" not in result.stderr


def test_a_misspelt_column_is_named_wherever_rows_or_a_layout_are_asked_for(tmp_path: Path) -> None:
    rows = save(tmp_path / "a.jsonl", [{"prompt": "p", "completion": "a", "lable": True}])
    for arguments in (["balance", rows], ["unpair", rows, "--preset", "rows", "-o", str(tmp_path / "o.jsonl")]):
        assert "Column 'lable': did you mean 'label'?" in run(*arguments).stderr


def test_a_label_in_quotes_is_told_so(tmp_path: Path) -> None:
    rows = save(tmp_path / "a.jsonl", [{"prompt": "p", "completion": "a", "label": "true"}])
    assert "undesirable one, without quotes" in run("balance", rows).stderr


def test_where_nothing_can_be_read_the_first_reason_and_the_quarantine_file_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    rows = save(tmp_path / "a.jsonl", [{"prompt": "p", "completion": f"c{n}", "label": "good"} for n in range(60)])
    result = run("unpair", rows, "-o", str(tmp_path / "o.jsonl"), "--quarantine", str(bad))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "nothing to write: 60 completions read, 60 unreadable; the first unreadable: " in result.stderr
    assert "a.jsonl:1: label is str 'good', not true or false. All of them are in " in result.stderr
    assert str(bad) in result.stderr
    assert len(bad.read_text(encoding="utf-8").splitlines()) == 60


def test_help_says_which_kind_a_model_needs() -> None:
    text = " ".join(run("unpair", "--help").stdout.split())
    assert "chat is what a chat (instruction-tuned) model needs, text a base model" in text


def test_a_device_that_never_ends_is_no_source() -> None:
    result = run("unpair", "/dev/zero", "-o", "-")
    assert result.exit_code == 1
    assert result.stderr == "error: /dev/zero: is a device, not a file\n"
    assert "the file is empty" in run("unpair", "/dev/null", "-o", "-").stderr


def test_no_memory_is_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setitem(READERS, ".jsonl", full)
    result = run("balance", save(tmp_path / "a.jsonl", PAIRS))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: there is not enough memory")


COMMANDS: dict[str, list[str]] = {
    "unpair": ["-o", "-"],
    "mix": ["-o", "-"],
    "label": ["-o", "-", "--thumbs", "label"],
    "convert": ["-o", "-", "--to", "trl"],
    "split": ["-o", "-", "--eval", "none.jsonl"],
    "negatives": ["-o", "-", "--strategy", "template"],
    "balance": [],
    "check": [],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_file_or_may_not_be_read_is_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.jsonl").mkdir()
    Path("nowhere.jsonl").symlink_to("gone.jsonl")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    save(Path("mine.jsonl"), PAIRS)
    opened = Path.open

    def forbidden(path: Path, *rest: Any, **more: Any) -> Any:
        if path.name == "mine.jsonl":  # as for anybody but root, whom permissions do not stop
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *rest, **more)

    monkeypatch.setattr(Path, "open", forbidden)
    for source, message in {
        "folder.jsonl": "folder.jsonl: no data files. It needs",
        "nowhere.jsonl": "nowhere.jsonl: no such file or folder",
        "socket": "socket: cannot be read: No such device or address",
        "/dev/zero": "/dev/zero: is a device, not a file",
        "mine.jsonl": "mine.jsonl: cannot be read: Permission denied",
    }.items():
        result = run(command, source, *COMMANDS[command])
        assert result.exit_code == 1, result.output
        assert result.stderr.startswith(f"error: {message}"), result.stderr
        assert result.stderr.count("\n") == 1
        assert not result.stdout


@pytest.mark.parametrize("command", ["unpair", "mix", "label", "convert", "negatives", "balance", "check"])
@pytest.mark.parametrize("name", ["pipe", "pipe.jsonl"])
def test_a_named_pipe_is_read_as_a_file_is(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows: list[dict[str, Any]] = [
        {"prompt": f"p{n}", "completion": f"Here is what {n} is.", "label": n % 2 == 0} for n in range(8)
    ]
    content = Path(save(tmp_path / "rows.jsonl", rows)).read_bytes()
    os.mkfifo(name)
    writer = threading.Thread(target=lambda: Path(name).write_bytes(content))
    writer.start()
    result = run(command, name, *COMMANDS[command])
    writer.join(10)
    assert not writer.is_alive()
    assert result.exit_code in ((0, 1) if command == "check" else (0,)), result.stderr


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "p", "completion": "c", "label": true, "label": false}',
        '{"prompt": "p", "completion": "c", "prompt": "other", "label": true}',
    ],
)
def test_a_key_that_is_there_twice_does_not_turn_a_label_around(line: str, tmp_path: Path) -> None:
    good = '{"prompt": "q", "completion": "label", "label": true, "note": {"label": "says \\"label\\""}}'
    source, bad = tmp_path / "a.jsonl", tmp_path / "bad.jsonl"
    source.write_text(f"{good}\n{line}\n", encoding="utf-8")
    arguments = ["unpair", str(source), "-o", str(tmp_path / "o.jsonl")]
    assert "is there more than once. Leave one of its values" in CliRunner().invoke(main, arguments).stderr
    assert CliRunner().invoke(main, [*arguments, "--quarantine", str(bad)]).exit_code == 0
    assert json.loads(bad.read_text(encoding="utf-8"))["record"] == line
    (row,) = read_rows(tmp_path / "o.jsonl")
    assert (row.completion, row.label) == ("label", True)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_error_is_one_line_and_short_however_files_and_columns_are_called(command: str, tmp_path: Path) -> None:
    columns = ["prompt", "compl\netion", "x" * 500, *(f"column {n}" for n in range(500))]
    header = ",".join(f'"{name}"' for name in columns)
    for name in ("a.csv", "a\nb.csv"):
        (tmp_path / name).write_text(f"{header}\n{'a,' * 502}b\n", encoding="utf-8")
        result = run(command, str(tmp_path / name), *COMMANDS[command])
        assert result.exit_code in (1, 2)
        assert result.stderr.count("\n") == 1, result.stderr
        assert len(result.stderr) < 2000
