"""Records with columns of their own, for other programs: `.jsonl .jsonl.gz .json .parquet`, atomically."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from ktodata.io.together import Files, atomic_file
from ktodata.io.write import CHUNK, JSON_WRITERS, suffix_to_write

Record = Mapping[str, Any]


def write_records(records: Iterable[Record], columns: Mapping[str, str], out: str, files: Files | None = None) -> None:
    """Write records by the suffix of `out` (`-`: JSONL on stdout).

    Args:
        columns: their names and types: `text`, `bool`, `int`, `float`, or `turns` for messages.
        out: one that `ktodata.io.check_output` passes.
        files: with which the file takes its place.

    Raises:
        WriteError: the disk says no.
    """
    suffix = suffix_to_write(out)
    with atomic_file(out, files) as stream:
        if suffix == ".parquet":
            _write_parquet(iter(records), columns, stream)
        else:
            JSON_WRITERS[suffix](records, stream)


def _write_parquet(records: Iterator[Record], columns: Mapping[str, str], stream: IO[bytes]) -> None:
    import pyarrow.parquet

    turn = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    types = {
        "text": pyarrow.string(),
        "bool": pyarrow.bool_(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "turns": pyarrow.list_(turn),
    }
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    with pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        while chunk := list(itertools.islice(records, CHUNK)):
            writer.write_table(pyarrow.Table.from_pylist(chunk, schema=schema))
