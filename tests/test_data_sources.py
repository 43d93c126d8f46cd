"""From a record to examples: hh-rlhf, any pairs, LLaMA-Factory's files, rows."""

import gzip
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import SAMPLES
from hypothesis import given
from hypothesis import strategies as st

from ktodata.errors import RowError, SourceError, UsageError
from ktodata.schema import Message, make_row, parse_row, to_record
from ktodata.sources import SOURCES, Example, Skip, detect, get_source
from ktodata.sources.contract import Piece
from ktodata.sources.transcript import ASSISTANT, HUMAN, asks_nothing, convert
from ktodata.unpair import unpair

SHARED = Path(__file__).parents[2] / "shared"
ASKED = f"{HUMAN} hi{ASSISTANT} yes?{HUMAN} bye{ASSISTANT}"


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def read(record: dict[str, Any]) -> list[tuple[Any, Any, bool] | tuple[str, int]]:
    """Read a record by the source that detection finds, in short form."""
    found = detect(record, where="here").read(record, "here")
    return [
        (one.prompt, one.completion, one.label) if isinstance(one, Example) else (one.reason, one.completions)
        for one in found
    ]


def pair(chosen: Any, rejected: Any, **more: Any) -> dict[str, Any]:
    return {**more, "chosen": chosen, "rejected": rejected}


def test_transcripts_are_cut_after_the_last_marker_and_nothing_else() -> None:
    assert read(pair(f"{ASKED} Good day.\n", f"{ASKED}  Go")) == [(ASKED, " Good day.\n", True), (ASKED, "  Go", False)]
    common = f"{ASKED} I think that's"  # the longest common prefix would end inside the reply
    assert read(pair(f"{common} fine", f"{common} fair"))[0] == (ASKED, " I think that's fine", True)


def test_pairs_that_cannot_be_used_are_skipped_with_a_reason() -> None:
    assert read(pair(f"{ASKED} a", f"{HUMAN} other{ASSISTANT} b")) == [("prompts differ", 2)]
    assert read(pair(f"{ASKED} a", f"{ASKED} a")) == [("identical completions", 2)]
    assert read(pair(f"{ASKED} ", f"{ASKED} b")) == [("empty completion", 1), (ASKED, " b", False)]
    assert read(pair(f"{ASKED} ", f"{ASKED} ")) == [("empty completion", 1)] * 2
    assert read(pair(f"{ASKED} ", f"{HUMAN} other{ASSISTANT} b")) == [("prompts differ", 2)]
    assert read(pair(f"{ASKED} a{HUMAN} b", f"{ASKED} c")) == [("ends with a human turn", 1), (ASKED, " c", False)]


def test_plain_strings_beside_a_prompt_stay_whole() -> None:
    assert read(pair("Hi there", "Hi!", prompt="Hi")) == [("Hi", "Hi there", True), ("Hi", "Hi!", False)]
    assert read(pair(f"{ASKED} a", f"{ASKED} b", prompt=ASKED)) == [(ASKED, " a", True), (ASKED, " b", False)]
    assert read(pair(f"{ASKED} a", f"{ASKED} b", prompt=None)) == [(ASKED, " a", True), (ASKED, " b", False)]
    assert read(pair(f"{ASKED} a", f"{ASKED} b", prompt="")) == [(ASKED, " a", True), (ASKED, " b", False)]
    chat = [user("q")]
    assert read(pair("a", "b", prompt=chat)) == [(chat, [assistant("a")], True), (chat, [assistant("b")], False)]


def test_plain_strings_of_which_nothing_tells_the_prompt_are_an_error() -> None:
    with pytest.raises(RowError, match=r"here: nothing says where the prompt ends \(columns seen: chosen, rejected\)"):
        read(pair("Once upon a time there was", "Once upon a time I"))
    with pytest.raises(RowError, match="here: the prompt is null, and nothing else says where it ends"):
        read(pair("Once upon", "a time", prompt=None))
    with pytest.raises(RowError, match="rejected has no"):
        read(pair(f"{ASKED} a", "no marker", prompt=None))


