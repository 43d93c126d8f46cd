"""A table too large for memory, in parts that are not: each row goes to the part that it is told to.

While the rows are few they stay in memory; beyond `BUDGET` bytes they go to a file for each part, in a folder of
their own that goes when the block ends. Either way rows are sorted by part, `PORTION` bytes at a time and in the
background, and the same parts hold the same rows in the order they came. A part in memory is freed when it is
forgotten, so that what is made of the parts one by one takes the room that they leave.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ktodata.errors import WriteError
from ktodata.io.ahead import OneAhead, made_ahead
from ktodata.io.leftover import clear, folder_aside
from ktodata.io.table import Table

# Bytes of rows held in memory before they go to disk. More would buy nothing: files are written as they are, which
# costs no more than holding the rows does (compressed by lz4 they took 15 % of the CPU time of `unpair`).
BUDGET = 32 * 2**20
PREFIX = ".ktodata-"
_ROOM = "Free some space there; it takes about as much as the rows do"
_OPEN = "Raise the limit of open files (ulimit -n)"
_ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EMFILE: _OPEN,
    errno.ENFILE: _OPEN,
    errno.EFBIG: "Raise the limit of the size of files (ulimit -f)",
    errno.EROFS: "Name an output in a folder where you may write",
    errno.EACCES: "Name an output in a folder where you may write",
}
PORTION = 32 * 2**20  # bytes of rows that are sorted by part, and written, together


def no_room(error: Exception, folder: Path | None) -> WriteError:
    """What to say where something cannot be set aside in a folder (None: that of temporary files)."""
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return WriteError(
        f"rows cannot be set aside: {reason}",
        where=str(folder or tempfile.gettempdir()),
        do=_ADVICE.get(getattr(error, "errno", None) or 0, ""),
    )


class Spill:
    """Parts of a table, written once and then read, a part at a time.

    A context manager: files that it made are gone at its end. `folder` is where they are made when there are any:
    a place with room, such as that of the output.
    """

    def __init__(self, parts: int, folder: Path | None = None, *, budget: int | None = None) -> None:
        self.parts, self.folder, self.budget = parts, folder, BUDGET if budget is None else budget
        self.rows = 0
        self._waiting: list[tuple[Table, Any]] = []
        self._waits = 0  # bytes
        self._bytes = 0  # of all rows
        self._gone = 0  # of parts on disk that were forgotten, since room was given back
        self._held: dict[int, list[Table]] = {}
        self._schema: Any = None
        self._stack = contextlib.ExitStack()
        self._place: Path | None = None
        self._ahead = OneAhead()
        self._writers: dict[int, Any] = {}
        self._on_disk: set[int] = set()  # the parts that have a file

    def __enter__(self) -> Self:
        clear(self.folder, PREFIX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ahead.__exit__(kind, error, trace)  # before what it may still be writing to is closed
        self._stack.close()
        self._waiting, self._held = [], {}

    @property
    def on_disk(self) -> bool:
        """Whether the rows were too many for memory."""
        return self._place is not None

    def add(self, table: Table, part_of: Any) -> None:
        """Rows, and the part of each: an integer array of their number.

        Raises:
            WriteError: the disk is full or read-only.
        """
        if not table.num_rows:
            return
        self._schema = self._schema or table.schema
        self.rows += table.num_rows
        self._waiting.append((table, part_of))
        size = table.nbytes
        self._waits += size
        self._bytes += size
        if self._waits > min(PORTION, self.budget):
            self._flush()

    def finish(self) -> None:
        """No more rows will come. All are sorted by part, and what is on disk is closed."""
        import pyarrow

        if self._waiting:
            self._flush()
        self._wait()
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
        pyarrow.default_memory_pool().release_unused()

    def read(self, part: int, columns: Sequence[str] | None = None) -> Table | None:
        """The rows of a part, in the order they came; None if it has none. Call `finish` first."""
        import pyarrow

        if self._place is None:
            tables = self._held.get(part)
            if tables is None:
                return None
            whole = pyarrow.concat_tables(tables)
            return (whole if columns is None else whole.select(list(columns))).combine_chunks()
        if part not in self._on_disk:
            return None
        fields = None if columns is None else [self._schema.get_field_index(name) for name in columns]
        options = pyarrow.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        path = os.fsencode(self._path(part))
        with pyarrow.OSFile(path) as file, pyarrow.ipc.open_stream(file, options=options) as stream:
            return stream.read_all()

    def forget(self, part: int) -> None:
        """A part will not be read again: its room is free for something else."""
        if part in self._on_disk:
            import pyarrow

            self._path(part).unlink()
            self._on_disk.remove(part)
            self._gone += self._bytes // self.parts  # about
            if self._gone > PORTION // 2:  # Arrow would keep the room of many parts, to have it at hand
                pyarrow.default_memory_pool().release_unused()
                self._gone = 0
        else:
            self._held.pop(part, None)

    def in_turn(self, read: Callable[[int], Table | None]) -> Iterator[tuple[int, Table | None]]:
        """Each part and what `read` gives of it; what is on disk is read while the part before is worked on."""
        if not self.on_disk:
            return ((part, read(part)) for part in range(self.parts))
        return enumerate(made_ahead(functools.partial(read, part) for part in range(self.parts)))

    def parted(self) -> Iterator[Table | None]:
        """The rows of each part, once: it is forgotten then. Call `finish` first."""
        return (table for _, table in self.in_turn(self._read_once))

    def drained(self) -> Iterator[Table]:
        """`parted` without the parts that have no rows."""
        return (table for table in self.parted() if table is not None)

    def _read_once(self, part: int) -> Table | None:
        table = self.read(part)
        self.forget(part)
        return table

    def _flush(self) -> None:
        """Sort what waits by part, in the background; what came before is done then.

        Raises:
            WriteError: it, or what was written before, does not fit.
        """
        self._wait()
        if self._place is None and self._bytes > self.budget:
            try:
                self._place = folder_aside(self._stack, self.folder, PREFIX)
            except OSError as error:
                raise self._no_room(error) from error
            self._stack.callback(self._close)
        waiting, self._waiting, self._waits = self._waiting, [], 0
        self._ahead.do(functools.partial(self._sort, waiting))

    def _wait(self) -> None:
        import pyarrow

        try:
            self._ahead.wait()
        except (OSError, pyarrow.ArrowException) as error:
            raise self._no_room(error) from error

    def _sort(self, waiting: list[tuple[Table, Any]]) -> None:
        """Put rows with those of their part, and all of them on disk if they are too many."""
        import numpy as np
        import pyarrow

        tables = pyarrow.concat_tables([table for table, _ in waiting]).combine_chunks()
        part_of = np.concatenate([parts for _, parts in waiting])
        waiting.clear()
        order = np.argsort(part_of, kind="stable")
        found, starts = np.unique(part_of[order], return_index=True)
        ends = [*starts[1:].tolist(), len(order)]
        if self._place is None:
            for part, start, end in zip(found.tolist(), starts.tolist(), ends, strict=True):
                # Each in buffers of its own, which are freed when it is forgotten.
                self._held.setdefault(part, []).append(tables.take(pyarrow.array(order[start:end])))
            return
        for part in list(self._held):
            self._writer(part).write_table(pyarrow.concat_tables(self._held.pop(part)).combine_chunks())
        in_order = tables.take(pyarrow.array(order))
        del tables
        for part, start, end in zip(found.tolist(), starts.tolist(), ends, strict=True):
            self._writer(part).write_table(in_order.slice(start, end - start))

    def _path(self, part: int) -> Path:
        assert self._place is not None, "rows are in memory"
        return self._place / f"{part}.arrow"

    def _no_room(self, error: Exception) -> WriteError:
        return no_room(error, self._place or self.folder)

    def _writer(self, part: int) -> Any:
        import pyarrow

        if part not in self._writers:
            file = pyarrow.OSFile(os.fsencode(self._path(part)), "wb")
            self._on_disk.add(part)
            options = pyarrow.ipc.IpcWriteOptions(use_threads=False)
            writer = pyarrow.ipc.new_stream(file, self._schema, options=options)
            self._writers[part] = Writer(writer, file)
        return self._writers[part]

    def _close(self) -> None:
        """Files are closed before their folder goes, also after an error."""
        for writer in self._writers.values():
            with contextlib.suppress(Exception):
                writer.close()
        self._writers = {}


class Writer:
    """An Arrow stream and the file below it, closed together."""

    def __init__(self, writer: Any, file: Any) -> None:
        self.writer, self.file = writer, file

    def write_table(self, table: Table) -> None:
        self.writer.write_table(table)

    def close(self) -> None:
        try:
            self.writer.close()
        finally:
            self.file.close()
