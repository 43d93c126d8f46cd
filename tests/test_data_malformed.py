"""Records of every family with one thing wrong: one clear line each, or a line in the quarantine file; no traceback.

What else can be wrong with a file is in test_data_files.py and test_data_unpair.py, with a condition in
test_expressions.py, with a chat export in test_label_chats.py.
"""

import contextlib
import copy
import datetime
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from families import SAMPLES, VARIANTS, assistant, user
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ktodata.cli import main
from ktodata.errors import RowError, SourceError
from ktodata.schema import kind_of, parse_text, plain
from ktodata.sources import SOURCES, Example, Piece, Skip, detect

GONE = object()  # as a value: the column is missing


def changed(preset: str, change: dict[str, Any]) -> dict[str, Any]:
    """The first record of a family's sample with some columns changed or taken out."""
    record = {**copy.deepcopy(SAMPLES[preset][0]), **change}
    return {name: value for name, value in record.items() if value is not GONE}


NO_HISTORIES: tuple[object, ...] = (5, 0, True, "earlier", {})
# preset, what is changed in its record, what is said about it
UNREADABLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "hh: no rejected": ("hh-rlhf", {"rejected": GONE}, "no column 'rejected' (columns seen: chosen)"),
    "hh: a number": ("hh-rlhf", {"chosen": 5}, "chosen is int 5, not a string"),
    "hh: a list": ("hh-rlhf", {"chosen": []}, "chosen is list [], not a string"),
    "hh: null": ("hh-rlhf", {"rejected": None}, "rejected is null, not a string"),
    "hh: no turn": ("hh-rlhf", {"rejected": "just text"}, "rejected has no '\\n\\nAssistant:' to cut after"),
    "red team: no turn": ("hh-rlhf-red-team", {"transcript": "text"}, "transcript has no '\\n\\nAssistant:'"),
    "red team: null transcript": ("hh-rlhf-red-team", {"transcript": None}, "transcript is null, not a string"),
    "red team: no rating": ("hh-rlhf-red-team", {"rating": None}, "rating is null, not a number"),
    "red team: a word as rating": ("hh-rlhf-red-team", {"rating": "bad"}, "rating is str 'bad', not a number"),
    "red team: a flag as rating": ("hh-rlhf-red-team", {"rating": True}, "rating is bool True, not a number"),
    "red team: endless rating": ("hh-rlhf-red-team", {"rating": 1e999}, "rating is float inf, not a number"),
    "shp: no history": ("shp", {"history": GONE}, "no column 'history'"),
    "shp: null comment": ("shp", {"human_ref_B": None}, "human_ref_B is null, not a string"),
    "shp: a word as score": ("shp", {"score_A": "many"}, "score_A is str 'many', not a number"),
    "shp: no such label": ("shp", {"labels": 2}, "labels is int 2, not 1 (A is preferred) or 0"),
    "shp: a flag as label": ("shp", {"labels": True}, "labels is bool True, not 1"),
    "shp: a word as ratio": ("shp", {"score_ratio": "twice"}, "score_ratio is str 'twice', not a number"),
    "shp: no ratio to be had": ("shp", {"score_ratio": None, "score_B": -3}, "no score_ratio, and the scores are not"),
    "oasst: null text": ("oasst", {"text": None}, "text is null, not a string"),
    "oasst: no id": ("oasst", {"message_id": GONE}, "no column 'message_id'"),
    "oasst: a number as id": ("oasst", {"message_id": 7}, "message_id is int 7, not a string"),
    "oasst: a number as parent": ("oasst", {"parent_id": 7}, "parent_id is int 7, not a string or null"),
    "oasst: no such role": ("oasst", {"role": "system"}, "role is 'system', not prompter or assistant"),
    "oasst: a word as rank": ("oasst", {"rank": "first"}, "rank is str 'first', not a number"),
    "oasst: deleted or not": ("oasst", {"deleted": "maybe"}, "deleted is str 'maybe', not true or false"),
    "trees: a text as tree": (
        "oasst-trees",
        {"prompt": "hi"},
        "prompt is str 'hi', not a message with text and replies",
    ),
    "trees: null": ("oasst-trees", {"prompt": None}, "prompt is null, not a message"),
    "trees: replies that are none": (
        "oasst-trees",
        {"prompt": {"text": "q", "role": "prompter", "replies": 3}},
        "prompt.replies is int 3, not a list",
    ),
    "trees: a reply that is none": (
        "oasst-trees",
        {"prompt": {"text": "q", "role": "prompter", "replies": ["yes"]}},
        "prompt.replies[0] is str 'yes', not a message",
    ),
    "trees: a reply without text": (
        "oasst-trees",
        {"prompt": {"text": "q", "role": "prompter", "replies": [{"role": "assistant"}]}},
        "no column 'text' (columns seen: role)",
    ),
    "ultrafeedback: null score": ("ultrafeedback", {"score_chosen": None}, "score_chosen is null, not a number"),
    "ultrafeedback: no score": ("ultrafeedback", {"score_rejected": GONE}, "no column 'score_rejected'"),
    "ultrafeedback: a word as score": ("ultrafeedback", {"score_chosen": "9/10"}, "score_chosen is str '9/10', not"),
    "ultrafeedback: a text as turns": ("ultrafeedback", {"chosen": "hi"}, "one reply is a string, the other messages"),
    "ultrafeedback: null turn": ("ultrafeedback", {"chosen": [user("q1"), None]}, "chosen[1] is null, not a message"),
    "ultrafeedback: null content": (
        "ultrafeedback",
        {"chosen": [user("q1"), {"role": "assistant", "content": None}]},
        "chosen[1].content is null, not a string",
    ),
    "ultrafeedback: a number as role": (
        "ultrafeedback",
        {"chosen": [user("q1"), {"role": 1, "content": "x"}]},
        "chosen[1].role is int 1, not a string",
    ),
    "argilla: null rating": ("ultrafeedback-argilla", {"chosen-rating": None}, "chosen-rating is null, not a number"),
    "trl: a number as turns": ("ultrafeedback-trl", {"rejected": 3}, "rejected is int 3, not a string or messages"),
    "kto mix: null prompt": ("kto-mix", {"prompt": None}, "prompt is null, not a string"),
    "kto mix: a word as label": ("kto-mix", {"label": "yes"}, "label is str 'yes', not true or false"),
    "kto mix: null label": ("kto-mix", {"label": None}, "label is null, not true or false"),
    "kto mix: turns that are none": ("kto-mix", {"completion": [3]}, "completion[0] is int 3, not a message"),
    "kto mix: null completion": ("kto-mix", {"completion": None}, "completion is null, not a list of messages"),
    "capybara: a number as label": ("capybara-kto", {"label": 1}, "label is int 1, not true or false"),
    "orca: null question": ("orca-pairs", {"question": None}, "question is null, not a string"),
    "orca: a list as system": ("orca-pairs", {"system": []}, "system is list [], not a string"),
    "orca: null reply": ("orca-pairs", {"chosen": None}, "chosen is null, not a string or messages"),
    "argilla orca: null status": ("orca-pairs-argilla", {"status": None}, "status is null, not a string"),
    "argilla orca: in GSM8K or not": (
        "orca-pairs-argilla",
        {"in_gsm8k_train": 2},
        "in_gsm8k_train is int 2, not true or",
    ),
    "helpsteer: null rating": ("helpsteer2", {"helpfulness": None}, "helpfulness is null, not a number"),
    "helpsteer: a word as rating": ("helpsteer2", {"helpfulness": "good"}, "helpfulness is str 'good', not a number"),
    "helpsteer: off the scale": ("helpsteer2", {"helpfulness": 9}, "helpfulness is int 9, not from 0 to 4"),
    "helpsteer: below the scale": ("helpsteer2", {"helpfulness": -1}, "helpfulness is int -1, not from 0 to 4"),
    "helpsteer: null response": ("helpsteer2", {"response": None}, "response is null, not a string"),
    "helpsteer: a list as prompt": ("helpsteer2", {"prompt": []}, "prompt is list [], not a string"),
    "safety: null": ("pku-saferlhf", {"is_response_0_safe": None}, "is_response_0_safe is null, not true or false"),
    "safety: a number": ("pku-saferlhf", {"is_response_1_safe": 1}, "is_response_1_safe is int 1, not true or false"),
    "safety: a number as reply": ("pku-saferlhf", {"response_0": 0}, "response_0 is int 0, not a string"),
    "tulu: null turns": ("tulu-3", {"chosen": None}, "chosen is null, not a string or messages"),
    "tulu: tools": (
        "tulu-3",
        {"chosen": [user("q"), {**assistant("a"), "tool_calls": [{"id": "1"}]}]},
        "chosen[1] has tool_calls, which a message of a row cannot hold",
    ),
    "dahoas: null prompt, no turns": ("dahoas", {"prompt": None}, "the prompt is null, and nothing else says where it"),
    "reviewer: a number as prompt": ("reviewer2", {"prompt": 3}, "prompt is int 3, not a string or messages"),
    "pairs: one of two kinds": ("pairs", {"rejected": [assistant("b")]}, "one reply is a string, the other messages"),
    "scored: one score": ("scored-pairs", {"rejected_rating": None}, "rejected_rating is null, not a number"),
    "llama-factory: no such speaker": (
        "llama-factory-dpo",
        {"conversations": [{"from": "ghost", "value": "boo"}]},
        "conversations has a turn from str 'ghost'. Known: human",
    ),
    "llama-factory: null value": (
        "llama-factory-dpo",
        {"chosen": {"from": "gpt", "value": None}},
        "chosen[0].content is null, not a string",
    ),
    "llama-factory: turns that are none": (
        "llama-factory-kto",
        {"messages": "hi"},
        "messages is str 'hi', not a list of",
    ),
    "llama-factory: a word as label": (
        "llama-factory-kto",
        {"label": "good"},
        "label is str 'good', not true or false",
    ),
    **{
        f"llama-factory: a history of {value!r}": (
            "llama-factory-dpo",
            {"instruction": "q", "history": value, "conversations": GONE},
            f"history is {type(value).__name__} {value!r}, not a list of exchanges",
        )
        for value in NO_HISTORIES
    },
    "llama-factory: an exchange of one": (
        "llama-factory-kto",
        {"instruction": "q", "output": "a", "history": [["q"]], "messages": GONE},
        "history[0] is list ['q'], not two strings",
    ),
    "llama-factory: a number as input": (
        "llama-factory-kto",
        {"instruction": "q", "input": 3, "output": "a", "messages": GONE},
        "input is int 3, not a string",
    ),
    "axolotl: null completion": ("axolotl-kto", {"completion": None}, "completion is null, not a string or a list"),
    "axolotl: a number as system": ("axolotl-kto", {"system": 3}, "system is int 3, not a string"),
    "axolotl: a number as reply": ("axolotl-dpo", {"chosen_response": 3}, "chosen is int 3, not a string or messages"),
    "axolotl: no reply": ("axolotl-dpo", {"rejected_response": GONE}, "no column 'rejected_response'"),
    "halos: a label of two": ("halos-kto", {"label": 2}, "label is int 2, not 1 or 0"),
    "halos: an output of words": ("halos-kto", {"output": "good"}, "output is str 'good', not a list of messages"),
    "halos: no second output": ("halos-pairs", {"output_B": GONE}, "no column 'output_B'"),
    "rows: a null label": ("rows", {"label": None}, "label is null, not true or false"),
    "rows: two kinds": ("rows", {"completion": [assistant("a")]}, "prompt is text and completion is chat"),
    "rows: no such role": (
        "rows",
        {"prompt": [user("q")], "completion": [{"role": "alien", "content": "a"}]},
        "completion[0].role is str 'alien'. Known: system, ",
    ),
    "rows: the user's completion": (
        "rows",
        {"prompt": [user("q")], "completion": [user("a"), assistant("b")]},
        "completion[0] is a message of the 'user', not of the assistant",
    ),
    "rows: a tool has the last word": (
        "rows",
        {"prompt": [user("q")], "completion": [assistant("a"), {"role": "tool", "content": "b"}]},
        "the completion ends with the 'tool'",
    ),
    "rows: no such origin": ("rows", {"origin": "heaven"}, "origin is str 'heaven', not one of pair"),
}
UNUSABLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "hh: prompts differ": ("hh-rlhf", {"chosen": "\n\nHuman: x\n\nAssistant: y"}, "prompts differ"),
    "hh: both alike": ("hh-rlhf", {"chosen": SAMPLES["hh-rlhf"][0]["rejected"]}, "identical completions"),
    "hh: an empty reply": ("hh-rlhf", {"chosen": "\n\nHuman: q1\n\nAssistant: "}, "empty completion"),
    "hh: the human speaks last": (
        "hh-rlhf",
        {"chosen": "\n\nHuman: q1\n\nAssistant: a\n\nHuman: bye"},
        "ends with a human turn",
    ),
    "red team: an empty reply": ("hh-rlhf-red-team", {"transcript": "\n\nHuman: q\n\nAssistant: "}, "empty completion"),
    "red team: in between": ("hh-rlhf-red-team", {"rating": 2.5}, "middle rating"),
    "shp: a tie": ("shp", {"score_B": 30}, "tie"),
    "shp: both alike": ("shp", {"human_ref_A": "loses"}, "identical completions"),
    "shp: too close": ("shp", {"score_ratio": 1.9}, "ratio too small"),
    "oasst: a first reply": ("oasst", {"role": "assistant", "rank": 0}, "no prompt"),
    "ultrafeedback: the wrong way round": ("ultrafeedback", {"score_chosen": 1.0}, "rejected scored higher"),
    "ultrafeedback: another prompt": ("ultrafeedback", {"chosen": [user("x"), assistant("y")]}, "prompts differ"),
    "ultrafeedback: no reply": ("ultrafeedback", {"chosen": [user("q1"), assistant(" ")]}, "empty completion"),
    "tulu: a tool has the last word": (
        "tulu-3",
        {"chosen": [*SAMPLES["tulu-3"][0]["chosen"], {"role": "tool", "content": "42"}]},
        "the assistant has not the last word",
    ),
    "kto mix: the user speaks last": ("kto-mix", {"completion": [user("q1")]}, "no reply at the end"),
    "kto mix: no turns": ("kto-mix", {"completion": []}, "no reply at the end"),
    "kto mix: nothing asked": ("kto-mix", {"prompt": " ", "completion": [assistant("a")]}, "no prompt"),
    "kto mix: an empty reply": ("kto-mix", {"completion": [user("q1"), assistant("\n")]}, "empty completion"),
    "helpsteer: an empty reply": ("helpsteer2", {"response": ""}, "empty completion"),
    "safety: an empty reply": ("pku-saferlhf", {"response_0": ""}, "empty completion"),
    "llama-factory: no prompt": ("llama-factory-kto", {"messages": [assistant("a")]}, "no prompt"),
    "rows: an empty completion": ("rows", {"completion": "\t"}, "empty completion"),
}


