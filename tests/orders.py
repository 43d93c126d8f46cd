"""The order of rows as files get it, and what is asked of it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ktodata.io import rows_of
from ktodata.keys import Table
from ktodata.order import keys_of
from ktodata.schema import Row, kind_of
from ktodata.sort_out import in_training_order, keyed


def training_order(rows: Sequence[Row], *, seed: int, portion: int = 1000) -> list[Row]:
    """The rows in the order of a file, handed over so many at a time."""
    tables = [keyed(rows[at : at + portion], kind_of(rows[0].prompt)) for at in range(0, len(rows), portion)]
    with tempfile.TemporaryDirectory() as folder:
        return list(rows_of(in_training_order(tables, most=len(rows), seed=seed, folder=Path(folder))))


def clashes(rows: Sequence[Row]) -> int:
    """How many rows have their predecessor's prompt or completion (after normalising)."""
    return Table(keys_of(rows)).count(range(len(rows)))
