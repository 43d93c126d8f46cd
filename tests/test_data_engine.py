"""Where per-row work runs: results in the order of the items, few items held at a time."""

import operator
from collections.abc import Iterator

import pytest

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
