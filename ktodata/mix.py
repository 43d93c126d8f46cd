"""Several files of rows as one, each with its share.

A weight is a share of the result: `A=3 B=1` is three quarters of A. As many rows are taken as the weights allow without
taking any twice: the file that runs out first sets the number. Of each file the rows are drawn by the seed, each class
in the file's own ratio. What a row is, and where it came from, stays; rows that are in several files, or twice in one,
are taken once: they count for the file whose provenance of them comes first, and of equal ones for the file named
first. For the rest the result depends on the rows, weights and seed: not on the order of files or of rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from ktodata.arrange import draws
from ktodata.clean import OnConflict
from ktodata.discover import discover
from ktodata.errors import NothingLeftError, UsageError
from ktodata.io import Quarantine, Spill, Table, is_there
from ktodata.parents import Renamed
from ktodata.schema import Kind
from ktodata.sketch import Array
from ktodata.sort_out import PARTS, Cleaning, in_training_order, part_of
from ktodata.unpair import Account, Collecting, counted

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A file, folder or Hub id, and its weight; None: as many as it has, of all others too."""

    source: str
    weight: float | None = None


def parse_part(text: str) -> Part:
    """`SOURCE` or `SOURCE=WEIGHT`; what there is a file or folder of is its name, whole.

    Raises:
        UsageError: a weight that is no number over 0.
    """
    source, equals, number = text.rpartition("=")
    if not equals:
        return Part(text)
    try:
        weight = float(number)
    except ValueError:
        return Part(text)  # a name with "=" in it
    if is_there(text):
        if is_there(source):
            log.warning("%s is the file or folder of that name, not %s with a weight", text, source)
        return Part(text)
    if not (0 < weight < math.inf and source):
        raise UsageError(f"{text!r} has the weight {number}", do="A weight is a number over 0: FILE=3")
    return Part(source, weight)


@dataclasses.dataclass(slots=True)
class Share:
    """What became of one part: records `read`, rows that there are (`rows`) and that are `taken`."""

    part: Part
    account: Account
    rows: int = 0
    taken: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Mixed:
    """The rows of the mix in training order, to be taken once, and what came from where."""

    tables: Iterator[Table]
    kind: Kind
    shares: list[Share]
    account: Account


