"""Records to rows, some hundred at a time: what `unpair` does with each record, here or in a worker.

Rows leave as columns (`ktodata.io.table`), with more columns beside those of a row, whose names begin with `_`: where
the row came from, and the numbers by which rows are compared and ordered. So nothing is computed twice, and a
worker's answer is cheap to send.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ktodata.errors import RowError
from ktodata.io import Raw
from ktodata.io.table import Table, arrow_schema
from ktodata.order import completion_number, number_of
from ktodata.schema import ORIGINS, Kind, Origin, RowIds, Text, hash_prompt, kind_of
from ktodata.sources import Example, Skip
from ktodata.sources.contract import Piece
from ktodata.sources.transcript import convert

CHUNK = 500  # records that are transformed together
CHUNK_BYTES = 8 * 2**20  # or fewer, where they are long
UNREADABLE = "unreadable"
_PROVENANCE = frozenset({"source", "origin", "strategy", "parent_id"})


class Rejected(NamedTuple):
    """Completions of one record that do not become rows, and why; `detail` says more."""

    reason: str
    where: str
    completions: int
    record: object
    detail: str = ""


class Rules(NamedTuple):
    """How records become rows: what a worker has to know of the layout and of the options, all of it to be pickled.

    `strict` stops at an unreadable record; `keep_records` is set where what is skipped will be shown.
    """

    read: Callable[..., Iterable[Example | Skip | Piece]]
    join: Callable[..., Iterable[tuple[int, Example | Skip]]] | None
    completions: int
    origin: Origin
    as_kind: Kind | None
    strict: bool
    keep_records: bool


class PieceOf(NamedTuple):
    """A piece of what several records make together, and what is told of its record."""

    key: str
    value: Any
    where: str
    source: str
    record: object


@dataclasses.dataclass(slots=True)
class Chunk:
    """What becomes of some records: tables by kind, and what does not become rows.

    `first` is the kind of the first row. `renamed` has the ids of rows whose conversion gave them new ones. `pieces`
    are pickled, by their keys.
    """

    records: int
    tables: dict[Kind, Table]
    first: Kind | None
    rejected: list[Rejected]
    renamed: dict[str, str]
    pieces: list[tuple[str, bytes]]

    @property
    def rows(self) -> int:
        """Rows of either kind."""
        return sum(table.num_rows for table in self.tables.values())


def chunks_of(raws: Iterable[Raw]) -> Iterator[list[Raw]]:
    """Records in portions that are quick to send and to hold."""
    chunk: list[Raw] = []
    size = 0
    for raw in raws:
        chunk.append(raw)
        size += len(raw.data) if isinstance(raw.data, bytes) else 0
        if len(chunk) >= CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def transform(rules: Rules, raws: list[Raw]) -> Chunk:
    """Parse records and make rows of them.

    Raises:
        RowError: a record is unreadable, and the rules are strict.
    """
    made = _Columns(rules.origin)
    chunk = Chunk(len(raws), {}, None, [], {}, [])
    for raw in raws:
        try:
            values = raw.values()
            found = list(rules.read(values, raw.where))
            if rules.completions == 1 and values.keys() >= _PROVENANCE:
                found = [_with_provenance(one, values) for one in found]
            if rules.as_kind is not None:
                found = [_converted(one, rules.as_kind, raw.where) for one in found]
        except RowError as error:
            if rules.strict:
                raise
            shown = raw.shown() if rules.keep_records else None
            chunk.rejected.append(Rejected(UNREADABLE, raw.where, rules.completions, shown, error.what))
            continue
        record = values if rules.keep_records else None
        for one in found:
            if isinstance(one, Example):
                made.add(one, raw.where, raw.source, chunk)
            elif isinstance(one, Skip):
                chunk.rejected.append(Rejected(one.reason, raw.where, one.completions, record, one.which))
            else:
                piece = PieceOf(one.key, one.value, raw.where, raw.source, record)
                chunk.pieces.append((one.key, pickle.dumps(piece)))
    made.finish(chunk)
    return chunk


def join(rules: Rules, groups: list[list[PieceOf]]) -> Chunk:
    """Rows of the pieces of some keys.

    Raises:
        RowError: a conversion is impossible, and the rules are strict.
    """
    assert rules.join is not None, "pieces are made where they can be joined"
    made = _Columns(rules.origin)
    chunk = Chunk(0, {}, None, [], {}, [])
    for pieces in groups:
        for place, found in rules.join([piece.value for piece in pieces]):
            piece = pieces[place]
            try:
                one = found if rules.as_kind is None else _converted(found, rules.as_kind, piece.where)
            except RowError as error:
                if rules.strict:
                    raise
                chunk.rejected.append(Rejected(UNREADABLE, piece.where, 1, piece.record, error.what))
                continue
            if isinstance(one, Example):
                made.add(one, piece.where, piece.source, chunk)
            else:
                chunk.rejected.append(Rejected(one.reason, piece.where, one.completions, piece.record, one.which))
    made.finish(chunk)
    return chunk


class _Columns:
    """The columns of rows as they are made, by kind."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.rows: dict[Kind, list[tuple[Any, ...]]] = {}
        self.prompt: Text | None = None

    def add(self, one: Example, where: str, source: str, chunk: Chunk) -> None:
        """One row: what `make_row` makes, and the columns beside it."""
        prompt, completion, label = one.prompt, one.completion, one.label
        if prompt is not self.prompt:  # the examples of a record share theirs
            self.prompt, self.kind = prompt, kind_of(prompt)
            self.prompt_id = hash_prompt(prompt)
            self.prompt_number = number_of(self.prompt_id)
            self.ids = RowIds(prompt)
        row_id = self.ids.of(completion, label)
        chunk.first = chunk.first or self.kind
        self.rows.setdefault(self.kind, []).append(
            (
                prompt,
                completion,
                label,
                row_id,
                self.prompt_id,
                one.source or source,
                one.origin or self.origin,
                one.strategy,
                one.parent_id,
                where,
                number_of(row_id),
                self.prompt_number,
                completion_number(completion),
            )
        )
        if one.id and one.id != row_id:
            chunk.renamed[one.id] = row_id

    def finish(self, chunk: Chunk) -> None:
        """Put the rows into the chunk."""
        import pyarrow

        for kind, rows in self.rows.items():
            schema = spill_schema(kind)
            columns = zip(zip(*rows, strict=True), schema, strict=True)
            arrays = [pyarrow.array(values, type=field.type) for values, field in columns]
            chunk.tables[kind] = pyarrow.table(arrays, schema=schema)


def spill_schema(kind: Kind) -> Any:
    """The columns of a row, and those beside it."""
    import pyarrow

    schema = arrow_schema(kind, large=True)
    for name, dtype in (
        ("_where", pyarrow.large_string()),
        ("_id", pyarrow.uint64()),
        ("_prompt", pyarrow.uint64()),
        ("_completion", pyarrow.uint64()),
    ):
        schema = schema.append(pyarrow.field(name, dtype))
    return schema


def _with_provenance(one: Any, values: Mapping[str, Any]) -> Any:
    """The example with the provenance that its record carries, as `ktodata convert` writes it beside any layout."""
    given = {name: values[name] for name in _PROVENANCE}
    if not isinstance(one, Example) or given["origin"] not in ORIGINS or not all(map(_is_text, given.values())):
        return one
    return one._replace(**given)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _converted(one: Any, kind: Kind, where: str) -> Any:
    if not isinstance(one, Example):
        return one
    prompt, completion = convert(one.prompt, one.completion, kind, where=where)
    return one._replace(prompt=prompt, completion=completion)
