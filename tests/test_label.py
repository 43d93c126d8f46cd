"""`ktodata label`: outcomes, thumbs and edits to rows, with an account of every record."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ktodata.cli import main
from ktodata.errors import KtodataError
from ktodata.expressions import Expression
from ktodata.io import read_rows
from ktodata.label import THUMBS, Edits, Outcomes, Texts, Thumbs, label
from ktodata.schema import Row, plain

LOG = [
    {"prompt": "p1", "completion": "won", "outcome": "sale", "turns": 2},
    {"prompt": "p2", "completion": "lost", "outcome": "none", "turns": 5},
    {"prompt": "p3", "completion": "short", "outcome": "none", "turns": 2},
    {"prompt": "p4", "completion": "open", "outcome": "pending", "turns": 9},
    {"prompt": "p5", "completion": "unknown", "outcome": None},
]
SALE, NONE = "outcome == 'sale'", "outcome == 'none' and turns > 3"


def save(path: Path, records: list[dict[str, Any]]) -> str:
    if path.suffix in (".csv", ".parquet"):
        import pandas

        frame = pandas.DataFrame(records)
        frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["label", *arguments])


def outcomes(desirable: str | None, undesirable: str | None = None, **more: Any) -> Outcomes:
    good, bad = (Expression(one, "--x") if one is not None else None for one in (desirable, undesirable))
    return Outcomes(good, bad, **more)


def short(rows: list[Row]) -> Counter[tuple[str, str, bool]]:
    return Counter((plain(row.prompt), plain(row.completion), row.label) for row in rows)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_outcomes_become_labels_and_everything_is_counted(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "out" / "rows.jsonl"
    source = save(tmp_path / f"log{suffix}", LOG)
    result = run(source, "-o", str(out), "--desirable", SALE, "--undesirable", NONE)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines() == [
        "read    5 records (5 completions, layout label)",
        f"written 2 rows to {out}: 1 desirable, 1 undesirable",
        "skipped 3: 3 neither holds",
    ]
    rows = read_rows(str(out))
    assert short(rows) == Counter([("p1", "won", True), ("p2", "lost", False)])
    assert {row.origin for row in rows} == {"feedback"}
    assert {row.source for row in rows} == {f"{tmp_path.name}/log{suffix}"}


def test_one_condition_alone_and_columns_that_are_missing_here_and_there(tmp_path: Path) -> None:
    records = [*LOG, {"prompt": "p6", "completion": "late", "bonus": 3}]
    source = save(tmp_path / "a.jsonl", records)
    made = label(source, outcomes("bonus > 2"))
    assert short(made.rows) == Counter([("p6", "late", True)])
    assert made.skipped == {"neither holds": 5}
    result = run(source, "-o", str(tmp_path / "o.jsonl"), "--desirable", "bonus > 2")
    assert "warning: no undesirable rows; KTO needs both classes; `ktodata negatives` makes some" in result.stderr


def test_a_record_that_both_hold_for_is_an_error_or_counted(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", LOG)
    both = ["--desirable", "turns > 1", "--undesirable", "outcome == 'none'"]
    result = run(source, "-o", str(tmp_path / "o.jsonl"), *both)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert f"{source}:2: both --desirable and --undesirable hold for it. Make them exclude each other" in result.stderr
    assert not (tmp_path / "o.jsonl").exists()
    made = label(source, outcomes("turns > 1", "outcome == 'none'", on_both="skip"))
    assert made.skipped == {"both hold": 2, "neither holds": 1}
    assert short(made.rows) == Counter([("p1", "won", True), ("p4", "open", True)])


def test_unreadable_records_go_to_the_quarantine(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", [*LOG, {"prompt": "p", "completion": "c", "outcome": "none", "turns": "many"}])
    arguments = [source, "-o", str(tmp_path / "o.jsonl"), "--desirable", SALE, "--undesirable", NONE]
    result = run(*arguments)
    assert f"error: {source}:6: --undesirable: turns (str 'many') cannot be compared with int 3." in result.stderr
    assert run(*arguments, "--quarantine", str(tmp_path / "bad.jsonl")).exit_code == 0
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text(encoding="utf-8").splitlines()]
    assert Counter(one["reason"] for one in bad) == {"neither holds": 3, "unreadable": 1}
    assert [one["record"]["turns"] for one in bad if one["reason"] == "unreadable"] == ["many"]


@pytest.mark.slow
def test_input_order_and_workers_change_no_row(tmp_path: Path) -> None:
    records = [
        {"prompt": f"p{n}", "completion": f"c{n}", "outcome": "sale" if n % 3 else "none", "turns": n % 7}
        for n in range(900)
    ]
    source = save(tmp_path / "a.jsonl", records)
    judge = outcomes(SALE, NONE)
    rows = label(source, judge, seed=3).rows
    assert label(source, judge, seed=3, workers=2).rows == rows
    save(tmp_path / "a.jsonl", records[::-1])
    assert label(source, judge, seed=3).rows == rows
    assert len(rows) == sum(one["outcome"] == "sale" or one["turns"] > 3 for one in records)  # type: ignore[operator]


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(contents)]


def test_prompts_and_completions_by_name_and_kind(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], Texts]] = [
        ({"question": "q", "answer": "a"}, Texts()),
        ({"instruction": "q", "response": "a"}, Texts()),
        ({"asked": "q", "said": "a"}, Texts("asked", "said")),
        ({"messages": turns("q", "a")}, Texts()),
        ({"conversation": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, Texts()),
        ({"dialogue": turns("q", "a"), "reply": "other", "prompt": "other"}, Texts(messages="dialogue")),
        ({"prompt": turns("q"), "completion": "a"}, Texts()),
        ({"prompt": "q", "completion": turns("", "a")[1:]}, Texts()),
        ({"prompt": "q", "reply": {"role": "assistant", "content": "a"}}, Texts()),
        ({"messages": turns("x", "y"), "prompt": "q", "completion": "a"}, Texts("prompt", "completion")),
    ]
    for record, texts in cases:
        made = label(save(tmp_path / "a.jsonl", [record | {"ok": True}]), outcomes("ok"), texts=texts)
        (row,) = made.rows
        assert (plain(row.prompt), plain(row.completion)) == ("q", "a"), record
    system = label(
        save(tmp_path / "a.jsonl", [{"system": "s", "prompt": "q", "reply": "a", "ok": True}]), outcomes("ok")
    )
    assert system.rows[0].prompt[0] == {"role": "system", "content": "s"}


GUESSES: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "a name is no prompt": (
        {"user": "Eve", "message": "q", "reply": "a"},
        ["--desirable", "ok"],
        "prompt from column 'message' and completion from column 'reply'; --prompt and --completion can name another",
    ),
    "user beside assistant": (
        {"user": "q", "assistant": "a"},
        ["--desirable", "ok"],
        "prompt from column 'user' and completion from column 'assistant'; --prompt and --completion can name another",
    ),
    "one of two": (
        {"user": "q", "text": "a", "prompt": "q"},
        ["--desirable", "ok", "--completion", "text"],
        "",
    ),
    "a guess of one": (
        {"question": "q", "text": "a"},
        ["--desirable", "ok", "--completion", "text"],
        "prompt from column 'question'; --prompt can name another",
    ),
    "edits": (
        {"request": "q", "old": "b", "new": "a"},
        ["--original", "old", "--edited", "new"],
        "prompt from column 'request'; --prompt can name another",
    ),
    "conversations": (
        {"conversation": turns("q", "a")},
        ["--desirable", "ok"],
        "messages from column 'conversation'; --messages can name another",
    ),
    "messages": ({"messages": turns("q", "a")}, ["--desirable", "ok"], ""),
    "all named": (
        {"user": "q", "reply": "a"},
        ["--desirable", "ok", "--prompt", "user", "--completion", "reply"],
        "",
    ),
}


@pytest.mark.parametrize("case", GUESSES)
def test_what_columns_were_taken_is_said_where_they_were_guessed(tmp_path: Path, case: str) -> None:
    record, options, note = GUESSES[case]
    result = run(save(tmp_path / "a.jsonl", [record | {"ok": True}]), "-o", str(tmp_path / "o.jsonl"), *options)
    assert result.exit_code == 0, result.stderr
    notes = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert notes == ([f"note: {note}"] if note else [])
    row = next(row for row in read_rows(str(tmp_path / "o.jsonl")) if row.label)
    assert (plain(row.prompt), plain(row.completion)) == ("q", "a")


def test_a_name_alone_is_no_prompt(tmp_path: Path) -> None:
    source = save(tmp_path / "a.csv", [{"user": "Eve", "reply": "a", "ok": True}])
    result = run(source, "-o", str(tmp_path / "o.jsonl"), "--desirable", "ok")
    assert result.exit_code == 2
    assert "no column that could be the prompt (columns: user, reply, ok). Name it with --prompt" in result.stderr


def test_records_without_text_are_skipped_and_counted(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"prompt": "q", "reply": None, "ok": True},
        {"prompt": "q", "reply": " ", "ok": True},
        {"prompt": "", "reply": "a", "ok": True},
        {"prompt": None, "reply": "b", "ok": True},
        {"prompt": "q", "reply": "c", "ok": True},
    ]
    made = label(save(tmp_path / "a.jsonl", records), outcomes("ok"))
    assert made.skipped == {"empty completion": 2, "no prompt": 2}
    chats = [{"messages": one, "ok": True} for one in (turns("q"), turns(), None, turns("q", "a")[1:], turns("q", "a"))]
    made = label(save(tmp_path / "a.jsonl", chats), outcomes("ok"))
    assert made.skipped == {"no reply at the end": 3, "no prompt": 1}
    assert len(made.rows) == 1


def test_a_prompt_without_words_is_none(tmp_path: Path) -> None:
    system = [{"role": "system", "content": "Be kind."}]
    reply = [{"role": "assistant", "content": "a"}]
    blanks: list[Any] = [" ", "\n\t", turns(" "), system + turns(""), "\n\nHuman: \n\nAssistant:"]
    records: list[dict[str, Any]] = [{"prompt": blank, "reply": "a", "ok": True} for blank in blanks]
    made = label(save(tmp_path / "a.jsonl", records), outcomes("ok"))
    assert (made.rows, made.skipped) == ([], {"no prompt": len(blanks)})
    chats = [{"messages": one + reply, "ok": True} for one in (turns(" "), system + turns("\n"), [])]
    made = label(save(tmp_path / "a.jsonl", chats), outcomes("ok"))
    assert (made.rows, made.skipped) == ([], {"no prompt": 3})
    edits = [{"prompt": " ", "draft": "a", "sent": "b"}]
    made = label(save(tmp_path / "a.jsonl", edits), Edits("draft", "sent"))
    assert (made.rows, made.skipped) == ([], {"no prompt": 2})
    asked = [{"messages": system + reply, "ok": True}]
    assert len(label(save(tmp_path / "a.jsonl", asked), outcomes("ok")).rows) == 1


def test_a_column_of_messages_may_be_their_json(tmp_path: Path) -> None:
    prompt, completion = turns("q"), [{"role": "assistant", "content": "a"}]
    record = {"prompt": json.dumps(prompt), "reply": json.dumps(completion), "ok": True}
    (row,) = label(save(tmp_path / "a.jsonl", [record]), outcomes("ok")).rows
    assert (row.prompt, row.completion) == (prompt, completion)
    with pytest.raises(KtodataError, match="reply is messages as Python prints them"):
        label(save(tmp_path / "a.jsonl", [record | {"reply": str(completion)}]), outcomes("ok"))


def test_thumbs(tmp_path: Path) -> None:
    values: list[Any] = ["👍", "down", "Like", " DISLIKE ", True, False, 1, -1, "+1", None, "", "thumbs_up"]
    records = [{"prompt": f"p{n}", "reply": f"r{n}", "vote": value} for n, value in enumerate(values)]
    made = label(save(tmp_path / "a.jsonl", records), Thumbs("vote"))
    expected = [True, False, True, False, True, False, True, False, True, None, None, True]
    assert short(made.rows) == Counter((f"p{n}", f"r{n}", x) for n, x in enumerate(expected) if x is not None)
    assert made.skipped == {"no thumb": 2}
    assert set(THUMBS.values()) == {True, False}
    looks = {"👍🏽": True, "👎\U0001f3ff": False, "👍\ufe0f": True, " 👎\ufe0e": False, ":+1:": True, ":-1:": False}
    looks |= {":+1::skin-tone-3:": True, ":thumbsdown:": False}
    records = [{"prompt": value, "reply": "r", "vote": value} for value in looks]
    assert {row.prompt: row.label for row in label(save(tmp_path / "a.jsonl", records), Thumbs("vote")).rows} == looks
    for value in (0, 3, "meh", ["up"], "🏽", "👍👎"):
        result = run(save(tmp_path / "a.jsonl", [records[0] | {"vote": value}]), "-o", "-", "--thumbs", "vote")
        assert result.exit_code == 1
        assert "which is no thumb up or down. Say what it means: --desirable" in result.stderr


def test_an_edit_of_spaces_is_none(tmp_path: Path) -> None:
    records = [{"request": "q1", "draft": "old ", "sent": "old"}, {"request": "q2", "draft": "a\nb ", "sent": "a\nb"}]
    records += [{"request": "q3", "draft": "ab", "sent": "a b"}]
    made = label(save(tmp_path / "a.jsonl", records), Edits("draft", "sent"))
    assert made.skipped == {"not edited": 4}
    assert short(made.rows) == Counter([("q3", "ab", False), ("q3", "a b", True)])


def test_where_nothing_was_sent_nothing_is_said_of_the_draft(tmp_path: Path) -> None:
    blanks: list[Any] = [None, "", "   ", "\n\t", [], [{"role": "assistant", "content": " "}]]
    records = [{"prompt": "q", "draft": "bad", "sent": blank} for blank in blanks]
    records.append({"prompt": "q", "draft": "bad", "sent": "good"})
    made = label(save(tmp_path / "a.jsonl", records), Edits("draft", "sent"))
    assert made.skipped == {"not edited": len(blanks)}
    assert short(made.rows) == Counter([("q", "bad", False), ("q", "good", True)])


def test_an_edit_of_indentation_is_one_that_contradicts_what_is_equal_after_normalising(tmp_path: Path) -> None:
    code = ("if x:\n    y()\n    z()", "if x:\n    y()\nz()")
    records: list[dict[str, Any]] = [
        {"prompt": "code", "draft": code[0], "sent": code[1]},
        {"prompt": "list", "draft": "- a - b", "sent": "- a\n- b"},
        {"prompt": "spaces", "draft": " if  x:\n\ty() \n", "sent": "if x:\n        y()"},
    ]
    source = save(tmp_path / "a.jsonl", records)
    made = label(source, Edits("draft", "sent"))
    assert (made.rows, made.skipped) == ([], {"both labels": 4, "not edited": 2})
    kept = label(source, Edits("draft", "sent"), on_conflict="keep")
    assert kept.skipped == {"not edited": 2}
    assert ("code", code[0], False) in short(kept.rows)
    assert ("code", code[1], True) in short(kept.rows)


def test_edits_make_one_row_of_each_label(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"request": "q1", "draft": "stiff", "sent": "warm"},
        {"request": "q2", "draft": "fine", "sent": "fine"},
        {"request": "q3", "draft": "never sent", "sent": None},
        {"request": "q4", "draft": " ", "sent": "all mine"},
    ]
    source = save(tmp_path / "a.jsonl", records)
    made = label(source, Edits("draft", "sent"))
    assert short(made.rows) == Counter([("q1", "stiff", False), ("q1", "warm", True), ("q4", "all mine", True)])
    assert made.skipped == {"not edited": 3, "empty completion": 1}
    assert made.completions == len(made.rows) + 4
    result = run(
        source, "-o", str(tmp_path / "o.csv"), "--original", "draft", "--edited", "sent", "--prompt", "request"
    )
    assert "read    4 records (7 completions, layout label)" in result.stderr
    chat = [{"messages": turns("q", "old"), "draft": "old", "sent": "new"}]
    rows = label(save(tmp_path / "b.jsonl", chat), Edits("draft", "sent")).rows
    assert short(rows) == Counter([("q", "old", False), ("q", "new", True)])


def test_contradictions_duplicates_and_kinds_are_treated_as_everywhere(tmp_path: Path) -> None:
    records = [{"prompt": "p", "completion": "c", "n": n} for n in (1, 1, 1, 9)] + [
        {"prompt": "q", "completion": "d", "n": 1}
    ]
    source = save(tmp_path / "a.jsonl", records)
    judge = outcomes("n < 5", "n >= 5")
    assert label(source, judge).skipped == {"both labels": 4}
    made = label(source, judge, on_conflict="majority", as_kind="chat", limit=4)
    assert made.skipped == {"both labels": 1, "duplicate": 2}
    assert made.rows[0].kind == "chat"


LATE: dict[str, tuple[list[str], dict[str, Any]]] = {
    "thumbs": (["--thumbs", "thumb"], {"thumb": "up"}),
    "a condition": (["--desirable", "th\u00fcmb == 'up'"], {"th\u00fcmb": "up"}),
    "edits": (["--original", "completion", "--edited", "sent"], {"sent": "better"}),
    "a completion": (["--desirable", "n == 1100", "--completion", "reply"], {"reply": "r"}),
}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl lines escaped", ".json"])
@pytest.mark.parametrize(("options", "last"), LATE.values(), ids=LATE)
def test_a_column_may_come_first_after_any_number_of_records(
    tmp_path: Path, options: list[str], last: dict[str, Any], suffix: str
) -> None:
    """JSON leaves out what a record has not; that no record has it is known at the end only."""
    records = [{"prompt": f"p{n}", "completion": f"c{n}", "n": n} for n in range(1100)]
    out = tmp_path / "o.jsonl"
    for more, code in ((last, 0), ({}, 2)):
        source = tmp_path / f"a{suffix.partition(' ')[0]}"
        whole = [*records, {"prompt": "p", "completion": "c", "n": 1100, **more}]
        if suffix == ".json":
            source.write_text(json.dumps(whole), encoding="utf-8")
        else:
            texts = [json.dumps(record, ensure_ascii="escaped" in suffix) for record in whole]
            source.write_text("\n".join(texts), encoding="utf-8")
        for workers in ("1", "2") if suffix == ".jsonl" and code else ("1",):
            out.unlink(missing_ok=True)
            result = run(str(source), "-o", str(out), "--workers", workers, *options)
            assert result.exit_code == code, result.stderr
            if code:
                assert f"no column {next(iter(last))!r}" in result.stderr
                assert not out.exists()
            else:
                assert {row.prompt for row in read_rows(str(out))} == {"p"}


def test_of_a_table_a_missing_column_is_told_at_once(tmp_path: Path) -> None:
    source = save(tmp_path / "a.csv", [{"prompt": "p", "completion": "c", "n": n} for n in range(1500)])
    with Path(source).open("a", encoding="utf-8") as stream:
        stream.write("p,c\n")  # which nobody reads
    result = run(source, "-o", str(tmp_path / "o.jsonl"), "--thumbs", "thumb")
    assert (result.exit_code, "--thumbs: no column 'thumb'" in result.stderr) == (2, True), result.stderr


BAD: dict[str, tuple[list[str], int, str]] = {
    "nothing says what": ([], 2, "nothing says what is desirable. Name --desirable and --undesirable"),
    "two ways": (["--desirable", SALE, "--thumbs", "outcome"], 2, "conditions and --thumbs do not go together"),
    "a chat with conditions": (["--speaker", "A", "--desirable", SALE], 2, "conditions and a chat do not go together"),
    "half of the edits": (["--original", "completion"], 2, "--original and --edited need each other"),
    "a misspelt column": (["--desirable", "outcom == 'sale'"], 2, "no column 'outcom'. Did you mean 'outcome'?"),
    "text without quotes": (["--desirable", "outcome == sale"], 2, "Text goes in quotes: 'sale'"),
    "one equals sign": (["--desirable", "outcome = 'sale'"], 2, "Compare with =="),
    "an empty condition": (["--desirable", ""], 2, "it is empty"),
    "code": (["--desirable", "__import__('os').system('true')"], 2, "no function 'system'"),
    "text over a number": (
        ["--desirable", "outcome > 3"],
        1,
        ":1: --desirable: outcome (str 'sale') cannot be compared",
    ),
    "a condition that never can hold": (["--desirable", "1/0 == 1"], 1, "Mend the condition\n"),
    "no condition": (["--desirable", "turns"], 1, ":1: --desirable: turns is int 2, not true or false"),
    "nothing holds": (["--desirable", "turns > 99"], 1, "nothing to write: 5 completions read, 5 neither holds"),
    "no such prompt": (
        ["--desirable", SALE, "--prompt", "promt"],
        2,
        "--prompt: no column 'promt'. Did you mean 'prompt'?",
    ),
    "no such reply": (["--desirable", SALE, "--completion", "x"], 2, "--completion: no column 'x'. Known: completion"),
    "no such thumbs": (["--thumbs", "outcomes"], 2, "--thumbs: no column 'outcomes'. Did you mean 'outcome'?"),
    "no such edit": (["--original", "completion", "--edited", "x"], 2, "--edited: no column 'x'"),
    "messages and prompt": (
        ["--desirable", SALE, "--messages", "outcome", "--prompt", "prompt"],
        2,
        "--messages holds prompt and completion both",
    ),
    "messages that are none": (
        ["--desirable", SALE, "--messages", "outcome"],
        1,
        "outcome is str 'sale', not a list of",
    ),
    "a number as reply": (
        ["--desirable", SALE, "--completion", "turns"],
        1,
        "turns is int 2, not a string or messages",
    ),
    "a pause that is none": (
        ["--desirable", SALE, "--gap", "soon"],
        2,
        "--gap is 'soon'. Write a number and s, m, h or d",
    ),
    "context of no chat": (["--desirable", SALE, "--context", "3"], 2, "--context has no effect on what is no chat"),
    "gap of no chat": (["--desirable", SALE, "--gap", "3h"], 2, "--gap has no effect on what is no chat"),
    "a split of a file": (["--desirable", SALE, "--split", "nope"], 2, "a.jsonl: no split 'nope' in a single file"),
    "a completion beside edits": (
        ["--original", "completion", "--edited", "prompt", "--completion", "completion"],
        2,
        "--completion has no effect on edits",
    ),
    "both, of thumbs": (["--thumbs", "outcome", "--on-both", "skip"], 2, "--on-both has no effect without conditions"),
    "over its input": (["--desirable", SALE, "-o", "a.jsonl"], 2, "a.jsonl is the input"),
    "quarantine over its input": (["--desirable", SALE, "--quarantine", "a.jsonl"], 2, "a.jsonl is the input"),
    "unknown suffix": (["--desirable", SALE, "-o", "o.xlsx"], 2, "unknown suffix '.xlsx'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.jsonl", LOG)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    arguments, code, message = BAD[case]
    result = run("a.jsonl", *arguments, *([] if "-o" in arguments else ["-o", "o.jsonl"]))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_columns_that_could_be_nothing_are_asked_for(tmp_path: Path) -> None:
    for record, message in (
        (
            {"a": "x", "b": "y", "ok": True},
            "no column that could be the prompt (columns: a, b, ok). Name it with --prompt",
        ),
        ({"prompt": "x", "b": "y", "ok": True}, "no column that could be the completion (columns: prompt, b, ok)"),
    ):
        result = run(save(tmp_path / "a.jsonl", [record]), "-o", "-", "--desirable", "ok")
        assert result.exit_code == 2
        assert message in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "the file is empty"), ("nope\n", "a.jsonl:1: not JSON"), ("[]\n", "a.jsonl:1: a JSON array")],
)
def test_files_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    result = run(str(tmp_path / "a.jsonl"), "-o", "-", "--desirable", "ok")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert message in result.stderr


def test_stdin_to_stdout() -> None:
    text = "".join(json.dumps(record) + "\n" for record in LOG)
    result = CliRunner().invoke(main, ["label", "--desirable", SALE, "--undesirable", NONE], input=text)
    assert result.exit_code == 0, result.stderr
    assert [json.loads(line)["source"] for line in result.stdout.splitlines()] == ["stdin", "stdin"]


def test_rows_of_a_dataset_that_restricts_its_use_name_it(tmp_path: Path) -> None:
    """A local copy, told by its columns, in whatever way it is labelled, after records that cannot be read too."""
    record = {
        "prompt": "q",
        "response_0": "a",
        "response_1": "b",
        "is_response_0_safe": True,
        "is_response_1_safe": False,
    }
    path = tmp_path / "pairs.jsonl"
    lines = ["{", *(json.dumps({**record, "prompt": f"q{n}", "better_response_id": n % 2}) for n in range(4))]
    path.write_text("\n".join(lines), encoding="utf-8")
    out = str(tmp_path / "rows.jsonl")
    conditions = ["--desirable", "better_response_id == 0", "--undesirable", "better_response_id == 1"]
    options = [*conditions, "--completion", "response_0", "--quarantine", str(tmp_path / "bad.jsonl")]
    result = run(str(path), "-o", out, *options)
    assert result.exit_code == 0, result.stderr
    assert "written 4 rows" in result.stderr
    assert "note: if these are rows of PKU-Alignment/PKU-SafeRLHF, its licence is CC-BY-NC-4.0" in result.stderr
    assert {row.source for row in read_rows(out)} == {f"pku-saferlhf?:{tmp_path.name}/pairs.jsonl"}
    again = run(save(tmp_path / "log.jsonl", LOG), "-o", out, "--desirable", SALE)
    assert "licence" not in again.stderr
    assert {row.source for row in read_rows(out)} == {f"{tmp_path.name}/log.jsonl"}
