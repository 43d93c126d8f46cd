"""From preference data to rows: read, transform, drop what contradicts or repeats, put in order.

Every completion that is read is either in the rows or counted in `skipped`, by reason:
`completions == len(rows) + sum(skipped.values())`.

It is a stream, so that files larger than memory go through: records are transformed in portions (`ktodata.transform`),
the rows set aside by prompt, cleaned prompt by prompt, set aside again by where they come in the order, and arranged
stretch by stretch (`ktodata.sort_out`). Where the rows are few, nothing of this touches the disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ktodata.clean import OnConflict, OnNear
from ktodata.discover import discover
from ktodata.engine import Engine, each
from ktodata.errors import NothingLeftError, RowError
from ktodata.io import UNREADABLE, Quarantine, Raw, Spill, Table, records_of, rows_of
from ktodata.near import THRESHOLD, Prompts, check_threshold
from ktodata.parents import Renamed
from ktodata.schema import Kind, Row
from ktodata.sort_out import PARTS, Cleaning, Regrouped, in_training_order, part_of
from ktodata.sources import Source, named_source
from ktodata.transform import Chunk, PieceOf, Rejected, Rules, chunks_of, join, transform

JOINED = 2000  # pieces that a worker joins at a time, or somewhat more: those of a key stay together


@dataclasses.dataclass(frozen=True)
class Unpaired:
    """What `unpair` makes: the rows in training order, and the account of what was read.

    `problem` is the first unreadable record's place and what is wrong with it, "" if there is none.
    """

    rows: list[Row]
    layout: Source
    read: int
    completions: int
    skipped: Counter[str]
    problem: str = ""


class Account:
    """What was read and what became of it, complete when all rows have been taken."""

    def __init__(self, layout: Source, quarantine: Quarantine | None) -> None:
        self.layout, self.quarantine = layout, quarantine
        self.read = self.completions = self.written = self.desirable = 0
        self.made_chat = self.altered = 0  # see `ktodata.transform.Chunk`; of what was read
        self.skipped: Counter[str] = Counter()
        self.problem = ""

    def nothing_left(self, source: str = "") -> NothingLeftError:
        """The error where no row is left to be written."""
        told = ", ".join(f"{count} {reason}" for reason, count in self.skipped.most_common())
        unreadable = f"; the first unreadable: {self.problem}" if self.problem else ""
        return NothingLeftError(
            f"nothing to write: {self.completions} completions read, {told or 'none skipped'}{unreadable}", where=source
        )

    def reject(self, refused: Rejected) -> None:
        """Completions that are no rows."""
        self.skipped[refused.reason] += refused.completions
        if refused.reason == UNREADABLE and not self.problem:
            self.problem = f"{refused.where}: {refused.detail}"
        if self.quarantine is not None:
            self.quarantine.add(
                refused.reason,
                where=refused.where,
                record=refused.record,
                completions=refused.completions,
                detail=refused.detail,
            )

    def drop(self, reason: str, rows: Table) -> None:
        """Rows that go again."""
        self.skipped[reason] += rows.num_rows
        if self.quarantine is not None:
            for where, record in zip(rows.column("_where").to_pylist(), records_of(rows), strict=True):
                self.quarantine.add(reason, where=where, record=record, completions=1, detail="")


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """Rows on their way: `tables`, to be taken once and in this order, and the account of them. `kind` is that of all
    rows."""

    tables: Iterator[Table]
    kind: Kind
    account: Account


def unpair(
    source: str,
    *,
    preset: str = "",
    split: str = "",
    options: Mapping[str, object] | None = None,
    quarantine: Quarantine | None = None,
    limit: int | None = None,
    **rest: Any,
) -> Unpaired:
    """The rows of preference data, or of a file of rows, checked and in an order to train in.

    Args:
        source: a preset's name, a Hub id (`owner/name` or `owner/name:config`), a file, a folder, or "-" for JSONL.
        preset: how to read it; "" finds that out from the columns of the first record.
        split: which split of a folder or Hub dataset; "" is the preset's own on the Hub, else train.
        options: thresholds and choices of the preset, such as `{"min_margin": 1.0}`; see `ktodata.sources.options`.
        limit: read the first so many records only (pairs, of pair data), over all files in the order of their names.
        quarantine: gets everything that is skipped. Without one, an unreadable record is an error.
        rest: as for `stream_records`.

    Raises:
        SourceError: the source cannot be read; RowError (one of its kind) if it is a record.
        UsageError: no such preset, or it has no such option.
    """
    with stream(
        source, preset=preset, split=split, options=options, quarantine=quarantine, limit=limit, **rest
    ) as found:
        return _all(found)


def unpair_records(layout: Source, raws: Iterable[Raw], **rest: Any) -> Unpaired:
    """The rows of records that are there already, read as `layout` says; the rest is as with `stream_records`."""
    with stream_records(layout, raws, **rest) as found:
        return _all(found)


def _all(found: Stream) -> Unpaired:
    rows = list(rows_of(found.tables))
    account = found.account
    return Unpaired(rows, account.layout, account.read, account.completions, account.skipped, account.problem)


@contextlib.contextmanager
def stream(
    source: str,
    *,
    preset: str = "",
    split: str = "",
    options: Mapping[str, object] | None = None,
    quarantine: Quarantine | None = None,
    limit: int | None = None,
    **rest: Any,
) -> Iterator[Stream]:
    """`unpair` for any number of rows: see there, and `stream_records`."""
    if options and (named := named_source(source, preset)):
        named.configured(options)  # a slip in an option is told before anything is fetched
    layout, raws = discover(source, preset, split, limit, strict=quarantine is None)
    with stream_records(layout.configured(options or {}), raws, quarantine=quarantine, **rest) as found:
        yield found


@contextlib.contextmanager
def stream_records(
    layout: Source, raws: Iterable[Raw], *, seed: int = 0, folder: Path | None = None, **rest: Any
) -> Iterator[Stream]:
    """The rows of records that are there already, read as `layout` says; when the block begins all have been read.

    Args:
        layout: how to read them; with several workers, its `read` and `join` have to be something to be pickled.
        raws: the records.
        seed: decides the order and, with `one_per_prompt`, which completions stay.
        folder: where rows are set aside when they are many; by default the folder for temporary files.
        rest: as for `cleaned_records`.

    Raises:
        SourceError: contradictions, if these are to be errors (raised when the first table is taken); RowError (one
            of its kind) for an unreadable record.
        WriteError: no room to set rows aside.
    """
    with cleaned_records(layout, raws, seed=seed, folder=folder, **rest) as found:
        ordered = in_training_order(found.tables, most=found.most, seed=seed, folder=folder)
        yield Stream(counted(ordered, found.account), found.kind, found.account)


@dataclasses.dataclass(frozen=True, slots=True)
class Cleaned:
    """Rows that stay, in no particular order: `tables` with the columns of `ktodata.transform.spill_schema`, to be
    taken once; all rows of a prompt are in one of them. There are `most` rows or fewer."""

    tables: Iterator[Table]
    kind: Kind
    account: Account
    most: int


@contextlib.contextmanager
def cleaned_records(
    layout: Source,
    raws: Iterable[Raw],
    *,
    one_per_prompt: bool = False,
    on_conflict: OnConflict = "drop",
    near_duplicates: OnNear = "keep",
    near_threshold: float = THRESHOLD,
    as_kind: Kind | None = None,
    seed: int = 0,
    workers: int = 1,
    engine: Engine = "local",
    quarantine: Quarantine | None = None,
    folder: Path | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Iterator[Cleaned]:
    """The rows of `stream_records` before they are put in order.

    Args:
        layout, raws, seed, folder: see `stream_records`.
        one_per_prompt: keep one completion per prompt; see `ktodata.clean.OnePerPrompt`.
        on_conflict: what to do with completions that carry both labels; see `ktodata.clean.resolve_conflicts`.
        near_duplicates: `drop` leaves one of rows of one label whose prompts and completions are nearly equal, and what
            `on_conflict` says of those with both labels; see `ktodata.clean.resolve_near`.
        near_threshold: how nearly; see `ktodata.near`.
        as_kind: text or chat; None leaves the records' own kind.
        workers: processes to parse and transform with; the result is the same.
        engine: where these are; see `ktodata.engine`.
        quarantine: gets everything that is skipped. Without one, an unreadable record is an error.
        advance: called with the number of records done.
    """
    check_threshold(near_threshold)
    account = Account(layout, quarantine)
    with Spill(PARTS, folder) as rows:
        prompts = Prompts(folder) if near_duplicates == "drop" else None
        collecting = Collecting(rows, account, prompts=prompts)
        collecting.collect(raws, as_kind=as_kind, workers=workers, engine=engine, folder=folder, advance=advance)
        rows.finish()
        groups = prompts.groups(near_threshold) if prompts is not None else None
        with contextlib.nullcontext(rows) if groups is None else Regrouped(rows, groups, folder) as parts:
            cleaning = Cleaning(
                parts,
                on_conflict=on_conflict,
                one_per_prompt=one_per_prompt,
                seed=seed,
                drop=account.drop,
                groups=groups,
                threshold=near_threshold,
            )
            cleaned = map(collecting.renamed.following, cleaning.tables())
            yield Cleaned(cleaned, collecting.kind or "text", account, rows.rows)


class Collecting:
    """Rows as they come, in the order of the records: counted, and set aside by prompt.

    Args:
        rows: where they go, by `ktodata.sort_out.part_of`.
        account: of what is read; what it says of the layout is how to read it.
        kind: the kind that rows have to be of; None: that of the first.
        mark: a number for these rows, in a column `_file` of its own.
        prompts: gets the prompts of these rows, if near ones will be looked for.
        renamed: gets the new ids of rows, where there are others' already.
    """

    def __init__(
        self,
        rows: Spill,
        account: Account,
        *,
        kind: Kind | None = None,
        mark: int | None = None,
        prompts: Prompts | None = None,
        renamed: Renamed | None = None,
    ) -> None:
        self.rows, self.account, self.kind, self.mark, self.prompts = rows, account, kind, mark, prompts
        self.renamed = Renamed() if renamed is None else renamed

    def collect(
        self,
        raws: Iterable[Raw],
        *,
        as_kind: Kind | None = None,
        workers: int = 1,
        engine: Engine = "local",
        folder: Path | None = None,
        advance: Callable[[int], object] = lambda count: None,
    ) -> None:
        """Read all of some records; see `cleaned_records`.

        Raises:
            RowError: an unreadable one, or rows of another kind than the first, and no quarantine for them.
        """
        layout, strict = self.account.layout, self.account.quarantine is None
        rules = Rules(layout.read, layout.join, layout.completions, layout.origin, as_kind, strict, not strict)
        rules = rules._replace(prompts=self.prompts is not None)
        with Spill(PARTS, folder) as pieces:
            for chunk in each(transform, chunks_of(raws), shared=rules, workers=workers, engine=engine):
                self._add(chunk, pieces)
                advance(chunk.records)
            pieces.finish()
            if pieces.rows:
                for chunk in each(join, _families(pieces), shared=rules, workers=workers, engine=engine):
                    self._add(chunk, pieces)

    def _add(self, chunk: Chunk, pieces: Spill) -> None:
        """What became of some records.

        Raises:
            RowError: rows of another kind than the first, and no quarantine for them.
        """
        account = self.account
        account.read += chunk.records
        account.made_chat += chunk.made_chat
        account.altered += chunk.altered
        account.completions += chunk.rows + sum(refused.completions for refused in chunk.rejected)
        for refused in chunk.rejected:
            account.reject(refused)
        self.kind = self.kind or chunk.first
        self.renamed.add(chunk.renamed)
        for kind, table in chunk.tables.items():
            if kind == self.kind:
                self.rows.add(self._marked(table), part_of(table))
                if self.prompts is not None:
                    self.prompts.add(chunk.prompts[kind])
            else:
                self._refuse(kind, table)
        if chunk.pieces:
            _hold(chunk.pieces, pieces)

    def _marked(self, table: Table) -> Table:
        import numpy as np
        import pyarrow

        if self.mark is None:
            return table
        return table.append_column("_file", pyarrow.array(np.full(table.num_rows, self.mark, dtype=np.int32)))

    def _refuse(self, kind: Kind, table: Table) -> None:
        """Rows of another kind than the file's first: unreadable in this file."""
        for where, record in zip(table.column("_where").to_pylist(), records_of(table), strict=True):
            error = RowError(f"{kind} among {self.kind}", where=where, do="Use --as text or --as chat")
            if self.account.quarantine is None:
                raise error
            self.account.reject(Rejected(UNREADABLE, where, 1, record, error.what))


