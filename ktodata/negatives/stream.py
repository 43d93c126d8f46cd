"""Negatives for any number of rows: set aside by prompt, a part at a time through the strategies, put in order.

What strategies make of a row depends on the rows of its prompt alone (and, for those that are `whole`, on the pool that
all rows are), so it does not matter whether the rows are in memory or on disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ktodata.engine import Engine
from ktodata.io import Spill, Table, rows_of
from ktodata.leakage import Leakage, Sampled
from ktodata.negatives.choose import Use
from ktodata.negatives.contract import Run, reply_of, sampled
from ktodata.negatives.synthesize import Block, Synthesizer, place_of, require_desirable
from ktodata.order import number_of
from ktodata.schema import Kind, Row
from ktodata.sort_out import PARTS, in_training_order, keyed, part_of

PORTION = 1000  # rows that are set aside together
REPEATED_ROW = "duplicate"  # as all who write rows call it


@dataclasses.dataclass(slots=True)
class Negatives:
    """Rows on their way: `tables`, to be taken once, and the counts, complete when all have been taken.

    `read` rows were there, `read_desirable` of them desirable. `repeated` were there already, and are left out before
    anything is made of them. `asked` are the desirable ones that are left, and `empty` of these have no reply to be
    made worse. `written` and `desirable` count the output.
    """

    tables: Iterator[Table]
    kind: Kind
    work: Synthesizer
    read: int
    read_desirable: int
    asked: int = 0
    written: int = 0
    desirable: int = 0
    empty: int = 0
    repeated: int = 0
    sources: set[str] = dataclasses.field(default_factory=set)
    samples: dict[str, Sampled] = dataclasses.field(default_factory=dict)

    def leakage(self) -> dict[str, Leakage]:
        """How easily the negatives of each strategy are told from what they were made of."""
        return {use.strategy.name: self.samples[use.strategy.name].measure() for use in self.work.uses}


@contextlib.contextmanager
def negatives_of(
    rows: Iterable[Row],
    uses: Sequence[Use],
    *,
    per_row: int = 1,
    only: bool = False,
    seed: int = 0,
    workers: int = 1,
    engine: Engine = "local",
    output: str = "",
    folder: Path | None = None,
    refuse: Callable[[Row, str], object] = lambda row, reason: None,
    begin: Callable[[int], Callable[[int], object]] = lambda jobs: lambda count: None,
) -> Iterator[Negatives]:
    """The rows with their negatives, in training order; when the block begins, all rows have been read.

    Args:
        rows: of one kind.
        uses, per_row, seed, workers, engine, output: see `ktodata.negatives.synthesize.synthesize`.
        only: leave the rows that were read out.
        folder: where rows are set aside when they are many.
        refuse: is told of each row for which a strategy makes no negative or which was there already, and why.
        begin: is told how many jobs there are (fewer, where rows are repeated), and gives what is told of those done.

    Raises:
        KtodataError: there is no desirable row, or a strategy cannot work with these rows and options.
        WriteError: no room to set rows aside.
    """
    whole = any(use.strategy.whole for use in uses)
    held: list[Row] = []
    sample: list[Row] = []
    with Spill(PARTS, folder) as spill:
        kind, desirable = None, 0
        every = iter(rows)
        while portion := list(itertools.islice(every, PORTION)):
            kind = kind or portion[0].kind
            desirable += sum(row.label for row in portion)
            table = keyed(portion, kind)
            spill.add(table, part_of(table))
            held += portion if whole else []
            sample = sampled([*sample, *portion])
        spill.finish()
        require_desirable(desirable, spill.rows)
        work = Synthesizer(uses, Run(sorted(held, key=place_of), seed, output, sample=sample), per_row=per_row)
        held.clear()
        jobs = desirable * per_row * (1 if uses[0].weight is not None else len(uses))
        made = Negatives(iter(()), kind or "text", work, spill.rows, desirable)
        made.samples = {use.strategy.name: Sampled() for use in uses}
        advance = begin(jobs)
        blocks = work.blocks(_blocks(spill), workers=workers, engine=engine, advance=advance)
        tables = itertools.chain.from_iterable(_tables(block, made, only=only, refuse=refuse) for block in blocks)
        total = jobs if only else spill.rows + jobs
        made.tables = _counted(in_training_order(tables, most=total, seed=seed, folder=folder), made)
        yield made


def _blocks(spill: Spill) -> Iterator[list[Row]]:
    """The rows of each part, or of all where they are few: models like many at once."""
    parts: Iterable[Iterable[int]] = ([part] for part in range(PARTS)) if spill.on_disk else [range(PARTS)]
    for some in parts:
        tables = [table for part in some if (table := spill.read(part)) is not None]
        for part in some:
            spill.forget(part)
        if tables:
            yield sorted(rows_of(tables), key=place_of)


def _tables(block: Block, made: Negatives, *, only: bool, refuse: Callable[[Row, str], object]) -> Iterator[Table]:
    """What goes into the file of a block, by the parts in which the rows were set aside."""
    parents = {row.id: row for row in block.rows if row.label}
    for negative in block.negatives:
        made.samples[negative.strategy].add(negative, parents[negative.parent_id])
    for row, reason in block.refused:
        refuse(row, reason)
    for row in block.repeated:
        refuse(row, REPEATED_ROW)
    made.repeated += len(block.repeated)
    made.asked += len(parents)
    made.empty += sum(not str(reply_of(row)).strip() for row in parents.values())
    rows = [*block.negatives, *(() if only else block.rows)]
    made.sources.update(row.source for row in rows)
    parts: dict[int, list[Row]] = {}
    for row in rows:
        parts.setdefault(number_of(row.prompt_id) % PARTS, []).append(row)
    for part in sorted(parts):
        yield keyed(parts[part], made.kind)


def _counted(tables: Iterable[Table], made: Negatives) -> Iterator[Table]:
    for table in tables:
        made.written += table.num_rows
        made.desirable += table.column("label").to_numpy().sum().item()
        yield table
