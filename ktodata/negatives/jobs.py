"""Which negatives are to be made: a job each, and the generator that it draws from."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from ktodata.negatives.choose import Use
from ktodata.negatives.contract import Run
from ktodata.schema import Row


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One negative of one use for one desirable row."""

    row: Row
    use: int  # its place among the uses
    k: int


def asked_of(run: Run, uses: Sequence[Use], per_row: int, only_of: Collection[str] | None) -> list[Counter[str]]:
    """How many negatives each row is asked for, by its id, for each use whose strategy looks at all rows."""
    asked: list[Counter[str]] = [Counter() for _ in uses]
    if not any(use.strategy.whole for use in uses):
        return asked
    order = by_name(uses)
    for row in run.rows:
        if row.label and (only_of is None or row.id in only_of):
            for index, _ in jobs_of(row, uses, order, per_row, run.seed):
                asked[index][row.id] += 1
    return asked


def by_name(uses: Sequence[Use]) -> list[int]:
    """The uses in the order of their names, so that a mix does not depend on that in which they are named."""
    return sorted(range(len(uses)), key=lambda index: uses[index].strategy.name)


def jobs_of(row: Row, uses: Sequence[Use], order: Sequence[int], per_row: int, seed: int) -> Iterator[tuple[int, int]]:
    """For each negative that a row is to get: the use that makes it (of the `order` of their names), and its k."""
    weights = [uses[index].weight for index in order]
    for k in range(per_row):
        if None in weights:
            yield from ((index, k) for index in order)
        else:
            rng = generator(seed, "mix", row.id, k)
            yield rng.choices(order, [weight or 0.0 for weight in weights])[0], k


def generator(seed: int, strategy: str, row_id: str, *numbers: int) -> random.Random:
    """The generator of one job, or of one draft of it. Nothing else decides what it draws."""
    digest = hashlib.sha256("\n".join(map(str, (seed, strategy, row_id, *numbers))).encode()).digest()
    return random.Random(int.from_bytes(digest[:16]))
