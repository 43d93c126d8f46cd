"""`ktodata unpair`: from files to rows, with an account of every completion."""

import gzip
import json
import re
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from orders import clashes

from ktodata.cli import main
from ktodata.errors import SourceError
from ktodata.io import Quarantine, read_rows
from ktodata.order import longest_run
from ktodata.parents import Renamed
from ktodata.schema import Row
from ktodata.unpair import unpair

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside this repository")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def ask(question: str) -> str:
    return f"{HUMAN} {question}{ASSISTANT}"


def transcripts(count: int = 40) -> list[dict[str, Any]]:
    """Pairs as hh-rlhf has them, with one of each thing that can be wrong with a pair."""
    good = [{"chosen": f"{ask(f'q{n}')} good {n}", "rejected": f"{ask(f'q{n}')} bad {n}"} for n in range(count)]
    return [
        *good,
        {"chosen": f"{ask('one')} a", "rejected": f"{ask('other')} b"},  # prompts differ: 2
        {"chosen": f"{ask('empty')} ", "rejected": f"{ask('empty')} stays"},  # empty: 1
        {"chosen": f"{ask('same')} x", "rejected": f"{ask('same')} x"},  # identical: 2
        {"chosen": f"{ask('q1')} BAD 1", "rejected": f"{ask('q1')} worse"},  # contradicts pair 1: 2, " worse" stays
        good[2],  # duplicates: 2
    ]


SKIPPED = {"prompts differ": 2, "empty completion": 1, "identical completions": 2, "both labels": 2, "duplicate": 2}


def save(path: Path, records: list[dict[str, Any]]) -> str:
    text = "\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def run(*arguments: str, **extra: Any) -> Result:
    return CliRunner().invoke(main, ["unpair", *arguments], **extra)


def account(stderr: str) -> dict[str, Any]:
    """What the summary says, as numbers."""
    read = re.search(r"^read\s+(\d+) \w+ \((\d+) completions", stderr, re.MULTILINE)
    written = re.search(r"^written\s+(\d+) rows to .*: (\d+) desirable, (\d+) undesirable$", stderr, re.MULTILINE)
    skipped = re.search(r"^skipped\s+(\d+)(?:: (.*))?$", stderr, re.MULTILINE)
    assert read
    assert written
    assert skipped
    reasons = dict(re.match(r"(\d+) (.*)", one).groups()[::-1] for one in (skipped[2] or "").split(", ") if one)  # type: ignore[union-attr]
    numbers = {reason: int(count) for reason, count in reasons.items()}
    assert sum(numbers.values()) == int(skipped[1])
    assert int(written[2]) + int(written[3]) == int(written[1])
    assert int(read[2]) == int(written[1]) + int(skipped[1]), "the account does not add up"
    return {"read": int(read[1]), "completions": int(read[2]), "written": int(written[1]), "skipped": numbers}


def contents(rows: list[Row]) -> Counter[tuple[str, str, bool]]:
    return Counter((str(row.prompt), str(row.completion), row.label) for row in rows)


def test_every_completion_is_written_or_counted_and_quarantined(tmp_path: Path) -> None:
    records = transcripts()
    source = save(tmp_path / "pairs.jsonl.gz", records)
    out, bad = tmp_path / "out" / "rows.parquet", tmp_path / "out" / "bad.jsonl"
    result = run(source, "-o", str(out), "--quarantine", str(bad))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    told = account(result.stderr)
    assert told == {"read": 45, "completions": 90, "written": 90 - sum(SKIPPED.values()), "skipped": SKIPPED}
    rows = read_rows(str(out))
    assert len(rows) == told["written"]
    assert all(str(row.prompt).endswith(ASSISTANT) for row in rows)
    assert all(row.origin == "pair" and row.source.endswith("/pairs.jsonl.gz") for row in rows)
    assert contents(rows)[ask("q1"), " worse", False] == 1
    assert contents(rows)[ask("empty"), " stays", False] == 1
    lines = [json.loads(line) for line in bad.read_text(encoding="utf-8").splitlines()]
    quarantined: Counter[str] = Counter()
    for line in lines:
        quarantined[line["reason"]] += line["completions"]
    assert quarantined == SKIPPED
    by_reason = {line["reason"]: line for line in lines}
    assert by_reason["prompts differ"]["record"] == records[40]
    assert by_reason["prompts differ"]["where"] == f"{source}:41"
    assert by_reason["empty completion"]["detail"] == "chosen"
    assert by_reason["both labels"]["record"]["prompt"] == ask("q1")


