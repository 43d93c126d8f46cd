"""Writing, atomically: a reader sees the old file or the whole new one, and an error leaves the old one."""

from __future__ import annotations

import contextlib
import csv
import functools
import gzip
import io
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeAlias

from ktodata.errors import NothingLeftError, UsageError, WriteError
from ktodata.io.ahead import OneAhead
from ktodata.io.paths import local_path, real_path
from ktodata.io.records import Verbatim
from ktodata.io.table import Table, arrow_schema, records_of, table_of
from ktodata.io.together import STDOUT, Files, atomic_file
from ktodata.schema import COLUMNS, Kind, Row

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
CHUNK = 8192  # rows in one row group of a parquet file
JsonWriter: TypeAlias = Callable[[Iterable[Mapping[str, Any]], IO[bytes]], int]


def check_output(out: str) -> None:
    """Refuse an output that cannot be written, before any work is done for it. `-` is JSONL on stdout.

    Raises:
        UsageError: a suffix that no writer knows, a folder, or stdout that is closed.
        WriteError: a place where no file can be made.
    """
    if out == STDOUT:
        if sys.stdout is None:
            raise UsageError("stdout is closed", do="Name a file with -o, or open it")
        return
    path = local_path(out)
    if not suffix_to_write(path):
        raise UsageError(
            f"unknown suffix {path.suffix!r}" if path.suffix else "no suffix that tells the format",
            where=out,
            do=f"Known: {', '.join(WRITERS)}",
        )
    check_writable(path)


def check_writable(path: Path) -> None:
    """Refuse a path at which no file can be made: a folder, below a file, or without permission.

    Raises:
        UsageError: it is a folder, or a pipe, socket or device, whose place the file would take.
        WriteError: it cannot be made.
    """
    try:
        if path.is_dir():
            raise UsageError("is a folder, not a file to write", where=str(path), do="Name a file in it")
        if path.exists() and not path.is_file():
            what = "a pipe" if path.is_fifo() else "a socket" if path.is_socket() else "a device"
            raise UsageError(
                f"is {what}, not a file to write: whoever reads it would get nothing",
                where=str(path),
                do="Name a file; rows go into a pipe with `-o -` and `>`",
            )
    except OSError as error:
        raise WriteError(f"cannot be made: {error.strerror or error}", where=str(path)) from error
    check_makable(path)


def check_makable(path: Path) -> None:
    """Refuse a path at which nothing can be made, neither file nor folder: below a file, or without permission.

    Raises:
        WriteError: it is one.
    """
    try:
        real_path(path)
        above = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        raise WriteError(f"cannot be made: {error.strerror or error}", where=str(path)) from error
    if not above.is_dir():
        raise WriteError("cannot be made", where=str(path), do=f"{above} is not a folder")
    if not os.access(above, os.W_OK):
        raise WriteError("cannot be made", where=str(path), do=f"No permission to write in {above}")


def room_beside(out: str) -> Path | None:
    """The folder in which to set aside what will become `out`: where there is room for it, on the same disk.

    None, which is the folder for temporary files, for stdout and where nothing can be made.
    """
    if out == STDOUT:
        return None
    above = next(parent for parent in local_path(out).absolute().parents if parent.exists())
    return above if above.is_dir() and os.access(above, os.W_OK) else None


def write_rows(rows: Iterable[Row], out: str) -> int:
    """Write rows by the suffix of `out` (`-`: JSONL on stdout), atomically, in the order given. Gives their number.

    Messages are a list of structs `{role, content}` in parquet, and JSON text in csv.

    Raises:
        UsageError: see `check_output`.
        WriteError: text and chat rows in one file, or the disk says no.
    """
    some = iter(rows)
    first = next(some, None)
    kind = first.kind if first else "text"
    return write_tables(_tables(itertools.chain([first] if first else [], some), kind, out), kind, out)


def _tables(rows: Iterator[Row], kind: Kind, out: str) -> Iterator[Table]:
    """The rows as tables of `CHUNK`, each of them checked."""
    while chunk := list(itertools.islice(rows, CHUNK)):
        other = next((row.kind for row in chunk if row.kind != kind), None)
        if other:
            raise WriteError(f"rows of both kinds, {kind} and {other}", where=out, do="A file holds one kind only")
        yield table_of(chunk, kind)


def write_tables(tables: Iterable[Table], kind: Kind, out: str, files: Files | None = None) -> int:
    """`write_rows` for rows that come as tables, all of one kind; with `files`, the file takes its place with them."""
    check_output(out)
    with atomic_file(out, files) as stream:
        return WRITERS[suffix_to_write(out)](iter(tables), kind, stream)


