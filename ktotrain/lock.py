"""One run at a time in a folder, and one process at a time at a file."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from ktotrain.errors import TrainingError

NAME = ".lock"


class RunLock:
    """A run folder for oneself, as a context manager. Only the first of several processes has it `enabled`.

    The lock is the operating system's, on a file in the folder: it goes with the process that holds it, however that
    ends, so a dead run blocks nobody. What stands in the file (process and host) is for people. A folder that was
    made for the lock and is still empty at the end is taken away again.
    """

    def __init__(self, folder: Path, *, enabled: bool = True) -> None:
        from filelock import FileLock

        self.folder, self.enabled = folder, enabled
        self.path = folder / NAME
        self._lock = FileLock(self.path)
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        from filelock import Timeout

        if not self.enabled:
            return self
        try:
            self._make_folder()
            self._lock.acquire(blocking=False)
            holder = {"pid": os.getpid(), "host": socket.gethostname()}
            self.path.write_text(json.dumps(holder) + "\n", encoding="utf-8")
        except Timeout:
            raise TrainingError(
                f"another run is at work in it ({_holder(self.path)})",
                where=str(self.folder),
                do="Wait for it, stop it, or name another train.output_dir",
            ) from None
        except OSError as error:
            self._leave()
            raise TrainingError(
                f"cannot be written: {error.strerror or error}",
                where=str(self.folder),
                do="Look at free space and permissions, or name another train.output_dir",
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self._leave()

    def _make_folder(self) -> None:
        missing = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._made = missing

    def _leave(self) -> None:
        # Removed while it is still held: whoever waits for this file looks again whether it is the one in the folder.
        if self._lock.is_locked:
            self.path.unlink(missing_ok=True)
            self._lock.release()
        for path in self._made:
            try:
                path.rmdir()
            except OSError:  # there is something in it: it stays, and so do its parents
                break


@contextlib.contextmanager
def alone_at(path: Path, *, patience: float) -> Iterator[None]:
    """Alone among all processes that ask for this lock file, which is made, and stays.

    Where files cannot be locked, or another process takes longer than `patience` seconds, it goes on all the same:
    what is done within must be right then too, if not as well.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=patience)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError, Timeout):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    """Who holds the lock, as far as it can be told."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written
        return "its process is not known yet"
