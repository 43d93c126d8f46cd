"""`paraphrase` by rules: what it says stays, and so do code, links, numbers and line breaks."""

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktodata.errors import UsageError
from ktodata.negatives.choose import use
from ktodata.negatives.contract import Run, Skip
from ktodata.negatives.corruption.layout import EMOJI
from ktodata.negatives.pack import own_pack
from ktodata.negatives.paraphrase import MANNERS, PARAPHRASE, paraphrase, prepare, rewrite
from ktodata.negatives.synthesize import synthesize
from ktodata.negatives.template import NO_PACK
from ktodata.schema import Row, make_row, normalise, parse_row, plain

FIVE = ("en", "it", "es", "fr", "de")
CHATS = Path(__file__).parents[1] / "recipes" / "chat_style" / "chats.jsonl"
REPLIES = {
    "en": "yeah i'm gonna be there at 8, can't stay long tho lol",
    "it": "sì cmq ci sono alle 8, nn posso restare molto xò ahah",
    "es": "sí, tb voy a las 8, xq no puedo quedarme mucho jaja",
    "fr": "ouais chui là à 8h, mais jsais pas si je reste haha",
    "de": "jo bin um 8 da, vllt bleib ich nich lange haha",
}
MARKDOWN = """yeah so here's how i'd do it:

1. install it with `pip install foo`
2. run this, it's 3.5x faster:

```python
def f(x):
    return x  # don't  touch
```

see https://example.org/a?b=c#d or mail bob@example.com 😊"""


def written(reply: str, seed: int = 0, **options: Any) -> str | Skip:
    row = make_row("what do you think?", reply, True, source="s", origin="feedback")
    values = {key: option.default for key, option in PARAPHRASE.options.items()} | options
    return paraphrase(row, pool=None, rng=random.Random(seed), **values)


def chats() -> list[Row]:
    lines = CHATS.read_text(encoding="utf-8").splitlines()
    return [parse_row(json.loads(line), where="", source="chats") for line in lines]


@pytest.mark.parametrize(
    ("code", "neutral", "formal"),
    [
        ("en", "Yes, I am going to be there at 8, I cannot stay long though.", "I am going to be there at 8"),
        ("it", "Sì, comunque ci sono alle 8, non posso restare molto però.", "comunque ci sono alle 8, non posso"),
        ("es", "Sí, también voy a las 8, porque no puedo quedarme mucho.", "también voy a las 8, porque no puedo"),
        ("fr", "Oui, je suis là à 8h, mais je ne sais pas si je reste.", "je suis là à 8h, mais je ne sais pas"),
        ("de", "Ja, ich bin um 8 da, vielleicht bleib ich nicht lange.", "um 8 da, vielleicht bleib ich nicht"),
    ],
)
def test_casual_words_are_spelled_out_in_five_languages(code: str, neutral: str, formal: str) -> None:
    texts = Counter(str(written(REPLIES[code], seed, manner=("neutral",), language=code)) for seed in range(40))
    bare = {re.sub(r"[^\w ]", "", text) for text in texts}
    assert re.sub(r"[^\w ]", "", neutral) in bare, texts
    for seed in range(10):
        assert formal in str(written(REPLIES[code], seed, manner=("professional",), language=code))


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("code", FIVE)
def test_it_gets_longer_or_more_sober_and_keeps_the_numbers(code: str, manner: str) -> None:
    for seed in range(20):
        text = str(written(REPLIES[code], seed, manner=(manner,), language=code))
        assert "8" in text
        assert normalise(text) != normalise(REPLIES[code])
        assert not re.search(r"[{}]|  | [.,]|[.]{2}", text), text
        if manner != "neutral":
            assert len(text) > len(REPLIES[code]) + 5, text


@pytest.mark.parametrize("manner", MANNERS)
def test_code_links_numbers_and_lines_stay(manner: str) -> None:
    for seed in range(30):
        text = str(written(MARKDOWN, seed, manner=(manner,)))
        for kept in (
            "`pip install foo`",
            "```python\ndef f(x):\n    return x  # don't  touch\n```",
            "https://example.org/a?b=c#d",
            "bob@example.com",
            "3.5x",
        ):
            assert kept in text, (kept, text)
        lines = text.split("\n")
        assert [line[:2] for line in lines if line[:2] in ("1.", "2.")] == ["1.", "2."]
        assert text.count("\n") >= MARKDOWN.count("\n")
        if manner == "longer":
            assert re.findall(EMOJI, text) == ["😊"]


def test_a_fence_at_the_end_stays_a_fence() -> None:
    reply = "i'd do this:\n```\nx = 1\n```"
    for seed in range(30):
        text = str(written(reply, seed, manner=("longer", "professional")))
        assert "\n```\nx = 1\n```" in text
        assert re.search(r"```(\n\n|$)", text), text


