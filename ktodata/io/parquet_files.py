"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from ktodata.errors import SourceError, listed
from ktodata.io.records import AGAIN_ADVICE, Raw

BATCH = 1000  # rows per read


def read_parquet(stream: IO[bytes], name: str, source: str) -> Iterator[Raw]:
    """A parquet file, a thousand rows at a time.

    Raises:
        SourceError: it is not parquet, or has two columns of one name.
    """
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        file = pyarrow.parquet.ParquetFile(stream)
        if twice := _named_twice(file.schema_arrow):
            raise SourceError(f"a column is named twice ({twice})", where=name, do="Rename one")
        for batch in file.iter_batches(batch_size=BATCH):
            for values, problem in _batch_rows(batch):
                row += 1
                yield Raw(values, f"{name}: row {row}", source, problem)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"not a readable parquet file: {reason.rstrip('.')}", where=name, do=AGAIN_ADVICE) from error


def _named_twice(fields: Any, above: str = "") -> str:
    """The columns of a schema, or the fields of a struct, where two have one name; "" if nowhere in it two have."""
    import pyarrow

    own = [field.name for field in fields]
    if len(set(own)) < len(own):
        return f"{above}{listed(own)}"
    for field in fields:
        kind = field.type
        while inner := getattr(kind, "item_type", None) or getattr(kind, "value_type", None):
            kind = inner  # of a map, a list or a dictionary
        if pyarrow.types.is_struct(kind) and (found := _named_twice(kind, f"{above}{field.name}: ")):
            return found
    return ""


def _batch_rows(batch: Any) -> Iterator[tuple[object, str]]:
    """The rows of a batch, and what is wrong with each: text that is not UTF-8."""
    try:
        yield from ((values, "") for values in batch.to_pylist())
    except UnicodeDecodeError:
        for row in range(len(batch)):
            one = batch.slice(row, 1)
            try:
                yield one.to_pylist()[0], ""
            except UnicodeDecodeError as error:
                bad = bytes(error.object[error.start : error.end])
                yield {name: _cell_bytes(one.column(name)) for name in one.schema.names}, f"{bad!r} is not UTF-8"


def _cell_bytes(column: Any) -> object:
    """The value in a column of one row; the bytes, where it is text that is none."""
    try:
        return column[0].as_py()
    except UnicodeDecodeError as error:
        return bytes(error.object)
