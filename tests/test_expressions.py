"""The language of conditions: what holds, what is unknown, what is refused, and that nothing of it is ever run."""

import contextlib
import datetime
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktodata.errors import KtodataError, RowError, UsageError
from ktodata.expressions import FUNCTIONS, Expression

ROW: dict[str, Any] = {
    "outcome": "sale",
    "turns": 5,
    "share": 0.25,
    "rating": "4.5",  # as csv files have numbers
    "sold": "false",
    "good": True,
    "nothing": None,
    "blank": "",
    "nan": float("nan"),
    "meta": {"rating": 4, "by": None, "µ": 5, "by-line": "x"},
    "tags": ["new", "big"],
    "user-rating": 3,
    "from": "anna",
    "reply": "Thanks a lot",
    "when": datetime.datetime(2024, 3, 12, 18, 5),
    "iso": "2024-03-12T18:05:00",
    "uid": "175928847299117063",
    "large": 175928847299117063,
    "meta.flat": 1,
    "µ": 2,
    "nº": 3,
    "note": "two\nlines",
    "odd\nname": "#1",
    "tag": "# good",
}


def holds(text: str, row: dict[str, Any] | None = None) -> bool:
    return Expression(text, "--desirable").holds(ROW if row is None else row, "a.csv:7")


TRUE = [
    "outcome == 'sale'",
    'outcome == "sale" and turns > 3',
    "outcome != 'none'",
    "turns >= 5 and turns <= 5 and not turns < 5",
    "2 <= turns < 6",
    "turns == 5.0",
    "rating >= 4",
    "rating == 4.5",
    "rating == '4.5'",
    "not sold",
    "sold == false",
    "good",
    "good == true and good is true",
    "good == 'true'",
    "(outcome == 'none' or turns > 3) and good",
    "outcome == 'none' or good and turns > 3",
    "outcome in ('sale', 'lead')",
    "outcome in ['sale']",
    "outcome not in ('none', 'lost')",
    "turns in (4, 5)",
    "turns in ('x', 5)",
    "'new' in tags",
    "'old' not in tags",
    "'lot' in reply",
    "nothing is null",
    "blank is null",
    "nan is null",
    "missing_column is null",
    "turns is not null",
    "meta.rating == 4",
    "meta['rating'] == 4",
    "meta.by is null",
    "meta.other is null",
    "`user-rating` == 3",
    "`from` == 'anna'",
    "turns * 2 - 1 == 9",
    "turns / 2 == 2.5 and turns // 2 == 2 and turns % 2 == 1",
    "-turns < 0 and +turns > 0",
    "turns + rating > 9",
    "len(reply) == 12 and len(tags) == 2 and words(reply) == 3",
    "lower(reply) == 'thanks a lot' and reply.upper() == 'THANKS A LOT'",
    "strip('  x ') == 'x'",
    "contains(reply, 'lot') and reply.contains('Thanks')",
    "reply.lower().startswith('thanks') and endswith(reply, 'lot')",
    "number(rating) > 4 and abs(-3) == 3",
    "when > '2024-03-12' and when < '2024-03-12T18:06:00+00:00'",
    "when == iso",
    "blank == ''",
    "outcome != '' and '' != outcome",
    "blank in ('', 'none') and outcome not in ('', 'none')",
    "'' in (outcome, blank)",
    "reply.contains('')",
    "not (blank != '')",
    "len(blank) == 0 and words(blank) == 0",
    "reply in ('Thanks a lot',)",
    "uid == 175928847299117063 and uid in (175928847299117063, 3) and number(uid) % 10 == 3",
    "uid == large and uid < 175928847299117064",
    "`meta.flat` == 1",
    "µ == 2 and nº > 2 and meta.µ == 5 and meta.`by-line` == 'x'",
    "note == 'two\nlines' and note.contains('\n')",
    "note == r'two\nlines'",
    "`odd\nname` == '#1' and outcome == \"sale\"\r\n and tag == '# good'",
    "outcome == 'sale'\n  and turns > 3",
]


@pytest.mark.parametrize("text", TRUE)
def test_what_holds(text: str) -> None:
    assert holds(text)
    assert not holds(f"not ({text})")