def test_a_question_within_a_spanish_sentence_has_no_capital() -> None:
    text = str(written("me apetece, ¿a qué hora? ¿dónde?", manner=("neutral",), language="es"))
    assert "Me apetece, ¿a qué hora? ¿Dónde?" in text


def test_longer_keeps_every_word_that_is_not_spelled_out() -> None:
    reply = "The museum opens at nine and closes at five, tickets cost twelve euros on weekdays."
    for seed in range(30):
        text = str(written(reply, seed, manner=("longer",)))
        assert re.search(re.escape(reply[1:]), text), text


def test_white_space_at_the_ends_stays_and_what_has_no_words_is_skipped() -> None:
    text = str(written(" yeah i'm in\n\n"))
    assert text[0] == " "
    assert text[1] != " "
    assert text.endswith("\n\n")
    assert written(" \n") == Skip("empty")
    assert written("😊!!") == Skip("no words")
    assert written("não sei, talvez amanhã de manhã") == Skip(NO_PACK)
    assert isinstance(written("não sei, talvez amanhã de manhã", fallback="en"), str)


def test_most_casual_rows_get_one_and_order_does_not_matter() -> None:
    rows = chats()[:500]
    done = synthesize(rows, [use("paraphrase")], seed=2)
    assert len(done.negatives) >= 0.98 * len(rows)
    replies = [plain(row.completion) for row in done.negatives]
    assert len(set(replies)) > 0.9 * len(replies)
    assert synthesize(rows[::-1], [use("paraphrase")], seed=2).negatives == done.negatives
    parents = {row.id: plain(row.completion) for row in rows}
    for row in done.negatives:
        # "gr8" is no number.
        assert re.findall(r"\b\d+\b", plain(row.completion)) == re.findall(r"\b\d+\b", parents[row.parent_id])


@given(st.text(max_size=120), st.sampled_from(MANNERS), st.sampled_from(FIVE), st.integers(0, 99))
def test_any_text_gives_a_reply_or_a_reason(reply: str, manner: str, code: str, seed: int) -> None:
    text = written(reply, seed, manner=(manner,), language=code)
    assert isinstance(text, Skip) or (text.strip() and normalise(text) != normalise(reply))


def test_the_generator_alone_decides() -> None:
    for manner in MANNERS:
        texts = [rewrite(REPLIES["en"], manner, "en", random.Random(seed)) for seed in (1, 1, 2, 3, 4, 5)]
        assert texts[0] == texts[1]
        assert len(set(texts)) > 1


def test_a_language_that_the_rules_do_not_have() -> None:
    with pytest.raises(UsageError, match=r"paraphrase.language is 'pt', and no pack has it. There are de, en"):
        prepare(Run([]), manner=MANNERS, language="pt", fallback=None)


@pytest.mark.parametrize("manner", MANNERS)
def test_french_keeps_the_space_before_its_marks_and_other_languages_have_none(manner: str) -> None:
    said = rewrite("ouais carrément, à quelle heure ? je serai là : au bar ; viens", manner, "fr", random.Random(1))
    assert "à quelle heure ?" in said
    assert "là : au bar ; viens" in said
    assert " ?" not in rewrite("sure 😊 ? ok", "professional", "en", random.Random(1))


def test_after_an_opening_sentence_the_reply_begins_with_a_capital() -> None:
    seen = [rewrite("call me at 8", "longer", "en", random.Random(seed)) for seed in range(200)]
    assert any(re.search(r"[.!?] Call me", text) for text in seen)
    assert not any(re.search(r"[.!?] call me", text) for text in seen)
    assert any(re.search(r": call me", text) for text in seen)


@pytest.mark.parametrize("code", FIVE)
def test_marks_articles_and_spaces_are_right_in_a_thousand_of_each_manner(code: str) -> None:
    wrong = re.compile(r" [,.]|  |[,;:]{2}|\.[,;]|,\.|\{|\}|\ba (?:il|la) Su|\bde le\b|\bà le\b|\ba el\b|\bde el\b")
    for manner in MANNERS:
        for seed in range(1000):
            text = rewrite("ok", manner, code, random.Random(seed))
            assert not wrong.search(text), text


def test_joints_of_what_is_put_around_a_longer_reply() -> None:
    wrong = {
        "en": r"appreciate (?!your |you \w+ing )|appreciate you (asking|sharing)|for (you|it) ",
        "it": r"[Qq]uesto è la|per (che|scrivermi)",
        "es": r"[Ee]sto es (mi|la) |agradezco (por|preguntar)",
        "fr": r"(merci|remercie) (que|ton)",
        "de": r"dass du (deine|dir)|[Dd]anke (dass|deine)",
    }
    for code, grammar in own_pack("longer", frozenset(("reply",))).languages.items():
        rng = random.Random(0)
        for _ in range(1500):
            text = grammar.write(rng, {"reply": "x"})
            assert not re.search(wrong[code], text), text
