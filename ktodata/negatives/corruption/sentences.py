"""Operations on sentences: their order, an end too early, a phrase in another language."""

from __future__ import annotations

import functools
import math
import random
import tomllib
import unicodedata
from importlib import resources

from ktodata.negatives.corruption import lexicon
from ktodata.negatives.corruption.layout import hide, lay_out, protected_spans, sentences, unhide


def shuffle(text: str, *, rng: random.Random, intensity: float, protect: bool) -> str | None:
    """Sentences in another order: a share `intensity` of them (two at least), none of those in its old place."""
    hidden = hide(text, protect=protect)
    if hidden is None:
        return None
    layout = sentences(hidden[0])
    count = len(layout.words)
    if count < 2:
        return None
    moved = rng.sample(range(count), max(2, math.ceil(intensity * count)))
    # Each takes the place of the next of a random cycle.
    words = list(layout.words)
    for place, source in zip(moved, moved[1:] + moved[:1], strict=True):
        words[place] = layout.words[source]
    return None if words == layout.words else unhide(layout.weave(words), hidden[1])


def truncate(text: str, *, rng: random.Random, intensity: float, protect: bool) -> str | None:
    """Cut off mid-way: up to a share `intensity` of the words, and half of that at least, is missing from the end.

    What is protected is never cut off: of a text that ends in code nothing is.
    """
    layout = lay_out(text, protect=protect)
    count = len(layout.words)
    if count < 2:
        return None
    lost = max(1, round(count * intensity * rng.uniform(0.5, 1.0)))
    spans = protected_spans(text) if protect else []
    floor = max((stop for _, stop in spans), default=0)
    kept = max(1, count - lost)
    cut = sum(map(len, layout.gaps[: kept + 1])) + sum(map(len, layout.words[:kept])) - len(layout.gaps[kept])
    if cut < floor:
        return None
    return text[:cut]


def foreign(text: str, *, rng: random.Random, intensity: float, protect: bool, language: str = "auto") -> str | None:
    """Phrases in another language put in, between words: one, and at higher intensity up to one per sentence."""
    layout = lay_out(text, protect=protect)
    count = len(layout.words)
    if not count:
        return None
    hidden = hide(text, protect=protect)
    times = max(1, round(intensity * (len(sentences(hidden[0]).words) if hidden else 1)))
    own = {lexicon.guess(text) if language == "auto" else language, *_scripts(text)}
    others = [code for code in sorted(_phrases()) if code not in own]
    words = list(layout.words)
    joint = " " if layout.spaced else ""
    for place in rng.sample(range(count), min(times, count)):
        phrase = rng.choice(_phrases()[rng.choice(others)])
        words[place] = f"{words[place]}{joint}{phrase}" if place else f"{phrase}{joint}{words[place]}"
    return layout.weave(words)


_SCRIPTS = {
    "CJK": ("zh", "ja"),
    "HIRAGANA": ("ja", "zh"),
    "KATAKANA": ("ja", "zh"),
    "HANGUL": ("ko",),
    "CYRILLIC": ("ru",),
    "ARABIC": ("ar",),
    "DEVANAGARI": ("hi",),
    "THAI": ("th",),
    "GREEK": ("el",),
    "HEBREW": ("he",),
}


def _scripts(text: str) -> set[str]:
    """Languages of the phrase list that are written in a script of the text."""
    names = {unicodedata.name(char, "").split(" ")[0] for char in set(text) if not char.isascii() and char.isalpha()}
    return {code for name in names for code in _SCRIPTS.get(name, ())}


@functools.cache
def _phrases() -> dict[str, list[str]]:
    text = (resources.files(__package__) / "lexicons" / "phrases.toml").read_text(encoding="utf-8")
    return {code: list(phrases) for code, phrases in tomllib.loads(text).items()}