def test_the_common_leading_turns_of_messages_are_the_prompt() -> None:
    lead = [{"role": "system", "content": "s"}, user("q"), assistant("a"), user("q2")]
    expected = [(lead, [assistant("good")], True), (lead, [assistant("bad")], False)]
    turns = pair([*lead, assistant("good")], [*lead, assistant("bad")])
    assert read(turns) == expected
    assert read({**turns, "prompt": "q"}) == expected
    assert read({**turns, "prompt": lead}) == expected
    assert read(pair([assistant("good")], [assistant("bad")], prompt=lead)) == expected
    assert read(pair(assistant("good"), assistant("bad"), prompt=lead)) == expected
    assert read(pair([assistant("a")], [assistant("b")], prompt="q"))[0] == ([user("q")], [assistant("a")], True)


def test_messages_that_cannot_be_used() -> None:
    assert read(pair([user("q"), assistant("a")], [user("r"), assistant("b")])) == [("prompts differ", 2)]
    multi = [user("q"), assistant("a"), user("r"), assistant("b")]
    assert read(pair(multi, [user("q"), assistant("c"), user("r"), assistant("d")])) == [("prompts differ", 2)]
    assert read(pair(multi, multi)) == [("identical completions", 2)]
    assert read(pair([assistant("a")], [assistant("b")])) == [("no prompt", 2)]
    assert read(pair([user("q"), assistant(" ")], [user("q"), assistant("b")]))[0] == ("empty completion", 1)


def test_a_prompt_beside_messages_is_one_of_their_turns_or_their_first() -> None:
    system: Message = {"role": "system", "content": "Be kind"}
    whole = [system, user("q")]
    expected = [(whole, [assistant("4")], True), (whole, [assistant("5")], False)]
    assert read(pair([system, assistant("4")], [system, assistant("5")], prompt="q")) == expected
    assert read(pair([*whole, assistant("4")], [*whole, assistant("5")], prompt=" q\n")) == expected
    assert read(pair([*whole, assistant("4")], [*whole, assistant("5")], prompt="<|user|>q</s>")) == expected
    for nothing in (None, "", " \n"):
        assert read(pair([*whole, assistant("4")], [*whole, assistant("5")], prompt=nothing)) == expected
    for other in ("X", "what is it?"):
        assert read(pair([*whole, assistant("4")], [*whole, assistant("5")], prompt=other)) == [("prompts differ", 2)]
    empty = [user(""), assistant("a")]
    assert read(pair(empty, [user(""), assistant("b")], prompt="X")) == [("prompts differ", 2)]


def test_a_prompt_beside_a_labelled_conversation_is_one_of_its_turns() -> None:
    def row(prompt: str, *turns: Message) -> Any:
        (found,) = read({"prompt": prompt, "completion": [*turns, assistant("a")], "label": True})
        return found

    assert row("q", user("q")) == ([user("q")], [assistant("a")], True)
    assert row("Be kind.\n\nq?", user("q?")) == ([user("q?")], [assistant("a")], True), (
        "the prompt as a template has it"
    )
    assert row("completely different", user("")) == ("prompts differ", 1)
    assert row("completely different", user(" "), assistant("b"), user("q")) == ("prompts differ", 1)
    assert row("", user("")) == ("no prompt", 1)
    assert row("q") == ([user("q")], [assistant("a")], True)


