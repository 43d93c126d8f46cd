"""An arrangement for rows more than half of which have one prompt, or one completion: its rows have to meet.

How many do is settled: each of the other rows parts two of them, and no others are side by side. Which ones is not: the
others are spread evenly, and then the label that fewer rows have is, first over the others, and over the rows of the
large group where that leaves the widest gaps. So runs of one label are short, as where nothing has to meet.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence

LOOKAHEAD = 32  # rows that are looked at for one place


def evenly(
    large: Sequence[bool], labels: Sequence[bool], *, carried: Sequence[bool], clash: Callable[[int | None, int], bool]
) -> list[int]:
    """Places of rows, in an order with the fewest neighbours of the large group and short runs of one label.

    Args:
        large: whether each row belongs to the large group, which has more rows than are left without it.
        labels: of the same rows.
        carried: the labels of the last rows of what goes before.
        clash: whether a row may not follow another (None: what goes before), for those that have a choice.
    """
    pattern = _pattern(sum(large), len(large) - sum(large))
    rare = 2 * sum(labels) <= len(labels)
    lines: dict[tuple[bool, bool], deque[int]] = {
        (ours, one): deque() for ours in (True, False) for one in (True, False)
    }
    for index, key in enumerate(zip(large, labels, strict=True)):
        lines[key].append(index)
    usual = itertools.takewhile(lambda label: label != rare, reversed(carried))
    chosen = _rare_places(pattern, len(lines[False, rare]), len(lines[True, rare]), carried=sum(1 for _ in usual))
    order: list[int] = []
    for place, is_large in enumerate(pattern):
        line = lines[is_large, rare if place in chosen else not rare]
        last = order[-1] if order else None
        some = itertools.islice(line, LOOKAHEAD)
        index = next((one for one in some if not clash(last, one)), line[0])
        line.remove(index)  # it is near the front
        order.append(index)
    return order


def _pattern(large: int, others: int) -> list[bool]:
    """Where rows of the large group go: in blocks as equal as they can be, with one of the others between two."""
    pattern: list[bool] = []
    blocks = others + 1
    for block in range(blocks):
        pattern += [True] * ((block + 1) * large // blocks - block * large // blocks)
        pattern += [False] * (block < others)
    return pattern


def _rare_places(pattern: list[bool], others: int, large: int, *, carried: int) -> set[int]:
    """Places for so many rows of the rarer label among the others, and so many in the large group.

    `carried` is how many rows of the other label go before the first place.
    """
    parting = [place for place, is_large in enumerate(pattern) if not is_large]
    chosen = [parting[(2 * one + 1) * len(parting) // (2 * others)] for one in range(others)]
    free = [place for place, is_large in enumerate(pattern) if is_large]
    borders = [-1 - carried, *chosen, len(pattern)]
    inside = [
        free[bisect.bisect_right(free, low) : bisect.bisect_left(free, high)]
        for low, high in itertools.pairwise(borders)
    ]
    given = [0] * len(inside)
    widest = [(float(low - high), gap) for gap, (low, high) in enumerate(itertools.pairwise(borders)) if inside[gap]]
    heapq.heapify(widest)
    for _ in range(large):
        gap = heapq.heappop(widest)[1]
        given[gap] += 1
        if given[gap] < len(inside[gap]):
            heapq.heappush(widest, ((borders[gap] - borders[gap + 1]) / (given[gap] + 1), gap))
    found = set(chosen)
    for gap, some in enumerate(inside):
        found.update(_within(some, given[gap], borders[gap], borders[gap + 1]))
    return found


def _within(places: list[int], count: int, low: int, high: int) -> list[int]:
    """So many of the places, as evenly between two borders as they can be."""
    found: list[int] = []
    start = 0
    for one in range(count):
        ideal = low + (high - low) * (one + 1) / (count + 1)
        near = bisect.bisect_left(places, ideal)
        if near and (near == len(places) or ideal - places[near - 1] < places[near] - ideal):
            near -= 1
        near = min(max(near, start), len(places) - (count - one))
        found.append(places[near])
        start = near + 1
    return found