def suffix_to_write(out: str | Path) -> str:
    """The suffix that says how to write a file, or stdout; "" if it is none that we know."""
    if out == STDOUT:
        return ".jsonl"
    path = local_path(out)
    return max((suffix for suffix in WRITERS if path.name.lower().endswith(suffix)), key=len, default="")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _records(tables: Iterator[Table]) -> Iterator[dict[str, Any]]:
    return itertools.chain.from_iterable(map(records_of, tables))


def write_lines(records: Iterable[Mapping[str, Any]], stream: IO[bytes]) -> int:
    """An object a line. Gives the number of records, as the other writers do."""
    count = 0
    for record in records:
        stream.write(f"{_json(record)}\n".encode())
        count += 1
    stream.flush()
    return count


def write_packed_lines(records: Iterable[Mapping[str, Any]], stream: IO[bytes]) -> int:
    """`write_lines`, gzipped; the same records give the same bytes."""
    # Neither a time nor a name inside.
    with gzip.GzipFile(fileobj=stream, mode="wb", filename="", mtime=0, compresslevel=6) as packed:
        return write_lines(records, packed)  # type: ignore[arg-type]  # a GzipFile is no IO[bytes] to mypy


def write_array(records: Iterable[Mapping[str, Any]], stream: IO[bytes]) -> int:
    """An array of objects, one a line."""
    count = 0
    for record in records:
        stream.write(f"{',' if count else '['}\n{_json(record)}".encode())
        count += 1
    stream.write(b"\n]\n" if count else b"[]\n")
    return count


def _write_csv(tables: Iterator[Table], kind: Kind, stream: IO[bytes]) -> int:
    count = 0
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    # A carriage return ends a row for readers, but to Python's writer it is text that needs no quotes.
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for record in _records(tables):
        cells = [value if isinstance(value, str) else _json(value) for value in record.values()]
        (quoting if any("\r" in cell for cell in cells) else writer).writerow(cells)
        count += 1
    text.flush()
    text.detach()
    return count


def _write_parquet(tables: Iterator[Table], kind: Kind, stream: IO[bytes]) -> int:
    import pyarrow.parquet

    schema = arrow_schema(kind)
    count = 0
    with (
        pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer,
        OneAhead() as ahead,
    ):
        for table in tables:
            for start in range(0, table.num_rows, CHUNK):
                group = table.slice(start, CHUNK)
                # Compressed while the next rows are put in order.
                ahead.do(functools.partial(writer.write_table, group.cast(schema)))
                count += group.num_rows
        ahead.wait()
    return count


def _write_json(tables: Iterator[Table], kind: Kind, stream: IO[bytes], *, write: JsonWriter) -> int:
    return write(_records(tables), stream)


JSON_WRITERS: dict[str, JsonWriter] = {
    ".jsonl": write_lines,
    ".jsonl.gz": write_packed_lines,
    ".json": write_array,
}
WRITERS: dict[str, Callable[[Iterator[Table], Kind, IO[bytes]], int]] = {
    **{suffix: functools.partial(_write_json, write=write) for suffix, write in JSON_WRITERS.items()},
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}


class Quarantine:
    """Where rows go that were read but not written: one JSON line each, with the reason, the place and the record,
    as it stands in its file where that is JSON, and as text where it is none (NaN is not).

    A context manager. The file is made even if it stays empty, and atomically, so after an error there is none: but
    for `NothingLeftError`, since all records are in it then; the error names it. With `path` None nothing is kept.
    With `files` it takes its place with them: enter it before they are opened, and it does so first, so that no bad row
    is nowhere.
    """

    def __init__(self, path: str | Path | None, files: Files | None = None) -> None:
        """Raises UsageError or WriteError if no file can be made there."""
        self._files = files
        self._given = path
        self.path = local_path(path) if path else None
        if self.path:
            check_writable(self.path)
        self.count = 0
        self._stack = contextlib.ExitStack()
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> Quarantine:
        if self.path:
            self._stream = self._stack.enter_context(atomic_file(self.path, self._files))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, NothingLeftError) or self.path is None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            for one in error.refused:
                self.add(**one)
        if self._files:  # which will not do it after an error
            self._files.take_places()
        if self.count:
            raise error.kept(str(self._given)) from error

    def add(self, reason: str, *, where: str, record: object, **more: object) -> None:
        """One record, with whatever more the caller wants to say about it."""
        self.count += 1
        if self._stream:
            said = _strict_json({"reason": reason, "where": where, **more})
            self._stream.write(f'{said[:-1]}, "record": {_strict_json(record)}}}\n'.encode())


def _strict_json(value: object) -> str:
    """A value as JSON that any parser takes, on a line of ASCII; what JSON does not have, as text."""
    if isinstance(value, Verbatim):
        # In texts, a line feed can stand only as \\n.
        one_line = value.replace("\r", " ").replace("\n", " ")
        return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], one_line)
    try:
        return json.dumps(value, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    """The same with NaN and infinities as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