SYSTEM: Message = {"role": "system", "content": "Be kind"}
NO_WORDS: dict[str, tuple[dict[str, Any], int]] = {
    "text": (pair("a", "b", prompt=""), 2),
    "blank text": (pair("a", "b", prompt=" \n"), 2),
    "a transcript": (pair(f"{HUMAN} {ASSISTANT} a", f"{HUMAN} {ASSISTANT} b"), 2),
    "a transcript with a system prompt": (pair(f"Hi.{HUMAN}{ASSISTANT} a", f"Hi.{HUMAN}{ASSISTANT} b"), 2),
    "replies as messages": (pair([assistant("a")], [assistant("b")], prompt=""), 2),
    "an empty turn": (pair([user(""), assistant("a")], [user(""), assistant("b")]), 2),
    "an empty turn after a system prompt": (
        pair([SYSTEM, user(" "), assistant("a")], [SYSTEM, user(" "), assistant("b")]),
        2,
    ),
    "turns": (pair("a", "b", prompt=[user(""), assistant(" "), user("")]), 2),
    "orca": (pair("a", "b", system="", question=""), 2),
    "orca with a system prompt": (pair("a", "b", system="Be kind", question=" "), 2),
    "shp": ({**SAMPLES["shp"][0], "history": ""}, 2),
    "ultrafeedback": (
        pair([user(""), assistant("a")], [user(""), assistant("b")], prompt="", score_chosen=2, score_rejected=1),
        2,
    ),
    "safety": ({**SAMPLES["pku-saferlhf"][0], "prompt": " "}, 1),
    "helpsteer": ({**SAMPLES["helpsteer2"][0], "prompt": ""}, 1),
    "red team": ({"transcript": f"{HUMAN} {ASSISTANT} a", "rating": 0}, 1),
    "kto mix": ({"prompt": "", "completion": [user(""), assistant("a")], "label": True}, 1),
    "halos": ({"prompt": [user("")], "output": [assistant("a")], "label": 1, "type": "binary_feedback"}, 1),
    "conversations": ({"messages": [user(""), assistant("a")], "label": True}, 1),
    "alpaca": ({"instruction": "", "input": "", "output": "a", "kto_tag": True}, 1),
    "axolotl": ({"system": "Be kind", "prompt": "", "completion": "a", "label": True}, 1),
    "rows": ({"prompt": "", "completion": "a", "label": True}, 1),
    "rows of chats": ({"prompt": [user("\t")], "completion": [assistant("a")], "label": True}, 1),
    "rows without turns": ({"prompt": [], "completion": [assistant("a")], "label": True}, 1),
}


@pytest.mark.parametrize("case", NO_WORDS)
def test_a_prompt_without_words_is_none(case: str) -> None:
    record, completions = NO_WORDS[case]
    layout = detect(record, where="")
    found = [one.value.found if isinstance(one, Piece) else [one] for one in layout.read(record, "")]
    skips = [(one.reason, one.completions) for some in found for one in some]
    assert skips == [("no prompt", completions)] * (2 if layout.completions == 2 and completions == 1 else 1)


def test_a_tree_that_begins_with_nothing() -> None:
    root = {"text": " ", "role": "prompter", "replies": []}
    replies = [{"text": text, "role": "assistant", "rank": rank, "replies": []} for rank, text in enumerate("ab")]
    assert read({"prompt": {**root, "replies": replies}}) == [("no prompt", 1)] * 2


def test_what_asks_nothing_is_all_white_space_but_for_a_system_prompt_beside_turns() -> None:
    for pieces in itertools.product(("", " ", "\n", HUMAN, ASSISTANT, "x"), repeat=4):
        prompt = "".join(pieces)
        _, *turns = re.split("\n\n(?:Human|Assistant):", prompt)
        if not prompt.endswith(ASSISTANT) or len(turns) == 1:
            turns = [prompt.removesuffix(ASSISTANT)]
        assert asks_nothing(prompt) == (not "".join(turns).strip()), prompt
    for roles in itertools.product(("system", "developer", "user", "assistant"), repeat=3):
        for contents in itertools.product(("", " \n", "x"), repeat=3):
            chat: list[Message] = [{"role": a, "content": b} for a, b in zip(roles, contents, strict=True)]
            said = [turn for turn in chat if turn["role"] in ("user", "assistant")] or chat
            assert asks_nothing(chat) == (not any(turn["content"].strip() for turn in said)), chat
    assert asks_nothing("")
    assert asks_nothing([])


def test_a_prompt_of_few_words_is_one() -> None:
    for prompt in ("?", f"Once upon a time{ASSISTANT}", f"{HUMAN} {ASSISTANT} Hello!{HUMAN} {ASSISTANT}", "\n\nHuman:"):
        assert [one[2] for one in read(pair("a", "b", prompt=prompt)) if len(one) == 3] == [True, False]
        rows = [convert(prompt, "a", "chat", where=""), (prompt, "a")]
        for asked, reply in rows:
            assert read({"prompt": asked, "completion": reply, "label": True}) == [(asked, reply, True)]
    assert read(pair("a", "b", prompt=[SYSTEM]))[0] == ([SYSTEM], [assistant("a")], True), "the assistant may begin"


