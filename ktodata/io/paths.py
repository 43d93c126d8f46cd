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


def is_there(text: str) -> bool:
    """Whether there is a file or folder of this name. What cannot be looked at, or is too long for a name, is not."""
    try:
        return local_path(text).exists()
    except OSError:
        return False
