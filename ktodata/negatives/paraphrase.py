"""The strategy `paraphrase`: what the reply says, said in a way that nobody wants.

By rules: casual words and contractions are spelled out from the lexicons of `corruption`, and sentences that add
nothing are put around (packs/longer.toml, plain.toml, professional.toml). What the reply says stays, and so do code,
links, numbers and line breaks.
"""

from __future__ import annotations

import functools
import random
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from ktodata.negatives.contract import Option, Run, Skip, Strategy
from ktodata.negatives.corruption import lexicon, tone
from ktodata.negatives.corruption.formal import after
from ktodata.negatives.corruption.layout import hide, sentences, unhide
from ktodata.negatives.language import commonest
from ktodata.negatives.pack import Grammar, capital, own_pack
from ktodata.negatives.template import check_language, language_options, opened
from ktodata.schema import Row, normalise

MANNERS = ("longer", "neutral", "professional")
# The pack that is put around, by manner.
_PACKS = {"longer": "longer", "neutral": "plain", "professional": "professional"}
# Stands for the reply while what goes around it is written: a private-use character, and an end for what follows.
_HERE = "\ue000."
_PREFIXED = 0.6  # share of longer replies in which a sentence begins with something like "to be honest"
_TRIES = 4


def prepare(run: Run, *, manner: Sequence[str], language: str, fallback: str | None) -> str:
    """Checks the options. Gives the language of rows that say too little to tell theirs.

    Raises:
        UsageError: a language that the rules do not have.
    """
    check_language(language, fallback, lexicon.LANGUAGES, name="paraphrase")
    return commonest(run.sample, lexicon.LANGUAGES) if language == "auto" else ""


def paraphrase(
    row: Row,
    /,
    *,
    pool: str,
    rng: random.Random,
    manner: Sequence[str],
    language: str,
    fallback: str | None,
) -> str | Skip:
    """The reply in one of the manners, where possible one that a reader would see. Never the original, compared after
    normalising.

    White space at both ends stays as it is.
    """
    said = opened(row, lexicon.LANGUAGES, language=language, fallback=fallback, common=pool)
    if isinstance(said, Skip):
        return said
    if not any(char.isalpha() for char in said.core):
        return Skip("no words")
    text = ""
    # What is neutral already is hardly changed by making it neutral: then another manner, or at least a frame.
    for name in [*rng.sample(manner, len(manner)), *rng.choices(manner, k=_TRIES)]:
        text = rewrite(said.core, name, said.code, rng)
        if _told_apart(text, said.core):
            break
    same = normalise(text) == normalise(said.core)
    return Skip("nothing that the rules change") if same else said.before + text + said.after


def rewrite(text: str, manner: str, code: str, rng: random.Random) -> str:
    """A text without white space at its ends, in a manner and a language of `corruption.lexicon`."""
    if manner == "longer":
        # Made longer, not colder: emoji and exclamation marks stay.
        said = tone.spell_out(text, words=_plain_words(code, drop=False))
        said = _prefixed(said, code, rng)
    else:
        words = _plain_words(code) if manner == "neutral" else None
        said = tone.flatten(text, rng=rng, intensity=1.0, language=code, words=words) or text
    return _around(said, own_pack(_PACKS[manner], frozenset(("reply",))).languages[code], rng)


def _told_apart(text: str, reply: str) -> bool:
    """Whether a reader would see the difference: words are new, three of them and one in ten at least, or all."""
    new, old = Counter(text.lower().split()), Counter(reply.lower().split())
    changed = (new - old).total()
    return changed >= max(min(3, new.total()), new.total() // 10)


def _prefixed(text: str, code: str, rng: random.Random) -> str:
    """One of its sentences, if chance will have it, after a phrase such as "to be honest"."""
    phrases = own_pack("longer", frozenset(("reply",))).languages[code].parts.get("prefix")
    hidden = hide(text)
    if not phrases or hidden is None or rng.random() >= _PREFIXED:
        return text
    layout = sentences(hidden[0])
    # Questions and exclamations do not take one.
    places = [
        place for place, sentence in enumerate(layout.words) if sentence[0].isalpha() and sentence[-1] not in "?!"
    ]
    if not places:
        return text
    words, place = list(layout.words), rng.choice(places)
    ((phrase, _),) = rng.choice(phrases)
    words[place] = after(f"{phrase},", words[place], code)
    return unhide(layout.weave(words), hidden[1])


def _around(text: str, grammar: Grammar, rng: random.Random) -> str:
    around = grammar.write(rng, {"reply": _HERE})
    opening, _, closing = around.partition(_HERE)
    if opening.strip() or closing.strip():
        text = _ended(text) if closing.strip() else text
        text = capital(text) if opening.rstrip()[-1:] in (".", "!", "?") else text
        # What has several lines, or code, stays a block of its own.
        gap = "\n\n" if "\n" in text or "```" in text else " "
        return gap.join(part for part in (opening.strip(), text, closing.strip()) if part)
    return text


def _ended(text: str) -> str:
    """With a full stop, where a sentence ends without one."""
    return f"{text}." if text[-1].isalnum() or text[-1] in ")”»\"'" else text.rstrip(",;:–—-") or text


@functools.cache
def _plain_words(code: str, *, drop: bool = True) -> lexicon.Lexicon:
    table = _tables()[code]
    return lexicon.changed(code, keep=table["keep"], words=table["words"], clause=table["clause"], drop=drop)


@functools.cache
def _tables() -> Mapping[str, Any]:
    file = resources.files(__package__) / "packs" / "plain_words.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


PARAPHRASE = Strategy(
    name="paraphrase",
    summary="The completion itself, said longer, neutrally or too professionally; what it says stays.",
    one=paraphrase,
    prepare=prepare,
    options={
        "manner": Option(
            kind="list",
            default=MANNERS,
            choices=MANNERS,
            help="How it is said; each row gets one of them.",
        ),
        **language_options("completion"),
    },
)