def conversation(reply: str) -> list[Message]:
    return [user('it\'s\na "q" é'), assistant(reply)]


def printed(turns: Any) -> str:
    """As pandas writes the arrays of parquet into csv: without commas between messages."""
    return "[" + "\n ".join(map(repr, turns)) + "]"


CHATS: dict[str, tuple[dict[str, Any], str]] = {
    "ultrafeedback": (
        pair(conversation("a"), conversation("b"), prompt='it\'s\na "q" é', score_chosen=2, score_rejected=1),
        "ultrafeedback",
    ),
    "scored pairs": (pair(conversation("a"), conversation("b"), chosen_rating=2, rejected_rating=1), "scored-pairs"),
    "pairs": (pair(conversation("a"), conversation("b")), "pairs"),
    "pairs with a prompt of messages": (
        pair(conversation("a")[1:], conversation("b")[1:], prompt=[user("q")]),
        "pairs",
    ),
    "single messages": (pair(assistant("a"), assistant("b"), conversations=[user("q")]), "llama-factory-dpo"),
    "a conversation": ({"messages": conversation("a"), "label": True}, "llama-factory-kto"),
    "kto mix": ({"prompt": 'it\'s\na "q" é', "completion": conversation("a"), "label": True}, "kto-mix"),
    "rows": ({"prompt": [user("q")], "completion": [assistant("a")], "label": False}, "rows"),
    "halos": ({"prompt": [user("q")], "output": [assistant("a")], "label": 1, "type": "binary_feedback"}, "halos-kto"),
}


def with_text(record: dict[str, Any], write: Callable[[Any], str]) -> dict[str, Any]:
    return {name: write(value) if isinstance(value, list | dict) else value for name, value in record.items()}


@pytest.mark.parametrize("case", CHATS)
def test_messages_as_text_are_read_if_they_are_json_and_refused_if_python_printed_them(case: str) -> None:
    record, preset = CHATS[case]
    assert detect(record, where="").name == preset
    for ascii_only in (True, False):
        text = with_text(record, lambda value, kept=ascii_only: json.dumps(value, ensure_ascii=kept))
        assert detect(text, where="").name == preset
        assert read(text) == read(record)
    for write in (repr, lambda value: printed(value) if isinstance(value, list) else repr(value)):
        with pytest.raises(RowError, match="is messages as Python prints them, in text") as caught:
            read(with_text(record, write))
        assert "Write the file as JSON lines or parquet" in caught.value.do


REPLY = json.dumps([user("q"), assistant("a")])


def test_text_that_merely_looks_like_messages_stays_text() -> None:
    """A reply may be JSON itself: of a pair both are messages, or none; and a row's `id` tells."""
    printed = str([user("q"), assistant("a")])
    for text in (REPLY, printed, '[{"role": "user", "content": "\\ud800"}]'):
        if text != printed:  # nobody can tell what it answers
            assert read(pair(text, "b", prompt="p")) == [("p", text, True), ("p", "b", False)]
            assert read(pair("a", text, prompt="p"))[1] == ("p", text, False)
        for prompt, completion in (("p", text), (text, "c"), (text, text)):
            row = to_record(make_row(prompt, completion, True, source="s", origin="pair"))
            assert detect(row, where="").name == "rows"
            assert read(row) == [(prompt, completion, True)]
            assert parse_row(row, where="", source="").prompt == prompt
            with pytest.raises(RowError):
                parse_row({**row, "id": "another's"}, where="", source="")
    for text in (
        "[]",
        "{}",
        "[1]",
        '[{"role": "user"}]',
        f"{REPLY}.",
        f"See {REPLY}",
        "[{'a': 1}]",
        '{"a": {"role": 1}}',
        "[",
        '{"role": "user", "content": "q"}',
    ):
        assert read({"prompt": "p", "completion": text, "label": True}) == [("p", text, True)]
        assert read(pair(text, "b", prompt="p"))[0] == ("p", text, True)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_pandas_writes_of_messages(tmp_path: Path, suffix: str) -> None:
    import pandas

    frame = pandas.DataFrame(
        [
            pair(
                conversation(f"a{n}"),
                conversation(f"b{n}"),
                prompt='it\'s\na "q" é',
                score_chosen=2.0,
                score_rejected=1.0,
            )
            for n in range(3)
        ]
    )
    path = tmp_path / f"a{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
        with pytest.raises(RowError, match=r"a\.csv:\d+: chosen is messages as Python prints them"):
            unpair(str(path))
    for name in ("chosen", "rejected"):
        frame[name] = frame[name].map(json.dumps)
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    made = unpair(str(path))
    assert made.layout.name == "ultrafeedback"
    assert {(row.prompt[0]["content"], row.completion[0]["content"]) for row in made.rows} == {  # type: ignore[index]
        (conversation("")[0]["content"], f"{letter}{n}") for letter in "ab" for n in range(3)
    }


