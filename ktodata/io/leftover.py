"""Files set aside by a run that was killed: known by their lock, which ended with it, and cleared away by the next run.

What is set aside has a hidden name beside the output, and while its run is alive a lock of the operating system's on
it: so nobody takes away what another run is using, and nobody has to guess by age or process number. Where a file
system or platform has no such locks, nothing is taken away.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ktodata.stop import a_moment

_DRAWN = "[a-z0-9_]{8}"  # what `tempfile` puts between prefix and suffix


@contextlib.contextmanager
def claimed(make: Callable[[], Path]) -> Iterator[Path]:
    """What `make` has made with `tempfile`, a file or a folder, locked for as long as the block lasts."""
    while True:
        path = make()
        handle = os.open(path, os.O_RDONLY)
        try:
            _locked(handle)
            if path.exists():  # not cleared away before it was locked
                yield path
                return
        finally:
            os.close(handle)


def folder_aside(stack: contextlib.ExitStack, above: Path | None, prefix: str) -> Path:
    """A new folder in `above` (None: that of temporary files), which goes when the stack is closed, and which no other
    run takes for a killed one's. No signal comes between its making and that."""

    def made() -> Path:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=above)))

    with a_moment():
        return stack.enter_context(claimed(made))


def clear(folder: Path | None, prefix: str, suffix: str = "") -> None:
    """Take away what killed runs left in a folder (None: that of temporary files) under such names."""
    root = folder or Path(tempfile.gettempdir())
    name = re.compile(re.escape(prefix) + _DRAWN + re.escape(suffix))
    with contextlib.suppress(OSError):
        for path in root.iterdir():
            if name.fullmatch(path.name):
                _clear(path)


def _clear(path: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if _locked(handle):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
        finally:
            os.close(handle)


def _locked(handle: int) -> bool:
    """Whether the lock on an open file or folder is ours now; it goes with the handle, or the process."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True
