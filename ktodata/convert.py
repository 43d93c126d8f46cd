"""Rows in the formats of other trainers (`ktodata.formats`), and back.

Back is `unpair`, which knows these formats by their columns. What a format cannot hold is not written and counted by
reason; what is written reads back as the same prompt, completion and label, which is checked of every row, and is in
the order of all files that we write. Provenance goes along in columns of its own, which all of these trainers pass
over, unless only theirs are wanted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from ktodata.discover import discover
from ktodata.errors import RowError
from ktodata.formats import Format
from ktodata.io import Quarantine, Spill, Table, rows_of
from ktodata.order import numbers_of
from ktodata.schema import Kind, Row, Text, content_hash
from ktodata.sketch import Array
from ktodata.sort_out import PARTS, in_training_order, part_of
from ktodata.sources import Example, Source, get_source
from ktodata.unpair import Account, cleaned_records

PROVENANCE = ("source", "origin", "strategy", "parent_id")


class Converting:
    """Rows to records of a format; those that it cannot hold go before the rest are put in order."""

    def __init__(self, form: Format, kind: Kind, *, drop: Callable[[str, Table], None], bare: bool = False) -> None:
        """`drop` is told of the rows that the format cannot hold, with the reason; `bare` leaves provenance out."""
        self.form, self.kind, self.drop, self.bare = form, kind, drop, bare
        self.reader: Source = get_source(form.reader(kind))
        self.written = self.desirable = 0
        self.sources: Counter[str] = Counter()  # of what is written
        self.synthetic = 0

    def held(self, tables: Iterable[Table]) -> Iterator[Table]:
        """The rows that the format holds, table by table."""
        for table in tables:
            yield self._without(table, [self._refusal(row) for row in rows_of([table])])

    def apart(self, kept: Spill, mixed_up: Array) -> Iterator[Table]:
        """What was kept, part by part, but for the prompts with these numbers, by `_Prompts`."""
        taken = set(mixed_up.tolist())
        for table in kept.drained():
            numbers = _prompt_numbers(table) if taken else []
            yield self._without(table, ["a prompt taken for another one" * (one in taken) for one in numbers])

    def records(self, tables: Iterable[Table]) -> Iterator[dict[str, Any]]:
        """The records of rows that the format holds, in their order."""
        for row in rows_of(tables):
            made = self.form.make(row)
            assert not isinstance(made, str), "what the format cannot hold has gone"
            self.written += 1
            self.desirable += row.label
            self.sources[row.source] += 1
            self.synthetic += row.origin == "synthetic"
            yield made if self.bare else made | {name: getattr(row, name) for name in PROVENANCE}

    def schema(self) -> Mapping[str, str]:
        """The columns that records have, and their types."""
        return self.form.columns(self.kind) | ({} if self.bare else dict.fromkeys(PROVENANCE, "text"))

    def _without(self, table: Table, reasons: Sequence[str]) -> Table:
        """The rows that there is no reason against."""
        import pyarrow

        for reason in sorted({*reasons} - {""}):
            self.drop(reason, table.filter(pyarrow.array([one == reason for one in reasons])))
        return table.filter(pyarrow.array([not one for one in reasons])) if any(reasons) else table

    def _refusal(self, row: Row) -> str:
        """Why the format cannot hold a row; "" if it can."""
        made = self.form.make(row)
        if isinstance(made, str):
            return made
        try:
            found = list(self.reader.read(made, ""))
        except RowError:  # as of text that looks like messages: the format has no `id` to tell that it is text
            found = []
        if len(found) == 1 and isinstance(found[0], Example):
            one = found[0]
            if (one.prompt, one.completion, one.label) == (row.prompt, row.completion, row.label):
                return ""
        return "would not read back as it is"


@dataclasses.dataclass(frozen=True, slots=True)
class Converted:
    """The records of a format on their way, to be taken once and in this order, and the account of them."""

    records: Iterator[dict[str, Any]]
    done: Converting
    account: Account


@contextlib.contextmanager
def convert(
    source: str,
    form: Format,
    *,
    preset: str = "",
    split: str = "",
    limit: int | None = None,
    bare: bool = False,
    seed: int = 0,
    quarantine: Quarantine | None = None,
    folder: Path | None = None,
    **rest: Any,
) -> Iterator[Converted]:
    """The rows of whatever `unpair` reads as records of a format, in training order.

    Args:
        source, preset, split, limit, quarantine: see `ktodata.unpair.unpair`.
        form: the format.
        bare: without provenance.
        seed, folder, rest: as for `ktodata.unpair.stream_records`.

    Raises:
        SourceError: the source cannot be read; NothingLeftError (one of its kind) if the format holds no row of it.
        UsageError: no such preset.
    """
    layout, raws = discover(source, preset, split, limit, strict=quarantine is None)
    with (
        cleaned_records(layout, raws, seed=seed, quarantine=quarantine, folder=folder, **rest) as found,
        Spill(PARTS, folder) as kept,
    ):
        done = Converting(form, found.kind, drop=found.account.drop, bare=bare)
        tables = done.held(found.tables)
        if form.groups_by:
            tables = _told_apart(tables, kept, done, _Prompts(form.groups_by))
        ordered = in_training_order(tables, most=found.most, seed=seed, folder=folder)
        first = next(ordered, None)
        if first is None:
            raise found.account.nothing_left(source)
        yield Converted(done.records(itertools.chain([first], ordered)), done, found.account)


def _told_apart(tables: Iterable[Table], kept: Spill, done: Converting, prompts: _Prompts) -> Iterator[Table]:
    """The rows whose prompts the trainer tells apart from all others, which takes setting them aside in `kept`."""
    for table in tables:
        prompts.add(table)
        kept.add(table, part_of(table))
    kept.finish()
    if kept.rows:
        yield from done.apart(kept, prompts.mixed_up())


class _Prompts:
    """Prompts that a trainer takes for one, though they differ: 16 bytes a row."""

    def __init__(self, groups_by: Callable[[Text], str]) -> None:
        self.groups_by = groups_by
        self._parts: list[tuple[Array, Array]] = []

    def add(self, table: Table) -> None:
        import numpy as np

        groups = [self.groups_by(prompt).encode("utf-8", "surrogatepass") for prompt in _prompts_of(table)]
        numbers = np.array([xxhash.xxh3_64_intdigest(group) for group in groups], dtype=np.uint64)
        self._parts.append((numbers, _prompt_numbers(table)))

    def mixed_up(self) -> Array:
        """The numbers of all prompts but one that the trainer takes for the same: the smallest number stays."""
        import numpy as np

        groups, prompts = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
        groups, prompts = np.unique(np.stack([groups, prompts]), axis=1)
        return prompts[1:][groups[1:] == groups[:-1]]


def _prompts_of(table: Table) -> list[Text]:
    found: list[Text] = table.column("prompt").to_pylist()
    return found


def _prompt_numbers(table: Table) -> Array:
    """A number for each row's prompt, equal for those that are the same to the letter."""
    return numbers_of([content_hash(prompt) for prompt in _prompts_of(table)])
