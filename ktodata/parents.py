"""Rows whose parents were given new ids: those of a conversion from text to chat, or back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ktodata.io import Table
from ktodata.schema import COLUMNS
from ktodata.sketch import Array

ID = 32  # characters of an id


class Renamed:
    """The new ids of rows, by their old ones. A parent may come after its children, so that all are kept: in 64 bytes
    a row, as no more than a few of them are looked for."""

    def __init__(self) -> None:
        self._parts: list[tuple[Array, Array]] = []
        self._in_order = False  # one part, by its old ids

    def add(self, renamed: Mapping[str, str]) -> None:
        """Some more, new ids by old ones."""
        import numpy as np

        if renamed:
            self._in_order = False
            self._parts.append((np.array([*renamed], dtype=f"S{ID}"), np.array([*renamed.values()], dtype=f"S{ID}")))

    def of(self, ids: Sequence[str]) -> dict[str, str]:
        """The new ids of those among these that have one."""
        import numpy as np

        wanted = np.array([one for one in ids if len(one) == ID and one.isascii()], dtype=f"S{ID}")
        if not self._parts or not len(wanted):
            return {}
        old, new = self._sorted()
        places = np.minimum(np.searchsorted(old, wanted), len(old) - 1)
        found = old[places] == wanted
        pairs = zip(wanted[found].tolist(), new[places[found]].tolist(), strict=True)
        return {one.decode(): other.decode() for one, other in pairs}

    def following(self, table: Table) -> Table:
        """Rows with their parents' new ids, where a parent got one."""
        import pyarrow
        from pyarrow import compute

        if not self._parts:
            return table
        place = COLUMNS.index("parent_id")
        column = table.column(place)
        renamed = self.of(compute.unique(column).to_pylist())
        if not renamed:
            return table
        parents = [renamed.get(parent, parent) for parent in column.to_pylist()]
        return table.set_column(place, table.schema.field(place), pyarrow.array(parents, type=pyarrow.large_string()))

    def _sorted(self) -> tuple[Array, Array]:
        import numpy as np

        if not self._in_order:
            old, new = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
            order = np.argsort(old, kind="stable")
            self._parts, self._in_order = [(old[order], new[order])], True
        return self._parts[0]
