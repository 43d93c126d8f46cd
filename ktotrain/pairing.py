"""Mismatched pairs: which row's completion each prompt borrows to estimate the reference point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mismatched_pairs(prompts: Sequence[int]) -> tuple[int, ...]:
    """For each row of a step, the index of the row whose completion it is paired with.

    A rotation: row i takes the completion of row i - k (round the end), with the smallest k >= 1 for which no row
    meets its own prompt. So every completion is used exactly once; with unique prompts k is 1, and with contiguous
    prompt groups it is the largest group's size. If no rotation serves (one prompt has more than half of the rows),
    row i takes row i - 1, and a row that would meet its own prompt steps further back to the nearest other one.

    Args:
        prompts: the prompt group of each row, any integers; equal ones are the same prompt.

    Returns:
        As many indices as rows; empty when all rows share one prompt, since then there is no mismatched pair.
    """
    groups_N = np.asarray(prompts)
    count = len(groups_N)
    if count == 0 or (groups_N == groups_N[0]).all():
        return ()
    # A group of size g, wherever its rows lie, rules out every rotation only if g > count / 2.
    for k in range(1, count):
        if (groups_N != np.roll(groups_N, k)).all():
            return tuple((np.arange(count) - k) % count)
    pairs = []
    for row in range(count):
        other = (row - 1) % count
        while groups_N[other] == groups_N[row]:
            other = (other - 1) % count
        pairs.append(other)
    return tuple(pairs)
