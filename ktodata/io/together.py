"""Files that take their places together: all of a command's are whole and on disk before the first of them does."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ktodata.errors import WriteError
from ktodata.io.leftover import claimed, clear
from ktodata.io.paths import real_path
from ktodata.stop import a_moment, too_late

STDOUT = "-"
TEMPORARY = ".tmp"


@dataclasses.dataclass(slots=True)
class _Aside:
    """A file on its way: its name as it was given, its place, and where it is until then."""

    out: str
    path: Path
    temporary: Path
    whole: bool = False


class Files:
    """The files that a command writes: its outputs, the quarantine file, a card.

    A context manager. Each file is set aside beside its place until the block ends. If that is without an error, all
    take their places, one right after the other in the order in which they were opened, and no signal but SIGKILL
    comes between. After an error none does, and what was there stays.
    """

    def __init__(self, told: Callable[[str], object] = lambda place: None) -> None:
        """`told` hears of each file that has taken its place, and of stdout (`-`) once rows may go there."""
        self._told = told
        self._stack = contextlib.ExitStack()
        self._aside: list[_Aside] = []

    def __enter__(self) -> Files:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is None:
                self.take_places()

    @contextlib.contextmanager
    def open(self, out: str | Path) -> Iterator[IO[bytes]]:
        """A binary file that is whole and on disk when the block ends without an error. `-` is stdout, which gets its
        bytes at once.

        Missing parent folders are made; a link is followed; an existing file's permissions are kept.

        Raises:
            WriteError: no permission, no space, or no such place. Other errors of the block are not this file's.
        """
        if out == STDOUT:
            self._told(STDOUT)
            yield sys.stdout.buffer
            return
        with _errors(out):
            one = self._new(out)
            stream = io.BufferedWriter(_File(one))
        try:
            yield stream
            with _errors(out):
                stream.flush()
                os.fchmod(stream.fileno(), _mode(one.path))
                os.fsync(stream.fileno())
                stream.close()
            one.whole = True
        finally:
            with contextlib.suppress(WriteError, OSError):  # what it still held goes with it
                stream.close()

    def take_places(self) -> None:
        """Put all files that are whole in their places now.

        Raises:
            WriteError: one cannot get there; those before it are there.
        """
        with too_late():
            for one in self._aside:
                if one.whole:
                    with _errors(one.out):
                        one.temporary.replace(one.path)
                    one.whole = False
                    self._told(one.out)

    def _new(self, out: str | Path) -> _Aside:
        path = real_path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}."
        clear(path.parent, prefix, TEMPORARY)
        with a_moment():
            temporary = self._stack.enter_context(claimed(lambda: _aside(path.parent, prefix)))
            self._stack.callback(_discard, temporary)
        self._aside.append(_Aside(str(out), path, temporary))
        return self._aside[-1]


@contextlib.contextmanager
def atomic_file(out: str | Path, files: Files | None = None) -> Iterator[IO[bytes]]:
    """A binary file that takes its place at `out` when the block ends without an error, and vanishes otherwise; with
    `files`, it takes its place with them. See `Files.open`."""
    with contextlib.ExitStack() as stack:
        together = files or stack.enter_context(Files())
        yield stack.enter_context(together.open(out))


class _File(io.FileIO):
    """A file whose errors say which one it is: a block that writes it may meet others, such as stdout's."""

    def __init__(self, one: _Aside) -> None:
        super().__init__(str(one.temporary), "wb")
        self._out = one.out

    def write(self, data: Any) -> int:
        """Write some or all of the bytes.

        Raises:
            WriteError: the disk says no.
        """
        with _errors(self._out):
            return super().write(data)


@contextlib.contextmanager
def _errors(out: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot be written: {error.strerror or error}", where=str(out)) from error


def _aside(folder: Path, prefix: str) -> Path:
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=TEMPORARY, dir=folder)
    os.close(handle)
    return Path(name)


def _discard(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def _mode(path: Path) -> int:
    """The permissions a file should have: its own, or what the process gives to new files."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
