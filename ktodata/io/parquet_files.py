"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from ktodata.errors import SourceError
from ktodata.io.records import AGAIN_ADVICE, Raw

BATCH = 1000  # rows per read


def read_parquet(stream: IO[bytes], name: str, source: str) -> Iterator[Raw]:
    """A parquet file, a thousand rows at a time.

    Raises:
        SourceError: it is not parquet.
    """
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        file = pyarrow.parquet.ParquetFile(stream)
        for batch in file.iter_batches(batch_size=BATCH):
            for values, problem in _batch_rows(batch):
                row += 1
                yield Raw(values, f"{name}: row {row}", source, problem)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"not a readable parquet file: {reason.rstrip('.')}", where=name, do=AGAIN_ADVICE) from error


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
