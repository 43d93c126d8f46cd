"""From a rating to a label: desirable on one side, undesirable on the other, nothing in between."""

from __future__ import annotations

from ktodata.errors import RowError, UsageError
from ktodata.schema import named
from ktodata.sources.contract import Record, number


def rating(record: Record, name: str, where: str, *, scale: tuple[float, float]) -> float:
    """A rating, from the first to the second number of the scale.

    Raises:
        RowError: it is no number, or off the scale.
    """
    value = number(record, name, where)
    if not scale[0] <= value <= scale[1]:
        told = f"{name} is {named(record[name])}, not from {scale[0]:g} to {scale[1]:g}"
        raise RowError(told, where=where, do="`ktodata label` takes ratings of any scale, with conditions of your own")
    return value


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
