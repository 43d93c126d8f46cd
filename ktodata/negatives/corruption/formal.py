"""Forced formality: `tone`'s flattening, and on top of it the set phrases of a letter from an office."""

from __future__ import annotations

import functools
import random
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources

from ktodata.negatives.corruption import lexicon
from ktodata.negatives.corruption.layout import hide, sentences, unhide
from ktodata.negatives.corruption.tone import flatten


def formalise(
    text: str, *, rng: random.Random, intensity: float, protect: bool = True, language: str = "auto"
) -> str | None:
    """A share `intensity` of the casual words made formal, connectives before as many sentences (one at least), and
    from an intensity of a quarter on, the more often the higher it is, an opening and a closing.

    None in a language that has no phrases here.
    """
    code = (lexicon.guess(text) if language == "auto" else language) or ""
    if not phrases(code):
        return None
    flat = flatten(text, rng=rng, intensity=intensity, protect=protect, language=code) or text
    hidden = hide(flat, protect=protect)
    if hidden is None:
        return None
    layout = sentences(hidden[0])
    places = [place for place, sentence in enumerate(layout.words) if sentence[:1].isalpha()]
    if not places:
        return None
    words = list(layout.words)
    set_phrases = phrases(code)
    chosen = sorted(rng.sample(places, max(1, round(intensity * len(places)))))
    before = rng.sample(set_phrases["before"], len(set_phrases["before"]))
    for number, place in enumerate(chosen):
        words[place] = after(before[number % len(before)], words[place], code)
    if rng.random() < 2 * intensity - 0.5:
        words[0] = f"{rng.choice(set_phrases['opening'])} {words[0]}"
    if rng.random() < 2 * intensity - 0.5:
        words[-1] = f"{words[-1]} {rng.choice(set_phrases['closing'])}"
    return unhide(layout.weave(words), hidden[1])


def after(phrase: str, sentence: str, code: str) -> str:
    """The sentence after a phrase, with a small letter if its first word is one of the language's common ones."""
    first = sentence.split()[0].strip(",.!?").casefold()
    # "I" stays, and so do nouns and names.
    if lexicon.is_common(first, code) and first != "i":
        sentence = sentence[:1].lower() + sentence[1:]
    return f"{phrase[:1].upper()}{phrase[1:]} {sentence}"


def phrases(code: str) -> Mapping[str, Sequence[str]]:
    """What a language has to put `before` sentences, and as `opening` and `closing`; nothing for one that has none."""
    return _table().get(code, {})


@functools.cache
def _table() -> Mapping[str, Mapping[str, Sequence[str]]]:
    return tomllib.loads((resources.files(__package__) / "lexicons" / "formal.toml").read_text(encoding="utf-8"))
