"""What the order of rows depends on: who clashes with whom, and which class is the rarer one."""

from __future__ import annotations

import dataclasses
import functools
import heapq
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

MAX_RUN = 8  # rows of one label in a row, at a class ratio within 3:1
PROMPT = 2**40  # the weight of two neighbours with one prompt, where one completion weighs 1
LARGE = 64  # groups (rows of one prompt, or with one completion) that are watched, the largest

Numbers: TypeAlias = Any
"""A one-dimensional `numpy.ndarray` of uint64."""


@dataclasses.dataclass(frozen=True, slots=True)
class Keys:
    """All that the order of some rows depends on, an array element each: rows of one prompt have one number there,
    and rows of one completion (after normalising) another. `ids` are numbers of their ids, `labels` are bool.
    """

    ids: Numbers
    prompts: Numbers
    completions: Numbers
    labels: Any

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, order: Any) -> Keys:
        """These of the rows, in this order."""
        return Keys(self.ids[order], self.prompts[order], self.completions[order], self.labels[order])


def longest_run(labels: Any) -> int:
    """The most rows of one label in a row."""
    import numpy as np

    array = np.asarray(labels, dtype=bool)
    borders = np.flatnonzero(array[1:] != array[:-1]) + 1
    return int(np.diff([0, *borders, len(array)]).max()) if len(array) else 0


Faults: TypeAlias = tuple[int, int, int]
"""See `Table.faults`. Of two orders the one with the smaller faults is better."""

Key: TypeAlias = tuple[int | None, int | None, bool]
"""See `Table.key`."""


class Table:
    """What the arrangement needs of each row: its label, and numbers for its prompt and its completion.

    The first `fixed` rows are those of `before`, which have their places already.
    """

    def __init__(self, keys: Keys, before: Keys | None = None) -> None:
        import numpy as np

        self.fixed = len(before) if before is not None else 0
        both = [before, keys] if before is not None else [keys]
        prompts = np.concatenate([one.prompts for one in both])
        completions = np.concatenate([one.completions for one in both])
        self.arrays = np.unique(prompts, return_inverse=True)[1], np.unique(completions, return_inverse=True)[1]
        self.label_array = np.concatenate([one.labels for one in both])
        own = self.label_array[self.fixed :]
        classes = int(own.sum()), int(len(own) - own.sum())
        self.run_limit = max(MAX_RUN, int(2 * max(classes) / max(1, min(classes))) + 2)
        counted = [np.bincount(numbers[self.fixed :]) for numbers in self.arrays if len(own)]
        # The largest group by prompt and by completion (the array it is in and its number there), and how many rows it
        # has.
        self.largest = [((kind, int(counts.argmax())), int(counts.max())) for kind, counts in enumerate(counted)]
        # One with more than half of the rows leaves so many of them side by side, whatever the order; and one more if
        # another of it goes before. Those that go before are neighbours already.
        least = [0, 0]
        for (kind, group), size in self.largest:
            there = self.arrays[kind][: self.fixed]
            follows = bool(self.fixed) and int(there[-1]) == group
            least[kind] = int((there[1:] == there[:-1]).sum()) + max(0, 2 * size - len(own) - 1 + follows)
        self.unavoidable: Faults = (least[0], least[1], 0)

    # Lists, which a walk over rows is faster on, are made for those who walk.

    @functools.cached_property
    def labels(self) -> list[bool]:
        """Whether each row is desirable."""
        found: list[bool] = self.label_array.tolist()
        return found

    @functools.cached_property
    def prompts(self) -> list[int]:
        """A number for each row's prompt, 0 or more."""
        found: list[int] = self.arrays[0].tolist()
        return found

    @functools.cached_property
    def completions(self) -> list[int]:
        """A number for each row's completion, below 0, so that prompts and completions share one table of groups."""
        found: list[int] = (~self.arrays[1]).tolist()
        return found

    @functools.cached_property
    def large(self) -> dict[int, int]:
        """The largest groups of more than one row, and their sizes."""
        counts = Counter(self.prompts[self.fixed :])
        counts.update(self.completions[self.fixed :])
        found = [(count, group) for group, count in counts.items() if count > 1]
        return {group: count for count, group in heapq.nlargest(LARGE, found)}

    def clash(self, one: int, other: int) -> bool:
        """Whether two rows may not be neighbours."""
        return self.prompts[one] == self.prompts[other] or self.completions[one] == self.completions[other]

    def key(self, index: int) -> Key:
        """The large groups that a row belongs to, and its label. Groups that are not large are None."""
        prompt, completion = self.prompts[index], self.completions[index]
        return (
            prompt if prompt in self.large else None,
            completion if completion in self.large else None,
            self.labels[index],
        )

    def count(self, order: Sequence[int]) -> int:
        """How many neighbours clash."""
        import numpy as np

        prompts, completions = (numbers[np.array(order, dtype=np.int64)] for numbers in self.arrays)
        return int(((prompts[1:] == prompts[:-1]) | (completions[1:] == completions[:-1])).sum())

    def weight(self, one: int, other: int) -> int:
        """How bad it is if two rows are neighbours: one shared prompt is worse than any number of shared completions,
        since TRL then pairs a prompt with a reply of its own."""
        return (self.prompts[one] == self.prompts[other]) * PROMPT + (self.completions[one] == self.completions[other])

    def faults(self, order: Sequence[int] | Numbers) -> Faults:
        """How many neighbours share a prompt, how many a completion, and by how much the longest run of one label is
        too long."""
        import numpy as np

        places = np.array(order, dtype=np.int64)
        prompts, completions = (int((one[1:] == one[:-1]).sum()) for one in (array[places] for array in self.arrays))
        return prompts, completions, max(0, longest_run(self.label_array[places]) - self.run_limit)