@pytest.mark.parametrize("column", ["tools", "images", "videos", "audios"])
@pytest.mark.parametrize(
    "record",
    [
        pair("a", "b", prompt="p"),
        pair("a", "b", instruction="p"),
        pair("a", "b", question="p", system=""),
        pair(assistant("a"), assistant("b"), conversations=[user("q")]),
        {"messages": [user("q"), assistant("a")], "label": True},
        {"instruction": "q", "output": "a", "kto_tag": True},
        {"instruction": "q", "completion": "a", "label": True},
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": "q", "completion": [user("q"), assistant("a")], "label": True},
        SAMPLES["halos-kto"][0],
        SAMPLES["halos-pairs"][0],
    ],
    ids=lambda record: "-".join(record),
)
def test_a_part_of_the_prompt_that_would_be_lost_is_an_error(column: str, record: dict[str, Any]) -> None:
    for value in (
        '[{"name": "search"}]',
        ["a.png"],
        [{"bytes": b"", "path": None}],
        "a.png",
        "[None]",
        "[" * 5000,
        "[" * 5000 + "]" * 5000,
    ):
        with pytest.raises(RowError, match=f"here: {column} is .*, a part of the prompt that a row cannot hold"):
            read({**record, column: value})
    spelled = ("", "[]", "None", "nan", "<NA>", "NaN", "null", "{}", "[ ]", "{ }\n", " ", '""')
    for nothing in (None, [], float("nan"), *spelled):
        assert read({**record, column: nothing}) == read(record)


def test_the_input_of_an_instruction_is_part_of_the_prompt() -> None:
    row = {"instruction": "do", "input": "it", "completion": "a", "label": True}
    assert read(row) == [("do\nit", "a", True)]
    assert read({**row, "system": "s"}) == [
        ([{"role": "system", "content": "s"}, user("do\nit")], [assistant("a")], True)
    ]
    replies = {"chosen_response": "a", "rejected_response": "b"}
    both = [("do\nit", "a", True), ("do\nit", "b", False)]
    assert read({"instruction": "do", "input": "it", **replies}) == both
    named = SOURCES["axolotl-dpo"].read(pair("a", "b", instruction="do", input="it"), "")
    assert [(one.prompt, one.completion, one.label) for one in named] == both  # type: ignore[union-attr]
    for none in (None, "", " \n", float("nan")):
        assert read({**row, "input": none}) == [("do", "a", True)]
        assert read({"instruction": "do", "input": none, **replies})[0] == ("do", "a", True)
        assert read({**row, "instruction": none}) == [("it", "a", True)]
        assert read({"instruction": none, "input": "it", **replies})[0] == ("it", "a", True)
        assert read({**row, "instruction": none, "input": none}) == [("no prompt", 1)]
        for more in ({"output": "a", "kto_tag": True}, pair("a", "b")):
            assert read({"instruction": none, "input": "it", **more})[0] == ([user("it")], [assistant("a")], True)
    with pytest.raises(RowError, match="input is int 3, not a string"):
        read({**row, "input": 3})
    with pytest.raises(RowError, match="instruction is int 0, not a string"):
        read({**row, "instruction": 0})
    chat = [user("do")]
    for none in (None, "", " ", float("nan")):
        assert read({**row, "instruction": chat, "input": none, "completion": [assistant("a")]}) == [
            (chat, [assistant("a")], True)
        ]


