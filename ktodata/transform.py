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
from ktodata.io import UNREADABLE, Raw
from ktodata.io.table import Table, arrow_schema
from ktodata.near import Signs, signs_of
from ktodata.order import completion_numbers, numbers_of
from ktodata.schema import ORIGINS, Kind, Origin, RowIds, Text, hash_prompts, kind_of
from ktodata.sketch import folded
from ktodata.sources import Example, Skip
from ktodata.sources.contract import Piece
from ktodata.sources.transcript import comes_back, convert

CHUNK = 500  # records that are transformed together
CHUNK_BYTES = 8 * 2**20  # or fewer, where they are long
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

    `strict` stops at an unreadable record; `keep_records` is set where what is skipped will be shown. `prompts` is set
    where near ones will be looked for, which takes their signatures.
    """

    read: Callable[..., Iterable[Example | Skip | Piece]]
    join: Callable[..., Iterable[tuple[int, Example | Skip]]] | None
    completions: int
    origin: Origin
    as_kind: Kind | None
    strict: bool
    keep_records: bool
    prompts: bool = False


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
    are pickled, by their keys. `made_chat` texts became chats, and `altered` of them are another text when turned back.
    `prompts` has, for the rows of a kind, the signs of each prompt if asked for: see `ktodata.near`.
    """

    records: int
    tables: dict[Kind, Table]
    first: Kind | None
    rejected: list[Rejected]
    renamed: dict[str, str]
    pieces: list[tuple[str, bytes]]
    made_chat: int = 0
    altered: int = 0
    prompts: dict[Kind, Signs] = dataclasses.field(default_factory=dict)

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
    made = _Columns(rules)
    chunk = Chunk(len(raws), {}, None, [], {}, [])
    for raw in raws:
        try:
            values = raw.values()
            found = list(rules.read(values, raw.where))
            if rules.completions == 1 and values.keys() >= _PROVENANCE:
                found = [_with_provenance(one, values, named=rules.as_kind is not None) for one in found]
            if rules.as_kind is not None:
                found = [_converted(one, rules.as_kind, raw.where, chunk) for one in found]
        except RowError as error:
            if rules.strict:
                raise
            shown = raw.shown() if rules.keep_records else None
            chunk.rejected.append(Rejected(UNREADABLE, raw.where, rules.completions, shown, error.what))
            continue
        record = None
        for one in found:
            if isinstance(one, Example):
                made.add(one, raw.where, raw.source)
                continue
            if rules.keep_records:
                record = record or raw.shown()
            if isinstance(one, Skip):
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
    made = _Columns(rules)
    chunk = Chunk(0, {}, None, [], {}, [])
    for pieces in groups:
        for place, found in rules.join([piece.value for piece in pieces]):
            piece = pieces[place]
            try:
                one = found if rules.as_kind is None else _converted(found, rules.as_kind, piece.where, chunk)
            except RowError as error:
                if rules.strict:
                    raise
                chunk.rejected.append(Rejected(UNREADABLE, piece.where, 1, piece.record, error.what))
                continue
            if isinstance(one, Example):
                made.add(one, piece.where, piece.source)
            else:
                chunk.rejected.append(Rejected(one.reason, piece.where, one.completions, piece.record, one.which))
    made.finish(chunk)
    return chunk


class _Columns:
    """The rows of some records by kind, and then as columns: what `make_row` makes of each, and those beside it."""

    def __init__(self, rules: Rules) -> None:
        self.origin, self.asked = rules.origin, rules.prompts
        self.rows: dict[Kind, list[tuple[Example, str, str]]] = {}

    def add(self, one: Example, where: str, source: str) -> None:
        """One row."""
        self.rows.setdefault(kind_of(one.prompt), []).append((one, where, source))

    def finish(self, chunk: Chunk) -> None:
        """Put the rows into the chunk."""
        for kind, rows in self.rows.items():
            chunk.first = chunk.first or kind
            chunk.tables[kind] = self._table(kind, rows, chunk)

    def _table(self, kind: Kind, rows: list[tuple[Example, str, str]], chunk: Chunk) -> Table:
        import numpy as np
        import pyarrow

        examples = [one for one, _, _ in rows]
        prompts: list[Text] = []  # the examples of a record share theirs
        ids, place_of, begun = [], [], RowIds("")
        for one in examples:
            if not prompts or one.prompt is not prompts[-1]:
                prompts.append(one.prompt)
                begun = RowIds(one.prompt)
            place_of.append(len(prompts) - 1)
            ids.append(begun.of(one.completion, one.label))
        words = folded(prompts) if self.asked and kind == "text" else None
        prompt_ids = hash_prompts(prompts, words)
        prompt_numbers = numbers_of(prompt_ids)
        if self.asked:
            numbers, first = np.unique(prompt_numbers, return_index=True)
            places = first.tolist()
            distinct = None if words is None else [words[place] for place in places]
            chunk.prompts[kind] = signs_of(numbers, [prompts[place] for place in places], distinct)
        chunk.renamed |= {one.id: name for one, name in zip(examples, ids, strict=True) if one.id and one.id != name}
        columns = (
            [one.prompt for one in examples],
            [one.completion for one in examples],
            [one.label for one in examples],
            ids,
            [prompt_ids[place] for place in place_of],
            [one.source or source for one, _, source in rows],
            [one.origin or self.origin for one in examples],
            [one.strategy for one in examples],
            [one.parent_id for one in examples],
            [where for _, where, _ in rows],
            numbers_of(ids),
            prompt_numbers[np.array(place_of)],
            completion_numbers([one.completion for one in examples]),
        )
        schema = spill_schema(kind)
        arrays = [_array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        return pyarrow.table(arrays, schema=schema)


def _array(values: Any, dtype: Any) -> Any:
    """Values as a `pyarrow.Array`; most columns of provenance hold one value over and over."""
    import pyarrow

    if isinstance(values, list) and isinstance(values[0], str) and values.count(values[0]) == len(values):
        return pyarrow.repeat(pyarrow.scalar(values[0], dtype), len(values))
    return pyarrow.array(values, type=dtype)


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


def _with_provenance(one: Any, values: Mapping[str, Any], *, named: bool) -> Any:
    """The example with the provenance that its record carries, as `ktodata convert` writes it beside any layout; and
    `named` by the id that it has as it stands there, by which others name it as their parent."""
    given = {name: values[name] for name in _PROVENANCE}
    if not isinstance(one, Example) or given["origin"] not in ORIGINS or not all(map(_is_text, given.values())):
        return one
    name = RowIds(one.prompt).of(one.completion, one.label) if named and not one.id else one.id
    return one._replace(**given, id=name)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _converted(one: Any, kind: Kind, where: str, chunk: Chunk) -> Any:
    if not isinstance(one, Example):
        return one
    prompt, completion = convert(one.prompt, one.completion, kind, where=where)
    if kind == "chat" and isinstance(one.prompt, str):
        chunk.made_chat += 1
        chunk.altered += not comes_back(one.prompt, one.completion)
    return one._replace(prompt=prompt, completion=completion)
