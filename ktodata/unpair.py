"""From preference data to rows: read, transform, drop what contradicts or repeats, put in order.

Every completion that is read is either in the rows or counted in `skipped`, by reason:
`completions == len(rows) + sum(skipped.values())`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from ktodata import clean, hub
from ktodata.clean import Item, Kept, OnConflict, meaning_of
from ktodata.errors import KtodataError, RowError, SourceError, UsageError, misspelt, nearest
from ktodata.io import Part, Quarantine, Raw, chain_parts, find_parts, is_there
from ktodata.order import training_order
from ktodata.schema import Kind, Origin, Row, hash_prompt, make_row, to_record
from ktodata.sources import SOURCES, Example, Piece, Record, Skip, Source, detect, get_source, of_hub_id
from ktodata.sources.transcript import convert

log = logging.getLogger(__name__)
CHUNK = 500  # records that a worker gets at a time
UNREADABLE = "unreadable"


class Rejected(NamedTuple):
    """Completions of one record that do not become rows, and why; `detail` says more."""

    reason: str
    where: str
    completions: int
    record: object
    detail: str = ""


class Held(NamedTuple):
    """A record whose part waits for others of the same key; see `ktodata.sources.contract`."""

    piece: Piece
    where: str
    source: str
    record: Record


class Chunk(NamedTuple):
    """What becomes of some records. `renamed` has the ids of rows whose conversion gave them new ones."""

    records: int
    items: list[Item]
    rejected: list[Rejected]
    renamed: dict[str, str]
    held: list[Held]


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


def unpair(
    source: str,
    *,
    preset: str = "",
    split: str = "",
    options: Mapping[str, object] | None = None,
    one_per_prompt: bool = False,
    on_conflict: OnConflict = "drop",
    as_kind: Kind | None = None,
    limit: int | None = None,
    seed: int = 0,
    workers: int = 1,
    quarantine: Quarantine | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Unpaired:
    """The rows of preference data, or of a file of rows, checked and in an order to train in.

    Args:
        source: a preset's name, a Hub id (`owner/name` or `owner/name:config`), a file, a folder, or "-" for JSONL.
        preset: how to read it; "" finds that out from the columns of the first record.
        split: which split of a folder or Hub dataset; "" is the preset's own on the Hub, else train.
        options: thresholds and choices of the preset, such as `{"min_margin": 1.0}`; see `ktodata.sources.options`.
        one_per_prompt: keep one completion per prompt; see `ktodata.clean.one_per_prompt`.
        on_conflict: what to do with completions that carry both labels; see `ktodata.clean.resolve_conflicts`.
        as_kind: text or chat; None leaves the records' own kind.
        limit: read the first so many records only (pairs, of pair data), over all files in the order of their names.
        seed: decides the order and, with `one_per_prompt`, which completions stay.
        workers: processes to parse and transform with; the result is the same.
        quarantine: gets everything that is skipped. Without one, an unreadable record is an error.
        advance: called with the number of records done.

    Raises:
        SourceError: the source cannot be read; RowError (one of its kind) if it is a record.
        UsageError: no such preset, or it has no such option.
    """
    layout, raws = _open(source, preset, split, limit, strict=quarantine is None)
    return unpair_records(
        layout.configured(options or {}),
        raws,
        one_per_prompt=one_per_prompt,
        on_conflict=on_conflict,
        as_kind=as_kind,
        seed=seed,
        workers=workers,
        quarantine=quarantine,
        advance=advance,
    )


def unpair_records(
    layout: Source,
    raws: Iterator[Raw],
    *,
    one_per_prompt: bool = False,
    on_conflict: OnConflict = "drop",
    as_kind: Kind | None = None,
    seed: int = 0,
    workers: int = 1,
    quarantine: Quarantine | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Unpaired:
    """The rows of records that are there already, read as `layout` says; the rest is as with `unpair`.

    With several workers, `layout.read` has to be something that can be pickled.
    """
    strict = quarantine is None
    reading = _Reading(layout.read, layout.completions, layout.origin, as_kind, strict)
    account = _Account(quarantine)
    items: list[Item] = []
    renamed: dict[str, str] = {}
    held: dict[str, list[Held]] = {}
    chunks = _each_chunk(raws, partial(_transform, reading=reading), workers)
    for chunk in itertools.chain(chunks, _joined(layout, held, reading)):
        account.read += chunk.records
        account.completions += len(chunk.items) + sum(refused.completions for refused in chunk.rejected)
        for refused in chunk.rejected:
            account.reject(refused)
        items += _of_one_kind(chunk.items, items[0] if items else None, account)
        renamed |= chunk.renamed
        for part in chunk.held:
            held.setdefault(part.piece.key, []).append(part)
        advance(chunk.records)
    if renamed:
        items = [item._replace(row=_follow(item.row, renamed)) for item in items]
    items = account.keep(clean.resolve_conflicts(items, on_conflict), "both labels")
    items = account.keep(clean.drop_duplicates(items), "duplicate")
    if one_per_prompt:
        items = account.keep(clean.one_per_prompt(items, seed=seed), "one per prompt")
    rows = training_order([item.row for item in items], seed=seed)
    return Unpaired(rows, layout, account.read, account.completions, account.skipped, account.problem)


class _Account:
    """The counts, and the way to the quarantine file."""

    def __init__(self, quarantine: Quarantine | None) -> None:
        self.quarantine = quarantine
        self.read = self.completions = 0
        self.skipped: Counter[str] = Counter()
        self.problem = ""

    def reject(self, refused: Rejected) -> None:
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

    def keep(self, sorted_out: Kept, reason: str) -> list[Item]:
        for item in sorted_out.dropped:
            self.reject(Rejected(reason, item.where, 1, to_record(item.row)))
        return sorted_out.kept


def _open(source: str, preset: str, split: str, limit: int | None, *, strict: bool) -> tuple[Source, Iterator[Raw]]:
    """How to read SOURCE, and its records."""
    layout = get_source(preset) if preset else None
    name, _, config = source.partition(":")
    if name in SOURCES and (SOURCES[name].hub_id or not is_there(source)):
        named = SOURCES[name]
        if not named.hub_id:
            raise UsageError(
                f"the preset {name!r} has no dataset of its own", do=f"Name a file: ktodata unpair FILE --preset {name}"
            )
        if is_there(source):
            log.warning("%s is read from the Hub; for the local one, write ./%s", source, source)
        layout = layout or of_hub_id(named.hub_id, config) if config else layout or named
        source, split = f"{named.hub_id}:{config}" if config else named.hub_id, split or named.split
    elif layout is None and (hub_id := hub.parse_id(source)) and not is_there(source):
        layout = of_hub_id(*hub_id)
        if layout and layout.hub_id.lower() == hub_id.repo.lower():
            split = split or layout.split
    split = split or "train"
    folders = layout.folders if layout else ()
    parts = _find(source, split=split, limit=limit, folders=folders)
    raws: Iterator[Raw] = itertools.islice(chain_parts(parts), limit)
    if layout is not None:
        return _with_layout(raws, partial(_fitting, layout), strict=strict)
    layout, raws = _with_layout(raws, detect, strict=strict)
    if any(set(Path(part.path).parts[:-1]) & set(layout.folders) for part in parts):
        # A local copy of a dataset whose other folders hold something else.
        chosen = _find(source, split=split, limit=limit, folders=layout.folders)
        passed = sorted({part.path for part in parts} - {part.path for part in chosen})
        if passed:
            log.warning(
                "%s: not read, as %s has its pairs in other folders: %s", source, layout.name, ", ".join(passed)
            )
        raws = itertools.islice(chain_parts(chosen), limit)
    return layout, raws


def _find(source: str, *, split: str, limit: int | None, folders: Sequence[str]) -> list[Part]:
    """The parts of SOURCE; if there is no such thing, it may have been meant as a preset."""
    try:
        return find_parts(source, split=split, limit=limit, folders=folders, own_files=bool(folders))
    except SourceError as error:
        close = nearest(source, SOURCES)
        if error.what == "no such file or folder" and "/" not in source and close.startswith("Did"):
            raise SourceError("no such file, folder or preset", where=source, do=close) from error
        raise


def _with_layout(raws: Iterator[Raw], choose: Callable[..., Source], *, strict: bool) -> tuple[Source, Iterator[Raw]]:
    """The layout that `choose` gives for the first record that it can tell one of, and all records again.

    Where unreadable records are set aside, those before it are some of them.
    """
    seen: list[Raw] = []
    problem: SourceError | None = None
    for raw in raws:
        seen.append(raw)
        try:
            layout = choose(raw.values(), where=raw.where)
        except SourceError as error:
            problem = problem or error
            if strict:
                break
        else:
            return layout, itertools.chain(seen, raws)
    if problem is None:
        raise SourceError("no records")
    if len(seen) > 1:
        what = f"none of its {len(seen)} records can be read; the first: {problem.what}"
        raise SourceError(what, where=problem.where, do=problem.do)
    raise problem


def _fitting(layout: Source, record: Record, *, where: str) -> Source:
    """The preset that was named, if the record has the columns for it: else each row would be refused."""
    if any(set(columns) <= set(record) for columns in layout.columns):
        return layout
    needed = "; ".join(" + ".join(columns) for columns in layout.columns)
    raise SourceError(
        f"columns {', '.join(map(str, record)) or 'none'}: the preset {layout.name!r} needs {needed}",
        where=where,
        do=next(filter(None, (misspelt(record, columns) for columns in layout.columns)), "")
        or "Leave --preset out to have the layout found from the columns",
    )


def _each_chunk(raws: Iterator[Raw], transform: Callable[[list[Raw]], Chunk], workers: int) -> Iterator[Chunk]:
    """The records transformed, in order, by so many processes; by this one if it is one."""
    chunks = iter(lambda: list(itertools.islice(raws, CHUNK)), [])
    if workers == 1:
        yield from map(transform, chunks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting: deque[Future[Chunk]] = deque()
        try:
            for chunk in chunks:
                with _interrupts_blocked():
                    waiting.append(pool.submit(transform, chunk))
                if len(waiting) > 2 * workers:  # no more in memory than keeps them busy
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise KtodataError("a worker process was killed", do="Out of memory? Try fewer --workers") from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let processes that start here inherit that Ctrl-C is not for them: this one tells the user, a moment later."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Reading(NamedTuple):
    """What a worker has to know to read records: of the layout, and of the options."""

    read: Callable[..., Iterable[Example | Skip | Piece]]
    completions: int
    origin: Origin
    as_kind: Kind | None
    strict: bool


def _transform(raws: list[Raw], *, reading: _Reading) -> Chunk:
    """Parse records and make rows of them. Runs in a worker."""
    chunk = Chunk(len(raws), [], [], {}, [])
    for raw in raws:
        try:
            values = raw.values()
            found = list(reading.read(values, raw.where))
            if reading.as_kind is not None:
                found = [_converted(one, reading.as_kind, raw.where) for one in found]
        except RowError as error:
            if reading.strict:
                raise
            chunk.rejected.append(Rejected(UNREADABLE, raw.where, reading.completions, raw.shown(), error.what))
            continue
        prompt_id = ""
        for one in found:
            if isinstance(one, Piece):
                chunk.held.append(Held(one, raw.where, raw.source, values))
            elif isinstance(one, Skip):
                chunk.rejected.append(Rejected(one.reason, raw.where, one.completions, values, one.which))
            else:
                prompt_id = prompt_id or hash_prompt(one.prompt)  # all examples of a record continue one prompt
                row = _row(one, raw.source, reading.origin, prompt_id)
                chunk.items.append(Item(row, raw.where, meaning_of(row)))
                if one.id not in ("", row.id):
                    chunk.renamed[one.id] = row.id
    return chunk


def _joined(layout: Source, held: Mapping[str, list[Held]], reading: _Reading) -> Iterator[Chunk]:
    """What becomes of the records that waited for each other, key by key; see `ktodata.sources.contract`."""
    for family in held.values() if layout.join else ():
        chunk = Chunk(0, [], [], {}, [])
        for place, found in layout.join([one.piece.value for one in family]) if layout.join else ():
            record = family[place]
            try:
                one: Any = found if reading.as_kind is None else _converted(found, reading.as_kind, record.where)
            except RowError as error:
                if reading.strict:
                    raise
                chunk.rejected.append(Rejected(UNREADABLE, record.where, 1, record.record, error.what))
                continue
            if isinstance(one, Skip):
                chunk.rejected.append(Rejected(one.reason, record.where, one.completions, record.record, one.which))
            else:
                row = _row(one, record.source, reading.origin, "")
                chunk.items.append(Item(row, record.where, meaning_of(row)))
        yield chunk


def _row(one: Example, source: str, origin: Origin, prompt_id: str) -> Row:
    return make_row(
        one.prompt,
        one.completion,
        one.label,
        source=one.source or source,
        origin=one.origin or origin,
        strategy=one.strategy,
        parent_id=one.parent_id,
        prompt_id=prompt_id,
    )


def _converted(one: Example | Skip | Piece, kind: Kind, where: str) -> Example | Skip | Piece:
    if not isinstance(one, Example):
        return one
    prompt, completion = convert(one.prompt, one.completion, kind, where=where)
    return dataclasses.replace(one, prompt=prompt, completion=completion)


def _of_one_kind(items: list[Item], first: Item | None, account: _Account) -> list[Item]:
    """Those of the kind of the file's first row. Others are unreadable in this file."""
    kind = (first or items[0]).row.kind if first or items else "text"
    fitting = [item for item in items if item.row.kind == kind]
    for item in items:
        if item.row.kind != kind:
            error = RowError(f"{item.row.kind} among {kind}", where=item.where, do="Use --as text or --as chat")
            if account.quarantine is None:
                raise error
            account.reject(Rejected(UNREADABLE, item.where, 1, to_record(item.row), error.what))
    return fitting


def _follow(row: Row, renamed: dict[str, str]) -> Row:
    """The row with its parent's new id, if the parent got one."""
    if row.parent_id not in renamed:
        return row
    return dataclasses.replace(row, parent_id=renamed[row.parent_id])
