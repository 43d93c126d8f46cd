"""Replies as `contaminate` compares them: without marks, emoji and laughter, as words and as sentences."""

from __future__ import annotations

import functools
import re
import tomllib
import zlib
from importlib import resources
from typing import TypeAlias

from ktodata.negatives.corruption.layout import UNSPACED
from ktodata.schema import normalise

ALIKE = 0.5  # of the letter triples of two replies that are the same: then they say the same
MANY = 3  # different prompts that get a reply which then suits all
Triples: TypeAlias = frozenset[tuple[str, str, str]]
_WORDS = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+(?:['’\-][^\W_{UNSPACED}]+)*")
_SENTENCES = re.compile(r"[.!?…;:,\n。！？，]+|\b(?:lo+l|(?:ha)+h?)\b|[^\w\s'’\-.,]+")
_LAUGHTER = re.compile(r"(?:a?(?:h[aei]){2,}h?|(?:ja|je){2,}|lo+l|lmf?ao+|xd+|mdr)")


def words(text: str) -> list[str]:
    """The words of a text, case-folded, apostrophes straight, laughter left out. Chinese and its like by the letter."""
    found = _WORDS.findall(normalise(text).replace("’", "'"))
    return [word for word in found if not _LAUGHTER.fullmatch(word)]


def is_generic(core: list[str]) -> bool:
    """Whether a reply of these words suits almost any prompt: thanks, greetings, "ok", "what do you mean?", or none."""
    return len(core) <= _LONGEST and bool(_generic().fullmatch(" ".join(core)))


def triples(core: list[str]) -> Triples:
    """Groups of three letters in the words, for `alike`."""
    text = f" {' '.join(core)} "
    return frozenset(zip(text, text[1:], text[2:], strict=False))


def alike(one: Triples, other: Triples) -> bool:
    """Whether two replies say nearly the same, letter by letter."""
    few, many = sorted((len(one), len(other)))
    if few < ALIKE * many:
        return False
    shared = len(one & other)
    return shared >= ALIKE * (few + many - shared)


def sentence_keys(text: str) -> frozenset[int]:
    """Its clauses of three words or more, each as a number: replies that share one can be right in the same place.

    The same in every process: Python's own hash of strings is not.
    """
    found = (words(piece) for piece in _SENTENCES.split(text))
    return frozenset(_number(" ".join(piece)) for piece in found if len(piece) >= 3)


def _number(text: str) -> int:
    return zlib.crc32(text.encode())


_LONGEST = 16  # words of a reply that can be generic


@functools.cache
def _generic() -> re.Pattern[str]:
    """A run of phrases of generic.toml, nothing included."""
    table = tomllib.loads((resources.files(__package__) / "generic.toml").read_text(encoding="utf-8"))
    phrases = sorted({" ".join(words(phrase)) for phrases in table.values() for phrase in phrases}, key=len)
    any_of = "|".join(re.escape(phrase) for phrase in reversed(phrases) if phrase)
    return re.compile(rf"(?:(?:{any_of})(?: |$))*")