def _hold(pieces: list[tuple[str, bytes]], spill: Spill) -> None:
    """Set pieces aside, those of one key together."""
    import numpy as np
    import pyarrow

    parts = [hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=4).digest() for key, _ in pieces]
    numbers = np.array([int.from_bytes(part, "big") % PARTS for part in parts], dtype=np.int64)
    held = pyarrow.array([piece for _, piece in pieces], type=pyarrow.large_binary())
    spill.add(pyarrow.table([held], names=["piece"]), numbers)


def _families(pieces: Spill) -> Iterator[list[list[PieceOf]]]:
    """The pieces of each key together, in the order of their records; many keys at a time."""
    families: list[list[PieceOf]] = []
    size = 0
    for part in range(PARTS):
        table = pieces.read(part)
        pieces.forget(part)
        by_key: dict[str, list[PieceOf]] = {}
        for pickled in table.column("piece").to_pylist() if table else ():
            piece = pickle.loads(pickled)  # our own, made in this run
            by_key.setdefault(piece.key, []).append(piece)
        for family in by_key.values():
            families.append(family)
            size += len(family)
            if size >= JOINED:
                yield families
                families, size = [], 0
    if families:
        yield families


def counted(tables: Iterable[Table], account: Account) -> Iterator[Table]:
    """The same tables, their rows counted as written."""
    for table in tables:
        account.written += table.num_rows
        account.desirable += table.column("label").to_numpy().sum().item()
        yield table