def test_rows_are_mixed_and_neighbours_differ(tmp_path: Path) -> None:
    rows = unpair(save(tmp_path / "a.jsonl", transcripts(200))).rows
    assert clashes(rows) == 0
    assert longest_run([row.label for row in rows]) <= 8


def test_input_order_and_workers_change_no_byte_and_the_seed_does(tmp_path: Path) -> None:
    records = transcripts(700)  # more than one chunk
    save(tmp_path / "in" / "a.jsonl", records)
    same = ["--one-per-prompt", "--seed", "5"]
    for name, options in (("one", same), ("two", [*same, "--workers", "2"]), ("seed", ["--one-per-prompt"])):
        assert run(str(tmp_path / "in" / "a.jsonl"), "-o", str(tmp_path / f"{name}.jsonl"), *options).exit_code == 0
    save(tmp_path / "in" / "a.jsonl", records[::-1])
    assert run(str(tmp_path / "in" / "a.jsonl"), "-o", str(tmp_path / "back.jsonl"), *same).exit_code == 0
    one = (tmp_path / "one.jsonl").read_bytes()
    assert (tmp_path / "two.jsonl").read_bytes() == one
    assert (tmp_path / "back.jsonl").read_bytes() == one
    assert (tmp_path / "seed.jsonl").read_bytes() != one


def test_workers_report_an_unreadable_record_like_one_process(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [*transcripts(600), {"chosen": 5, "rejected": "x"}, {"chosen": None}]
    source = save(tmp_path / "a.jsonl", records)
    errors = [run(source, "-o", str(tmp_path / "o.jsonl"), "--workers", str(n)).stderr for n in (1, 2)]
    says = f"error: {source}:606: chosen is int 5, not a string"
    assert errors == [f"{says}. Mend it, or name a --quarantine FILE for such records\n"] * 2
    assert not (tmp_path / "o.jsonl").exists()


def test_unreadable_records_go_to_the_quarantine(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", transcripts(3))
    with Path(source).open("ab") as stream:
        stream.write(b'{"chosen": 5, "rejected": "x"}\nnope\n')
    result = run(source, "-o", str(tmp_path / "o.jsonl"), "--quarantine", str(tmp_path / "bad.jsonl"))
    assert result.exit_code == 0, result.stderr
    assert account(result.stderr)["skipped"]["unreadable"] == 4, "two of pairs"
    lines = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["record"] for line in lines[-6:] if line["reason"] == "unreadable"] == [
        {"chosen": 5, "rejected": "x"},
        "nope",
    ]


def test_the_quarantine_file_is_made_even_if_empty(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", transcripts()[:3])
    assert run(source, "-o", str(tmp_path / "o.csv"), "--quarantine", str(tmp_path / "new" / "q")).exit_code == 0
    assert (tmp_path / "new" / "q").read_bytes() == b""


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("drop", set()), ("majority", {(" a", True)}), ("keep", {(" a", True), (" A", False)})],
)
def test_on_conflict(tmp_path: Path, policy: str, kept: set[tuple[str, bool]]) -> None:
    records = [
        {"prompt": "p", "chosen": " a", "rejected": " b"},
        {"prompt": "p", "chosen": " a", "rejected": " c"},
        {"prompt": " P", "chosen": " d", "rejected": " A"},
    ]
    result = run(save(tmp_path / "a.jsonl", records), "-o", str(tmp_path / "o.json"), "--on-conflict", policy)
    account(result.stderr)
    rows = read_rows(str(tmp_path / "o.json"))
    assert {(row.completion, row.label) for row in rows} - {(" b", False), (" c", False), (" d", True)} == kept