@pytest.mark.parametrize(
    "text",
    [
        "nothing > 3",
        "nothing == 'x'",
        "nothing != 'x'",
        "nothing in ('x', 'y')",
        "nothing not in ('x', 'y')",
        "'x' in nothing",
        "nothing + 1 > 0",
        "-nothing > 0",
        "lower(nothing) == 'x'",
        "nothing.field == 1",
        "1 < nothing < 3",
        "turns in (1, null)",
        "blank",
        "blank > 3",
        "3 != blank",
        "blank + 1 > 0",
        "blank == true",
        "blank == 'sale'",
        "blank != 'none'",
        "blank < 'none'",
        "blank not in ('none', 'lost')",
        "blank not in (1, 2)",
        "outcome not in (blank, 'none')",
        "blank in reply",
        "'x' in blank",
        "lower(blank) != 'none'",
        "blank == blank",
        "blank.contains('x')",
        "reply.contains(blank)",
        "startswith(blank, 'x')",
        "endswith(blank, 'x')",
        "when > blank",
        "nothing and good",
        "nothing or sold",
    ],
)
def test_what_is_null_makes_a_condition_neither_true_nor_false(text: str) -> None:
    assert not holds(text)
    assert not holds(f"not ({text})")


def test_what_is_null_does_not_matter_where_the_rest_decides() -> None:
    assert holds("nothing > 3 or good")
    assert not holds("nothing > 3 and sold")
    assert holds("not (nothing > 3 and sold)")


