"""Operations on words: their order, their absence, their spelling, their repetition."""

from __future__ import annotations

import functools
import math
import random
import re

from ktodata.negatives.corruption import augmenters, keyboards, lexicon
from ktodata.negatives.corruption.layout import EMOJI, Layout, lay_out, protected_spans, starts_sentence


def reorder(text: str, *, rng: random.Random, intensity: float, protect: bool, action: str) -> str | None:
    """`swap` neighbours, `delete` words here and there, or `crop` a run of them; `intensity` is the share of words."""
    layout = lay_out(text, protect=protect)
    order = augmenters.reorder(action, len(layout.words), rng=rng, share=intensity)
    if order == list(range(len(layout.words))):
        return None
    if action == "swap":
        return _permuted(layout, order)
    kept = _each_line(layout, set(order), rng)
    return None if len(kept) == len(layout.words) else _without(layout, kept)


def _each_line(layout: Layout, kept: set[int], rng: random.Random) -> set[int]:
    """One word more of each line that would be left with none, so that lists and paragraphs keep their shape."""
    lines: list[list[int]] = [[]]
    for place in range(len(layout.words)):
        if "\n" in layout.gaps[place] and lines[-1]:
            lines.append([])
        lines[-1].append(place)
    more = kept | {rng.choice(line) for line in lines if kept.isdisjoint(line)}
    if len(more) == len(layout.words):
        # Then only a longer line has a word to lose.
        more -= set(rng.sample([place for line in lines if len(line) > 1 for place in line] or [-1], 1))
    return more


def _permuted(layout: Layout, order: list[int]) -> str:
    """Words in another order, gaps in theirs. A capital that only marked the sentence stays at its beginning."""
    words = []
    for place, source in enumerate(order):
        word = layout.words[source]
        if place != source:
            was = _begins(layout, source)
            if _begins(layout, place):
                word = _like(word, layout.words[place])
            elif was and word[:1].isupper() and word[1:].islower():
                word = word[:1].lower() + word[1:]
        words.append(word)
    return layout.weave(words)


def _without(layout: Layout, kept: set[int]) -> str:
    """Some words gone, each with the space beside it."""
    out, raised = layout.gaps[0], False
    for place, word in enumerate(layout.words):
        gap = layout.gaps[place + 1]
        if place in kept:
            out += (word[:1].upper() + word[1:] if raised else word) + gap
            raised = False
        else:
            raised = raised or (_begins(layout, place) and word[:1].isupper())
            raised = raised and not starts_sentence(gap, first=False)
            out = _joined(out, gap if place + 1 == len(layout.words) else _TAKEN.sub("", gap))
    return out.strip()


_TAKEN = re.compile(r"^[,;:.!?…]+(?=[ \t]|$)")


_MARKS = ",;:.!?)]…、。，！？"
_PAIRS = ("()", "[]", "{}", '""', "“”", "‘’", "«»", "**", "__", "（）", "「」")


def _joined(before: str, after: str) -> str:
    """Two gaps that a dropped word leaves side by side: no doubled spaces or marks, no empty brackets."""
    head = after.lstrip(" \t")
    spaced = before[-1:] in (" ", "\t") or head != after
    if before == "" or before.rstrip(" \t").endswith("\n"):
        # Only the indentation stays, and no mark that followed the dropped word, unless the line ends there.
        return before + (head if head.startswith("\n") else head.lstrip(",;:.!?、。 "))
    while before.rstrip(" \t")[-1:] + head[:1] in _PAIRS:
        before, head = before.rstrip(" \t")[:-1], head[1:]
        stripped = head.lstrip(" \t")
        spaced, head = spaced or stripped != head or before[-1:] in (" ", "\t"), stripped
    if head[:1] in ("\n", *_MARKS):
        before = before.rstrip(" \t")
        if head[:1] in tuple(",;:.!?、。，！？") and before[-1:] in tuple(",;:、，"):
            before = before[:-1]
        elif head[:1] in tuple(",;:.!?、。，！？") and before[-1:] in tuple(".!?。！？"):
            head = head[1:]
        return before + head
    opened = before[-1:] in tuple("([{“«") or before[-1:] in (" ", "\t", "\n")
    return before + (" " if spaced and not opened else "") + head


