"""Near-duplicates: texts that share nearly all of their pieces, found by MinHash.

A text is normalised and seen as the set of its pieces of five characters. MinHash (rensa) draws 128 numbers from the
set, of which two texts share, on average, as large a part as their sets do of their union (Jaccard's index). Two texts
are *near* where at least `threshold` of the numbers agree: at .9, one letter that differs in a hundred is near, and at
an index of .9 the share is .9 with a standard deviation of .027 or less. Short texts that differ are rarely near.

Near texts are grouped: whoever is near to one of a group belongs to it, so two texts of a group need not be near
themselves. The numbers depend on the text alone and every near pair is found (see `groups_of`), so groups depend on the
set of texts alone: not on their order, on workers, or on whether rows went to disk.

Completions of one prompt are only looked at where their lengths and pieces allow it (see `ktodata.sketch`). So `unpair`
passes over those that say the same over and over, once or twice as often, whose lengths are no measure of their pieces.

Memory: 8 bytes for each prompt and, while they are few, 128 for its signature; many are set aside on disk
(`ktodata.signed`). While groups are looked for it is about 60 bytes for each prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from ktodata.arrange import mixed
from ktodata.errors import UsageError
from ktodata.schema import Text
from ktodata.signed import Signed
from ktodata.sketch import HASHES, Array, signatures

THRESHOLD = 0.9
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
    for band in range(bands):
        keys = _keys(found, slice(band * width, (band + 1) * width), within)
        for places in _sharing(keys if len(distinct) == count else keys[distinct]):
            _connect(distinct[places], found, within, need, roots)
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

    def unite(self, one: int, other: int) -> None:
        first, second = sorted((self.of(one), self.of(other)))
        self.parents[second] = first


def _connect(places: Array, found: Signed, scope: Array | None, need: int, roots: _Roots) -> None:
    """Unite those of some texts that are near, by walking from each to whatever is not reached yet."""
    import numpy as np

    rows = found.take(places)
    left = np.arange(len(places))
    while len(left) > 1:
        waiting, left = [int(left[0])], left[1:]
        while waiting and len(left):
            here = waiting.pop()
            near = (rows[left] == rows[here]).sum(axis=1) >= need
            if scope is not None:
                near &= scope[places[left]] == scope[places[here]]
            for other in left[near].tolist():
                roots.unite(int(places[here]), int(places[other]))
                waiting.append(other)
            left = left[~near]


class Prompts:
    """The prompts of many rows, as they come, each known by its number (`ktodata.order.number_of` its `prompt_id`).

    `folder` is where signatures go when they are many; by default the folder for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._numbers: list[Array] = []
        self._found = Signed(folder)

    def add(self, numbers: Array, texts: Sequence[Text]) -> None:
        """Prompts, each of which should come once; more often does no harm.

        Raises:
            WriteError: the disk is full or read-only.
        """
        self.add_signed(numbers, signatures(texts))

    def add_signed(self, numbers: Array, found: Array) -> None:
        """Prompts whose `signatures` are there already; raises what `add` does."""
        self._numbers.append(numbers)
        self._found.add(found)

    def groups(self, threshold: float) -> Groups:
        """Which of them are near. All that came is forgotten."""
        import numpy as np

        numbers, found = np.concatenate([np.zeros(0, dtype=np.uint64), *self._numbers]), self._found
        self._numbers, self._found = [], Signed(self._folder)
        group = groups_of(found, threshold)
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

    def of(self, prompts: Array) -> Array:
        """The group's number for each prompt's, its own where it is near to none."""
        import numpy as np

        if not len(self.numbers):
            return prompts
        places = np.minimum(np.searchsorted(self.numbers, prompts), len(self.numbers) - 1)
        return np.where(self.numbers[places] == prompts, self.roots[places], prompts)
