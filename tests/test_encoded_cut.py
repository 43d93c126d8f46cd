"""Messages that stand in a column as text and are cut off, as spreadsheets cut a cell at 32,767 characters."""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from ktodata.errors import RowError
from ktodata.schema import make_row, parse_row, to_record
from ktodata.sources import Example
from ktodata.sources.pairs import read_pair

ASKED = [{"role": "user", "content": "q"}]
ANSWER = [{"role": "assistant", "content": "a"}]
SAID = '{"role": "assistant", "content": "ok"}'
RATES = [{"from": "EUR", "to": "USD", "value": 1.08}]


def read(prompt: Any, chosen: Any, rejected: Any) -> list[Any]:
    return list(read_pair(prompt, {"chosen": chosen, "rejected": rejected}, "a:1"))


@pytest.mark.parametrize("swapped", [True, False])
def test_messages_beside_some_that_are_cut_off_are_no_text(swapped: bool) -> None:
    whole = json.dumps([*ASKED, *ANSWER])
    for prompt in ("q", "other", "", ASKED):
        for size in (len('[{"role":'), 40, len(whole) - 1):
            replies = (whole[:size], whole) if swapped else (whole, whole[:size])
            with pytest.raises(RowError, match=f"^a:1: {'chosen' if swapped else 'rejected'} begins as messages do"):
                read(prompt, *replies)
    printed = str([*ASKED, *ANSWER])
    for one in (printed, [*ASKED, *ANSWER]):
        told = "as Python prints them" if one is printed and not swapped else "begins as messages do"  # of the first
        with pytest.raises(RowError, match=told):
            read("q", *((printed[:40], one) if swapped else (one, printed[:40])))


CONTENT_FIRST = [{"content": one["content"], "role": one["role"]} for one in (*ASKED, *ANSWER)]
CONVERSATIONS = [
    [*ASKED, *ANSWER],
    CONTENT_FIRST,
    [{"from": "human", "value": "q"}, {"from": "gpt", "value": 'a "b" {'}],
]


@pytest.mark.parametrize("write", [json.dumps, repr])
@pytest.mark.parametrize("items", CONVERSATIONS)
def test_messages_that_are_cut_off_are_no_text_wherever_they_are_cut(items: Any, write: Callable[[Any], str]) -> None:
    whole = write(items)
    first = len(write(items[:1])) - 1  # from here on somebody has been named, whichever key comes first
    no_text = "(begins as messages do|is messages as Python prints them)"  # which may lack their last bracket
    for size in (*range(first, len(whole)), len('[{"content":')):
        cut = whole[:size]
        for replies in ((cut, cut[:-1]), (cut, cut), (cut, ""), ("", cut), (cut, "b"), ("b", cut)):
            for prompt in ("q", "", ASKED, None):
                with pytest.raises(RowError, match=f"^a:1: (chosen|rejected) {no_text}"):
                    read(prompt, *replies)
        with pytest.raises(RowError, match=f"^a:1: prompt {no_text}"):
            read(cut, "a", "b")
        for prompt, completion in ((cut, "a"), ("p", cut), (cut, cut)):
            with pytest.raises(RowError, match=f"^a:1: (prompt|completion) {no_text}"):
                parse_row({"prompt": prompt, "completion": completion, "label": True}, where="a:1", source="")
            row = make_row(prompt, completion, True, source="s", origin="pair")
            assert parse_row(to_record(row), where="a:1", source="") == row, "a row's own id tells that it is text"


def test_words_of_the_first_message_may_be_cut_off() -> None:
    for items in ([{"role": "user", "content": "q\n"}], [{"content": 'say "hi" \n', "role": "user"}]):
        for write in (json.dumps, repr):
            whole = write(items)
            for size in range(whole.index(":") + 1, len(whole) - len('", "role": "user"}]')):
                with pytest.raises(RowError, match="begins as messages do"):
                    read("q", whole[:size], "b")


def test_messages_that_begin_with_something_else_may_be_cut_off() -> None:
    """Once one has said who speaks, and what."""
    for item in ({"id": 1, "role": "user", "content": "hello"}, {"name": "Ann", "from": "human", "value": "hello"}):
        whole = json.dumps([item, item])
        for size in range(whole.index("hello"), len(whole) - 1):
            with pytest.raises(RowError, match="chosen begins as messages do"):
                read("q", whole[:size], "b")