def misspell(
    text: str,
    *,
    rng: random.Random,
    intensity: float,
    protect: bool,
    kind: str,
    language: str = "auto",
    keyboard: str = "auto",
) -> str | None:
    """Typos in a share of the words: neighbouring keys, misread letters, lost or swapped ones, known misspellings.

    For the kind `keyboard` the layout is the text's language's, unless one is named.
    """
    layout = lay_out(text, protect=protect, runs=True)
    keys = "qwerty"
    if kind == "keyboard":
        code = lexicon.guess(text) if language == "auto" else language
        keys = keyboards.layout_of(text, code) if keyboard == "auto" else keyboard
    words = augmenters.typos(kind, layout.words, rng=rng, share=intensity, layout=keys)
    return None if words == layout.words else layout.weave(words)


def insert(text: str, *, rng: random.Random, intensity: float, protect: bool, language: str = "auto") -> str | None:
    """Words put in where they do not belong, as many as a share `intensity` of those there are: some from elsewhere in
    the text, some common ones of its language."""
    layout = lay_out(text, protect=protect)
    count = len(layout.words)
    if count < 2:
        return None
    code = lexicon.guess(text) if language == "auto" else language
    common = lexicon.common_words(code) if code and layout.spaced else []
    joint = " " if layout.spaced else ""
    words = list(layout.words)
    number = max(2 if count > 3 else 1, round(intensity * count))
    for place in sorted(rng.sample(range(count), min(number, count))):
        others = [word for word in layout.words if word.casefold() != layout.words[place].casefold()]
        from_text = others and (not common or rng.random() < 0.5)
        stray = rng.choice(others if from_text else common) if others or common else ""
        if stray:
            words[place] = f"{words[place]}{joint}{stray.lower() if stray[1:].islower() else stray}"
    return None if words == layout.words else layout.weave(words)


def repeat(text: str, *, rng: random.Random, intensity: float, protect: bool) -> str | None:
    """Runs of two to six words said twice in a row, as by a model that is stuck; `intensity`: how much of the text."""
    layout = lay_out(text, protect=protect)
    count = len(layout.words)
    if count < 2:
        return None
    joint = " " if layout.spaced else ""
    starts: dict[int, int] = {}
    budget = math.ceil(intensity * count)
    for _ in range(8 * max(1, count)):
        if budget <= 0:
            break
        start = rng.randrange(count)
        size = min(rng.randint(2, 6), budget + 1, count - start)
        run = layout.gaps[start + 1 : start + size]
        if size < 1 or any(not _inline(gap, protect) for gap in run) or _overlaps(starts, start, size):
            continue
        starts[start] = size
        budget -= size
    if not starts:
        return None
    ends = {start + size - 1: start for start, size in starts.items()}
    out = [layout.gaps[0]]
    for place, word in enumerate(layout.words):
        out += (word, layout.gaps[place + 1])
        if place in ends:
            start = ends[place]
            again = Layout(["", *layout.gaps[start + 1 : place + 1], ""], layout.words[start : place + 1])
            out.insert(len(out) - 1, joint + again.weave(again.words))
    return "".join(out)


def _overlaps(taken: dict[int, int], start: int, size: int) -> bool:
    return any(start < begin + length and begin < start + size for begin, length in taken.items())


def _inline(gap: str, protect: bool) -> bool:
    """Whether a gap holds nothing but spaces and marks, so that saying it twice doubles no line, emoji or code."""
    return "\n" not in gap and not _emoji().search(gap) and not (protect and protected_spans(gap))


@functools.cache
def _emoji() -> re.Pattern[str]:
    return re.compile(EMOJI)


def _begins(layout: Layout, place: int) -> bool:
    return starts_sentence(layout.gaps[place], first=place == 0)


def _like(word: str, model: str) -> str:
    """With a capital if the model has one."""
    return word[:1].upper() + word[1:] if model[:1].isupper() else word
