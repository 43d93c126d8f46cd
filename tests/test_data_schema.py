"""The row: verbatim content, ids from content, strict parsing."""

import dataclasses
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ktodata.errors import RowError
from ktodata.order import completion_number, completion_numbers, number_of, numbers_of
from ktodata.schema import (
    COLUMNS,
    ROLES,
    Message,
    hash_prompt,
    hash_prompts,
    make_row,
    normalise,
    normalise_all,
    parse_row,
    to_record,
)

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
# What decides there: white space of all kinds, runs of it, borders of ASCII, letters that fold.
TRICKY = st.text(alphabet=st.sampled_from("aB \n\t\r\x0b\x0c\x1c\x1d\x1e\x1f\x7f\x00\x80\x85\xa0\xff\ud800é\u2003ß"))
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": TEXT}))
SPOKEN = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["assistant", "tool"]), "content": TEXT}))
REPLIES = SPOKEN.map(lambda turns: [*turns, {"role": "assistant", "content": "last"}])


@given(TEXT)
@example("\u01f0")  # folding takes this apart, and the next folding would see something else
@example("\u0390")
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFKC", once)


@given(st.lists(st.one_of(TEXT, TRICKY)))
@example([])
@example([" ", "", "a  b", " a", "b ", "\xff", "  "])
def test_many_are_normalised_and_hashed_as_one_is(texts: list[str]) -> None:
    assert normalise_all(texts) == [normalise(text).encode("utf-8", "surrogatepass") for text in texts]
    several: list[str | list[Message]] = []
    for text in texts:
        several += [text, [{"role": "user", "content": text}]]
    assert hash_prompts(several) == [hash_prompt(one) for one in several]
    assert completion_numbers(several).tolist() == [completion_number(one) for one in several]
    assert numbers_of(hash_prompts(several)).tolist() == [number_of(hash_prompt(one)) for one in several]


def test_what_normalising_ignores_and_what_it_does_not() -> None:
    assert normalise(" Straße\n\tﬁne ") == normalise("STRASSE FINE")
    assert normalise("\u2121") == "tel"  # a telephone sign: letters first, lower case then
    assert normalise("ok!") != normalise("ok")
    assert normalise("ok 🎉") != normalise("ok")


@given(st.one_of(st.tuples(TEXT, TEXT), st.tuples(MESSAGES, REPLIES)), st.booleans())
def test_a_row_survives_its_record(texts: tuple[str | list[Message], str | list[Message]], label: bool) -> None:
    row = make_row(*texts, label, source="s", origin="synthetic", strategy="corrupt", parent_id="p")
    assert list(to_record(row)) == list(COLUMNS)
    assert parse_row(to_record(row), where="here", source="other") == row


def test_ids_come_from_content_alone() -> None:
    row = make_row("p", "c", True, source="one", origin="pair")
    assert make_row("p", "c", True, source="two", origin="rated").id == row.id
    assert make_row("p", "c", False, source="one", origin="pair").id != row.id
    assert make_row(" P ", "c", True, source="one", origin="pair").id != row.id
    assert make_row(" P ", "c", True, source="one", origin="pair").prompt_id == row.prompt_id
    assert make_row("p", "x", True, source="s", origin="pair", prompt_id=hash_prompt("p")).prompt_id == row.prompt_id
    edited = to_record(row) | {"completion": "other"}
    assert parse_row(edited, where="", source="").id != row.id


def test_a_row_is_never_mutated() -> None:
    row = make_row("p", "c", True, source="s", origin="pair")
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.label = False  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "true"}, "label is str 'true', not true or false"),
        ({"label": 1}, "label is int 1, not true or false"),
        ({"label": None}, "label is null, not true or false"),
        ({"prompt": None}, "prompt is null, not a string or a list of messages"),
        ({"completion": 5.0}, "completion is float 5.0"),
        ({"completion": []}, "prompt is text and completion is chat"),
        ({"prompt": ["hi"]}, r"prompt\[0\] is str 'hi', not a message"),
        ({"prompt": [{"role": "user"}]}, r"prompt\[0\].content is null"),
        ({"prompt": [{"content": "x"}]}, r"prompt\[0\].role is null"),
        ({"prompt": [{"role": "alien", "content": "x"}]}, r"prompt\[0\].role is str 'alien'. Known: system, "),
        ({"source": 3}, "source is int 3"),
        ({"origin": "guess"}, "origin is str 'guess', not one of pair, rated, feedback, synthetic"),
    ],
)
def test_what_is_no_row_says_so(change: dict[str, object], message: str) -> None:
    record = {"prompt": "p", "completion": "c", "label": True} | change
    with pytest.raises(RowError, match=message) as caught:
        parse_row(record, where="file:7", source="s")
    assert str(caught.value).startswith("file:7: ")
