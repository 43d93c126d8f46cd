"""Rows whose parents were given new ids."""

import pyarrow
import pytest

from ktodata.parents import Renamed
from ktodata.schema import COLUMNS


def test_rows_are_not_looked_through_where_nothing_was_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pyarrow.table({name: pyarrow.array(["a" * 32, ""], pyarrow.large_string()) for name in COLUMNS})
    renamed = Renamed()
    renamed.add({"a" * 32: "b" * 32})
    assert renamed.following(table).column("parent_id").to_pylist() == ["b" * 32, ""]
    monkeypatch.delattr("pyarrow.compute.unique")
    assert Renamed().following(table) is table
