"""Rows taken together: contradictions, duplicates, one completion per prompt.

Each function gives what stays and what goes, both in the order they came in; which rows these are depends on the
set of rows (and the seed) alone. Nothing here looks at more than the rows of one prompt, but for `OnePerPrompt`, which
counts: so the rows of different prompts can be cleaned at different times and places.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from ktodata.errors import SourceError

OnConflict: TypeAlias = Literal["error", "drop", "majority", "keep"]
ON_CONFLICT: tuple[str, ...] = get_args(OnConflict)
OnNear: TypeAlias = Literal["keep", "drop"]
ON_NEAR: tuple[str, ...] = get_args(OnNear)
Meaning: TypeAlias = tuple[str, int]
NAMED = 3  # contradictions that an error tells of


class Item(NamedTuple):
    """What cleaning needs of a row: its ids, a number that its completion shares with those that are equal after
    normalising, its label and provenance, and its place among the rows at hand."""

    id: str
    prompt_id: str
    completion: int
    label: bool
    provenance: tuple[str, ...]
    place: int

    @property
    def meaning(self) -> tuple[str, int]:
        """Equal for rows whose prompts and completions are equal after normalising."""
        return self.prompt_id, self.completion


class Kept(NamedTuple):
    """What stays and what goes."""

    kept: list[Item]
    dropped: list[Item]


def contradictions(items: Sequence[Item]) -> dict[Meaning, list[Item]]:
    """The rows of each completion that carries both labels for one prompt."""
    seen: dict[bool, set[Meaning]] = {
        label: {item.meaning for item in items if item.label == label} for label in (True, False)
    }
    both = seen[True] & seen[False]
    found: dict[Meaning, list[Item]] = {}
    for item in items if both else ():
        if item.meaning in both:
            found.setdefault(item.meaning, []).append(item)
    return found


def resolve_conflicts(items: Sequence[Item], policy: OnConflict) -> Kept:
    """Completions that carry both labels for one prompt, by `policy`.

    `drop` takes all rows of a contradiction out, `majority` those of the rarer label (all, if it is a tie; every
    occurrence is a vote), `keep` none; what to do for `error` is the caller's: see `Conflicts`.
    """
    if policy == "keep":
        return Kept(list(items), [])
    both = contradictions(items)
    votes = Counter((item.meaning, item.label) for rows in both.values() for item in rows)

    def stays(item: Item) -> bool:
        if item.meaning not in both:
            return True
        return policy == "majority" and votes[item.meaning, item.label] > votes[item.meaning, not item.label]

    return _split(items, [stays(item) for item in items])


class Conflicts:
    """Contradictions as they are found, for the error that tells of them."""

    def __init__(self) -> None:
        self.count = 0
        self.told: list[tuple[str, list[str]]] = []

    def add(self, text: str, places: Sequence[str]) -> None:
        """One completion, and what is said of it where."""
        self.count += 1
        self.told.append((text.strip()[:40], list(places[:4])))
        self.told = sorted(self.told, key=lambda one: one[1])[:NAMED]

    def refuse(self) -> None:
        """Stop, if there was any.

        Raises:
            SourceError: there was; the first few are named.
        """
        if not self.count:
            return
        told = "; ".join(f"{text!r} {', '.join(places)}" for text, places in self.told)
        more = f"; and {self.count - NAMED} more" if self.count > NAMED else ""
        raise SourceError(
            f"{self.count} completions carry both labels: {told}{more}",
            do="Choose --on-conflict drop, majority or keep",
        )


def drop_duplicates(items: Sequence[Item]) -> Kept:
    """Rows of one label that are equal after normalising, but for one of each: the first by provenance and id, wherever
    it stands."""
    first: dict[tuple[Meaning, bool], int] = {}
    for index, item in enumerate(items):
        key = item.meaning, item.label
        there = first.setdefault(key, index)
        if there != index and (item.provenance, item.id) < (items[there].provenance, items[there].id):
            first[key] = index
    if len(first) == len(items):
        return Kept(list(items), [])
    stay = set(first.values())
    return _split(items, [index in stay for index in range(len(items))])


def resolve_near(items: Sequence[Item], groups: Sequence[int], policy: OnConflict) -> tuple[Kept, Kept]:
    """Rows that are nearly equal (see `ktodata.near`): first those with both labels, then all but one of each label.

    Args:
        items: rows whose prompts are near to each other, or of several such sets.
        groups: a number for each of them: rows with equal numbers are nearly equal.
        policy: for rows of one group with both labels, as in `resolve_conflicts`; `error` is for rows that are equal,
            and drops these.

    Returns:
        What stays and goes of near-contradictions, and of what stays of these, as near-duplicates. Of several rows the
        one with the first provenance and id stays.
    """
    votes = Counter((group, item.label) for item, group in zip(items, groups, strict=True))

    def stays(item: Item, group: int) -> bool:
        if policy == "keep" or not votes[group, not item.label]:
            return True
        return policy == "majority" and votes[group, item.label] > votes[group, not item.label]

    agreed = [stays(item, group) for item, group in zip(items, groups, strict=True)]
    left = [(item, group) for item, group, one in zip(items, groups, agreed, strict=True) if one]
    first: dict[tuple[int, bool], Item] = {}
    for item, group in left:
        there = first.setdefault((group, item.label), item)
        if (item.provenance, item.id) < (there.provenance, there.id):
            first[group, item.label] = item
    return _split(items, agreed), _split(
        [item for item, _ in left], [first[group, item.label] is item for item, group in left]
    )


class OnePerPrompt:
    """One completion of each prompt, so that nothing of a pair or a ranking is left to learn from.

    This is the setting of the KTO paper's experiment with one output per input: each prompt speaks once, for or
    against. Where only completions of one label remain for a prompt, one of these is drawn. The other prompts are
    shared out so that the classes come out as equal as they can, and one completion of the chosen label is drawn.
    Every draw is seeded by the seed and the content. First `count` all rows, then `choose`; both may be given a part
    at a time, if all rows of a prompt are in one part.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.forced: Counter[bool] = Counter()
        self.free: list[Any] = []
        self.first_undesirable: int | None = None

    def count(self, items: Sequence[Item]) -> None:
        """Look at some rows."""
        import numpy as np

        prompts = self._best(items)
        self.forced.update(next(iter(best)) for best in prompts.values() if len(best) == 1)
        # Eight bytes for each prompt is all that is kept of it.
        free = [self._number(prompt) for prompt, best in prompts.items() if len(best) == 2]
        self.free.append(np.array(free, dtype=np.uint64))
        self.first_undesirable = None

    def choose(self, items: Sequence[Item]) -> Kept:
        """What of these rows stays, when all have been counted."""
        if self.first_undesirable is None:
            self.first_undesirable = self._threshold()
        stay = set()
        for prompt, best in self._best(items).items():
            label = next(iter(best)) if len(best) == 1 else self._number(prompt) < self.first_undesirable
            stay.add(best[label])
        return _split(items, [index in stay for index in range(len(items))])

    def _threshold(self) -> int:
        """The number from which on the free prompts speak against their completion."""
        import numpy as np

        free = np.sort(np.concatenate([np.empty(0, dtype=np.uint64), *self.free]))
        prompts = self.forced.total() + len(free)
        # Half of all prompts, less those that are desirable anyway.
        desirable = max(0, min(len(free), (prompts + 1) // 2 - self.forced[True]))
        return int(free[desirable]) if desirable < len(free) else 2**64

    def _best(self, items: Sequence[Item]) -> dict[str, dict[bool, int]]:
        """By prompt and label, the place in `items` of the completion that is drawn."""
        prompts: dict[str, dict[bool, int]] = {}
        for index, item in enumerate(items):
            best = prompts.setdefault(item.prompt_id, {})
            there = best.get(item.label)
            if there is None or self._number(item.id) < self._number(items[there].id):
                best[item.label] = index
        return prompts

    def _number(self, name: str) -> int:
        text = f"one per prompt {self.seed} {name}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _split(items: Sequence[Item], stays: Sequence[bool]) -> Kept:
    kept: list[Item] = []
    dropped: list[Item] = []
    for item, stay in zip(items, stays, strict=True):
        (kept if stay else dropped).append(item)
    return Kept(kept, dropped)
