"""Where per-row work runs: results in the order of the items, few items held at a time."""

import operator
import sys
import types
from collections.abc import Iterator

import pytest

import ktodata.engine
from ktodata.engine import each


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(40):
            taken.append(item)
            yield item

    results = each(operator.add, items(), shared=100, workers=workers)
    assert next(iter(results)) == 100
    assert len(taken) <= 2 * workers + 1, "items are taken as they are needed"
    assert list(results) == list(range(101, 140))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_no_more_is_told_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is the address of the cluster that was started last, which Ray leaves in a file when that has ended."""
    left = types.ModuleType("ray._private.utils")
    left.read_ray_address = lambda: address  # type: ignore[attr-defined]
    for name in ("ray", "ray._private"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "ray._private.utils", left)
    with pytest.raises(ConnectionError, match=f"nobody answers at {address} "):
        ktodata.engine._answers("auto")


def test_where_no_cluster_was_started_ray_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray._private.utils", None)
    ktodata.engine._answers("auto")