def run(folder: Path, preset: str, records: list[dict[str, Any]], *options: str) -> tuple[int, str]:
    source = folder / "a.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    result = CliRunner().invoke(
        main, ["unpair", str(source), "--preset", preset, "-o", str(folder / "o.jsonl"), *options]
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), "a traceback"
    return result.exit_code, result.stderr


def no_json(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def raw(record: Any) -> Any:
    """A record of the quarantine file: one with NaN in it is no JSON, and kept as text."""
    return json.loads(record) if isinstance(record, str) and record.startswith("{") else record


def samples(preset: str) -> list[dict[str, Any]]:
    """Records of a family: those of its dataset, and those with whatever else a record of it may have."""
    return [*SAMPLES[preset], *VARIANTS.get(preset, [])]


@pytest.mark.parametrize("preset", SOURCES)
def test_there_is_a_record_of_every_set_of_columns(preset: str) -> None:
    for columns in SOURCES[preset].columns:
        assert any(set(columns) <= set(record) for record in samples(preset)), columns


@pytest.mark.parametrize("preset", sorted(VARIANTS.keys() - {"pku-saferlhf"}))  # by another axis
def test_the_variants_are_sound(preset: str, tmp_path: Path) -> None:
    code, told = run(tmp_path, preset, [*SAMPLES[preset], *VARIANTS[preset]], "--as", "chat", "--on-conflict", "keep")
    assert code == 0, told


def test_there_are_at_least_sixty_kinds_and_some_of_every_family() -> None:
    assert len(UNREADABLE) + len(UNUSABLE) >= 60
    assert {preset for preset, _, _ in UNREADABLE.values()} == set(SOURCES)


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unreadable_record_is_one_clear_line(tmp_path: Path, case: str) -> None:
    preset, change, message = UNREADABLE[case]
    bad = changed(preset, change)
    code, told = run(tmp_path, preset, [*SAMPLES[preset], bad])
    place = f"{tmp_path / 'a.jsonl'}:{len(SAMPLES[preset]) + 1}"
    assert code == 1
    assert told.startswith(f"error: {place}: {message}"), told
    assert told.count("\n") == 1
    assert not (tmp_path / "o.jsonl").exists()
    code, told = run(tmp_path, preset, [*SAMPLES[preset], bad], "--quarantine", str(tmp_path / "bad"))
    assert code == 0, told
    kept = [json.loads(line) for line in (tmp_path / "bad").read_text(encoding="utf-8").splitlines()]
    (found,) = [one for one in kept if one["reason"] == "unreadable"]
    assert (raw(found["record"]), found["where"], found["completions"]) == (bad, place, SOURCES[preset].completions)
    assert found["detail"].startswith(message.partition(". ")[0])


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_record_is_counted_and_kept(tmp_path: Path, case: str) -> None:
    preset, change, reason = UNUSABLE[case]
    bad = changed(preset, change)
    good = SAMPLES[preset][1:] if len(SAMPLES[preset]) > 1 and preset != "oasst" else SAMPLES[preset]
    code, told = run(tmp_path, preset, [*good, bad], "--quarantine", str(tmp_path / "bad"), "--on-conflict", "keep")
    assert code == 0, told
    kept = [json.loads(line) for line in (tmp_path / "bad").read_text(encoding="utf-8").splitlines()]
    assert bad in [one["record"] for one in kept if one["reason"] == reason]
    assert f" {reason}" in told


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["\n\nAssistant: x", "true", "0", "prompter", "assistant", "system", "m1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "text", "replies", "rank", "tool_calls"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("preset", sorted(SOURCES))
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_in_a_record_it_is_read_or_refused(preset: str, data: st.DataObject) -> None:
    source, records = SOURCES[preset], []
    for sample in samples(preset):
        columns = data.draw(st.sets(st.sampled_from(sorted(sample)), max_size=3))
        records.append({**sample, **{name: data.draw(VALUES) for name in columns}})
    pieces: dict[str, list[Any]] = {}
    found: list[Any] = []
    for record in records:
        with contextlib.suppress(RowError):
            read = list(source.read(record, "here"))
            found += [one for one in read if not isinstance(one, Piece)]
            for piece in [one for one in read if isinstance(one, Piece)]:
                pieces.setdefault(piece.key, []).append(piece.value)
    for family in pieces.values():
        assert source.join is not None
        joined = list(source.join(family))
        assert all(0 <= place < len(family) for place, _ in joined)
        found += [one for _, one in joined]
    for one in found:
        assert isinstance(one, Skip | Example)
        if isinstance(one, Example):
            assert isinstance(one.label, bool)
            assert plain(one.completion).strip()
            assert kind_of(one.prompt) == kind_of(one.completion)
            for text in (one.prompt, one.completion):
                parse_text(text, name="text", where="here")
    with contextlib.suppress(SourceError):
        detect(records[0], where="here")


@pytest.mark.parametrize("preset", sorted(SOURCES))
@settings(
    max_examples=4, suppress_health_check=list(HealthCheck), deadline=None, phases=[Phase.explicit, Phase.generate]
)
@given(data=st.data())
def test_whatever_is_in_a_file_it_is_written_or_set_aside_as_it_was(
    preset: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("any")
    records: list[dict[str, Any]] = []
    for sample in [*samples(preset), *samples(preset)]:
        columns = data.draw(st.sets(st.sampled_from(sorted(sample)), max_size=3))
        changes = {name: data.draw(VALUES | st.just(GONE)) for name in columns}
        records.append({name: value for name, value in {**sample, **changes}.items() if value is not GONE})
    code, told = run(folder, preset, records, "--quarantine", str(folder / "bad"))
    written = folder / "o.jsonl"
    assert code in (0, 1)
    assert written.exists() == (code == 0)
    assert code == 0 or (told.startswith("error: ") and told.count("\n") == 1), told
    if not (folder / "bad").exists():
        assert code == 1
        return
    # Lines end in "\n" alone: `splitlines` would also cut at other characters, which JSON does not escape.
    kept = [json.loads(line, parse_constant=no_json) for line in (folder / "bad").read_bytes().split(b"\n") if line]
    for one in kept:
        line = int(one["where"].rpartition(":")[2])
        assert one["reason"]
        # What is refused as a row (contradictions, duplicates, another kind than the file's first) is kept as one.
        if one["reason"] not in ("both labels", "duplicate") and " among " not in one["detail"]:
            assert json.dumps(raw(one["record"])) == json.dumps(records[line - 1])
    if code == 0:
        completions = re.search(r"\((\d+) completions", told)
        assert completions
        rows = written.read_bytes().count(b"\n")
        assert int(completions[1]) == rows + sum(one["completions"] for one in kept)


def test_the_quarantine_file_is_json_and_has_records_as_they_stand_in_theirs(tmp_path: Path) -> None:
    bad = [
        '{"prompt": "q", "chosen": 1.10,   "rejected": "ü\u2028 \\u00fc 🎉"}',
        '{"prompt": "q", "chosen": 1e400, "rejected": "r"}',
        '{"prompt": "q", "chosen": NaN, "rejected": "r"}',
        '{"prompt": "q", "chosen": 3, "rejected": "r", "chosen": 4}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(['{"prompt": "p", "chosen": "a", "rejected": "b"}', *bad]), "utf-8")
    (tmp_path / "a.json").write_text(
        '[{"prompt": "p", "chosen": "a", "rejected": "b"},' + ",\n".join(bad) + "]", "utf-8"
    )
    for name in ("a.jsonl", "a.json"):
        kept = tmp_path / f"bad of {name}"
        arguments = ["unpair", str(tmp_path / name), "-o", str(tmp_path / "o.jsonl"), "--quarantine", str(kept)]
        assert CliRunner().invoke(main, arguments).exit_code == 0
        lines = kept.read_text("ascii").splitlines()
        records = [json.loads(line, parse_constant=no_json)["record"] for line in lines]
        assert records == [json.loads(bad[0]), *bad[1:]]
        assert '{"prompt": "q", "chosen": 1.10,   "rejected": "\\u00fc\\u2028 \\u00fc \\ud83c\\udf89"}' in lines[0]


def test_what_json_does_not_have_is_text_in_the_quarantine_file(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {"prompt": ["p", "q"], "completion": ["c", None], "label": [True, False], "n": [1.0, math.nan]}
    more = {"m": [[{"a": math.inf}]] * 2, "t": [datetime.date(2024, 1, 1)] * 2}
    pyarrow.parquet.write_table(pyarrow.table(columns | more), tmp_path / "a.parquet")
    arguments = [
        "unpair",
        str(tmp_path / "a.parquet"),
        "-o",
        str(tmp_path / "o"),
        "--quarantine",
        str(tmp_path / "bad"),
    ]
    arguments[3] += ".jsonl"
    assert CliRunner().invoke(main, arguments).exit_code == 0
    (line,) = (tmp_path / "bad").read_text("ascii").splitlines()
    record = json.loads(line, parse_constant=no_json)["record"]
    assert (record["n"], record["m"], record["t"]) == ("NaN", [{"a": "Infinity"}], "2024-01-01")


def test_the_quarantine_file_has_numbers_of_any_size_as_they_were(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    bad = [{**pair, "chosen": 2**70}, {"prompt": "q", "chosen": "", "rejected": "c", "n": -(2**63) - 1}]
    code, told = run(tmp_path, "pairs", [pair, *bad], "--quarantine", str(tmp_path / "bad"))
    assert code == 0, told
    kept = [json.loads(line)["record"] for line in (tmp_path / "bad").read_text(encoding="utf-8").splitlines()]
    assert kept == bad
