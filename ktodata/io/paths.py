"""Paths as users type them, which may be none."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path

STDIN = "-"


def local_path(text: str | Path) -> Path:
    """The path, `~` resolved; `~name` of nobody is a name like any other."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def real_path(text: str | Path) -> Path:
    """The path with all links followed, which may be of no file yet.

    Raises:
        OSError: links in a circle, or a place that cannot be looked at.
    """
    path = local_path(text)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.stat()
    try:
        return path.resolve()
    except RuntimeError as error:  # a circle, as Python 3.12 and older have it
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


def shown_path(path: str | Path) -> str:
    """A path as text for rows, files and errors. Bytes of a name that are not UTF-8 are spelled out, as text cannot
    hold them."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def provenance(path: Path) -> str:
    """A file as rows name it: its folder and name, however it was typed, and no more of this machine's paths."""
    return shown_path("/".join(path.resolve().parts[-2:]).lstrip("/"))


def is_there(text: str) -> bool:
    """Whether there is a file or folder of this name. What cannot be looked at, or is too long for a name, is not."""
    try:
        return local_path(text).exists()
    except OSError:
        return False


def is_input(place: str, source: str) -> bool:
    """Whether writing to `place` would change what SOURCE holds: its file, or one in its folder that is there. For
    stdin (`-`) that is the file that it comes from.

    Links and other spellings of a path do not matter, nor on which side they are. A new file in a folder is no input.
    """
    if source == STDIN:
        return _is_stdin(local_path(place))
    try:
        written, read = real_path(place), real_path(source)
        if written == read:
            return True
        if not written.exists() or not read.exists():
            return False
        if written.samefile(read) or (read.is_dir() and read in written.parents):
            return True
        return read.is_dir() and any(_leads_to(path, written) for path in read.rglob("*") if path.is_symlink())
    except OSError:  # too long a name, no permission to look, links in a circle: nothing is read there
        return False


def _leads_to(link: Path, place: Path) -> bool:
    with contextlib.suppress(OSError):
        return real_path(link) == place
    return False


def _is_stdin(place: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # stdin that is closed, or no file of the system's
        if sys.stdin is not None:
            given = os.fstat(sys.stdin.fileno())
            return stat.S_ISREG(given.st_mode) and os.path.samestat(given, place.stat())
    return False