def test_messages_with_the_keys_of_both_forms_and_one_of_them_null() -> None:
    """Parquet gives all messages of a file the keys that any of them has."""
    sharegpt = {"role": None, "content": None}
    openai = {"from": None, "value": None}
    turns = [{**openai, **user("q")}, {**sharegpt, "from": "gpt", "value": "a"}]
    assert read({"conversations": turns, "label": True}) == [([user("q")], [assistant("a")], True)]
    with pytest.raises(RowError, match="conversations has a turn from null"):
        read({"conversations": [{"from": None, "value": "q"}], "label": True})
    with pytest.raises(RowError, match="conversations has a turn from null"):
        read({"conversations": [{**openai, **sharegpt}], "label": True})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (pair(5, "b", prompt="p"), "chosen is int 5, not a string or messages"),
        (pair("a", None, prompt="p"), "rejected is null"),
        (pair("a", [assistant("b")], prompt="p"), "one reply is a string, the other messages"),
        (pair("a", "b", prompt=3), "prompt is int 3"),
        (pair([{"role": "user", "content": None}], [user("q")]), r"chosen\[0\].content is null"),
        (pair([{"from": "ghost", "value": "x"}], [user("q")]), "chosen has a turn from str 'ghost'"),
        (pair([{"from": ["gpt"], "value": "x"}], [user("q")]), r"chosen has a turn from list \['gpt'\]"),
        (pair([{**user("q"), "tool_calls": [{"id": 1}]}], [user("q")]), r"chosen\[0\] has tool_calls"),
        ({"messages": [user("q"), assistant("a")], "label": "true"}, "label is str 'true', not true or false"),
        ({"messages": [user("q"), assistant("a")], "label": 1}, "label is int 1, not true or false"),
        ({"instruction": 3, "output": "x", "kto_tag": True}, "instruction is int 3"),
        ({"instruction": "a", "output": "x", "kto_tag": True, "history": ["x"]}, r"history\[0\] is str 'x'"),
        ({"prompt": "p", "completion": None, "label": True}, "completion is null"),
    ],
)
def test_what_cannot_be_read_says_so(record: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message) as caught:
        read(record)
    assert caught.value.where == "here"


def test_other_keys_of_messages_are_let_go_where_they_are_empty_or_say_nothing() -> None:
    reply = {**assistant("a"), "tool_calls": None, "name": "bot"}
    assert read(pair([user("q"), reply], [user("q"), assistant("b")]))[0] == ([user("q")], [assistant("a")], True)


def test_llama_factory_preference_files() -> None:
    turns = [{"from": "human", "value": "q"}]
    record = pair({"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"}, conversations=turns, system="s")
    lead = [{"role": "system", "content": "s"}, user("q")]
    assert read(record) == [(lead, [assistant("a")], True), (lead, [assistant("b")], False)]
    alpaca = pair("a", "b", instruction="do", input="it", history=[["x", "y"]])
    assert read(alpaca)[1] == ([user("x"), assistant("y"), user("do\nit")], [assistant("b")], False)


def test_llama_factory_kto_files() -> None:
    assert read({"messages": [user("q"), assistant("a")], "label": False}) == [([user("q")], [assistant("a")], False)]
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert read({"conversations": turns, "label": True}) == [([user("q")], [assistant("a")], True)]
    assert read({"instruction": "q", "input": "", "output": "a", "kto_tag": True})[0][0] == [user("q")]
    assert read({"conversations": turns, "kto_tag": False}) == [([user("q")], [assistant("a")], False)]
    assert read({"messages": [user("q"), assistant("a")], "kto_tag": True})[0][2] is True
    assert read({"messages": [user("q")], "label": True}) == [("no reply at the end", 1)]
    assert read({"messages": [assistant("q")], "label": True}) == [("no prompt", 1)]
    assert read({"messages": [user("q"), assistant("")], "label": True}) == [("empty completion", 1)]
    assert read({"messages": [], "label": True}) == [("no reply at the end", 1)]


def test_detection_takes_the_layout_with_the_most_columns() -> None:
    names = {
        "hh-rlhf": pair(f"{ASKED} a", f"{ASKED} b"),
        "pairs": pair("a", "b", prompt="p", score=1),
        "llama-factory-dpo": pair({}, {}, conversations=[]),
        "llama-factory-kto": {"messages": [], "label": True},
        "rows": {"prompt": "p", "completion": "c", "label": True, "id": "x"},
    }
    assert {name: detect(record, where="").name for name, record in names.items()} == {name: name for name in names}


