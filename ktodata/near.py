"""Near-duplicates: texts that share nearly all of their pieces, found by MinHash.

A text is normalised and seen as the set of its pieces of five characters. MinHash (rensa) draws 128 numbers from the
set, of which two texts share, on average, as large a part as their sets do of their union (Jaccard's index). Two texts
are *near* where at least `threshold` of the numbers agree: at .9, one letter that differs in a hundred is near, and at
an index of .9 the share is .9 with a standard deviation of .027. Short texts that differ at all are rarely near.

Near texts are grouped: whoever is near to one of a group belongs to it, so two texts of a group need not be near
themselves. The numbers depend on the text alone and every near pair is found (see `groups_of`), so groups depend on the
set of texts alone: not on their order, on workers, or on whether rows went to disk.

Completions of one prompt are only looked at where their lengths and pieces allow it: see `comparable` and `alike`.

Memory: 264 bytes for each prompt, and nothing of its text.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
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
BATCH = 50_000  # bytes of text whose pieces are hashed together: so many stay in a cache
BUCKETS = 2048  # for the pieces of one text: most texts have fewer
FEW = 8  # completions of a prompt that are compared with one another by their buckets
COMPACT = 100_000  # prompts, from which on those that came several times are looked for
_PAD = b"\0" * PIECE  # between texts: no piece reaches from one into the next


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
    return signatures_of(folded(texts))


def folded(texts: Sequence[Text]) -> list[bytes]:
    """The words of each text, normalised, as UTF-8."""
    return [one for batch in _batches([plain(text) for text in texts]) for one in normalise_all(batch)]


def signatures_of(texts: Sequence[bytes]) -> Array:
    """The MinHash of texts that are `folded` already: an array of uint16, [texts, 128]."""
    import numpy as np

    found = np.empty((len(texts), HASHES), dtype=np.uint16)
    start = 0
    for batch in _batches(texts):
        found[start : start + len(batch)] = _signatures(batch)
        start += len(batch)
    return found


def _batches(texts: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The texts in portions of about `BATCH` characters or bytes."""
    start = size = 0
    for place, text in enumerate(texts):
        size += len(text)
        if size >= BATCH or place == len(texts) - 1:
            yield texts[start : place + 1]
            start, size = place + 1, 0


def _signatures(texts: Sequence[bytes]) -> Array:
    import numpy as np
    import rensa

    pieces, offsets = _pieces(texts)
    _scatter(pieces)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(pieces, offsets.astype(np.uint64), HASHES, 0)
    numbers = array("I")
    for row in matrix.to_rows():
        numbers.fromlist(row)
    # The low half of each number: others agree there by chance once in 65,536 times.
    return np.frombuffer(numbers, dtype=np.uint32).astype(np.uint16).reshape(len(texts), HASHES)


def _pieces(texts: Sequence[bytes]) -> tuple[Array, Array]:
    """The pieces of some texts as numbers of 64 bits, and where those of each text begin, and where all of them end.

    A text has `PIECE` more of them than characters: where none begins, its first one is repeated, which changes nothing
    of the set. Of a text that is too short for a piece it is the whole text.
    """
    import numpy as np

    joined = _PAD.join([*texts, b""])
    if joined.isascii():
        lengths, pieces = [len(text) for text in texts], _windows(joined)
    else:
        lengths, pieces = [len(text.decode("utf-8", "surrogatepass")) for text in texts], _wide_windows(joined)
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths, dtype=np.int64) + PIECE)])
    starts, ends = offsets[:-1, None], offsets[1:, None]
    pieces[np.maximum(ends - np.arange(1, 2 * PIECE), starts)] = pieces[starts]
    return pieces, offsets


def _wide_windows(joined: bytes) -> Array:
    """`_windows` of characters, of which some take more than a byte."""
    import numpy as np

    spelled = joined.decode("utf-8", "surrogatepass").encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(spelled, dtype="<u4")
    pieces = _windows(codes.astype(np.uint8).tobytes())
    wide = codes > 127
    for ahead in range(1, PIECE):
        wide[:-ahead] |= codes[ahead:] > 127
    places = np.flatnonzero(wide)  # before the last text's end, so a piece is whole
    first, second, third, fourth, fifth = (codes[places + ahead].astype(np.uint64) for ahead in range(PIECE))
    # A character takes 21 bits: three fit into one number, the other two into a second.
    pieces[places] = mixed(
        first | (second << np.uint64(21)) | (third << np.uint64(42)), fourth | (fifth << np.uint64(21))
    )
    return pieces


