"""Rows placed one after the other, where many clash: those that wait stand in lines, and large groups go in time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Iterable

from ktodata.evenly import LOOKAHEAD
from ktodata.keys import Key, Table


class Waiting:
    """Rows that wait for their place, oldest first, in lines: one for each large prompt, completion and label.

    So a large group that may not go next is passed over at once, however many of its rows wait.
    """

    def __init__(self, table: Table, indices: Iterable[int], used: set[int]) -> None:
        self.table, self.used = table, used
        self.lines: dict[Key, deque[int]] = {}
        for index in indices:
            self.lines.setdefault(table.key(index), deque()).append(index)
        self.heads = sorted((line[0], key) for key, line in self.lines.items())  # sorted, and so a heap

    def find(self, last: int | None, wanted: bool | None = None, *, prompts_only: bool = False) -> int | None:
        """The first row found that may follow `last`, of the wanted label if one is wanted; older lines first.

        With `prompts_only` it may have the same completion.
        """
        seen: list[Key] = []
        found = None
        while self.heads and found is None:
            seen.append(heapq.heappop(self.heads)[1])
            found = self._in_line(seen[-1], last, wanted, prompts_only)
        for key in seen:
            self._queue(key)
        return found

    def _queue(self, key: Key) -> None:
        """Put a line back by the oldest of its rows that still waits."""
        line = self.lines[key]
        while line and line[0] in self.used:
            line.popleft()
        if line:
            heapq.heappush(self.heads, (line[0], key))

    def _in_line(self, key: Key, last: int | None, wanted: bool | None, prompts_only: bool) -> int | None:
        table = self.table
        if wanted is not None and key[2] != wanted:
            return None
        if last is not None and key[0] == table.prompts[last]:
            return None
        if last is not None and key[1] == table.completions[last] and not prompts_only:
            return None
        for index in itertools.islice(self.lines[key], LOOKAHEAD):
            if index in self.used:
                continue
            if last is None or not table.clash(last, index):
                return index
            if prompts_only and table.prompts[last] != table.prompts[index]:
                return index
        return None

    def first(self) -> int | None:
        """The oldest row, whatever it follows."""
        while self.heads and self.heads[0][0] in self.used:
            self._queue(heapq.heappop(self.heads)[1])
        return self.heads[0][0] if self.heads else None


class Heavy:
    """The largest groups and how many of their rows are left: one with more than half of all must go next."""

    def __init__(self, table: Table, used: set[int]) -> None:
        self.left = dict(table.large)
        members: dict[int, list[int]] = {group: [] for group in self.left}
        for index in range(table.fixed, len(table.labels)):
            for group in (table.prompts[index], table.completions[index]):
                if group in members:
                    members[group].append(index)
        self.members = {group: Waiting(table, indices, used) for group, indices in members.items()}
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


def in_turn(table: Table, rng: random.Random) -> list[int]:
    """The rows of a table in an order with few clashes, one placed after the other: indices into it."""
    order = list(range(table.fixed))
    last = order[-1] if order else None
    used: set[int] = set(order)
    indices = {
        label: [i for i, one in enumerate(table.labels) if one == label and i not in used] for label in (True, False)
    }
    left = {label: len(some) for label, some in indices.items()}
    waiting = {label: Waiting(table, some, used) for label, some in indices.items()}
    heavy = Heavy(table, used)
    due = {label: rng.random() / left[label] if left[label] else 2.0 for label in left}
    for remaining in range(len(table.labels) - table.fixed, 0, -1):
        wanted = due[True] <= due[False]
        index = heavy.must_go(remaining, last, wanted)
        for label in (wanted, not wanted):
            if index is None:
                index = waiting[label].find(last)
        for label in (wanted, not wanted):
            if index is None:  # the lesser clash
                index = waiting[label].find(last, prompts_only=True)
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
