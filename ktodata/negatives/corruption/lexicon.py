"""The lexicons of casual speech: loaded once, compiled to one pattern per language, and guessed from a text."""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

# The order settles ties.
LANGUAGES: tuple[str, ...] = ("en", "it", "es", "fr", "de")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


@dataclasses.dataclass(frozen=True, slots=True)
class Lexicon:
    """One language: what casual words become (`""`: they go), and the pattern that finds them.

    `clause` holds what they become at the beginning of a clause, where that differs. `edges` are dropped only
    between punctuation; `openers` want a comma after them. Keys are lower case with straight apostrophes.
    `pattern` finds the keys of both tables, `inner` only those of `words`.
    """

    code: str
    words: Mapping[str, str]
    clause: Mapping[str, str]
    edges: frozenset[str]
    openers: frozenset[str]
    pattern: re.Pattern[str]
    inner: re.Pattern[str]


@functools.cache
def load(code: str) -> Lexicon:
    """The lexicon of a language of `LANGUAGES`."""
    table = _table(code)
    words = dict.fromkeys((*table["interjections"], *table["edges"]), "") | table["words"]
    clause = table["clause"]
    return Lexicon(
        code=code,
        words=words,
        clause=clause,
        edges=frozenset(table["edges"]) - frozenset(table["words"]),
        openers=frozenset(table["openers"]),
        pattern=_any_of({*words, *clause}),
        inner=_any_of(words),
    )


def changed(
    code: str, *, keep: Iterable[str], words: Mapping[str, str], clause: Mapping[str, str], drop: bool = True
) -> Lexicon:
    """The lexicon of a language with other words: without those to `keep`, and with these. Without `drop`, no word
    goes altogether."""
    before, kept = load(code), frozenset(keep)
    whole = {key: value for key, value in before.words.items() if key not in kept and (value or drop)} | dict(words)
    opening = {key: value for key, value in before.clause.items() if key not in kept} | dict(clause)
    return dataclasses.replace(
        before, words=whole, clause=opening, pattern=_any_of({*whole, *opening}), inner=_any_of(whole)
    )


def guess(text: str) -> str:
    """The language of `LANGUAGES` whose words the text has most of; "" when it has none of any."""
    found = hits(distinct(text))
    best = max(LANGUAGES, key=lambda code: found[code])
    return best if found[best] else ""


def distinct(text: str) -> set[str]:
    """The different words of a text, in small letters, apostrophes straight."""
    return set(_WORD.findall(text.lower().replace("’", "'")))


def hits(found: set[str]) -> dict[str, int]:
    """How many of these words each lexicon knows, by language."""
    return {code: len(found & _markers(code)) for code in LANGUAGES}


def is_common(word: str, code: str) -> bool:
    """Whether a word, in small letters, is one of a language's most common."""
    return word in _table(code)["markers"]


@functools.cache
def common_words(code: str) -> list[str]:
    """A language's most common words."""
    return sorted(set(_table(code)["markers"]) - set(_table(code)["words"]) - set(_table(code)["interjections"]))


@functools.cache
def _markers(code: str) -> frozenset[str]:
    table = _table(code)
    return frozenset(word for word in (*table["markers"], *table["words"], *table["interjections"]) if " " not in word)


@functools.cache
def _table(code: str) -> dict[str, dict[str, str]]:
    return tomllib.loads((resources.files(__package__) / "lexicons" / f"{code}.toml").read_text(encoding="utf-8"))


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Whole words, the longest that fits, with either apostrophe and any white space inside phrases.

    Written as a tree of letters: one long list of alternatives takes ten times as long to search for.
    """
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for char in word:
            node = node.setdefault(char, {})
        node[""] = {}
    return re.compile(rf"(?<![\w'’@#]){_spelled(tree)}(?![\w'’]|[./-]\w)", re.IGNORECASE)


def _spelled(tree: dict[str, Any]) -> str:
    branches = [_LETTERS.get(char, re.escape(char)) + _spelled(tree[char]) for char in sorted(tree) if char]
    if not branches:
        return ""
    # A word that goes on is tried before the one that ends here.
    return f"(?:{'|'.join(branches)})" + ("?" if "" in tree else "")


_LETTERS = {"'": "['’]", " ": r"[ \t]+"}
