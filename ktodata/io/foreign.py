"""Records with columns of their own, for other programs: `.jsonl .jsonl.gz .json .parquet`, atomically."""

from __future__ import annotations

import gzip
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from ktodata.io.paths import local_path
from ktodata.io.write import CHUNK, STDOUT, atomic_file

Record = Mapping[str, Any]


def write_records(records: Iterable[Record], columns: Mapping[str, str], out: str) -> None:
    """Write records by the suffix of `out` (`-`: JSONL on stdout).

    Args:
        columns: their names and types: `text`, `bool`, `int`, `float`, or `turns` for messages.
        out: one that `ktodata.io.check_output` passes.

    Raises:
        WriteError: the disk says no.
    """
    some = iter(records)
    if out == STDOUT:
        _write_lines(some, sys.stdout.buffer)
        return
    name = local_path(out).name.lower()
    with atomic_file(out) as stream:
        if name.endswith(".parquet"):
            _write_parquet(some, columns, stream)
        elif name.endswith(".jsonl.gz"):
            # Neither a time nor a name inside: the same rows give the same bytes.
            with gzip.GzipFile(fileobj=stream, mode="wb", filename="", mtime=0, compresslevel=6) as packed:
                _write_lines(some, packed)
        elif name.endswith(".json"):
            _write_array(some, stream)
        else:
            _write_lines(some, stream)


def _write_lines(records: Iterator[Record], stream: IO[bytes] | gzip.GzipFile) -> None:
    for record in records:
        stream.write(f"{json.dumps(record, ensure_ascii=False)}\n".encode())
    stream.flush()


def _write_array(records: Iterator[Record], stream: IO[bytes]) -> None:
    lead = "["
    for record in records:
        stream.write(f"{lead}\n{json.dumps(record, ensure_ascii=False)}".encode())
        lead = ","
    stream.write(b"[]\n" if lead == "[" else b"\n]\n")


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
