"""An arrangement of rows that are all at hand: classes spread evenly, neighbours that do not clash."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Callable
from typing import Any

from ktodata.evenly import evenly
from ktodata.keys import MAX_RUN, PROMPT, Keys, Numbers, Table
from ktodata.waiting import in_turn

FEW = 1000  # rows for which several arrangements are tried while clashes remain: chance decides much there
ATTEMPTS = 20
TINY = 8  # rows of which all orders are looked at where clashes remain
TURNS = 8  # ends of a stretch that are tried the other way round
REPAIRS = 100  # places tried for one row that found none, and rows without a place before giving up


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

    fixed = len(before) if before is not None else 0
    best, least = np.arange(len(keys)), (len(keys) + fixed + 1, 0, 0)
    attempts = ATTEMPTS if len(keys) <= FEW else 1
    for attempt in range(attempts + max(1, attempts // 4)):
        shuffled = _shuffled(keys, f"{seed} {attempt % attempts}", provenance)
        table = Table(keys.take(shuffled), before)
        aim = table.unavoidable
        if attempt >= attempts:  # those that share completions stood in the way of those that share prompts
            if least[0] <= aim[0]:
                break
            alone = dataclasses.replace(keys.take(shuffled), completions=np.arange(len(keys), dtype=np.uint64))
            order = in_turn(Table(alone, before), random.Random(f"{seed} {attempt} spread"))
            _repair(order, table, random.Random(f"{seed} {attempt} repair"))
        else:
            order = _tried(table, len(keys), f"{seed} {attempt}")
        faults = table.faults(order)
        if faults > aim and len(keys) <= TINY:
            order = least_clashes(table)
            faults = aim = table.faults(order)
        if faults < least:
            places = [index - table.fixed for index in order[table.fixed :]]
            best, least = shuffled[np.array(places, dtype=np.int64)], faults
        if faults <= aim:
            break
    if least[2]:
        return _without_runs(keys, best, attempts, seed=seed, before=before, provenance=provenance)
    return best


def turned(order: Any, keys: Keys, before: Keys | None = None) -> Any:
    """The order that `arrange` gave, its end turned round where that is no worse and keeps what half of the rows have
    from coming last: then the next stretch, in which it may have more than half, can begin with it."""
    import numpy as np

    def is_half(values: Numbers) -> bool:
        return 2 * int(np.count_nonzero(values == values[order[-1]])) >= len(keys)

    if not (is_half(keys.prompts) or is_half(keys.completions)):
        return order  # nearly always, and at no cost
    table = Table(keys, before)
    (kind, group), most = max(table.largest, key=lambda one: one[1])
    has = (table.arrays[kind] == group)[table.fixed + order]
    if 2 * most < len(keys) or not has[-1]:
        return order
    fixed = np.arange(table.fixed)
    faults = table.faults(np.concatenate([fixed, table.fixed + order]))
    # From where two others meet, or the first row is another.
    for start in np.flatnonzero(~has & ~np.append(False, has[:-1]))[: -TURNS - 1 : -1].tolist():
        found = np.concatenate([order[:start], order[start:][::-1]])
        if table.faults(np.concatenate([fixed, table.fixed + found])) <= faults:
            return found
    return order


def _tried(table: Table, rows: int, name: str) -> list[int]:
    """One attempt at an order of the table's rows, of which so many are its own."""
    order = _spread(table) if rows > FEW else None
    if order is None or table.faults(order) > table.unavoidable:
        order = in_turn(table, random.Random(f"{name} spread"))
        _repair(order, table, random.Random(f"{name} repair"))
    return order