REFUSED = {
    "outcome = 'sale'": "not understood at character 9. Compare with ==",
    "from == 'anna'": "not understood at character 1. A column of such a name goes in backticks: `from`",
    "turns > 3 and class == 'x'": "A column of such a name goes in backticks: `class`",
    "outcome == 'sale' && good": "Write `and`",
    "outcome == 'sale' AND good": "Write `and`",
    "good || sold": "Write `or`",
    "good OR sold": "Write `or`",
    "!good": "Write `not`",
    "turns <> 3": "Write !=",
    "nothing IS NULL": "Write `is null`",
    "reply like 'x'": "contains(column, 'text')",
    "outcome == 'sale": "A quotation mark is not closed",
    "`user-rating == 3": "A quotation mark is not closed",
    "outcome is 'sale'": "`is` goes with null, true or false only; compare with ==",
    "nothing == null": "nothing equals null: write `is null`",
    "null != nothing": "nothing equals null",
    "9 ** 9 ** 9": "is not part of the language",
    "(outcome == 'sale') & good": "is not part of the language. Write `and`",
    "good | sold": "is not part of the language. Write `or`",
    "~good": "is not part of the language. Write `not`",
    "outcome.str.contains('sa')": "Leave .str out",
    "lambda: 1": "is not part of the language",
    "[x for x in tags]": "is not part of the language",
    "{1: 2}": "is not part of the language",
    "f'{reply}'": "is not part of the language",
    "b'x' == reply": "is not part of the language",
    "1j": "is not part of the language",
    "good if sold else good": "is not part of the language",
    "(x := 3)": "is not part of the language",
    "tags[0] == 'new'": "is not part of the language",
    "tags[:1]": "is not part of the language",
    "reply.__class__": "`reply.__class__` is not part of the language",
    "().__class__.__bases__": "is not part of the language",
    "__import__('os').system('true')": "no function 'system'",
    "open('/etc/passwd')": "no function 'open'",
    "eval('1')": "no function 'eval'",
    "reply.format(reply)": "no function 'format'",
    "lowr(reply)": "no function 'lowr'. Did you mean 'lower'?",
    "len()": "len takes 1 value",
    "len(reply, 3)": "len takes 1 value",
    "contains(reply)": "contains takes 2 values",
    "len(*tags)": "is not part of the language",
    "len(x=reply)": "len takes 1 value",
    "@local": "not understood",
    "import os": "not understood",
    "a; b": "not understood",
    "": "it is empty",
    " ": "it is empty",
    "turns > 1e999": "a number that is too large",
    "(" * 500: "not understood",
    "not " * 1200 + "good": "too deeply nested",
    "good and " * 1000 + "good": "longer than 5000 characters",
    "turns == 1\0": "not understood",
    "outcome in ('sale')": "'sale' is no list. A list of one is ('sale',), or write outcome == 'sale'; for a part of",
    "`user-rating` not in 'x'": "contains('x', `user-rating`)",
    "turns in (3)": "3 is no list. A list of one is (3,), or write turns == 3.",
    "outcome == 'sale' # good\n and turns > 3": "a comment (#) is not part of the language. Leave it out; text with",
    "good # it's 'fine'": "a comment (#) is not part of the language. Leave it out",
    "outcome == 'a # b": "A quotation mark is not closed",
    "ｌｏｗｒ(reply)": "no function 'ｌｏｗｒ'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_in_the_language_is_refused_when_it_is_written(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Expression(text, "--desirable")
    assert REFUSED[text] in str(caught.value)
    assert str(caught.value).startswith("--desirable ")
    assert len(str(caught.value)) < 250


WRONG = {
    "`user-rating` == 'x'": "`user-rating` (int 3) cannot be compared with str 'x'",
    "reply > 3": "reply (str 'Thanks a lot') cannot be compared with int 3",
    "3 == reply": "int 3 cannot be compared with reply (str 'Thanks a lot')",
    "turns == 'five'": "turns (int 5) cannot be compared with str 'five'",
    "good > 0": "good (bool True) cannot be compared with int 0",
    "good < sold": "good is bool True, which has no order",
    "good < true": "good is bool True, which has no order",
    "tags > tags": "tags is list ['new', 'big'], which has no order",
    "meta == 3": "meta (dict",
    "meta < meta": "meta is dict {'rating': 4, 'by': None",
    "meta >= meta": "which has no order",
    "when > 'yesterday'": "cannot be compared with str 'yesterday'",
    "turns": "turns is int 5, not true or false",
    "outcome and good": "outcome is str 'sale', not true or false",
    "not turns": "turns is int 5, not true or false",
    "reply + 1 > 0": "reply is str 'Thanks a lot', not a number",
    "-reply > 0": "reply is str 'Thanks a lot', not a number",
    "good + 1 > 0": "good is bool True, not a number",
    "turns / 0 > 1": "0 is 0, and turns is divided by it",
    "share * 1e308 * 1e308 > 1": "too large a number",
    "3 in reply": "3 is int 3, not a text",
    "3 in turns": "turns is int 5, neither a list nor a text",
    "lower(turns) == 'x'": "turns is int 5, not text",
    "len(turns) > 1": "turns is int 5, neither text nor a list",
    "number(reply) > 1": "reply is str 'Thanks a lot', not a number",
    "reply.upper": "reply is str 'Thanks a lot', which has no field 'upper'",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_value_of_the_wrong_type_is_an_error_that_names_the_row(text: str) -> None:
    with pytest.raises(RowError) as caught:
        holds(text)
    assert WRONG[text] in str(caught.value)
    assert str(caught.value).startswith("a.csv:7: --desirable: ")


def test_columns_are_known_and_a_misspelt_one_names_the_nearest() -> None:
    expression = Expression("outcom == 'sale' and meta.x > 1 or `user-rating` is null", "--undesirable")
    assert expression.columns == ("outcom", "meta", "user-rating")
    with pytest.raises(UsageError, match=r"--undesirable .*: no column 'outcom'\. Did you mean 'outcome'\?"):
        expression.check_columns(ROW)
    with pytest.raises(UsageError, match=r"no column 'lost'\. Columns: outcome, .*, tag\. Text goes in quotes: 'lost'"):
        Expression("outcome == lost", "--desirable").check_columns(ROW)
    Expression("true and null is null", "--desirable").check_columns([])
    dotted = Expression("meta.rating2.contains('x')", "--desirable")
    with pytest.raises(UsageError, match=r"no column 'meta'\. A column of such .* in backticks: `meta\.rating2`"):
        dotted.check_columns(["metal", "meta.rating", "meta.rating2"])
    for there, column in ((["user-rating", "customer"], "user"), (["user-rating", "user"], "rating")):
        with pytest.raises(UsageError, match=f"no column {column!r}.* in backticks: `user-rating`"):
            Expression("user-rating >= 4", "--desirable").check_columns(there)
    with pytest.raises(UsageError, match=r"no column 'meta'\. Did you mean 'metal'"):
        dotted.check_columns(["metal", "meta.other"])


def test_an_expression_can_be_sent_to_a_worker() -> None:
    assert pickle.loads(pickle.dumps(Expression("turns > 3", "--desirable"))).holds(ROW, "")


def test_every_function_is_tested() -> None:
    text = " ".join(TRUE)
    assert all(name in text for name in FUNCTIONS)


def test_nothing_is_changed_by_looking() -> None:
    before = repr(ROW)
    for text in TRUE:
        holds(text)
    assert repr(ROW) == before


WORDS = (
    "outcome turns rating nothing tags meta . ( ) [ ] , == != < > <= >= is in not and or null true + - * / // % ** "
    "'sale' 3 0 -1 4.5 len lower contains number abs ` ' \" \\ __class__ lambda : = ! & | @ { } \x00 é"
)


@given(st.lists(st.sampled_from(WORDS.split()), max_size=12).map(" ".join))
def test_whatever_is_written_it_is_a_condition_or_one_clear_error(text: str) -> None:
    with contextlib.suppress(KtodataError):
        assert holds(text) in (True, False)