def test_messages_nested_beyond_reading_are_text_with_line_feeds_too() -> None:
    text = '[{"role": "user", "content": "a\n", "x": ' + "[" * 1500 + "]" * 1500 + "}]"
    assert read("q", text, "b")[0] == Example("q", text, True)


def test_a_single_message_that_is_cut_off_is_no_reply() -> None:
    for cut in (SAID[:-1], SAID[:-5], repr(json.loads(SAID))[:-2]):
        with pytest.raises(RowError, match="chosen begins as messages do"):
            read("q", cut, "b")
        assert read(cut, "a", "b")[0] == Example(cut, "a", True), "a whole one would be no prompt's messages either"


@pytest.mark.parametrize("text", ['[{"role": "user", "content": "a\nb"}]', '[{"role": "user", "content": "a\tb"}] \n'])
def test_messages_with_line_feeds_as_they_are_are_no_text(text: str) -> None:
    with pytest.raises(RowError, match="begins as messages do"):
        read("q", text, "b")


NOT_CUT = [
    '[{"role": "system", "content": system_prompt}, {"role": "user", "content": question}]',
    '{"role": "user", "content": f"{question}"}',
    '[{"role": "user", "content": "Hello " + name}]',
    '[{"role": "user", "content": "hi"},]',
    '[{"role": "user", "content": "hi"}, ...]',
    '[{"role": "user", "content": {{ question }} }]',
    '[{"role": "user", "content": "hi"}, // the question\n {"role": "assistant", "content": <your text>}]',
    '[{"role": "user", "content": "hi"}] is how a chat begins.',
    "[{'role': 'user', 'content': 'hi'}] is how it's done in Python",
    '[{"role": "user", "content": "hi"}, ...]\n\nAnd so on: [',
    json.dumps(RATES)[:-2],
    repr(RATES)[:-2],
    repr(RATES),
    "[{'role': 'user', 'name': 'x'}]",
    '[{"role": "Narrator", "content": "It was ni',
    '{"value": [1, 2, 3',
    '[{"name": "Ann", "role": "user", "email": "a',
    '[{"id": 1, "role": "user", "content": "hi"}] is how a chat begins.',
    '[{"id": 1, "content": "hi", "author": {"na',
    '[{"id": 1, "name": "Ann", "role": "user", "value": 3}, {"id": 2, "name": "Bob", "role": "admin"},\n  ...',
    """[{"question": "What does 'role': 'user' with 'content': mean?", "answer": "It is""",
    '[{"id": 1, "title": "a\nb", "content": "x"}, {"id": 2, "role": "user"}]',
    '[{"type": "doc", "content": [{"type": "text", "text": "Hello',
    '{"content": "a letter, as long as it was allowed to be',
    '{"model": "m", "messages": [{"role": "user", "content": "hi',
    '[{"value": "a", "label": "A"}, {"value": "b", "lab',
    "[{",
    "[",
]


@pytest.mark.parametrize("text", NOT_CUT)
def test_text_that_begins_nearly_as_messages_do_stays_text(text: str) -> None:
    assert read("q", text, "b") == [Example("q", text, True), Example("q", "b", False)]
    assert read(text, "a", "b")[0] == Example(text, "a", True)
    assert parse_row({"prompt": "p", "completion": text, "label": True}, where="", source="").completion == text


def test_looking_for_where_messages_are_cut_costs_little() -> None:
    for text in (
        '[{"role": "user", "content": "' + "x" * 2_000_000,
        '[{"role": "user", "content": "' + r"\" " * 500_000,
        '[{"content": "' + r"\\" * 500_000,
        '[{"role": "user", ' + '"role":  ' * 200_000,
        '[{"id": 1, "content": ' + '"role":  ' * 200_000,
        '[{"' + "i" * 2_000_000,
        "[{'role': 'user', 'content': 'x', 'y': " + "[" * 100_000 + "}]",
        "[{'role': 'user', 'content': 'x', 'y': " + "-" * 1_000_000 + "1}]",
        "[" + " " * 2_000_000 + '{"role"',
    ):
        begin = time.process_time()
        with contextlib.suppress(RowError):
            read("q", text, "b")
        assert time.process_time() - begin < 2