@contextlib.contextmanager
def mix(
    parts: Sequence[Part],
    *,
    rows: int | None = None,
    as_kind: Kind | None = None,
    on_conflict: OnConflict = "drop",
    seed: int = 0,
    workers: int = 1,
    quarantine: Quarantine | None = None,
    folder: Path | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Iterator[Mixed]:
    """Mix whatever `unpair` reads.

    Args:
        parts: where one has a weight, those without count 1; where none has, all rows are taken.
        rows: how many to take; left out, as many as there can be.
        as_kind, on_conflict, seed, workers, quarantine, folder, advance: as for `ktodata.unpair.stream_records`.
            Contradictions between files count as well as those within one.

    Raises:
        UsageError: no or double parts, or more rows than there can be at these weights.
        SourceError: a part cannot be read; RowError (one of its kind) for rows of another kind than the first part's,
            and NothingLeftError (another) if none is left, or none of a file with a weight.
    """
    if len({part.source for part in parts}) < len(parts):
        twice = next(source for source, count in Counter(part.source for part in parts).items() if count > 1)
        raise UsageError(f"{twice} is named twice", do="Give it one weight")
    with Spill(PARTS, folder) as spill, Spill(PARTS, folder) as kept:
        shares: list[Share] = []
        renamed = Renamed()
        kind = as_kind
        for place, part in enumerate(parts):
            layout, raws = discover(part.source, "", "", None, strict=quarantine is None)
            share = Share(part, Account(layout, quarantine))
            collecting = Collecting(spill, share.account, kind=kind, mark=place, renamed=renamed)
            collecting.collect(raws, as_kind=as_kind, workers=workers, folder=folder, advance=advance)
            kind = collecting.kind
            shares.append(share)
        spill.finish()
        whole = Account(shares[0].account.layout, quarantine)
        cleaning = Cleaning(spill, on_conflict=on_conflict, one_per_prompt=False, seed=seed, drop=whole.drop)
        drawn = _Drawn(len(parts), seed)
        for table in cleaning.tables():
            kept.add(table, part_of(table))
            drawn.add(table)
        kept.finish()
        for share, both in zip(shares, drawn.counts(), strict=True):
            share.rows = sum(both)
        _refuse_empty(shares, whole)
        weights, names = [part.weight for part in parts], [part.source for part in parts]
        quotas = share_out(drawn.counts(), weights, rows, names=names, ties=drawn.ties())
        last = drawn.last(quotas)
        for place, share in enumerate(shares):
            share.taken = sum(quotas[place])
        total = sum(share.taken for share in shares)
        tables = (renamed.following(drawn.chosen(table, last)) for table in kept.drained())
        ordered = in_training_order(tables, most=total, seed=seed, folder=folder)
        yield Mixed(counted(ordered, whole), kind or "text", shares, whole)


def _refuse_empty(shares: Sequence[Share], whole: Account) -> None:
    """Refuse a mix of no rows, or one that a file with a weight has none for.

    Raises:
        NothingLeftError: it is one.
    """
    empty = [share for share in shares if not share.rows]
    weighted = any(share.part.weight is not None for share in shares)
    if not empty or (len(empty) < len(shares) and not weighted):
        return
    account, source = empty[0].account, empty[0].part.source
    if account.completions == account.skipped.total():
        raise account.nothing_left(source)
    told = ", ".join(f"{count} {reason}" for reason, count in whole.skipped.most_common())
    raise NothingLeftError(
        f"no rows of it are left: they are in another file too, or contradict one ({told} in all files)",
        where=source,
        do="Leave it out",
    )


class _Drawn:
    """A number drawn for each row, by file and label, of which the smallest are taken: 8 bytes a row."""

    def __init__(self, files: int, seed: int) -> None:
        self.files, self.seed = files, seed
        self._numbers: dict[tuple[int, bool], list[Array]] = {
            (place, label): [] for place in range(files) for label in (True, False)
        }

    def add(self, table: Table) -> None:
        files, labels, numbers = self._columns(table)
        for (place, label), found in self._numbers.items():
            found.append(numbers[(files == place) & (labels == label)])

    def _columns(self, table: Table) -> tuple[Array, Array, Array]:
        files, labels, ids = (table.column(name).to_numpy() for name in ("_file", "label", "_id"))
        return files, labels, draws(ids, f"{self.seed} mix")

    def counts(self) -> list[tuple[int, int]]:
        """The desirable and undesirable rows of each file."""
        sizes = {key: sum(map(len, found)) for key, found in self._numbers.items()}
        return [(sizes[place, True], sizes[place, False]) for place in range(self.files)]

    def ties(self) -> list[int]:
        """A number for each file that depends on the seed and its rows, and neither on their order nor on its name."""
        sums = {key: sum(int(some.sum()) for some in found) for key, found in self._numbers.items()}
        return [(sums[place, True] + sums[place, False]) % 2**64 for place in range(self.files)]

    def last(self, quotas: Sequence[tuple[int, int]]) -> dict[tuple[int, bool], int]:
        """The largest number that is taken, by file and label; -1 for none."""
        import numpy as np

        found = {}
        for place, both in enumerate(quotas):
            for label, quota in zip((True, False), both, strict=True):
                numbers = np.sort(np.concatenate([*self._numbers[place, label], np.zeros(0, dtype=np.uint64)]))
                found[place, label] = int(numbers[quota - 1]) if quota else -1
        return found

    def chosen(self, table: Table, last: dict[tuple[int, bool], int]) -> Any:
        """The rows of a table that are taken, without the column that tells their file."""
        import numpy as np
        import pyarrow

        files, labels, numbers = self._columns(table)
        stays = np.zeros(len(numbers), dtype=bool)
        for (place, label), most in last.items():
            if most >= 0:
                stays |= (files == place) & (labels == label) & (numbers <= np.uint64(most))
        return table.filter(pyarrow.array(stays)).drop_columns(["_file"])


def share_out(
    counts: Sequence[tuple[int, int]],
    weights: Sequence[float | None],
    rows: int | None,
    *,
    names: Sequence[str],
    ties: Sequence[int],
) -> list[tuple[int, int]]:
    """How many rows of each file and class to take.

    Args:
        counts: the desirable and undesirable rows that each file has; no file with a weight has none, nor have all.
        weights: see `mix`.
        rows: how many in all; None: as many as there can be.
        names: of the files, for errors.
        ties: a number for each file: where two have an equal claim to a row, the lower one gets it.

    Raises:
        UsageError: there are not so many rows, or a file with a weight would get none.
    """
    sizes = [sum(both) for both in counts]
    weighted = any(weight is not None for weight in weights)
    # Exact, and as typed: .1 is a tenth, so that .1 and .2 are .3, and no weight is too large or small to add up.
    shares = (
        [Fraction(1) if weight is None else Fraction(repr(float(weight))) for weight in weights]
        if weighted
        else [Fraction(size) for size in sizes]
    )
    total = sum(shares)
    most = min(math.floor(size * total / share) for size, share in zip(sizes, shares, strict=True) if share)
    wanted = most if rows is None else rows
    if wanted > most:
        scarce = min(zip(sizes, shares, names, strict=True), key=lambda one: one[0] / (one[1] or 1))
        because = f": {scarce[2]} has {scarce[0]} rows" if weighted else ""
        raise UsageError(
            f"--rows is {wanted}, and there are {most} at most{' at these weights' if weighted else ''}{because}",
            do=f"No row is taken twice; ask for fewer{', or change the weights' if weighted else ''}",
        )
    quotas = _rounded([wanted * share / total for share in shares], wanted, sizes, ties)
    if weighted and 0 in quotas:
        more = "Ask for more, give it" if wanted < most else "Give it"
        raise UsageError(
            f"{names[quotas.index(0)]} gets none of {wanted} rows at these weights",
            do=f"{more} a larger weight, or leave it out",
        )
    return [
        (both[0], both[1])
        for quota, counted in zip(quotas, counts, strict=True)
        for both in [_rounded([Fraction(quota * one, max(1, sum(counted))) for one in counted], quota, counted, (0, 1))]
    ]


def _rounded(exact: Sequence[Fraction], total: int, limits: Sequence[int], ties: Sequence[int]) -> list[int]:
    """Whole numbers that add up to `total`: those of the largest remainders are rounded up, by `ties` of equal ones."""
    found = [min(math.floor(one), limit) for one, limit in zip(exact, limits, strict=True)]
    by_rest = sorted(range(len(found)), key=lambda place: (found[place] - exact[place], ties[place]))
    while sum(found) < total:
        for place in by_rest:
            if sum(found) < total and found[place] < limits[place]:
                found[place] += 1
    return found
