"""The order of every file we write: seeded, class-mixed, KL-safe.

File order is training order for some trainers, and TRL's estimate of the reference point pairs each prompt with its
neighbour's completion. So neighbours have different prompts and different completions wherever the rows allow it,
prompts first where they do not allow both, and no long run carries one label. The order is a function of the set of
rows and the seed: not of the order they came in.

Each row draws a number from the seed and its id; rows are shuffled by it. Many rows are first dealt to stretches of
the order by that number, and each stretch is arranged for itself, so that no more than one is ever needed at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import xxhash

from ktodata.arrange import arrange, draws
from ktodata.keys import MAX_RUN, Keys, Numbers, Table, longest_run
from ktodata.schema import Row, Text, normalise, normalise_all, plain

__all__ = ["MAX_RUN", "Keys", "arrange", "clashes", "keys_of", "longest_run", "training_order"]

STRETCH = 32_768  # rows that are arranged together
HEAVY = 5  # a prompt with more than one in so many of all rows is shared out evenly


def keys_of(rows: Sequence[Row]) -> Keys:
    """The keys of some rows."""
    import numpy as np

    return Keys(
        numbers_of([row.id for row in rows]),
        numbers_of([row.prompt_id for row in rows]),
        completion_numbers([row.completion for row in rows]),
        np.array([row.label for row in rows], dtype=bool),
    )


def number_of(name: str) -> int:
    """The first 64 bits of an `id` or a `prompt_id`."""
    return int(name[:16], 16)


def numbers_of(names: Sequence[str]) -> Numbers:
    """`number_of` each name."""
    import numpy as np

    return np.frombuffer(bytes.fromhex("".join([name[:16] for name in names])), dtype=">u8").astype(np.uint64)


def completion_number(completion: Text) -> int:
    """A 64-bit stand-in for a completion, equal for those that are equal after normalising."""
    return xxhash.xxh3_64_intdigest(normalise(plain(completion)).encode("utf-8", "surrogatepass"))


def completion_numbers(completions: Sequence[Text]) -> Numbers:
    """`completion_number` of each, faster for many."""
    import numpy as np

    folded = normalise_all([plain(completion) for completion in completions])
    return np.array([xxhash.xxh3_64_intdigest(text) for text in folded], dtype=np.uint64)


def training_order(rows: Sequence[Row], *, seed: int) -> list[Row]:
    """The rows in an order to train in, about linear in their number.

    Each class is shuffled and spread evenly, with a seeded jitter, so at a class ratio of r no run is longer than
    about 2r + 1. A row that would meet its own prompt or its own completion (after normalising) lets others go first.
    Where a prompt or a completion has half of the rows or more, that counts for more than the mix of the classes.
    """
    import numpy as np

    keys = keys_of(rows)
    stretch_of = stretches(keys, total=len(rows), seed=seed)
    ordered: list[Row] = []
    before: Keys | None = None
    for stretch in range(stretch_count(len(rows))):
        members = np.flatnonzero(stretch_of == stretch)
        here = keys.take(members)
        order = arrange(here, seed=seed, before=before, provenance=lambda i: _provenance(rows[members[i]]))  # noqa: B023
        ordered += [rows[index] for index in members[order].tolist()]
        before = tail(here.take(order), before)
    return ordered


def _provenance(row: Row) -> tuple[str, ...]:
    return row.source, row.strategy, row.parent_id


def stretch_count(total: int) -> int:
    """How many stretches an order of so many rows has."""
    return max(1, -(-total // STRETCH))


def stretches(keys: Keys, *, total: int, seed: int) -> Any:
    """The stretch that each row goes to, an integer array, when there are `total` rows in all.

    All rows of a prompt have to be among these, since those of a large prompt are shared out evenly.
    """
    import numpy as np

    count = stretch_count(total)
    if count == 1:
        return np.zeros(len(keys), dtype=np.int64)
    drawn = draws(keys.ids, f"{seed} stretch")
    # Each class is dealt out evenly, so that all stretches have the same mix; and so is a prompt with many rows, which
    # by chance would have more than half of some stretch, and meet itself there.
    _, place, sizes = np.unique(keys.prompts, return_inverse=True, return_counts=True)
    deck = keys.labels.astype(np.int64)
    for group in np.flatnonzero(sizes * HEAVY >= total):
        deck[place == group] += 2 + 2 * int(group)
    found = np.zeros(len(keys), dtype=np.int64)
    for one in np.unique(deck):
        members = np.flatnonzero(deck == one)
        members = members[np.argsort(drawn[members], kind="stable")]
        offset = float(drawn[members].sum(dtype=np.uint64)) / 2.0**64
        found[members] = np.minimum((np.arange(len(members)) + offset) / len(members) * count, count - 1)
    return found


def tail(keys: Keys, before: Keys | None = None) -> Keys:
    """What the next stretch has to know of the order so far: its last rows."""
    import numpy as np

    joined = keys
    if before is not None and len(keys) <= MAX_RUN:
        joined = Keys(
            *(
                np.concatenate([getattr(before, field.name), getattr(keys, field.name)])
                for field in dataclasses.fields(Keys)
            )
        )
    return joined.take(slice(-MAX_RUN - 1, None))


def clashes(rows: Sequence[Row]) -> int:
    """How many rows have their predecessor's prompt or completion (after normalising)."""
    return Table(keys_of(rows)).count(range(len(rows)))
