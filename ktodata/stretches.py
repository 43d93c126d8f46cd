"""Rows dealt to stretches of the order, which are arranged one after the other: so no more than a few are ever needed.

Each row draws a number from the seed and its id. What has to be even is put into decks: each class, and each prompt and
completion with a large share of all rows, which by chance would have more than half of some stretch, and meet itself
there. Of every deck each stretch gets its share, to a row, and so it does of all of a prompt's decks together. Within a
deck the lower numbers go to the earlier stretches. The few rows that are left beside prompts with nearly all rows are a
deck too, and are there from the first stretch on (`Dealt.small`).

That takes knowing all rows, of which 17 bytes each are kept until then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from ktodata.arrange import draws
from ktodata.keys import Keys, Numbers

STRETCH = 16_384  # rows that are arranged together
HEAVY = 5  # a prompt or a completion with one in so many of all rows is dealt out evenly
# Rows of a deck for each stretch; those of a smaller one go with another, or are there before all others. The numbers
# that a few rows draw are not spread evenly, so a stretch would have to wait for a late one.
LEAST = 8


def stretch_count(total: int) -> int:
    """How many stretches an order of so many rows has."""
    return max(1, -(-total // STRETCH))


class Dealing:
    """Collects what the dealing of so many rows, or fewer, depends on."""

    def __init__(self, seed: int, most: int) -> None:
        import numpy as np

        self._name = f"{seed} stretch"
        self._count = 0
        # Room that is only taken when it is written to, and in one piece.
        self._drawn = np.empty(most, dtype=np.uint64)
        self._prompts, self._completions = np.empty(most, dtype=np.uint32), np.empty(most, dtype=np.uint32)
        self._labels = np.empty(most, dtype=bool)

    def add(self, keys: Keys) -> Numbers:
        """Some of the rows; gives the number that each of them draws, an array of uint64."""
        drawn = draws(keys.ids, self._name)
        here = slice(self._count, self._count + len(keys))
        self._drawn[here], self._labels[here] = drawn, keys.labels
        self._prompts[here], self._completions[here] = _short(keys.prompts), _short(keys.completions)
        self._count = here.stop
        return drawn

    def finish(self) -> Dealt:
        """All rows are there: which stretch gets which."""
        import numpy as np

        total = self._count
        count = stretch_count(total)
        if count == 1:
            return Dealt(1)
        prompts, completions = _heavy(self._prompts[:total]), _heavy(self._completions[:total])
        shape = len(prompts) + 1, len(completions) + 1, 2
        code = _group(self._prompts[:total], prompts)
        code = _codes(code, _group(self._completions[:total], completions), self._labels[:total], shape[1])
        sizes = np.bincount(code, minlength=shape[0] * shape[1] * 2).reshape(shape)
        dealt = Dealt(count, prompts, completions, *_decks(sizes, LEAST * count))
        deck = dealt.deck_of[code]
        begin = 0
        for one in range(int(deck.max()) + 1):
            members = self._drawn[:total][deck == one]
            members.sort()
            dealt.borders.append(_borders(members, begin, total, count))
            begin += len(members)
        return dealt


@dataclasses.dataclass
class Dealt:
    """Which stretch each row goes to.

    Attributes:
        count: how many stretches there are.
        prompts, completions: numbers of those that have a large share of the rows, the largest share first.
        deck_of: the deck of each kind of row, by its code (see `_codes`).
        small: the deck with so few rows that they have to be there before all others, or None.
        borders: of each deck, the number with which each stretch but the first begins, in order.
    """

    count: int
    prompts: Numbers = ()
    completions: Numbers = ()
    deck_of: Any = None
    small: int | None = None
    borders: list[Numbers] = dataclasses.field(default_factory=list)

    def of(self, keys: Keys, drawn: Numbers) -> Any:
        """The stretch of each of some rows, which drew these numbers: an integer array."""
        import numpy as np

        found = np.zeros(len(keys), dtype=np.int64)
        if self.count > 1:
            deck = self._deck(keys)
            for one in np.unique(deck).tolist():
                members = deck == one
                found[members] = np.searchsorted(self.borders[one], drawn[members], side="right")
        return found

    def whole(self, below: int) -> int:
        """How many stretches, from the first on, have only rows of the small deck, or that drew less than this."""
        import numpy as np

        borders = [some for deck, some in enumerate(self.borders) if deck != self.small]
        return min((int(np.searchsorted(some, np.uint64(below), side="right")) for some in borders), default=0)

    def is_small(self, keys: Keys) -> Any:
        """Which rows are of the small deck, if there is one: an array of bool."""
        return self._deck(keys) == self.small

    def _deck(self, keys: Keys) -> Any:
        prompt = _group(_short(keys.prompts), self.prompts)
        completion = _group(_short(keys.completions), self.completions)
        return self.deck_of[_codes(prompt, completion, keys.labels, len(self.completions) + 1)]


def _short(numbers: Numbers) -> Any:
    """Half of each number, an array of uint32: two prompts that agree in it once in a while are dealt out as one."""
    import numpy as np

    return numbers.astype(np.uint32)


def _heavy(numbers: Any) -> Any:
    """The numbers that one in `HEAVY` has, the most frequent first."""
    import numpy as np

    # Only where as many have the first half of their bits can there be such a number: most need no sorting.
    first = (numbers >> np.uint32(16)).astype(np.uint16)
    full = np.bincount(first, minlength=2**16) * HEAVY >= len(numbers)
    values, sizes = np.unique(numbers[full[first]], return_counts=True)
    large = np.flatnonzero(sizes * HEAVY >= len(numbers))
    return values[large[np.argsort(-sizes[large], kind="stable")]]


def _group(numbers: Numbers, heavy: Numbers) -> Any:
    """For each number its place among the heavy ones, or behind them all: an array of uint8."""
    import numpy as np

    found = np.full(len(numbers), len(heavy), dtype=np.uint8)
    for place, one in enumerate(heavy):
        found[numbers == one] = place
    return found


def _codes(prompt: Any, completion: Any, label: Any, completions: int) -> Any:
    """A number for each kind of row, an array of uint8: by the groups of prompt and completion (so many of these), and
    the label."""
    return (prompt * completions + completion) * 2 + label


def _decks(sizes: Any, least: int) -> tuple[Any, int | None]:
    """The deck of each code, for so many rows of each [prompt, completion, label]; and which is the small one, if any.

    Decks are numbered so that those of one prompt follow each other, as do, where it can be, those of one completion
    and of one label: whatever follows each other is dealt out evenly as a whole (see `_borders`). The most frequent
    prompt comes first and the next one last: of these two each stretch has its share to a row, so neither has more than
    half of one if it has no more than half of all. The rows of no large prompt are dealt out for themselves however few
    they are, since these two need them to keep apart.
    """
    import numpy as np

    found = np.zeros(sizes.shape, dtype=np.uint8)
    deck, small = 0, None
    others = len(sizes) - 1
    order = [0, *range(2, others + 1), 1] if others > 1 else range(others + 1)
    for prompt in order:
        rows = int(sizes[prompt].sum())
        if not rows:
            continue
        if rows < least:
            small = deck
        columns = range(sizes.shape[1]) if deck % 2 == 0 else range(sizes.shape[1])[::-1]
        for completion in _apart(sizes[prompt].sum(axis=1), least, columns):
            both = sizes[prompt][completion].sum(axis=0)
            for label in _apart(both, least, (0, 1) if deck % 2 == 0 else (1, 0)):
                found[np.ix_([prompt], completion, label)] = deck
                deck += 1
    return found.reshape(-1), small


def _apart(sizes: Any, least: int, order: Iterable[int]) -> list[list[int]]:
    """These places, each by itself in this order; those with fewer rows than `least` go with the smallest of the
    others, so that what has half of all rows is dealt out for itself."""
    places = list(order)
    few = [place for place in places if sizes[place] < least]
    many = [place for place in places if sizes[place] >= least]
    if not many:
        return [places]
    smallest = min(many, key=lambda place: (sizes[place], place))
    return [[place, *(few if place == smallest else ())] for place in many]


def _borders(drawn: Numbers, begin: int, total: int, count: int) -> Numbers:
    """The numbers, of these in order, with which each stretch of the order but the first begins.

    Before this deck come `begin` of all rows. Of the first `b` rows in the order of the decks, round(E b / total) are
    in the first stretches, which have E rows together. So the first decks together have their share of every stretch,
    to a row. All stretches but the first have an even number of rows: of what has up to half of all rows, they have up
    to half, and can begin with something else where the one before ended with it.
    """
    import numpy as np

    ends = total - 2 * (total // 2 * np.arange(count - 1, 0, -1, dtype=np.int64) // count)
    first, last = ((2 * ends * end + total) // (2 * total) for end in (begin, begin + len(drawn)))
    return np.append(drawn, drawn[-1:] + np.uint64(1))[np.minimum(last - first, len(drawn))]
