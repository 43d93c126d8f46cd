"""The weights that make both classes count alike: section 4 of the design, the paper's rule.

With n_D desirable and n_U undesirable rows the rule is
`1 <= (desirable_weight * n_D) / (undesirable_weight * n_U) <= ratio`, ratio 4/3 in the first edition of the paper
(arXiv 2402.01306) and in TRL, 3/2 in the current edition. One weight stays 1; the rarer class is weighted up.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from ktodata.errors import LONGEST_NAME, KtodataError, UsageError
from ktodata.schema import Row

RATIO = Fraction(4, 3)


class Counts(NamedTuple):
    """Rows of each class."""

    desirable: int
    undesirable: int


@dataclasses.dataclass(frozen=True, slots=True)
class Weights:
    """Both weights, and where the free one may lie.

    `free` names the weight that was chosen (the rarer class's); the other is 1. `low` and `high` are the ends of its
    interval, both allowed. Everything is exact.
    """

    desirable: Fraction
    undesirable: Fraction
    free: str
    low: Fraction
    high: Fraction
    effective: Fraction
    """(desirable_weight * n_D) / (undesirable_weight * n_U)."""


def count_labels(rows: Iterable[Row]) -> Counts:
    """How many rows are desirable, and how many are not."""
    seen = [0, 0]
    for row in rows:
        seen[row.label] += 1
    return Counts(desirable=seen[True], undesirable=seen[False])


def balance_weights(
    n_desirable: int, n_undesirable: int, *, ratio: Fraction = RATIO, target: Fraction | None = None
) -> Weights:
    """The weights by which `(desirable_weight * n_D) / (undesirable_weight * n_U)` is `target`, or 1.

    `ratio` is the upper end of the rule's interval, at least 1. The rarer class's weight is the free one; with equal
    counts the desirable one's.

    Raises:
        KtodataError: a class is absent; no weight can make up for that.
        UsageError: `ratio` is below 1, or `target` lies outside [1, ratio].
    """
    if min(n_desirable, n_undesirable) < 1:
        absent = "desirable" if n_desirable < 1 else "undesirable"
        raise KtodataError(
            f"no {absent} rows ({n_desirable} desirable, {n_undesirable} undesirable)",
            do="KTO needs both classes" + ("; `ktodata negatives` makes undesirable ones" if n_desirable > 0 else ""),
        )
    if ratio < 1:
        raise UsageError(f"ratio {spell(ratio)} is below 1", do="Such as 4:3 or 3:2")
    chosen = Fraction(1) if target is None else target
    if not 1 <= chosen <= ratio:
        raise UsageError(
            f"target {spell(chosen)} is outside the rule's interval [1, {spell(ratio)}]",
            do="Choose one inside, or a wider --ratio",
        )
    if n_desirable <= n_undesirable:
        # w * n_D / n_U in [1, ratio]
        unit = Fraction(n_undesirable, n_desirable)
        return Weights(unit * chosen, Fraction(1), "desirable_weight", unit, unit * ratio, chosen)
    # n_D / (w * n_U) in [1, ratio]: the larger the weight, the smaller the ratio.
    unit = Fraction(n_desirable, n_undesirable)
    return Weights(Fraction(1), unit / chosen, "undesirable_weight", unit / ratio, unit, chosen)


def parse_ratio(text: str, *, name: str = "--ratio") -> Fraction:
    """`4:3`, `4/3`, `1.5` or `2` as an exact number.

    Raises:
        UsageError: it is none of these, or not above 0.
    """
    number = r"(\d{1,18}(?:\.\d{1,18})?)"  # more digits say nothing of a weight, and the most are no float
    match = re.fullmatch(rf"\s*{number}\s*(?:[:/]\s*{number}\s*)?", text, re.ASCII)
    below = Fraction(match[2] or 1) if match else Fraction(0)
    if not match or not below or not Fraction(match[1]):
        shown = text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"
        raise UsageError(f"{name} is {shown!r}", do="Write a ratio or a number above 0, such as 4:3 or 1.2")
    return Fraction(match[1]) / below


def spell(number: Fraction) -> str:
    """A number in at most four decimals, for people: 13.3333, 2.25, 1."""
    return f"{float(number):.4f}".rstrip("0").rstrip(".")


def digits(number: Fraction) -> str:
    """A number as files want it: all digits that a float has, and a point (`13.333333333333334`, `1.0`)."""
    return repr(float(number))


def flags(weights: Weights) -> dict[str, list[str]]:
    """Lines ready to paste, by trainer. Option names: TRL 1.16 KTOConfig, Axolotl 0.8, LLaMA-Factory 0.9."""
    desirable, undesirable = digits(weights.desirable), digits(weights.undesirable)
    return {
        "ktotrain (recipe)": ["[loss]", f"desirable_weight = {desirable}", f"undesirable_weight = {undesirable}"],
        "ktotrain (flags)": [f"--set loss.desirable_weight={desirable} --set loss.undesirable_weight={undesirable}"],
        "TRL (KTOConfig)": [f"desirable_weight={desirable}, undesirable_weight={undesirable}"],
        "Axolotl (YAML)": [f"kto_desirable_weight: {desirable}", f"kto_undesirable_weight: {undesirable}"],
        "LLaMA-Factory (YAML)": [f"kto_chosen_weight: {desirable}", f"kto_rejected_weight: {undesirable}"],
    }
