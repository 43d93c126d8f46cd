"""The order of every file we write: seeded, class-mixed, KL-safe.

File order is training order for some trainers, and TRL's estimate of the reference point pairs each prompt with its
neighbour's completion. So neighbours have different prompts and different completions wherever the rows allow it,
prompts first where they do not allow both, and no long run carries one label. The order is a function of the set of
rows and the seed: not of the order they came in.

Each class is shuffled and spread evenly, with a seeded jitter, so at a class ratio of r no run is longer than about
2r + 1. A row that would meet its own prompt or its own completion (after normalising) lets others go first. Where a
prompt or a completion has half of the rows or more, that counts for more than the mix of the classes.

Many rows are first dealt to stretches of the order (`ktodata.stretches`), and each stretch is arranged for itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import xxhash

from ktodata.arrange import arrange
from ktodata.keys import MAX_RUN, Keys, Numbers, longest_run
from ktodata.schema import Row, Text, normalise, normalise_all, plain

__all__ = ["MAX_RUN", "Keys", "arrange", "keys_of", "longest_run"]


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
