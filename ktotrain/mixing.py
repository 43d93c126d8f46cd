"""Puts right what dealing leaves: steps of one class that another order of the same groups would mix.

Where prompts have one or two rows, dealing mixes nearly every step. Where they have more, it depends on which group
lies across which step's end, and that is a puzzle: it is solved here by small random changes around the steps that
lack a class, each kept unless fewer steps are mixed after it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

# Changes tried: this many for each step that lacks a class, but at least and at most so many in all. 20,000 take about
# a second. Of random puzzles of up to 20 rows that can be solved, 1,000 solve 719 of 720; dealing alone 641.
TRIES, LEAST, MOST = 100, 1_000, 20_000


def mix_steps(
    steps: Sequence[Sequence[int]], prompts: Sequence[int], labels: Sequence[bool], *, seed: int
) -> list[list[int]]:
    """The steps, with as many of them as can be found holding both classes; groups stay unbroken stretches.

    Steps that all hold both classes come back as they are.

    Args:
        steps: row indices; rows of one prompt lie together over all steps, and only the last step may be shorter.
        prompts: the prompt group of each row.
        labels: the class of each row.
    """
    puzzle = _Puzzle(steps, prompts, labels, random.Random(seed))
    puzzle.solve()
    rows = [row for group in puzzle.groups for row in group]
    return [rows[start : start + puzzle.size] for start in range(0, len(rows), puzzle.size)]


class _Puzzle:
    """The groups in order, where each begins, and which steps lack a class though they have room for both."""

    def __init__(
        self, steps: Sequence[Sequence[int]], prompts: Sequence[int], labels: Sequence[bool], rng: random.Random
    ) -> None:
        self.labels, self.rng = labels, rng
        self.size = len(steps[0]) if steps else 1
        rows = [row for step in steps for row in step]
        self.groups: list[list[int]] = []
        for i, row in enumerate(rows):
            if i == 0 or prompts[row] != prompts[rows[i - 1]]:
                self.groups.append([])
            self.groups[-1].append(row)
        self.starts = [0] * (len(self.groups) + 1)
        self.group_at = [0] * len(rows)
        self.flat = [False] * len(rows)
        self._put(0, self.groups)
        self.one_class = [number for number, step in enumerate(steps) if len(step) > 1 and not self._mixed(number)]

    def solve(self) -> None:
        """Change the order until no step can be gained, or none was for long."""
        able = sum(min(self.size, len(self.flat) - start) > 1 for start in range(0, len(self.flat), self.size))
        # No more steps can be mixed than there are rows of the rarer class.
        unavoidable = max(0, able - min(sum(self.flat), len(self.flat) - sum(self.flat)))
        left = min(MOST, max(LEAST, TRIES * len(self.one_class)))
        while left and len(self.one_class) > unavoidable:
            left -= 1
            self._try(self.rng.choice(self.one_class))

    def _try(self, step: int) -> None:
        """Make a random change near a step; take it back if fewer steps are mixed then."""
        changes = self._exchange(step) if self.rng.random() < 0.4 else self._rearrange(step)
        before = [(first, self.groups[first : first + len(groups)]) for first, groups in changes]
        touched = {number for first, groups in changes for number in self._steps_of(first, len(groups))}
        mixed = {number for number in touched if self._mixed(number)}
        for first, groups in changes:
            self._put(first, [self.rng.sample(group, len(group)) for group in groups])
        now = {number for number in touched if self._mixed(number)}
        if len(now) < len(mixed):
            for first, groups in before:
                self._put(first, groups)
        elif now != mixed:
            able = (n for n in touched - now if min(self.size, len(self.flat) - n * self.size) > 1)
            self.one_class = sorted({*self.one_class} - touched | {*able})

    def _exchange(self, step: int) -> list[tuple[int, list[list[int]]]]:
        """A group of the step for one of the same size from anywhere."""
        here = self.group_at[self.rng.choice(self._places(step))]
        for _ in range(10):
            there = self.rng.randrange(len(self.groups))
            if there != here and len(self.groups[there]) == len(self.groups[here]):
                return [(here, [self.groups[there]]), (there, [self.groups[here]])]
        return [(here, [self.groups[here]])]

    def _rearrange(self, step: int) -> list[tuple[int, list[list[int]]]]:
        """The groups of the step and of what lies around it in another order: two exchanged, or all shuffled."""
        places = self._places(step)
        first = self.group_at[max(0, places[0] - self.rng.randint(0, 3 * self.size))]
        last = self.group_at[min(len(self.flat) - 1, places[-1] + self.rng.randint(0, 3 * self.size))]
        groups = self.groups[first : last + 1]
        if self.rng.random() < 0.5:
            self.rng.shuffle(groups)
        else:
            one, other = self.rng.randrange(len(groups)), self.rng.randrange(len(groups))
            groups[one], groups[other] = groups[other], groups[one]
        return [(first, groups)]

    def _put(self, first: int, groups: Iterable[list[int]]) -> None:
        """Groups in the places of as many others that have the same number of rows in all."""
        place = self.starts[first]
        for number, group in enumerate(groups, start=first):
            self.groups[number], self.starts[number] = group, place
            for row in group:
                self.flat[place], self.group_at[place] = self.labels[row], number
                place += 1
            self.starts[number + 1] = place

    def _places(self, step: int) -> range:
        return range(step * self.size, min(len(self.flat), (step + 1) * self.size))

    def _steps_of(self, first: int, count: int) -> range:
        return range(self.starts[first] // self.size, (self.starts[first + count] - 1) // self.size + 1)

    def _mixed(self, step: int) -> bool:
        held = self.flat[step * self.size : (step + 1) * self.size]
        return True in held and False in held