def least_clashes(table: Table) -> list[int]:
    """The order of `TINY` rows or fewer with the fewest neighbours of one prompt, and then with the fewest of one
    completion. Looks at all orders (Held and Karp 1962), in time and memory that double with each row.
    """
    own = range(table.fixed, len(table.label_array))
    count = len(own)

    def weight(one: int, other: int) -> int:  # of equal ones, those are better whose labels take turns
        return table.weight(one, other) * 2 * TINY + (table.labels[one] == table.labels[other])

    weights = [[weight(one, other) for other in own] for one in own]
    start = [weight(table.fixed - 1, one) if table.fixed else 0 for one in own]
    # By the rows that have their places, as bits, and the last of them: the weight, and the one before the last.
    best: list[dict[int, tuple[int, int]]] = [{} for _ in range(2**count)]
    for one in range(count):
        best[1 << one][one] = start[one], -1
    for placed in range(1, 2**count):
        for last, (so_far, _) in best[placed].items():
            for one in range(count):
                if not placed >> one & 1:
                    after = best[placed | 1 << one]
                    found = so_far + weights[last][one], last
                    if one not in after or found < after[one]:
                        after[one] = found
    order: list[int] = []
    placed = 2**count - 1
    last = min(best[placed], key=lambda one: best[placed][one]) if count else -1
    while last >= 0:
        order.append(last)
        placed, last = placed & ~(1 << last), best[placed][last][1]
    return [*range(table.fixed), *(own[one] for one in reversed(order))]


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
    for attempt, (group, size) in itertools.product(range(attempts), table.largest):
        if 2 * size < len(keys) or tried[-1][1] <= table.unavoidable:
            continue
        shuffled = _shuffled(keys, f"{seed} {attempt}", provenance)
        table = Table(keys.take(shuffled), before)
        order = _evenly(table, group)
        tried.append((shuffled[order], table.faults([*range(table.fixed), *(one + table.fixed for one in order)])))
    # Within 3:1, no run is too long, whatever it takes; beyond, clashes count for more, as elsewhere.
    return min(tried, key=lambda one: (one[1][2], *one[1]) if table.run_limit == MAX_RUN else one[1])[0]


def _evenly(table: Table, group: tuple[int, int]) -> list[int]:
    """The places of the table's own rows by `evenly`, for one of the `largest` groups."""
    kind, number = group
    fixed = table.fixed
    large = (table.arrays[kind] == number).tolist()

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


def _spread(table: Table) -> list[int] | None:
    """What `in_turn` does where hardly any neighbours clash, which is usual, and many times as fast; else None."""
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


def _repair(order: list[int], table: Table, rng: random.Random) -> None:
    """Move each row that clashes with its predecessor to a place where it does not, if one is found."""
    failures, place = 0, max(1, table.fixed)
    while place < len(order) and failures < REPAIRS:
        if table.clash(order[place - 1], order[place]) and not _move(order, place, table, rng):
            failures += 1
        place += 1


def _move(order: list[int], place: int, table: Table, rng: random.Random) -> bool:
    """Take out one of the two rows that clash and put it in elsewhere, so that clashes get fewer, or lesser ones."""
    for start in (place, place - 1):
        if start < table.fixed:
            continue
        index = order.pop(start)
        if not 0 < start < len(order) or not table.clash(order[start - 1], order[start]):
            here = sum(table.weight(index, other) for other in order[max(0, start - 1) : start + 1])
            for spot in _better(order, index, here, table, rng):
                order.insert(spot, index)
                if _run_at(order, spot, table.labels) <= table.run_limit:
                    return True
                order.pop(spot)
        order.insert(start, index)
    return False


def _better(order: list[int], index: int, here: int, table: Table, rng: random.Random) -> list[int]:
    """Places where a row adds less to the weight of the clashes than `here`: those where it adds none, or the best."""
    import numpy as np

    if len(order) <= FEW:
        spots = np.arange(table.fixed, len(order) + 1)
        borders = np.array([-1, *order, -1])
        before, after = borders[spots], borders[spots + 1]
    else:
        spots = np.array([rng.randrange(table.fixed, len(order) + 1) for _ in range(REPAIRS)])
        before, after = (
            np.array([order[spot] if 0 <= spot < len(order) else -1 for spot in some.tolist()])
            for some in (spots - 1, spots)
        )
    prompts, completions = table.arrays

    def weight(one: Any, other: Any) -> Any:
        both = (one >= 0) & (other >= 0)
        return ((prompts[one] == prompts[other]) * PROMPT + (completions[one] == completions[other])) * both

    row = np.int64(index)
    added = weight(before, row) + weight(row, after) - weight(before, after)
    free = spots[added <= 0]
    best = free if len(free) else spots[(added < here) & (added == added.min())]
    found: list[int] = best.tolist()
    return found


def _run_at(order: list[int], place: int, labels: list[bool]) -> int:
    """The length of the run of one label that a place is in."""
    first = last = place
    while first and labels[order[first - 1]] == labels[order[place]]:
        first -= 1
    while last + 1 < len(order) and labels[order[last + 1]] == labels[order[place]]:
        last += 1
    return last - first + 1