def test_on_conflict_error_names_them_and_writes_nothing(tmp_path: Path) -> None:
    records = [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "b", "rejected": "c"}]
    source = save(tmp_path / "a.jsonl", records)
    result = run(source, "-o", str(tmp_path / "o.json"), "--on-conflict", "error", "--quarantine", str(tmp_path / "q"))
    assert result.exit_code == 1
    assert "1 completions carry both labels: 'b' undesirable at" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_one_per_prompt(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", transcripts()[:40])
    result = run(source, "-o", str(tmp_path / "o.jsonl"), "--one-per-prompt")
    assert account(result.stderr)["skipped"] == {"one per prompt": 40}
    rows = read_rows(str(tmp_path / "o.jsonl"))
    assert len({row.prompt_id for row in rows}) == 40
    assert sum(row.label for row in rows) == 20


def test_limit_counts_records_as_they_are_read(tmp_path: Path) -> None:
    for place, name in enumerate(("b", "a")):
        save(tmp_path / "in" / f"{name}.jsonl", transcripts()[place * 20 : place * 20 + 20])
    rows = unpair(str(tmp_path / "in"), limit=25)
    assert rows.read == 25
    assert Counter(row.source for row in rows.rows) == {"in/a.jsonl": 40, "in/b.jsonl": 10}


def test_as_chat_keeps_roles_that_do_not_alternate(tmp_path: Path) -> None:
    lead = f"{HUMAN} a{ASSISTANT} b{ASSISTANT} c{ASSISTANT}"
    source = save(tmp_path / "a.jsonl", [{"chosen": f"{lead} yes", "rejected": f"{lead} no"}])
    assert run(source, "-o", str(tmp_path / "chat.parquet"), "--as", "chat").exit_code == 0
    rows = read_rows(str(tmp_path / "chat.parquet"))
    assert [(turn["role"], turn["content"]) for turn in rows[0].prompt] == [  # type: ignore[index]
        ("user", "a"),
        ("assistant", "b"),
        ("assistant", "c"),
    ]
    assert sorted(row.completion[0]["content"] for row in rows) == ["no", "yes"]  # type: ignore[index]
    assert run(str(tmp_path / "chat.parquet"), "-o", str(tmp_path / "text.jsonl"), "--as", "text").exit_code == 0
    assert contents(read_rows(str(tmp_path / "text.jsonl"))) == contents(unpair(source).rows)


def test_new_ids_of_parents_are_found_and_take_little_room() -> None:
    ids = [f"{n * 7919:032x}" for n in range(30_000)]
    renamed = Renamed()
    tracemalloc.start()
    for start in range(0, len(ids), 500):
        renamed.add({one: one[::-1] for one in ids[start : start + 500]})
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / len(ids) < 80
    unknown = ["", "p", f"{1:032x}", f"{2**127:032x}", "é" * 32]
    assert renamed.of([ids[0], *unknown, ids[-1]]) == {ids[0]: ids[0][::-1], ids[-1]: ids[-1][::-1]}
    renamed.add({f"{1:032x}": "f" * 32})
    assert renamed.of(unknown) == {f"{1:032x}": "f" * 32}
    assert Renamed().of(ids) == {}


def test_rows_pass_through_checked_and_parents_follow_a_conversion(tmp_path: Path) -> None:
    parent = unpair(save(tmp_path / "a.jsonl", transcripts()[:1])).rows[0]
    child = {
        "prompt": parent.prompt,
        "completion": " made",
        "label": False,
        "origin": "synthetic",
        "strategy": "corrupt",
    }
    rows = [
        {"prompt": parent.prompt, "completion": parent.completion, "label": parent.label, "source": "mine"},
        {**child, "parent_id": parent.id},
        {**child, "parent_id": parent.id},
        {**child, "completion": "  "},
    ]
    made = unpair(save(tmp_path / "rows.jsonl", rows))
    assert made.layout.name == "rows"
    assert made.skipped == {"duplicate": 1, "empty completion": 1}
    by_origin = {row.origin: row for row in made.rows}
    assert by_origin["feedback"].source == "mine"
    assert (by_origin["synthetic"].strategy, by_origin["synthetic"].parent_id) == ("corrupt", parent.id)
    chat = {row.origin: row for row in unpair(str(tmp_path / "rows.jsonl"), as_kind="chat").rows}
    assert chat["synthetic"].parent_id == chat["feedback"].id != parent.id


def test_a_file_of_both_kinds_is_refused_unless_one_is_asked_for(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}]
    records: list[dict[str, Any]] = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": turns, "chosen": "a", "rejected": "b"},
    ]
    source = save(tmp_path / "a.jsonl", records)
    with pytest.raises(SourceError, match=r"a.jsonl:2: chat among text\. Use --as"):
        unpair(source)
    assert len(unpair(source, as_kind="chat").rows) == 4
    with Quarantine(tmp_path / "bad") as quarantine:
        made = unpair(source, quarantine=quarantine)
    assert (len(made.rows), made.completions, made.skipped) == (2, 4, {"unreadable": 2})