def test_an_unknown_layout_names_what_it_saw_and_what_could_be_read() -> None:
    with pytest.raises(SourceError, match=r"columns text, verdict: no layout.*prompt \+ completion \+ label"):
        detect({"text": "", "verdict": 3}, where="a.jsonl:1")
    with pytest.raises(UsageError, match=r"no preset 'hh-rhlf'\. Did you mean 'hh-rlhf'"):
        get_source("hh-rhlf")
    assert {source.name for source in SOURCES.values()} == set(SOURCES)


def test_roles_that_do_not_alternate_stay_as_they_are() -> None:
    text = f"{HUMAN} a{ASSISTANT} b{ASSISTANT} c{HUMAN} d{HUMAN} e{ASSISTANT}"
    prompt, completion = convert(text, "  f \n", "chat", where="")
    assert prompt == [user("a"), assistant("b"), assistant("c"), user("d"), user("e")]
    assert completion == [assistant(" f \n")]
    assert convert(prompt, completion, "text", where="") == (text, "  f \n")


def test_text_without_markers_is_one_turn_each_way() -> None:
    assert convert(" p ", " c", "chat", where="") == ([user(" p ")], [assistant(" c")])


def test_what_came_before_the_first_turn_is_a_system_turn() -> None:
    lead: list[Message] = [{"role": "system", "content": "Be kind."}, user("q")]
    text = f"Be kind.{HUMAN} q{ASSISTANT}"
    assert convert(text, " a", "chat", where="") == (lead, [assistant("a")])
    assert convert(lead, [assistant("a")], "text", where="") == (text, " a")
    with pytest.raises(RowError, match="a turn of role 'tool' has no place in a plain transcript"):
        convert([{"role": "tool", "content": "x"}], [assistant("a")], "text", where="here")


CONTENT = st.text(alphabet=st.sampled_from("ab \n:Hé")).filter(lambda text: "\n\nHuman:" not in text)
TURNS = st.lists(
    st.builds(lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "assistant"]), CONTENT)
)


@given(TURNS, CONTENT)
def test_chat_to_text_and_back_is_the_same_chat(turns: list[Message], reply: str) -> None:
    prompt, completion = convert(turns, [assistant(reply)], "text", where="")
    assert isinstance(prompt, str)
    assert prompt.endswith(ASSISTANT)
    assert convert(prompt, completion, "chat", where="") == (turns, [assistant(reply)])


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside this repository")
def test_the_reference_transcripts_as_chat() -> None:
    folder = SHARED / "golden"
    texts = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    chats = [json.loads(line) for line in (folder / "chat_rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(texts) == len(chats) > 0
    for text, chat in zip(texts, chats, strict=True):
        made = convert(text["prompt"], text["completion"], "chat", where="")
        assert made == (chat["prompt"], chat["completion"])
        assert convert(*made, "text", where="") == (text["prompt"], text["completion"])


def test_a_skip_says_which() -> None:
    record = pair(f"{ASKED} a", f"{ASKED} ")
    found = [one for one in SOURCES["hh-rlhf"].read(record, "") if isinstance(one, Skip)]
    assert [one.which for one in found] == ["rejected"]


@pytest.mark.parametrize("none", [None, "", " ", float("nan"), []])
def test_columns_of_alpaca_that_say_nothing(none: object) -> None:
    record = {"instruction": "q", "output": "a", "kto_tag": True, "history": none, "input": none or None}
    assert read(record) == [([user("q")], [assistant("a")], True)]


@pytest.mark.parametrize("preset", ["", "hh-rlhf-red-team"])
def test_the_red_team_file_is_an_array_whatever_its_name_says(tmp_path: Path, preset: str) -> None:
    path = tmp_path / "red_team_attempts.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(SAMPLES["hh-rlhf-red-team"]).encode()))
    found = unpair(str(path), preset=preset)
    assert (found.layout.name, found.read, len(found.rows)) == ("hh-rlhf-red-team", 5, 4)
