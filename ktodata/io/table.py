"""Rows as columns: how many of them are kept, sorted out and written at a time.

Text columns have 64-bit offsets here, so that no number of rows overflows them; files have the usual ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from ktodata.schema import COLUMNS, Kind, Row

Table: TypeAlias = Any
"""A `pyarrow.Table` (or `RecordBatch`) that has at least the columns of a row."""


def arrow_schema(kind: Kind, *, large: bool = False) -> Any:
    """The columns of a file of rows as a `pyarrow.Schema`; none may be null. `large` is for tables in memory."""
    import pyarrow

    string = pyarrow.large_string() if large else pyarrow.string()
    message = pyarrow.struct([("role", string), ("content", string)])
    text = string if kind == "text" else (pyarrow.large_list if large else pyarrow.list_)(message)
    types = {"prompt": text, "completion": text, "label": pyarrow.bool_()}
    return pyarrow.schema([(name, types.get(name, string)) for name in COLUMNS])


def table_of(rows: Sequence[Row], kind: Kind) -> Table:
    """Rows as a table, in their order."""
    import pyarrow

    schema = arrow_schema(kind, large=True)
    columns = [[getattr(row, name) for row in rows] for name in COLUMNS]
    return pyarrow.table(columns, schema=schema)


def rows_of(tables: Iterable[Table]) -> Iterator[Row]:
    """The rows of some tables, in their order."""
    for table in tables:
        for values in zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True):
            yield Row(*values)


def records_of(table: Table) -> Iterator[dict[str, Any]]:
    """Flat dicts in column order, for writers: `to_record` of each row."""
    for values in zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True):
        yield dict(zip(COLUMNS, values, strict=True))