def test_stdin_to_stdout() -> None:
    text = "\n".join(json.dumps(record) for record in transcripts()[:5])
    result = run(input=text)
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == 10
    assert {row["source"] for row in rows} == {"stdin"}
    assert "written 10 rows to stdout" in result.stderr


def test_on_a_terminal_the_default_output_is_said_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "in" / "pairs.jsonl.gz", transcripts()[:3])
    monkeypatch.setattr("ktodata.cli_common._on_terminal", lambda stream: stream == "stdout")
    result = run("in/pairs.jsonl.gz")
    assert "writing pairs.kto.parquet" in result.stderr
    assert len(read_rows("pairs.kto.parquet")) == 6
    assert run("in", "-o", "-").stdout.count("\n") == 6
    again = run("pairs.kto.parquet")
    assert again.exit_code == 2
    assert "pairs.kto.parquet is the input itself" in again.stderr


def test_a_local_copy_of_hh_rlhf_leaves_the_red_team_out(tmp_path: Path) -> None:
    for folder in ("helpful-base", "harmless-base"):
        records = [{"chosen": f"{ask(folder)} a", "rejected": f"{ask(folder)} b"}]
        save(tmp_path / "hh" / folder / "train.jsonl.gz", records)
        save(tmp_path / "hh" / folder / "test.jsonl.gz", transcripts()[:1])
    save(tmp_path / "hh" / "red-team-attempts" / "red_team_attempts.jsonl.gz", [{"transcript": "x", "rating": 1}])
    save(tmp_path / "hh" / "red-team-attempts" / "train.jsonl", [{"transcript": "x", "rating": 1}])
    for options in ([], ["--preset", "hh-rlhf"]):
        result = run(str(tmp_path / "hh"), "-o", str(tmp_path / "o.jsonl"), *options)
        assert result.exit_code == 0, result.stderr
        sources = {row.source for row in read_rows(str(tmp_path / "o.jsonl"))}
        read_by = "hh-rlhf:" if options else ""
        assert sources == {f"{read_by}hh/{folder}/train.jsonl.gz" for folder in ("harmless-base", "helpful-base")}
    assert run(str(tmp_path / "hh" / "helpful-base"), "-o", str(tmp_path / "o.jsonl")).exit_code == 0


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_messages_in_other_formats(tmp_path: Path, suffix: str) -> None:
    import pandas

    def turns(reply: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "q, \n“x”"}, {"role": "assistant", "content": reply}]

    frame = pandas.DataFrame({"chosen": [turns("good")], "rejected": [turns("bad")]})
    path = tmp_path / f"a{suffix}"
    if suffix == ".csv":
        frame.map(json.dumps).to_csv(path, index=False)
    elif suffix == ".json":
        frame.to_json(path, orient="records")
    else:
        frame.to_parquet(path)
    rows = unpair(str(path)).rows
    assert {(row.completion[0]["content"], row.label) for row in rows} == {("good", True), ("bad", False)}  # type: ignore[index]
    assert rows[0].prompt == [{"role": "user", "content": "q, \n“x”"}]


