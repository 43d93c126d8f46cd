"""From a rating to a label: desirable on one side, undesirable on the other, nothing in between."""

from __future__ import annotations

from ktodata.errors import UsageError


def verdict(rating: float, *, desirable_at: float, undesirable_at: float) -> bool | None:
    """Whether a completion of this rating is desirable; None in between.

    High ratings are good where `desirable_at` is the higher of the two, and low ones where it is the lower.

    Raises:
        UsageError: the two thresholds are equal, so nothing says which side is the good one.
    """
    if desirable_at == undesirable_at:
        raise UsageError(f"--desirable-at and --undesirable-at are both {desirable_at:g}", do="Choose two ratings")
    sign = 1 if desirable_at > undesirable_at else -1
    if sign * rating >= sign * desirable_at:
        return True
    return False if sign * rating <= sign * undesirable_at else None
