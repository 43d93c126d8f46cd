"""MinHash signatures of many texts: in memory while they are few, in a file beyond."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ktodata.io import no_room
from ktodata.sketch import HASHES, Array

BUDGET = 32 * 2**20  # bytes held in memory
BLOCK = 2**16  # signatures that are written, and looked at, together


class Signed:
    """Signatures as they come, [texts, 128] of uint8.

    The file that holds them has no name: it goes with the process, however that ends. `folder` is where there is room
    for it; by default the folder for temporary files.
    """

    def __init__(self, folder: Path | None = None, *, budget: int | None = None) -> None:
        self._folder, self._budget = folder, BUDGET if budget is None else budget
        self._held: list[Array] = []
        self._count = self._written = 0
        self._file: IO[bytes] | None = None
        self._whole: Array = None

    def __len__(self) -> int:
        return self._count

    def add(self, found: Array) -> None:
        """What `ktodata.sketch.signatures` gave.

        Raises:
            WriteError: the disk is full or read-only.
        """
        self._held.append(found)
        self._whole = None
        self._count += len(found)
        room = self._budget // HASHES if self._file is None else BLOCK
        if self._count - self._written > room:
            self._write()

    def blocks(self) -> Iterator[Array]:
        """All of them in the order they came, some at a time."""
        import numpy as np

        if self._file is None:
            yield self._all()
            return
        self._write()
        # Read, as what is mapped counts as memory once it is looked at; and what was looked at is let go.
        self._whole = None
        for start in range(0, self._count, BLOCK):
            data = np.empty((min(BLOCK, self._count - start), HASHES), dtype=np.uint8)
            self._file.seek(start * HASHES)
            self._file.readinto(data)  # type: ignore[attr-defined]  # it is a buffered file
            yield data

    def take(self, places: Array) -> Array:
        """The signatures in these places, in any order."""
        return self._all()[places]

    def _all(self) -> Array:
        import numpy as np

        if self._whole is None:
            if self._file is None:
                self._whole = np.concatenate([np.empty((0, HASHES), dtype=np.uint8), *self._held])
                self._held = [self._whole]
            else:
                self._write()
                self._whole = np.asarray(np.memmap(self._file, np.uint8, "r", shape=(self._count, HASHES)))
        return self._whole

    def _write(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # closed with this
                weakref.finalize(self, self._file.close)
            self._file.seek(0, os.SEEK_END)
            for found in self._held:
                self._file.write(found.tobytes())
            self._file.flush()
        except OSError as error:
            raise no_room(error, self._folder) from error
        self._held, self._written = [], self._count
