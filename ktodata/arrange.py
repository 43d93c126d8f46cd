"""An arrangement of rows that are all at hand: classes spread evenly, neighbours that do not clash."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from ktodata.evenly import LOOKAHEAD, evenly

MAX_RUN = 8  # rows of one label in a row, at a class ratio within 3:1
LARGE = 64  # groups (rows of one prompt, or with one completion) that are watched, the largest
FEW = 1000  # rows for which several arrangements are tried while clashes remain: chance decides much there
ATTEMPTS = 20
REPAIRS = 100  # places tried for one row that found none, and rows without a place before giving up

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


def arrange(
    keys: Keys, *, seed: int, before: Keys | None = None, provenance: Callable[[int], tuple[str, ...]] | None = None
) -> Any:
    """An order of these rows: an integer array of their places.

    Args:
        keys: the rows, in any order.
        seed: decides the order, with the rows.
        before: the last rows of what goes before, which the first of these may not clash with.
        provenance: tells exact duplicates, whose ids are equal, apart.
    """
    import numpy as np

    best, least = np.arange(len(keys)), (len(keys) + 1, 0)
    attempts = ATTEMPTS if len(keys) <= FEW else 1
    for attempt in range(attempts):
        shuffled = _shuffled(keys, f"{seed} {attempt}", provenance)
        table = Table(keys.take(shuffled), before)
        order = _spread(table) if len(keys) > FEW else None
        if order is None or table.faults(order) > (table.unavoidable, 0):
            order = _arrange(table, random.Random(f"{seed} {attempt} spread"))
            _repair(order, table, random.Random(f"{seed} {attempt} repair"))
        faults = table.faults(order)
        if faults < least:
            places = [index - table.fixed for index in order[table.fixed :]]
            best, least = shuffled[np.array(places, dtype=np.int64)], faults
        if faults <= (table.unavoidable, 0):
            break
    if least[1]:
        return _without_runs(keys, best, attempts, seed=seed, before=before, provenance=provenance)
    return best


def _without_runs(
    keys: Keys,
    found: Any,
    attempts: int,
    *,
    seed: int,
    before: Keys | None,
    provenance: Callable[[int], tuple[str, ...]] | None,
) -> Any:
    """An order with shorter runs than the one found, for rows of which so many clash that it could not mix them."""
    table = Table(keys.take(found), before)
    tried = [(found, table.faults(range(len(table.label_array))))]
    for attempt in range(attempts if table.heaviest[1] * 2 > len(keys) else 0):
        shuffled = _shuffled(keys, f"{seed} {attempt}", provenance)
        table = Table(keys.take(shuffled), before)
        order = _evenly(table)
        tried.append((shuffled[order], table.faults([*range(table.fixed), *(one + table.fixed for one in order)])))
        if tried[-1][1] <= (table.unavoidable, 0):
            break
    # Within 3:1, no run is too long, whatever it takes; beyond, clashes count for more, as elsewhere.
    return min(tried, key=lambda one: one[1][::-1] if table.run_limit == MAX_RUN else one[1])[0]


def _evenly(table: Table) -> list[int]:
    """The places of the table's own rows by `evenly`."""
    (kind, group), fixed = table.heaviest[0], table.fixed
    large = (table.arrays[kind] == group).tolist()

    def clash(last: int | None, index: int) -> bool:
        one, other = fixed - 1 if last is None else fixed + last, fixed + index
        return one >= 0 and not (large[one] and large[other]) and table.clash(one, other)

    return evenly(large[fixed:], table.labels[fixed:], carried=table.labels[:fixed], clash=clash)


def _shuffled(keys: Keys, name: str, provenance: Callable[[int], tuple[str, ...]] | None) -> Any:
    """Places of the rows, shuffled by their draws."""
    import numpy as np

    drawn = draws(keys.ids, name)
    order = np.argsort(drawn, kind="stable")
    equal = np.flatnonzero(drawn[order][1:] == drawn[order][:-1])
    if len(equal) and provenance is not None:
        told = sorted(order.tolist(), key=lambda index: (int(drawn[index]), provenance(index)))
        order = np.array(told, dtype=np.int64)
    return order


def draws(ids: Numbers, name: str) -> Numbers:
    """A number for each id, as good as drawn at random, from the id and the name."""
    import numpy as np

    start = np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big"))
    return mixed(ids, start)