def _windows(text: bytes) -> Array:
    """The `PIECE` bytes from each byte on, as a number."""
    import numpy as np

    padded = text + b"\0" * 8
    whole: Array = np.ndarray(len(text), dtype="<u8", buffer=padded, strides=(1,))
    return whole & np.uint64(256**PIECE - 1)


def _scatter(numbers: Array) -> None:
    """Mix the bits of each number, in place; different ones stay different."""
    import numpy as np

    shifted = np.empty_like(numbers)
    for factor, shift in ((0x9E3779B97F4A7C15, 32), (0xBF58476D1CE4E5B9, 29)):
        np.multiply(numbers, np.uint64(factor), out=numbers)
        np.right_shift(numbers, np.uint64(shift), out=shifted)
        np.bitwise_xor(numbers, shifted, out=numbers)


def groups_of(found: Array, threshold: float, within: Array | None = None) -> Array:
    """The group of each text, as the place of the group's first member: an integer array.

    Args:
        found: what `signatures` gave.
        threshold: the share of numbers that near texts have in common, at least.
        within: a number for each text; texts with different numbers are not compared.
    """
    import numpy as np

    count = len(found)
    scope = np.zeros(count, dtype=np.uint64) if within is None else within.astype(np.uint64)
    # Equal ones need no comparing, however many there are.
    group = _first_equal(_mixed_with(scope, found))
    distinct = np.flatnonzero(group == np.arange(count))
    scope = scope[distinct]
    roots = _Roots()
    need = math.ceil(threshold * HASHES - 1e-9)
    bands = _bands(HASHES - need)
    width = HASHES // bands
    for band in range(bands):
        columns = found[:, band * width : (band + 1) * width]
        keys = _mixed_with(scope, columns if len(distinct) == count else columns[distinct])
        for places in _sharing(keys):
            _connect(distinct[places], found, within, need, roots)
    for place in roots.parents:
        group[place] = roots.of(place)
    return group[group]


def _first_equal(keys: Array) -> Array:
    """For each place the first one with the same key."""
    import numpy as np

    order = np.argsort(keys, kind="stable")
    begins = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
    first = np.empty(len(keys), dtype=np.int64)
    first[order] = np.repeat(order[begins], np.diff(begins, append=len(keys)))
    return first


