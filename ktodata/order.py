"""The order of every file we write: seeded, class-mixed, KL-safe.

File order is training order for some trainers, and TRL's estimate of the reference point pairs each prompt with its
neighbour's completion. So neighbours have different prompts and different completions wherever the rows allow it,
and no long run carries one label. The order is a function of the set of rows and the seed: not of the order they
came in.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter, deque
from collections.abc import Sequence

from ktodata.schema import Row, normalise, plain

MAX_RUN = 8  # rows of one label in a row, at a class ratio within 3:1
LOOKAHEAD = 64  # rows of one class that are looked at for one place
HEAVY = 64  # groups (rows of one prompt, or with one completion) whose remaining size is watched
FEW = 100  # rows for which several arrangements are tried while clashes remain: chance decides much there
ATTEMPTS = 20
REPAIRS = 100  # places tried for one row that found none, and rows without a place before giving up


def training_order(rows: Sequence[Row], *, seed: int) -> list[Row]:
    """The rows in an order to train in, about linear in their number.

    Each class is shuffled and spread evenly, with a seeded jitter, so at a class ratio of r no run is longer than
    about 2r + 1. A row that would meet its own prompt or its own completion (after normalising) lets others go first.
    Where a prompt or a completion has half of the rows or more, that counts for more than the mix of the classes.
    """
    best: list[Row] = []
    fewest = len(rows)
    for attempt in range(ATTEMPTS if len(rows) <= FEW else 1):
        # The provenance tells exact duplicates apart, whose ids are equal.
        name = f"{seed} {attempt}"
        shuffled = sorted(rows, key=lambda row: (_draw(name, row.id), row.source, row.strategy, row.parent_id))
        table = _Table(shuffled)
        order = _arrange(table, random.Random(f"{name} spread"))
        _repair(order, table, random.Random(f"{name} repair"))
        found = table.count(order)
        if found < fewest or not best:
            best, fewest = [shuffled[index] for index in order], found
        if not found:
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
        counts = {label: self.labels.count(label) for label in (True, False)}
        ratio = max(counts.values()) / max(1, min(counts.values()))
        self.run_limit = max(MAX_RUN, int(2 * ratio) + 2)

    def clash(self, one: int, other: int) -> bool:
        """Whether two rows may not be neighbours."""
        return self.prompts[one] == self.prompts[other] or self.completions[one] == self.completions[other]

    def count(self, order: Sequence[int]) -> int:
        """How many neighbours clash."""
        return sum(self.clash(one, other) for one, other in itertools.pairwise(order))


class _Heavy:
    """The largest groups and how many of their rows are left: one with more than half of all must go next."""

    def __init__(self, table: _Table) -> None:
        counts = Counter(table.prompts) + Counter()  # two counters: adding them would drop numbers below zero
        counts.update(table.completions)
        largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:HEAVY]
        self.left = {group: count for group, count in largest if count > 1}
        self.members: dict[int, deque[int]] = {group: deque() for group in self.left}
        for index in range(len(table.labels)):
            for group in (table.prompts[index], table.completions[index]):
                if group in self.members:
                    self.members[group].append(index)
        self.bound = max(self.left.values(), default=0)

    def must_go(self, remaining: int) -> int | None:
        """The group that would be left with neighbours if another row went first; None is the usual answer."""
        if 2 * self.bound <= remaining:
            return None
        group = max(self.left, key=lambda key: self.left[key])
        self.bound = self.left[group]  # it only falls, so the table is searched for it a few times in all
        return group if 2 * self.bound > remaining else None

    def take(self, *groups: int) -> None:
        """One row of these groups has gone."""
        for group in groups:
            if group in self.left:
                self.left[group] -= 1


def _arrange(table: _Table, rng: random.Random) -> list[int]:
    """Indices into the table, in order."""
    queues = {label: deque(i for i, one in enumerate(table.labels) if one == label) for label in (True, False)}
    counts = {label: len(queue) for label, queue in queues.items()}
    due = {label: rng.random() / counts[label] if counts[label] else 2.0 for label in queues}
    placed, heavy, used, order, run = Counter[bool](), _Heavy(table), set[int](), list[int](), 0
    total = len(table.labels)
    while len(order) < total:
        last = order[-1] if order else None
        wanted = due[True] <= due[False]
        if (
            last is not None
            and run >= table.run_limit
            and placed[not table.labels[last]] < counts[not table.labels[last]]
        ):
            wanted = not table.labels[last]
        group = heavy.must_go(total - len(order))
        index = None if group is None else _of_group(heavy.members[group], table, last, wanted, used)
        for label in (wanted, not wanted):
            if index is None:
                index = _next_fit(queues[label], table, last, used)
        if index is None:  # nothing fits: a clash that `_repair` may mend
            index = _first(queues[wanted], used)
        if index is None:
            index = _first(queues[not wanted], used)
        assert index is not None
        used.add(index)
        label = table.labels[index]
        run = run + 1 if last is not None and table.labels[last] == label else 1
        order.append(index)
        placed[label] += 1
        heavy.take(table.prompts[index], table.completions[index])
        # The n-th row of a class is due at (n + jitter) / count.
        due[label] = (placed[label] + rng.random()) / counts[label] if placed[label] < counts[label] else 2.0
    return order


def _of_group(members: deque[int], table: _Table, last: int | None, wanted: bool, used: set[int]) -> int | None:
    """A row of a group that must go next, of the wanted label if there is one near."""
    while members and members[0] in used:
        members.popleft()
    fitting = [
        index
        for index, _ in zip(members, range(LOOKAHEAD), strict=False)
        if index not in used and (last is None or not table.clash(last, index))
    ]
    return next((index for index in fitting if table.labels[index] == wanted), fitting[0] if fitting else None)


def _next_fit(queue: deque[int], table: _Table, last: int | None, used: set[int]) -> int | None:
    """The first row of a class that may follow the last one, taken from its queue."""
    place = seen = 0
    while place < len(queue) and seen < LOOKAHEAD:
        index = queue[place]
        if index in used:
            del queue[place]
            continue
        if last is None or not table.clash(last, index):
            del queue[place]
            return index
        place, seen = place + 1, seen + 1
    return None


def _first(queue: deque[int], used: set[int]) -> int | None:
    while queue:
        index = queue.popleft()
        if index not in used:
            return index
    return None


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