def mixed(one: Numbers, other: Numbers) -> Numbers:
    """A number for each pair of numbers, by SplitMix64's mixing (Steele, Lea and Flood 2014)."""
    import numpy as np

    with np.errstate(over="ignore"):
        x = one ^ (other * np.uint64(0x9E3779B97F4A7C15))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def longest_run(labels: Any) -> int:
    """The most rows of one label in a row."""
    import numpy as np

    array = np.asarray(labels, dtype=bool)
    borders = np.flatnonzero(array[1:] != array[:-1]) + 1
    return int(np.diff([0, *borders, len(array)]).max()) if len(array) else 0


_Key: TypeAlias = tuple[int | None, int | None, bool]


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
        sizes = [(int(counts.max()), (kind, int(counts.argmax()))) for kind, counts in enumerate(counted)]
        largest, place = max(sizes, default=(0, (0, 0)))
        # The largest group (the array it is in and its number there), and how many rows it has.
        self.heaviest = place, largest
        # One with more than half of the rows leaves so many of them side by side, whatever the order.
        self.unavoidable = max(0, 2 * largest - len(own) - 1)

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

    def key(self, index: int) -> _Key:
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

    def faults(self, order: Sequence[int]) -> tuple[int, int]:
        """How many neighbours clash, and by how much the longest run of one label is too long."""
        return self.count(order), max(0, longest_run(self.label_array[list(order)]) - self.run_limit)


class _Waiting:
    """Rows that wait for their place, oldest first, in lines: one for each large prompt, completion and label.

    So a large group that may not go next is passed over at once, however many of its rows wait.
    """

    def __init__(self, table: Table, indices: Iterable[int], used: set[int]) -> None:
        self.table, self.used = table, used
        self.lines: dict[_Key, deque[int]] = {}
        for index in indices:
            self.lines.setdefault(table.key(index), deque()).append(index)
        self.heads = sorted((line[0], key) for key, line in self.lines.items())  # sorted, and so a heap

    def find(self, last: int | None, wanted: bool | None = None) -> int | None:
        """The first row found that may follow `last`, of the wanted label if one is wanted; older lines first."""
        seen: list[_Key] = []
        found = None
        while self.heads and found is None:
            seen.append(heapq.heappop(self.heads)[1])
            found = self._in_line(seen[-1], last, wanted)
        for key in seen:
            self._queue(key)
        return found

    def _queue(self, key: _Key) -> None:
        """Put a line back by the oldest of its rows that still waits."""
        line = self.lines[key]
        while line and line[0] in self.used:
            line.popleft()
        if line:
            heapq.heappush(self.heads, (line[0], key))

    def _in_line(self, key: _Key, last: int | None, wanted: bool | None) -> int | None:
        if wanted is not None and key[2] != wanted:
            return None
        if last is not None and (key[0] == self.table.prompts[last] or key[1] == self.table.completions[last]):
            return None
        for index in itertools.islice(self.lines[key], LOOKAHEAD):
            if index not in self.used and (last is None or not self.table.clash(last, index)):
                return index
        return None

    def first(self) -> int | None:
        """The oldest row, whatever it follows."""
        while self.heads and self.heads[0][0] in self.used:
            self._queue(heapq.heappop(self.heads)[1])
        return self.heads[0][0] if self.heads else None


class _Heavy:
    """The largest groups and how many of their rows are left: one with more than half of all must go next."""

    def __init__(self, table: Table, used: set[int]) -> None:
        self.left = dict(table.large)
        members: dict[int, list[int]] = {group: [] for group in self.left}
        for index in range(table.fixed, len(table.labels)):
            for group in (table.prompts[index], table.completions[index]):
                if group in members:
                    members[group].append(index)
        self.members = {group: _Waiting(table, indices, used) for group, indices in members.items()}
        self.bound = max(self.left.values(), default=0)

    def must_go(self, remaining: int, last: int | None, wanted: bool) -> int | None:
        """A row of a group that would be left with neighbours if another went first; None is the usual answer."""
        if 2 * self.bound <= remaining:
            return None
        self.bound = max(self.left.values())  # it only falls, so the table is searched for it a few times in all
        groups = sorted(
            (group for group in self.left if 2 * self.left[group] > remaining), key=lambda one: -self.left[one]
        )
        for group in groups:
            for label in (wanted, None):
                index = self.members[group].find(last, label)
                if index is not None:
                    return index
        return None

    def take(self, *groups: int) -> None:
        """One row of these groups has gone."""
        for group in groups:
            if group in self.left:
                self.left[group] -= 1