def _sharing(keys: Array) -> Iterator[Array]:
    """The places of each key that several share; of keys that agree but for their lowest bits, too."""
    import numpy as np

    # Places take the lowest bits of their keys, to be sorted with them: several times as fast as sorting places.
    bits = np.uint64(max(1, (len(keys) - 1).bit_length()))
    both = np.sort(keys >> bits << bits | np.arange(len(keys), dtype=np.uint64))
    same = np.zeros(len(keys) + 1, dtype=bool)
    same[1:-1] = both[1:] >> bits == both[:-1] >> bits
    borders = np.flatnonzero(same[1:] != same[:-1])
    for start, end in borders.reshape(-1, 2).tolist():
        yield (both[start : end + 1] & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


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


def _connect(places: Array, found: Array, scope: Array | None, need: int, roots: _Roots) -> None:
    """Unite those of some texts that are near, by walking from each to whatever is not reached yet."""
    left = places
    while len(left) > 1:
        waiting, left = [int(left[0])], left[1:]
        while waiting and len(left):
            here = waiting.pop()
            near = (found[left] == found[here]).sum(axis=1) >= need
            if scope is not None:
                near &= scope[left] == scope[here]
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
    close = (within[order][1:] == within[order][:-1]) & (shorter >= (threshold - SPREAD) * longer)
    found = np.zeros(len(lengths), dtype=bool)
    found[order[1:][close]] = True
    found[order[:-1][close]] = True
    return found


def alike(texts: Sequence[bytes], within: Array, threshold: float) -> Array:
    """Which texts have one to be compared with whose pieces may be nearly the same: a bool for each.

    Pieces fall into buckets. A bucket that one text uses and the other does not holds a piece that they do not share,
    so buckets say how large Jaccard's index can be at most: where that is below `threshold` - .15, five standard
    deviations lie between the two and being near. It takes a fraction of what MinHash does.

    Args:
        texts: `folded`.
        within: a number for each text; texts with different numbers are not compared. Where more than a few have one
            number, these all stay.
    """
    import numpy as np

    order = np.argsort(within, kind="stable")
    group = within[order]
    used, sizes = _buckets([texts[place] for place in order.tolist()])
    found = np.zeros(len(texts), dtype=bool)
    for ahead in range(1, FEW):
        together = np.flatnonzero(group[ahead:] == group[:-ahead])
        one, other = together, together + ahead
        apart = np.bitwise_count(used[one] ^ used[other]).sum(axis=1, dtype=np.int64)
        both = sizes[one] + sizes[other]
        close = both - apart >= (threshold - SPREAD) * (both + apart)
        found[order[one[close]]] = True
        found[order[other[close]]] = True
    many = np.flatnonzero(group[FEW:] == group[:-FEW])
    for ahead in range(FEW + 1) if len(many) else ():
        found[order[many + ahead]] = True
    return found


def _buckets(texts: Sequence[bytes]) -> tuple[Array, Array]:
    """Which buckets the pieces of each text are in, a bit for each, and how many pieces it has, at most."""
    import numpy as np

    used = np.zeros((len(texts), BUCKETS // 64), dtype=np.uint64)
    sizes = np.zeros(len(texts), dtype=np.int64)
    start = 0
    for batch in _batches(texts):
        pieces, offsets = _pieces(batch)
        buckets = (pieces * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - BUCKETS.bit_length() + 1)).astype(np.int64)
        buckets += np.repeat(np.arange(len(batch)) * BUCKETS, np.diff(offsets))
        bits = np.zeros(len(batch) * BUCKETS, dtype=bool)
        bits[buckets] = True
        stop = start + len(batch)
        used[start:stop] = np.packbits(bits).view(np.uint64).reshape(len(batch), -1)
        sizes[start:stop] = np.maximum(np.diff(offsets) - 2 * PIECE + 1, 1)
        start = stop
    return used, sizes


class Prompts:
    """The prompts of many rows, as they come, each known by its number (`ktodata.order.number_of` its `prompt_id`)."""

    def __init__(self) -> None:
        self._numbers: list[Array] = []
        self._found: list[Array] = []
        self._count, self._enough = 0, COMPACT

    def add(self, numbers: Array, texts: Sequence[Text]) -> None:
        """Prompts, each of which should come once; more often does no harm."""
        self.add_signed(numbers, signatures(texts))

    def add_signed(self, numbers: Array, found: Array) -> None:
        """Prompts whose `signatures` are there already."""
        self._numbers.append(numbers)
        self._found.append(found)
        self._count += len(numbers)
        if self._count > self._enough:
            self._gather()
            self._enough = 2 * self._count

    def _gather(self) -> None:
        """All that came, one of each prompt."""
        import numpy as np

        numbers = np.concatenate(self._numbers)
        _, places = np.unique(numbers, return_index=True)
        found = np.empty((len(places), HASHES), dtype=np.uint16)
        order = np.sort(places)
        ends = np.cumsum([len(some) for some in self._numbers])
        done = 0
        for end, some in zip(ends.tolist(), self._taken(), strict=True):
            stop = int(np.searchsorted(order, end))
            found[done:stop] = some[order[done:stop] - (end - len(some))]
            done = stop
        self._numbers, self._found, self._count = [numbers[order]], [found], len(order)

    def _taken(self) -> Iterator[Array]:
        """Signatures as they came; each is forgotten, so that there is room for what is made of it."""
        self._found.reverse()
        while self._found:
            yield self._found.pop()

    def groups(self, threshold: float) -> Groups:
        """Which of them are near. All that came is forgotten."""
        import numpy as np

        if not self._numbers:
            return Groups(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.uint64))
        self._gather()
        (numbers,), (found,) = self._numbers, self._found
        self._numbers, self._found, self._count = [], [], 0
        group = groups_of(found, threshold)
        least = numbers.copy()  # a group goes by its least number
        np.minimum.at(least, group, numbers)
        roots = least[group]
        order = np.argsort(numbers)
        order = order[roots[order] != numbers[order]]
        return Groups(numbers[order], roots[order])


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