BAD: dict[str, tuple[list[str], int, str]] = {
    "missing file": (["none.jsonl"], 1, "none.jsonl: no such file or folder"),
    "nearest preset": (["hh-rhlf"], 1, "Did you mean 'hh-rlhf'?"),
    "unknown preset": (["a.jsonl", "--preset", "hhrlhf"], 2, "no preset 'hhrlhf'. Did you mean 'hh-rlhf'?"),
    "preset without dataset": (["pairs"], 2, "the preset 'pairs' has no dataset of its own"),
    "wrong preset": (["a.jsonl", "--preset", "rows"], 1, "the preset 'rows' needs prompt + completion + label"),
    "unknown layout": (["other.jsonl"], 1, "other.jsonl:1: columns question, answer: no layout that can be read"),
    "plain text": (["plain.jsonl"], 1, "plain.jsonl:1: nothing says where the prompt ends"),
    "unknown suffix": (["a.jsonl", "-o", "o.xlsx"], 2, "o.xlsx: unknown suffix '.xlsx'. Known: .jsonl"),
    "suffix comes first": (["none.jsonl", "-o", "o.xlsx"], 2, "unknown suffix"),
    "truncated": (["cut.jsonl.gz"], 1, "cut.jsonl.gz: the gzip data ends early"),
    "nothing left": (["same.jsonl"], 1, "nothing to write: 2 completions read, 2 identical completions"),
    "unknown option": (["a.jsonl", "--preste", "x"], 2, "No such option"),
    "bad choice": (["a.jsonl", "--on-conflict", "x"], 2, "'--on-conflict'"),
    "no workers": (["a.jsonl", "--workers", "0"], 2, "'--workers'"),
    "quarantine is the output": (["a.jsonl", "--quarantine", "o.jsonl"], 2, "both the output and the quarantine"),
    "a threshold for nothing": (["a.jsonl", "--near-threshold", "0.8"], 2, "has no effect on its own. Add --near-dup"),
    "a split of a file": (["a.jsonl", "--split", "nope"], 2, "a.jsonl: no split 'nope' in a single file"),
    "a split of stdin": (["-", "--split", "test"], 2, "stdin: no split 'test' in a single file"),
    "quarantine is a folder": (["a.jsonl", "--quarantine", "."], 2, "is a folder"),
    "null reply": (["null.jsonl"], 1, "null.jsonl:1: rejected is null, not a string or messages"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.jsonl", transcripts()[:3])
    save(tmp_path / "other.jsonl", [{"question": "q", "answer": "a"}])
    save(tmp_path / "plain.jsonl", [{"chosen": "a b c", "rejected": "a b d"}])
    save(tmp_path / "same.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "a"}])
    save(tmp_path / "null.jsonl", [{"prompt": "p", "chosen": "a", "rejected": None}])
    (tmp_path / "cut.jsonl.gz").write_bytes(Path(save(tmp_path / "b.gz", transcripts())).read_bytes()[:-9])
    before = sorted(tmp_path.iterdir())
    arguments, code, message = BAD[case]
    result = run(*arguments, *([] if "-o" in arguments else ["-o", "o.jsonl"]))
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before, "something was left behind"


def test_one_class_only_is_a_warning(tmp_path: Path) -> None:
    source = save(tmp_path / "a.jsonl", [{"prompt": f"p{n}", "completion": "c", "label": True} for n in range(3)])
    result = run(source, "-o", str(tmp_path / "o.jsonl"))
    assert result.exit_code == 0
    assert "warning: no undesirable rows" in result.stderr


@needs_shared
def test_the_harmless_base_transcripts(tmp_path: Path) -> None:
    source = SHARED / "hh-rlhf" / "harmless-base" / "train.jsonl.gz"
    start = time.process_time()
    result = run(str(source), "-o", str(tmp_path / "o.parquet"), "--preset", "hh-rlhf")
    assert time.process_time() - start < 5
    told = account(result.stderr)
    assert (told["read"], told["completions"]) == (1600, 3200)
    # Counted by hand, from the transcripts alone.
    assert told["skipped"] == {"empty completion": 4, "prompts differ": 2}
    pairs = [json.loads(line) for line in gzip.decompress(source.read_bytes()).decode().splitlines()]
    whole = {(text, name == "chosen") for pair in pairs for name, text in pair.items()}
    rows = read_rows(str(tmp_path / "o.parquet"))
    assert clashes(rows) == 0
    for row in rows:
        assert isinstance(row.prompt, str)
        assert isinstance(row.completion, str)
        assert row.prompt.endswith(ASSISTANT)
        assert ASSISTANT not in row.completion
        assert (row.prompt + row.completion, row.label) in whole


@needs_shared
def test_the_demo_files_of_llama_factory() -> None:
    pairs = unpair(str(SHARED / "llama-factory" / "dpo_en_demo.json"))
    assert (pairs.layout.name, pairs.completions, len(pairs.rows)) == ("llama-factory-dpo", 300, 300)
    rows = unpair(str(SHARED / "llama-factory" / "kto_en_demo.json"))
    assert (rows.layout.name, rows.completions, len(rows.rows)) == ("llama-factory-kto", 150, 150)


def test_a_file_may_be_the_split_that_it_is_called(tmp_path: Path) -> None:
    for name, split in (
        ("test.jsonl", "test"),
        ("val-00000-of-00001.jsonl", "dev"),
        ("mine.jsonl", "mine"),
        ("a.jsonl", "train"),
    ):
        source = save(tmp_path / name, [{"prompt": "p", "chosen": "a", "rejected": "b"}])
        assert run(source, "-o", str(tmp_path / "o.jsonl"), "--split", split).exit_code == 0
