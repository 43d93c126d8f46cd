"""Files that are either the old one or the whole new one, whenever somebody looks."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from ktotrain.errors import TrainingError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file whole: to a temporary one beside it, on disk, then in its place. Missing parents are made.

    Raises:
        TrainingError: it cannot be written (no space, no permission, a folder in its place); what was there stays.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(usual_mode())  # mkstemp makes files that nobody else can read
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"cannot be written: {error.strerror or error}", where=str(path), do="Look at free space and permissions"
        ) from None
    except BaseException:  # an interrupt leaves nothing behind either
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Put a folder's names on disk: what was renamed in it stays renamed, whatever happens to the machine then."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems refuse; they have no need of it, or no means
            os.fsync(handle)
    finally:
        os.close(handle)


def usual_mode() -> int:
    """The permissions that a new file gets. The process's umask can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o666 & ~mask
