"""Near-duplicates: texts that share nearly all of their pieces, found by MinHash.

A text is normalised and seen as the set of its pieces of five characters. MinHash (rensa) draws 128 numbers from the
set, of which two texts share, on average, as large a part as their sets do of their union (Jaccard's index). Two texts
are *near* where at least `threshold` of the numbers agree: at .9, one letter that differs in a hundred is near, and at
an index of .9 the share is .9 with a standard deviation of .027. Short texts that differ at all are rarely near.

Near texts are grouped: whoever is near to one of a group belongs to it, so two texts of a group need not be near
themselves. The numbers depend on the text alone and every near pair is found (see `groups_of`), so groups depend on the
set of texts alone: not on their order, on workers, or on whether rows went to disk.

Completions of one prompt are only looked at where their lengths allow it: see `comparable`.

Memory: 264 bytes for each prompt, and nothing of its text.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any, TypeAlias

from ktodata.arrange import mixed
from ktodata.errors import UsageError
from ktodata.schema import Text, normalise_all, plain

Array: TypeAlias = Any
"""A `numpy.ndarray`."""

PIECE = 5  # characters
HASHES = 128
THRESHOLD = 0.9
LEAST = 0.6  # below that, texts are no longer alike, and too many pairs are looked at
SPREAD = 0.15  # five standard deviations of the share of numbers, at an index of .87
BATCH = 12_000  # characters whose pieces are hashed together: so many stay in a cache, and in the heap


def check_threshold(threshold: float, *, flag: str = "--near-threshold") -> float:
    """The threshold, if it is one.

    Raises:
        UsageError: it is not from .6 to 1.
    """
    if not LEAST <= threshold <= 1:
        raise UsageError(f"{flag} is {threshold:g}", do=f"It goes from {LEAST:g} to 1; {THRESHOLD:g} is usual")
    return threshold


def signatures(texts: Sequence[Text]) -> Array:
    """The MinHash of each text: an array of uint16, [texts, 128]."""
    import numpy as np

    found = np.empty((len(texts), HASHES), dtype=np.uint16)
    batch: list[str] = []
    size = start = 0
    for place, text in enumerate(texts):
        batch.append(plain(text))
        size += len(batch[-1])
        if size >= BATCH or place == len(texts) - 1:
            found[start : place + 1] = _signatures(
                [one.decode("utf-8", "surrogatepass") for one in normalise_all(batch)]
            )
            batch, size, start = [], 0, place + 1
    return found


def _signatures(texts: Sequence[str]) -> Array:
    import numpy as np
    import rensa

    padded = [text.ljust(PIECE, "\0") for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    ends = np.cumsum(lengths)
    # A character takes 21 bits: three fit into one number, the other two into a second.
    one = codes[:-4] | (codes[1:-3] << np.uint64(21)) | (codes[2:-2] << np.uint64(42))
    pieces = mixed(one, codes[3:-1] | (codes[4:] << np.uint64(21)))
    inside = np.ones(len(pieces), dtype=bool)
    for back in range(1, PIECE):  # pieces that would reach into the next text
        inside[ends[:-1] - back] = False
    offsets = np.concatenate([[0], np.cumsum(lengths - PIECE + 1)]).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(pieces[inside], offsets, HASHES, 0)
    numbers = array("I")
    for row in matrix.to_rows():
        numbers.fromlist(row)
    # The low half of each number: others agree there by chance once in 65,536 times.
    return np.frombuffer(numbers, dtype=np.uint32).astype(np.uint16).reshape(len(texts), HASHES)


def groups_of(found: Array, threshold: float, within: Array | None = None) -> Array:
    """The group of each text, as the place of the group's first member: an integer array.

    Args:
        found: what `signatures` gave.
        threshold: the share of numbers that near texts have in common, at least.
        within: a number for each text; texts with different numbers are not compared.
    """
    import numpy as np

    count = len(found)
    if not count:
        return np.zeros(0, dtype=np.int64)
    scope = np.zeros(count, dtype=np.uint64) if within is None else within.astype(np.uint64)
    # Equal ones need no comparing, however many there are.
    _, first, back = np.unique(_mixed_with(scope, found), True, True)
    distinct, scope = found[first], scope[first]
    roots = _Roots(len(first))
    need = math.ceil(threshold * HASHES - 1e-9)
    bands = _bands(HASHES - need)
    width = HASHES // bands
    for band in range(bands):
        keys = _mixed_with(scope, distinct[:, band * width : (band + 1) * width])
        order = np.argsort(keys)
        borders = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]], append=~keys[order[-1:]]))
        several = np.diff(borders) > 1
        for start, end in zip(borders[:-1][several].tolist(), borders[1:][several].tolist(), strict=True):
            _connect(order[start:end], distinct, scope, need, roots)
    root = np.array([roots.of(place) for place in range(len(first))], dtype=np.int64)[back.ravel()]
    least = np.full(len(first), count, dtype=np.int64)
    np.minimum.at(least, root, np.arange(count))
    return least[root]


def _mixed_with(numbers: Array, columns: Array) -> Array:
    """A number of 64 bits for each row of `columns` and its own number: different ones agree once in 2**64 times."""
    import numpy as np

    width = columns.shape[1] * columns.itemsize
    columns = np.ascontiguousarray(columns).view(np.uint64 if width % 8 == 0 else f"u{width}")
    for column in columns.T:  # four values at a time, where there are as many
        numbers = mixed(numbers, column.astype(np.uint64))
    return numbers


def _bands(differing: int) -> int:
    """Into how many bands to cut 128 numbers, of which so many may differ, for at least one band to be equal."""
    bands = 1
    while bands <= differing:
        bands *= 2
    return bands


class _Roots:
    """Union-find: the connected components of what is united."""

    def __init__(self, count: int) -> None:
        self.parents = list(range(count))

    def of(self, place: int) -> int:
        while self.parents[place] != place:
            self.parents[place] = self.parents[self.parents[place]]
            place = self.parents[place]
        return place

    def unite(self, one: int, other: int) -> None:
        first, second = sorted((self.of(one), self.of(other)))
        self.parents[second] = first


def _connect(places: Array, found: Array, scope: Array, need: int, roots: _Roots) -> None:
    """Unite those of some texts that are near, by walking from each to whatever is not reached yet."""
    left = places
    while len(left) > 1:
        waiting, left = [int(left[0])], left[1:]
        while waiting and len(left):
            here = waiting.pop()
            near = ((found[left] == found[here]).sum(axis=1) >= need) & (scope[left] == scope[here])
            for other in left[near].tolist():
                roots.unite(here, other)
                waiting.append(other)
            left = left[~near]


def comparable(lengths: Array, within: Array, threshold: float) -> Array:
    """Which texts have one of about their length to be compared with: a bool for each.

    Sets that share so much cannot differ much in size, and lengths tell the size of the sets (but for texts that
    repeat themselves): where the shorter one has less than `threshold` - .15 of the longer one's characters, five
    standard deviations lie between them and being near.

    Args:
        lengths: in characters.
        within: a number for each text; texts with different numbers are not compared.
    """
    import numpy as np

    order = np.lexsort((lengths, within))
    shorter, longer = lengths[order][:-1], lengths[order][1:]
    alike = (within[order][1:] == within[order][:-1]) & (shorter >= (threshold - SPREAD) * longer)
    found = np.zeros(len(lengths), dtype=bool)
    found[order[1:][alike]] = True
    found[order[:-1][alike]] = True
    return found


class Prompts:
    """The prompts of many rows, as they come, each known by its number (`ktodata.order.number_of` its `prompt_id`)."""

    def __init__(self) -> None:
        self._numbers: list[Array] = []
        self._found: list[Array] = []

    def add(self, numbers: Array, texts: Sequence[Text]) -> None:
        """Prompts, each of which should come once; more often does no harm."""
        self._numbers.append(numbers)
        self._found.append(signatures(texts))

    def groups(self, threshold: float) -> Groups:
        """Which of them are near."""
        import numpy as np

        if not self._numbers:
            return Groups(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.uint64))
        numbers, found = np.concatenate(self._numbers), np.concatenate(self._found)
        self._numbers, self._found = [], []
        order = np.argsort(numbers, kind="stable")  # so that a group goes by its least number
        numbers, found = numbers[order], found[order]
        roots = numbers[groups_of(found, threshold)]
        shared = roots != numbers
        return Groups(numbers[shared], roots[shared])


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
