"""Near-duplicates: texts that share nearly all of their pieces, found by MinHash.

A text is normalised and seen as the set of its pieces of five characters. MinHash (rensa) draws 128 numbers from the
set, of which two texts share, on average, as large a part as their sets do of their union (Jaccard's index). Two texts
are *near* where at least `threshold` of the numbers agree: at .9, one letter that differs in a hundred is near, and at
an index of .9 the share is .9 with a standard deviation of .027 or less. Short texts that differ are rarely near.

Near texts are grouped: whoever is near to one of a group belongs to it, so two texts of a group need not be near
themselves. The numbers depend on the text alone and every near pair is found (see `groups_of`), so groups depend on the
set of texts alone: not on their order, on workers, or on whether rows went to disk.

Prompts are near where they are and what they say beside their system prompts is. A preamble that is no system prompt (a
template of plain text) counts as a part of the text: behind a long one, short questions are near.

Completions of one prompt are only looked at where their lengths and pieces allow it (see `ktodata.sketch`). So `unpair`
passes over those that say the same over and over, once or twice as often, whose lengths are no measure of their pieces.

Memory: 8 bytes for each prompt and, while they are few, 128 for its signature (256 with system prompts); many are set
aside on disk (`ktodata.signed`). While groups are looked for it is about 60 bytes for each prompt, and some 500 for
each of many that have a template in common.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ktodata.arrange import mixed
from ktodata.errors import UsageError
from ktodata.schema import SYSTEM, Message, Text
from ktodata.signed import Signed
from ktodata.sketch import HASHES, Array, folded, signatures_of

THRESHOLD = 0.9
BLOCK = 4096  # signatures that are looked at together
FEW = 16  # texts with a band in common that are compared as they are
MANY = 300  # texts with a rare number in common of which each pair is compared
LEAST = 0.6  # below that, texts are no longer alike, and too many pairs are looked at


def check_threshold(threshold: float, *, flag: str = "--near-threshold") -> float:
    """The threshold, if it is one.

    Raises:
        UsageError: it is not from .6 to 1.
    """
    if not LEAST <= threshold <= 1:
        raise UsageError(f"{flag} is {threshold:g}", do=f"It goes from {LEAST:g} to 1; {THRESHOLD:g} is usual")
    return threshold


def groups_of(found: Signed | Array, threshold: float, within: Array | None = None) -> Array:
    """The group of each text, as the place of the group's first member: an integer array.

    Args:
        found: what `signatures` gave.
        threshold: the share of numbers that near texts have in common, at least. At 1 no text is near another: texts of
            one piece more or less often have all numbers in common, and equal ones are told by their ids.
        within: a number for each text; texts with different numbers are not compared.
    """
    import numpy as np

    count = len(found)
    if count < 2 or threshold == 1:
        return np.arange(count)
    if not isinstance(found, Signed):
        found, rows = Signed(budget=found.nbytes), found
        found.add(rows)
    # Equal ones need no comparing, however many there are.
    group = _first_equal(_keys(found, slice(None), within))
    distinct = np.flatnonzero(group == np.arange(count))
    roots = _Roots()
    need = math.ceil(threshold * HASHES - 1e-9)
    bands = _bands(HASHES - need)
    width = HASHES // bands
    crowded = np.zeros(count, dtype=bool)
    for band in range(bands):
        keys = _keys(found, slice(band * width, (band + 1) * width), within)
        for places in _sharing(keys if len(distinct) == count else keys[distinct]):
            if len(places) > FEW:
                crowded[distinct[places]] = True
            else:
                _walk(distinct[places], found, within, need, roots)
    if crowded.any():
        _connect_many(np.flatnonzero(crowded), found, within, need, roots)
    for place in roots.parents:
        group[place] = roots.of(place)
    return group[group]


def _first_equal(keys: Array) -> Array:
    """For each place the first one with the same key."""
    import numpy as np

    first = np.arange(len(keys))
    places = _not_alone(keys)
    places = places[np.argsort(keys[places], kind="stable")]
    begins = np.flatnonzero(np.diff(keys[places], prepend=~keys[places[:1]]))
    first[places] = np.repeat(places[begins], np.diff(begins, append=len(places)))
    return first


def _not_alone(keys: Array) -> Array:
    """The places of keys with whose highest bits there is another: of all that several share, and not many more."""
    import numpy as np

    bits = np.uint64(len(keys).bit_length())
    high = (keys >> (np.uint64(63) - bits)).view(np.int64)
    return np.flatnonzero((np.bincount(high) > 1)[high])


def _sharing(keys: Array) -> Iterator[Array]:
    """The places of each key that several share; of keys that agree but for their lowest bits, too."""
    import numpy as np

    # Places take the lowest bits of their keys, to be sorted with them: several times as fast as sorting places.
    bits = np.uint64(len(keys).bit_length())
    places = _not_alone(keys)  # most keys are alone: those need no sorting
    both = np.sort(keys[places] >> bits << bits | places.astype(np.uint64))
    same = np.zeros(len(both) + 1, dtype=bool)
    same[1:-1] = both[1:] >> bits == both[:-1] >> bits
    borders = np.flatnonzero(same[1:] != same[:-1])
    for start, end in borders.reshape(-1, 2).tolist():
        yield (both[start : end + 1] & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


def _keys(found: Signed, columns: slice, within: Array | None) -> Array:
    """A number of 64 bits for some columns of each signature, and what it is compared within; different ones agree once
    in about 2**64 times."""
    import numpy as np

    keys = np.zeros(len(found), dtype=np.uint64) if within is None else within.astype(np.uint64)
    done = 0
    with np.errstate(over="ignore"):
        keys *= np.uint64(0x9E3779B97F4A7C15)
        for block in found.blocks():
            some = np.ascontiguousarray(block[:, columns])
            width = some.shape[1] * some.itemsize
            words = some.view(np.uint64 if width % 8 == 0 else f"u{width}")  # several values in each
            factors = mixed(np.arange(1, words.shape[1] + 1, dtype=np.uint64), np.uint64(width)) | np.uint64(1)
            keys[done : done + len(block)] += words.astype(np.uint64, copy=False) @ factors
            done += len(block)
    return keys


def _bands(differing: int) -> int:
    """Into how many bands to cut 128 numbers, of which so many may differ, for at least one band to be equal."""
    bands = 1
    while bands <= differing:
        bands *= 2
    return bands


class _Roots:
    """Union-find: the connected components of what is united. `parents` has the places that are in one with others."""

    def __init__(self) -> None:
        self.parents: dict[int, int] = {}

    def of(self, place: int) -> int:
        while (parent := self.parents.get(place, place)) != place:
            self.parents[place] = self.parents.get(parent, parent)
            place = self.parents[place]
        return place

    def are_one(self, places: Array) -> bool:
        """Whether these are united already."""
        first, *others = places.tolist()
        root = self.of(first)
        return all(self.of(place) == root for place in others)

    def unite(self, one: int, other: int) -> None:
        first, second = sorted((self.of(one), self.of(other)))
        self.parents[second] = first


def _connect_many(places: Array, found: Signed, within: Array | None, need: int, roots: _Roots) -> None:
    """Unite those of many texts that are near.

    Where many have a long part in common (a template around a question), many share a band and few are near. So they
    are only compared where they share one of their rarest numbers: two texts that differ in `d` numbers at most have
    one of their `d + 1` rarest in common, whatever is rare, if it is the same for both.
    """
    import numpy as np

    rows = found.take(places)
    rarest = _rarest(rows, HASHES - need + 1)
    order = np.argsort(rarest, axis=None)
    numbers, texts = rarest.ravel()[order], order // rarest.shape[1]
    borders = np.flatnonzero(np.diff(numbers, prepend=~numbers[:1], append=~numbers[-1:]))
    sizes = np.diff(borders)
    for place in np.flatnonzero(sizes > MANY).tolist():
        _walk(places[texts[borders[place] : borders[place + 1]]], found, within, need, roots)
    left = np.flatnonzero(np.repeat(sizes <= MANY, sizes))
    for ahead in range(1, MANY):
        left = left[left < len(numbers) - ahead]
        left = left[numbers[left + ahead] == numbers[left]]
        for start in range(0, len(left), BLOCK):
            some = left[start : start + BLOCK]
            one, other = texts[some], texts[some + ahead]
            near = _agree(rows[one], rows[other], need)
            if within is not None:
                near &= within[places[one]] == within[places[other]]
            for pair in zip(places[one[near]].tolist(), places[other[near]].tolist(), strict=True):
                roots.unite(*pair)


def _rarest(rows: Array, count: int) -> Array:
    """So many of each row's numbers, those that the fewest of the rows have: [rows, count] of what is equal for equal
    numbers in equal places."""
    import numpy as np

    often = [np.bincount(column) for column in rows.T]
    places = np.arange(rows.shape[1], dtype=np.uint64) << np.uint64(16)
    found = np.empty((len(rows), count), dtype=np.uint64)
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK]
        ranks = np.stack([counts[column] for counts, column in zip(often, some.T, strict=True)], axis=1)
        # Of numbers that are as rare as each other, any order will do that is the same for all rows.
        whole = ranks.astype(np.uint64) << np.uint64(32) | places | some.astype(np.uint64)
        found[start : start + BLOCK] = np.partition(whole, count - 1, axis=1)[:, :count]
    return found


def _walk(places: Array, found: Signed, within: Array | None, need: int, roots: _Roots) -> None:
    """Unite those of some texts that are near, by going from each to whatever is not reached yet."""
    import numpy as np

    if roots.are_one(places):
        return
    rows = found.take(places)
    left = np.arange(len(places))
    while len(left) > 1:
        waiting, left = [int(left[0])], left[1:]
        while waiting and len(left):
            here = waiting.pop()
            near = _agree(rows[left], rows[here : here + 1], need)
            if within is not None:
                near &= within[places[left]] == within[places[here]]
            for other in left[near].tolist():
                roots.unite(int(places[here]), int(places[other]))
                waiting.append(other)
            left = left[~near]


def _agree(some: Array, others: Array, need: int) -> Array:
    """Whether so many numbers of signatures are equal: a bool for each two."""
    return (some == others).sum(axis=1) >= need


class Signs(NamedTuple):
    """What is known of some prompts: the number of each, the `signatures` of what it says beside its system prompt, and
    of all of it, where one of them has a system prompt."""

    numbers: Array
    said: Array
    whole: Array | None


def signs_of(numbers: Array, prompts: Sequence[Text], words: Sequence[bytes] | None = None) -> Signs:
    """The signs of prompts with these numbers (`ktodata.order.number_of` their ids); `words` has what `folded` makes of
    them, if that is known already."""
    words = folded(prompts) if words is None else words
    said = [_said(prompt) for prompt in prompts]
    if all(one is None for one in said):
        return Signs(numbers, signatures_of(words), None)
    beside = folded([prompt if one is None else one for prompt, one in zip(prompts, said, strict=True)])
    return Signs(numbers, signatures_of(beside), signatures_of(words))


def _said(prompt: Text) -> list[Message] | None:
    """What a prompt says beside its system prompt; None if that is all of it, or nothing."""
    if isinstance(prompt, str):
        return None
    said = [turn for turn in prompt if turn["role"] not in SYSTEM]
    return said if 0 < len(said) < len(prompt) else None


class Prompts:
    """The prompts of many rows, as they come, each known by its number (`ktodata.order.number_of` its `prompt_id`).

    Prompts are near where they are and what they say beside their system prompts is: a long one that all have in common
    makes no questions alike, and a short question is not the same about another text. `folder` is where signatures go
    when they are many; by default the folder for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._begin()

    def _begin(self) -> None:
        self._numbers: list[Array] = []
        self._said = Signed(self._folder)
        self._whole: Signed | None = None  # the same, until a system prompt comes

    def add(self, signs: Signs) -> None:
        """Prompts, each of which should come once; more often does no harm.

        Raises:
            WriteError: the disk is full or read-only.
        """
        if signs.whole is not None and self._whole is None:
            self._whole = Signed(self._folder)
            for block in self._said.blocks():
                self._whole.add(block)
        self._numbers.append(signs.numbers)
        self._said.add(signs.said)
        if self._whole is not None:
            self._whole.add(signs.said if signs.whole is None else signs.whole)

    def groups(self, threshold: float) -> Groups:
        """Which of them are near. All that came is forgotten."""
        import numpy as np

        numbers, said, whole = np.concatenate([np.zeros(0, dtype=np.uint64), *self._numbers]), self._said, self._whole
        self._begin()
        group = groups_of(said, threshold)
        if whole is not None:
            group = groups_of(whole, threshold, group)
        least = numbers.copy()  # a group goes by its least number
        np.minimum.at(least, group, numbers)
        roots = least[group]
        moved = np.flatnonzero(roots != numbers)
        moved = moved[np.unique(numbers[moved], return_index=True)[1]]  # in order, and each once
        return Groups(numbers[moved], roots[moved])


class Groups:
    """Groups of near prompts: `of` gives the number that a group goes by, for each prompt's number."""

    def __init__(self, numbers: Array, roots: Array) -> None:
        self.numbers, self.roots = numbers, roots

    def __len__(self) -> int:
        """How many prompts go by the number of another."""
        return len(self.numbers)

    def leaving(self, parts: int) -> list[int]:
        """Of so many parts (a number's is its remainder), those with a prompt whose group's number is of another."""
        import numpy as np

        own, groups = self.numbers % np.uint64(parts), self.roots % np.uint64(parts)
        return [int(part) for part in np.unique(own[own != groups])]

    def of(self, prompts: Array) -> Array:
        """The group's number for each prompt's, its own where it is near to none."""
        import numpy as np

        if not len(self.numbers):
            return prompts
        places = np.minimum(np.searchsorted(self.numbers, prompts), len(self.numbers) - 1)
        return np.where(self.numbers[places] == prompts, self.roots[places], prompts)
