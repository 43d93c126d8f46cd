"""From a record to examples: hh-rlhf, any pairs, LLaMA-Factory's files, rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from families import SAMPLES
from hypothesis import given
from hypothesis import strategies as st

from ktodata.errors import RowError, SourceError, UsageError
from ktodata.schema import Message
from ktodata.sources import SOURCES, Example, Skip, detect, get_source
from ktodata.sources.transcript import ASSISTANT, HUMAN, convert
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


@pytest.mark.parametrize("none", [None, "", float("nan"), []])
def test_columns_of_alpaca_that_say_nothing(none: object) -> None:
    record = {"instruction": "q", "output": "a", "kto_tag": True, "history": none, "input": none or None}
    assert read(record) == [([user("q")], [assistant("a")], True)]


@pytest.mark.parametrize("preset", ["", "hh-rlhf-red-team"])
def test_the_red_team_file_is_an_array_whatever_its_name_says(tmp_path: Path, preset: str) -> None:
    path = tmp_path / "red_team_attempts.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(SAMPLES["hh-rlhf-red-team"]).encode()))
    found = unpair(str(path), preset=preset)
    assert (found.layout.name, found.read, len(found.rows)) == ("hh-rlhf-red-team", 5, 4)
