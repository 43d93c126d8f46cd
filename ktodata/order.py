"""The order of every file we write: seeded, class-mixed, KL-safe.

File order is training order for some trainers, and TRL's estimate of the reference point pairs each prompt with its
neighbour's completion. So neighbours have different prompts and different completions wherever the rows allow it,
and no long run carries one label. The order is a function of the set of rows and the seed: not of the order they
came in.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from ktodata.schema import Row, normalise, plain

MAX_RUN = 8  # rows of one label in a row, at a class ratio within 3:1
LOOKAHEAD = 32  # rows of one line that are looked at for one place
LARGE = 64  # groups (rows of one prompt, or with one completion) that are watched, the largest
FEW = 1000  # rows for which several arrangements are tried while clashes remain: chance decides much there
ATTEMPTS = 20
REPAIRS = 100  # places tried for one row that found none, and rows without a place before giving up


def training_order(rows: Sequence[Row], *, seed: int) -> list[Row]:
    """The rows in an order to train in, about linear in their number.

    Each class is shuffled and spread evenly, with a seeded jitter, so at a class ratio of r no run is longer than
    about 2r + 1. A row that would meet its own prompt or its own completion (after normalising) lets others go first.
    Where a prompt or a completion has half of the rows or more, that counts for more than the mix of the classes.
    """
    best: list[Row] = []
    least = (len(rows), len(rows))
    for attempt in range(ATTEMPTS if len(rows) <= FEW else 1):
        # The provenance tells exact duplicates apart, whose ids are equal.
        name = f"{seed} {attempt}"
        shuffled = sorted(rows, key=lambda row: (_draw(name, row.id), row.source, row.strategy, row.parent_id))
        table = _Table(shuffled)
        order = _arrange(table, random.Random(f"{name} spread"))
        _repair(order, table, random.Random(f"{name} repair"))
        faults = (table.count(order), max(0, longest_run([table.labels[index] for index in order]) - table.run_limit))
        if faults < least or not best:
            best, least = [shuffled[index] for index in order], faults
        if faults <= (table.unavoidable, 0):
            break
    return best


def clashes(rows: Sequence[Row]) -> int:
    """How many rows have their predecessor's prompt or completion (after normalising)."""
    return _Table(rows).count(range(len(rows)))


def longest_run(labels: Sequence[bool]) -> int:
    """The most rows of one label in a row."""
    longest = run = 0
    for index, label in enumerate(labels):
        run = run + 1 if index and label == labels[index - 1] else 1
        longest = max(longest, run)
    return longest


def _draw(seed: str, name: str) -> bytes:
    return hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()


def _digest(text: str) -> bytes:
    """A short stand-in for a text, since a large file's completions take much room."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


_Key: TypeAlias = tuple[int | None, int | None, bool]


class _Table:
    """What the arrangement needs of each row: its label, and numbers for its prompt and its completion."""

    def __init__(self, rows: Sequence[Row]) -> None:
        prompts: dict[str, int] = {}
        completions: dict[bytes, int] = {}
        self.labels = [row.label for row in rows]
        self.prompts = [prompts.setdefault(row.prompt_id, len(prompts)) for row in rows]
        # Numbers below zero, so that prompts and completions can share one table of groups.
        self.completions = [
            ~completions.setdefault(_digest(normalise(plain(row.completion))), len(completions)) for row in rows
        ]
        classes = [self.labels.count(label) for label in (True, False)]
        ratio = max(classes) / max(1, min(classes))
        counts = Counter(self.prompts)
        counts.update(self.completions)
        largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:LARGE]
        self.large = {group: count for group, count in largest if count > 1}
        # A group with more than half of the rows leaves so many of them side by side, whatever the order.
        self.unavoidable = max(0, 2 * max(counts.values(), default=0) - len(rows) - 1)
        self.run_limit = max(MAX_RUN, int(2 * ratio) + 2)

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
        return sum(self.clash(one, other) for one, other in itertools.pairwise(order))


class _Waiting:
    """Rows that wait for their place, oldest first, in lines: one for each large prompt, completion and label.

    So a large group that may not go next is passed over at once, however many of its rows wait.
    """

    def __init__(self, table: _Table, indices: Iterable[int], used: set[int]) -> None:
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

    def __init__(self, table: _Table, used: set[int]) -> None:
        self.left = dict(table.large)
        members: dict[int, list[int]] = {group: [] for group in self.left}
        for index in range(len(table.labels)):
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


def _arrange(table: _Table, rng: random.Random) -> list[int]:
    """Indices into the table, in order."""
    used: set[int] = set()
    indices = {label: [i for i, one in enumerate(table.labels) if one == label] for label in (True, False)}
    left = {label: len(some) for label, some in indices.items()}
    waiting = {label: _Waiting(table, some, used) for label, some in indices.items()}
    heavy = _Heavy(table, used)
    due = {label: rng.random() / left[label] if left[label] else 2.0 for label in left}
    order: list[int] = []
    last = None
    for remaining in range(len(table.labels), 0, -1):
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


def _repair(order: list[int], table: _Table, rng: random.Random) -> None:
    """Move each row that clashes with its predecessor to a place where it does not, if one is found."""
    failures, place = 0, 1
    while place < len(order) and failures < REPAIRS:
        if table.clash(order[place - 1], order[place]) and not _move(order, place, table, rng):
            failures += 1
        place += 1


def _move(order: list[int], place: int, table: _Table, rng: random.Random) -> bool:
    """Take out one of the two rows that clash and put it in elsewhere, so that clashes get fewer."""
    for start in (place, place - 1):
        index = order.pop(start)
        joined = 0 < start < len(order) and table.clash(order[start - 1], order[start])
        if not joined:
            spots = (
                range(len(order) + 1) if len(order) <= FEW else (rng.randrange(len(order) + 1) for _ in range(REPAIRS))
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
