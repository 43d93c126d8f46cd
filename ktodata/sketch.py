"""Texts as the sets of their pieces: the numbers that MinHash draws of these, and quick tests of how unlike two are.

A text is normalised and seen as the set of its pieces of five characters. MinHash (rensa) draws 128 numbers from the
set, of which two texts share, on average, as large a part as their sets do of their union (Jaccard's index): at an
index of .9 the share is .9 with a standard deviation of .027 or less (measured: .026 for texts of 2,300 characters,
.023 for those of 600, as rensa draws many of its numbers without replacement).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from ktodata.arrange import mixed
from ktodata.schema import Text, normalise_all, plain

Array: TypeAlias = Any
"""A `numpy.ndarray`."""

PIECE = 5  # characters
HASHES = 128
SPREAD = 0.15  # five standard deviations of the share of numbers, at an index of .87
BATCH = 250_000  # bytes of text whose pieces are hashed together: enough for rensa to use all cores
BLOCK = 8192  # numbers that are mixed together
BUCKETS = 2048  # for the pieces of one text: most texts have fewer
FEW = 8  # completions of a prompt that are compared with one another by their buckets
_FACTOR = 0x9E3779B97F4A7C15  # odd, so that no two numbers become one
_WORD = b"\0" * 8
_PAD = b"\0" * PIECE  # between texts: no piece reaches from one into the next


def signatures(texts: Sequence[Text]) -> Array:
    """The MinHash of each text: an array of uint8, [texts, 128]."""
    return signatures_of(folded(texts))


def folded(texts: Sequence[Text]) -> list[bytes]:
    """The words of each text, normalised, as UTF-8."""
    return [one for batch in batches([plain(text) for text in texts]) for one in normalise_all(batch)]


def signatures_of(texts: Sequence[bytes]) -> Array:
    """The MinHash of texts that are `folded` already: an array of uint8, [texts, 128]."""
    import numpy as np
    import rensa

    found = np.empty((len(texts), HASHES), dtype=np.uint8)
    start = 0
    for batch in batches(texts):
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(*_scattered(batch), HASHES, 0)
        found[start : start + len(batch)] = _drawn(matrix)
        start += len(batch)
    return found


def batches(texts: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The texts in portions of about `BATCH` characters or bytes."""
    start = size = 0
    for place, text in enumerate(texts):
        size += len(text)
        if size >= BATCH or place == len(texts) - 1:
            yield texts[start : place + 1]
            start, size = place + 1, 0


def _drawn(matrix: Any) -> Array:
    """The numbers of a matrix of rensa's, which gives them away as lists alone."""
    import numpy as np

    numbers = array("I")
    for row in matrix.to_rows():
        numbers.fromlist(row)
    # The low byte of each number: others agree there by chance once in 256 times, which adds .0004 to a share of .9.
    return np.frombuffer(numbers, dtype=np.uint32).astype(np.uint8).reshape(-1, HASHES)


def _pieces(texts: Sequence[bytes]) -> tuple[Array, Array]:
    """The pieces of some texts as numbers of 64 bits, and where those of each text begin, and where all of them end.

    A text has `PIECE` more of them than characters: where none begins, its first one is repeated, which changes nothing
    of the set. Of a text that is too short for a piece it is the whole text.
    """
    import numpy as np

    joined = _PAD.join([*texts, _WORD])
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
    """The `PIECE` bytes from each byte on, but for the last `_WORD`, as a number."""
    import numpy as np

    whole: Array = np.ndarray(len(text) - len(_WORD), dtype="<u8", buffer=text, strides=(1,))
    return whole & np.uint64(256**PIECE - 1)


def _scattered(texts: Sequence[bytes]) -> tuple[Array, Array]:
    """`_pieces`, the bits of each number mixed; different ones stay different."""
    import numpy as np

    numbers, offsets = _pieces(texts)
    shifted = np.empty(BLOCK, dtype=np.uint64)
    for start in range(0, len(numbers), BLOCK):  # what fits a cache at a time
        block = numbers[start : start + BLOCK]
        np.multiply(block, np.uint64(_FACTOR), out=block)
        np.right_shift(block, np.uint64(32), out=shifted[: len(block)])
        np.bitwise_xor(block, shifted[: len(block)], out=block)
    return numbers, offsets.astype(np.uint64)


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
    for batch in batches(texts):
        pieces, offsets = _pieces(batch)
        buckets = (pieces * np.uint64(_FACTOR) >> np.uint64(64 - BUCKETS.bit_length() + 1)).astype(np.int64)
        buckets += np.repeat(np.arange(len(batch)) * BUCKETS, np.diff(offsets))
        bits = np.zeros(len(batch) * BUCKETS, dtype=bool)
        bits[buckets] = True
        stop = start + len(batch)
        used[start:stop] = np.packbits(bits).view(np.uint64).reshape(len(batch), -1)
        sizes[start:stop] = np.maximum(np.diff(offsets) - 2 * PIECE + 1, 1)
        start = stop
    return used, sizes