def _spread(table: Table) -> list[int] | None:
    """What `_arrange` does where hardly any neighbours clash, which is usual, and many times as fast; else None."""
    import numpy as np

    own = np.arange(table.fixed, len(table.label_array))
    labels = table.label_array[table.fixed :]
    due = np.empty(len(own))
    for label in (True, False):
        members = np.flatnonzero(labels == label)
        jitter = draws(members.astype(np.uint64), f"{len(members)} jitter") / 2.0**64
        due[members] = (np.arange(len(members)) + jitter) / max(1, len(members))
    order = np.concatenate([np.arange(table.fixed), own[np.argsort(due, kind="stable")]])
    prompts, completions = table.arrays[0][order], table.arrays[1][order]
    clashing = (prompts[1:] == prompts[:-1]) | (completions[1:] == completions[:-1])
    if clashing.sum() > REPAIRS // 2:
        return None
    found: list[int] = order.tolist()
    if clashing.any():
        _repair(found, table, random.Random(f"{len(own)} repair"))
    return found


def _arrange(table: Table, rng: random.Random) -> list[int]:
    """Indices into the table, in order."""
    order = list(range(table.fixed))
    last = order[-1] if order else None
    used: set[int] = set(order)
    indices = {
        label: [i for i, one in enumerate(table.labels) if one == label and i not in used] for label in (True, False)
    }
    left = {label: len(some) for label, some in indices.items()}
    waiting = {label: _Waiting(table, some, used) for label, some in indices.items()}
    heavy = _Heavy(table, used)
    due = {label: rng.random() / left[label] if left[label] else 2.0 for label in left}
    for remaining in range(len(table.labels) - table.fixed, 0, -1):
        wanted = due[True] <= due[False]
        index = heavy.must_go(remaining, last, wanted)
        for label in (wanted, not wanted):
            if index is None:
                index = waiting[label].find(last)
        for label in (wanted, not wanted):
            if index is None:  # nothing fits: a clash that `_repair` may mend
                index = waiting[label].first()
        assert index is not None
        label = table.labels[index]
        last = index
        order.append(index)
        used.add(index)
        left[label] -= 1
        heavy.take(table.prompts[index], table.completions[index])
        # The n-th row of a class is due at (n + jitter) / count.
        placed = len(indices[label]) - left[label]
        due[label] = (placed + rng.random()) / len(indices[label]) if left[label] else 2.0
    return order


def _repair(order: list[int], table: Table, rng: random.Random) -> None:
    """Move each row that clashes with its predecessor to a place where it does not, if one is found."""
    failures, place = 0, max(1, table.fixed)
    while place < len(order) and failures < REPAIRS:
        if table.clash(order[place - 1], order[place]) and not _move(order, place, table, rng):
            failures += 1
        place += 1


def _move(order: list[int], place: int, table: Table, rng: random.Random) -> bool:
    """Take out one of the two rows that clash and put it in elsewhere, so that clashes get fewer."""
    for start in (place, place - 1):
        if start < table.fixed:
            continue
        index = order.pop(start)
        joined = 0 < start < len(order) and table.clash(order[start - 1], order[start])
        if not joined:
            spots = (
                range(table.fixed, len(order) + 1)
                if len(order) <= FEW
                else (rng.randrange(table.fixed, len(order) + 1) for _ in range(REPAIRS))
            )
            for spot in spots:
                around = order[max(0, spot - 1) : spot + 1]
                if not any(table.clash(index, other) for other in around):
                    order.insert(spot, index)
                    if _run_at(order, spot, table.labels) <= table.run_limit:
                        return True
                    order.pop(spot)
        order.insert(start, index)
    return False


def _run_at(order: list[int], place: int, labels: list[bool]) -> int:
    """The length of the run of one label that a place is in."""
    first = last = place
    while first and labels[order[first - 1]] == labels[order[place]]:
        first -= 1
    while last + 1 < len(order) and labels[order[last + 1]] == labels[order[place]]:
        last += 1
    return last - first + 1
