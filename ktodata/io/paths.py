"""Paths as users type them, which may be none."""

from __future__ import annotations

from pathlib import Path


def local_path(text: str | Path) -> Path:
    """The path, `~` resolved; `~name` of nobody is a name like any other."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def shown_path(path: str | Path) -> str:
    """A path as text for rows, files and errors. Bytes of a name that are not UTF-8 are spelled out, as text cannot
    hold them."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def is_there(text: str) -> bool:
    """Whether there is a file or folder of this name. What cannot be looked at, or is too long for a name, is not."""
    try:
        return local_path(text).exists()
    except OSError:
        return False


def is_input(place: str, source: str) -> bool:
    """Whether writing to `place` would change what SOURCE holds: its file, or one in its folder that is there.

    Links and other spellings of a path do not matter, nor on which side they are. A new file in a folder is no input.
    """
    try:
        written, read = local_path(place).resolve(), local_path(source).resolve()
        if written == read:
            return True
        if not written.exists() or not read.exists():
            return False
        if written.samefile(read) or (read.is_dir() and read in written.parents):
            return True
        return read.is_dir() and any(path.resolve() == written for path in read.rglob("*") if path.is_symlink())
    except (OSError, RuntimeError):  # too long a name, no permission to look, links in a circle: nothing is read there
        return False
