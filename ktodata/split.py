"""Rows in two parts, to train on and to evaluate with, that share no prompt.

Rows of one prompt go to one side, and so do those of prompts that are nearly equal (`ktodata.near`): a model is not
asked what it has all but seen. Groups of prompts are drawn by the seed, and taken for the evaluation side as long as
they fit into its share of each class; where that does not come to the number asked for, some are exchanged. So both
sides have about the class ratio of the whole, and each class is on both sides wherever two groups have it. The result
depends on the rows and the seed: not on the order of rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ktodata.arrange import draws
from ktodata.clean import OnConflict
from ktodata.discover import discover
from ktodata.errors import SourceError, UsageError
from ktodata.io import Quarantine, Raw, Spill, Table
from ktodata.near import THRESHOLD, Groups, Prompts, check_threshold, signs_of
from ktodata.schema import Kind
from ktodata.sketch import Array
from ktodata.sort_out import PARTS, in_training_order, part_of
from ktodata.sources import Source
from ktodata.unpair import Account, cleaned_records

SHARE = 0.1
EXCHANGED = 14  # groups of which all choices are looked at


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """How many rows, desirable rows and prompts a side has."""

    rows: int
    desirable: int
    prompts: int

    @property
    def undesirable(self) -> int:
        """The other rows."""
        return self.rows - self.desirable


@dataclasses.dataclass(frozen=True, slots=True)
class Sides:
    """Both sides. `tables(name)` gives the rows of one in training order; it may be taken more than once.

    `wanted` rows were to be in `eval`. `joined` prompts are near to others, in `near_groups` groups.
    """

    train: Side
    eval: Side
    wanted: int
    near_groups: int
    joined: int
    kind: Kind
    account: Account
    _kept: Spill
    _chosen: Array
    _groups: Groups
    _seed: int
    _folder: Path | None

    def tables(self, side: str) -> Iterator[Table]:
        """The rows of `train` or `eval`."""
        total = self.eval.rows if side == "eval" else self.train.rows
        return in_training_order(self._of(side), most=total, seed=self._seed, folder=self._folder)

    def _of(self, side: str) -> Iterator[Table]:
        import numpy as np
        import pyarrow

        for part in range(PARTS):
            table = self._kept.read(part)
            if table is not None:
                inside = np.isin(self._groups.of(table.column("_prompt").to_numpy()), self._chosen)
                yield table.filter(pyarrow.array(inside if side == "eval" else ~inside))


@contextlib.contextmanager
def split(
    source: str,
    *,
    preset: str = "",
    split: str = "",
    options: Mapping[str, object] | None = None,
    quarantine: Quarantine | None = None,
    limit: int | None = None,
    **rest: Any,
) -> Iterator[Sides]:
    """The rows of whatever `unpair` reads, split by prompt.

    Args:
        source, preset, split, options, quarantine, limit: see `ktodata.unpair.unpair`.
        rest: as for `split_records`.

    Raises:
        SourceError: the source cannot be read, or cannot be split.
        UsageError: a share or number of rows that no side can have.
    """
    layout, raws = discover(source, preset, split, limit, strict=quarantine is None)
    layout = layout.configured(options or {})
    with split_records(layout, raws, quarantine=quarantine, source=source, **rest) as found:
        yield found


@contextlib.contextmanager
def split_records(
    layout: Source,
    raws: Iterable[Raw],
    *,
    source: str = "",
    share: float = SHARE,
    rows: int | None = None,
    near_threshold: float = THRESHOLD,
    on_conflict: OnConflict = "keep",
    seed: int = 0,
    folder: Path | None = None,
    **rest: Any,
) -> Iterator[Sides]:
    """`split` for records that are there already.

    Args:
        source: what an error calls them.
        share: of the rows, for the evaluation side, and not more, unless it takes more to have both classes there. It
            is as near as whole groups of prompts come to it where these are few, and with many the nearest that is
            found by exchanging some.
        rows: how many rows instead.
        near_threshold: from which share of equal MinHash values on prompts are nearly equal; 1 for equal ones
            only.
        on_conflict: completions with both labels stay by default, as nothing here depends on them.
        seed, folder, rest: as for `ktodata.unpair.stream_records`.
    """
    check_threshold(near_threshold)
    if rows is None and not 0 < share < 1:
        raise UsageError(f"--share is {share:g}", do="It is a part of the rows, over 0 and below 1")
    prompts, labels = Prompts(folder), _Counts()
    with (
        cleaned_records(layout, raws, on_conflict=on_conflict, seed=seed, folder=folder, **rest) as found,
        Spill(PARTS, folder) as kept,
    ):
        for table in found.tables:
            labels.add(table)
            prompts.add(signs_of(*_distinct(table)))
            kept.add(table, part_of(table))
        kept.finish()
        if not kept.rows:
            raise found.account.nothing_left(source)
        groups = prompts.groups(near_threshold)
        counts = labels.by_group(groups)
        wanted = _wanted(rows, share, int(counts.sizes.sum()))
        chosen = choose(counts, wanted, seed=seed)
        yield Sides(
            counts.side(~chosen),
            counts.side(chosen),
            wanted,
            len(set(groups.roots.tolist())),
            len(groups) + len(set(groups.roots.tolist())),
            found.kind,
            found.account,
            kept,
            counts.numbers[chosen],
            groups,
            seed,
            folder,
        )


def _wanted(rows: int | None, share: float, total: int) -> int:
    """How many rows the evaluation side is to have.

    Raises:
        UsageError: so many that the other side has none, or none.
    """
    if rows is None:
        return min(max(1, round(share * total)), total - 1)
    if total and not 0 < rows < total:
        raise UsageError(f"--rows is {rows}, of {total} rows", do="Both sides need some")
    return rows


def _distinct(table: Table) -> tuple[Array, list[Any]]:
    import numpy as np
    import pyarrow

    numbers, places = np.unique(table.column("_prompt").to_numpy(), return_index=True)
    return numbers, table.column("prompt").take(pyarrow.array(places)).to_pylist()


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """Groups of prompts, an array element each: its number, its rows of each class, its prompts."""

    numbers: Array
    desirable: Array
    undesirable: Array
    prompts: Array

    @property
    def sizes(self) -> Array:
        """The rows of each group."""
        return self.desirable + self.undesirable

    def side(self, chosen: Array) -> Side:
        """What the groups that are chosen have together."""
        return Side(int(self.sizes[chosen].sum()), int(self.desirable[chosen].sum()), int(self.prompts[chosen].sum()))


class _Counts:
    """The rows of each prompt, as they come: 24 bytes a prompt."""

    def __init__(self) -> None:
        self._parts: list[tuple[Array, Array, Array]] = []

    def add(self, table: Table) -> None:
        import numpy as np

        numbers, of = np.unique(table.column("_prompt").to_numpy(), return_inverse=True)
        labels = table.column("label").to_numpy()
        self._parts.append(
            (numbers, np.bincount(of[labels], minlength=len(numbers)), np.bincount(of[~labels], minlength=len(numbers)))
        )

    def by_group(self, groups: Groups) -> Counted:
        import numpy as np

        prompts, desirable, undesirable = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
        numbers, of = np.unique(groups.of(prompts), return_inverse=True)
        sums = [np.zeros(len(numbers), dtype=np.int64) for _ in range(3)]
        for total, values in zip(sums, (desirable, undesirable, np.ones_like(desirable)), strict=True):
            np.add.at(total, of, values)
        return Counted(numbers, *sums)


def choose(counts: Counted, wanted: int, *, seed: int) -> Array:
    """Which groups are for evaluation: a boolean array.

    Raises:
        SourceError: all rows are of one group of prompts.
    """
    import numpy as np

    if len(counts.numbers) < 2:
        raise SourceError(
            f"all {int(counts.sizes.sum())} rows are of one prompt, or of prompts that are nearly equal",
            do="They cannot be on both sides; --near-threshold 1 parts prompts that are only nearly equal",
        )
    order = np.argsort(draws(counts.numbers, f"{seed} split"), kind="stable")
    both = np.stack([counts.desirable, counts.undesirable])
    classes = both.tolist()
    totals = [sum(one) for one in classes]
    # The rarer class is rounded up, so that a small share has it too.
    few = 0 if totals[0] <= totals[1] else 1
    share = wanted * totals[few] / sum(totals)
    limits = [0, 0]
    limits[few] = min(wanted, max(int(totals[few] > 0), round(share)))
    limits[1 - few] = wanted - limits[few]
    chosen = np.zeros(len(counts.numbers), dtype=bool)
    taken = [0, 0]
    for strict in (True, False):  # first within the share of each class, then within all of it
        for place in order.tolist():
            here = [taken[label] + classes[label][place] for label in (0, 1)]
            fits = all(here[label] <= limits[label] for label in (0, 1)) if strict else sum(here) <= wanted
            if fits and not chosen[place]:
                chosen[place] = True
                taken = here
            if sum(taken) == wanted:
                break
    if sum(taken) != wanted or not all(both[:, side].any(axis=1).all() for side in (chosen, ~chosen)):
        _exchange(chosen, both, order, wanted, limits)
    _mend(chosen, both, order)
    return chosen


def _exchange(chosen: Array, classes: Array, order: Array, wanted: int, limits: list[int]) -> None:
    """Choose anew of a few groups: by the classes that a side then lacks, by how near to `wanted` the rows are (rather
    fewer than more), by the share of each class, and by how few groups change sides."""
    import numpy as np

    sizes = classes.sum(axis=0)
    mine, others = (_of_all_sizes(order[side[order]], sizes) for side in (chosen, ~chosen))
    half = EXCHANGED // 2
    some = np.concatenate([mine[: max(half, EXCHANGED - len(others))], others[: max(half, EXCHANGED - len(mine))]])
    choices = np.arange(2 ** len(some))[:, None] >> np.arange(len(some)) & 1
    rest = chosen.copy()
    rest[some] = False
    found = classes[:, rest].sum(axis=1) + choices @ classes[:, some].T
    total = classes.sum(axis=1)
    lacking = ((found == 0) & (total > 0)).sum(axis=1) + ((found == total) & (total > 0)).sum(axis=1)
    gap = found.sum(axis=1) - wanted
    off = np.abs(found - np.array(limits)).sum(axis=1)
    moved = (choices != chosen[some]).sum(axis=1)
    empty = np.isin(found.sum(axis=1), (0, total.sum()))
    best = np.lexsort((moved, off, np.abs(gap), gap > 0, lacking, empty))[0]
    chosen[some] = choices[best].astype(bool)


def _of_all_sizes(places: Array, sizes: Array) -> Array:
    """These groups, first one of each size, small ones first, then a second of each, and so on."""
    import numpy as np

    by_size = places[np.argsort(sizes[places], kind="stable")]
    _, first, of = np.unique(sizes[by_size], return_index=True, return_inverse=True)
    return by_size[np.argsort(np.arange(len(by_size)) - first[of], kind="stable")]


def _mend(chosen: Array, classes: Array, order: Array) -> None:
    """Move a group, where a side lacks a class that the other can spare, or has no rows at all."""
    import numpy as np

    sizes = classes.sum(axis=0)
    for side in (True, False):
        for label in (0, 1):
            there = chosen != side
            if classes[label][~there].any() or not classes[label].any():
                continue
            # The other side keeps every class that it has: in another group than the one that goes.
            keeps = [(classes[one] > 0) & there for one in (0, 1)]
            spared = keeps[label] & (keeps[label].sum() > 1)
            spared &= ~keeps[1 - label] | (keeps[1 - label].sum() > 1)
            if spared.any():
                candidates = order[spared[order]]
                chosen[candidates[np.argmin(sizes[candidates])]] = side
    if not chosen.any():
        chosen[order[np.argmin(sizes[order])]] = True
