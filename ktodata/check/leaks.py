"""How easily the classes are told apart without the prompt, by length and by characters, and by what.

For each strategy its negatives against real completions, and the undesirable rows that are not synthetic against the
desirable ones. Some rows of each are looked at, those with the smallest hashes, so that neither the order of rows nor
their number matters; of negatives these are the ones made of the completions that are looked at.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from ktodata.check.finding import Finding, Verdict
from ktodata.check.look import Look
from ktodata.leakage import FEWEST, GIVEN_AWAY, WARN, Leakage, Smallest, told_apart
from ktodata.schema import Row, plain

MOST = 1000  # rows of a class that are looked at, which gives the AUC to about .02
SHOWN = 5
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
REAL = "real rows"


class Leaks:
    """A finding for each strategy; it holds some rows of each."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._desirable: Smallest[Row] = Smallest(most)
        self._negatives: dict[str, Smallest[Row]] = {}

    def add(self, look: Look) -> None:
        """See one row."""
        row = look.row
        if row.label:
            self._desirable.add(row.id, row.id, row)
        else:
            kept = self._negatives.setdefault(row.strategy, Smallest(self.most))
            kept.add(row.parent_id or row.id, row.id, row)

    def findings(self) -> list[Finding]:
        """One for each strategy, and one for rows that are not synthetic."""
        desirable = _by_id(self._desirable)
        found = [_finding(name or REAL, desirable, _by_id(kept)) for name, kept in sorted(self._negatives.items())]
        return found or [Finding("leakage", "skipped", "no undesirable rows")]


def _by_id(rows: Smallest[Row]) -> list[Row]:
    return sorted(rows.kept(), key=lambda row: row.id)


def _finding(name: str, desirable: Sequence[Row], undesirable: Sequence[Row]) -> Finding:
    found = told_apart(desirable, undesirable)
    title = f"leakage: {name}"
    figures: dict[str, Any] = {"strategy": "" if name == REAL else name, "undesirable": len(undesirable)}
    if math.isnan(found.ngrams):
        return Finding(
            title,
            "skipped",
            f"too few rows or prompts to say: {FEWEST} rows of each class are needed, of several prompts",
            figures,
        )
    tokens = tell_tales(desirable, undesirable)
    figures |= {
        "auc_ngrams": round(found.ngrams, 4),
        "auc_length": round(found.length, 4),
        "tokens": [{"token": token, "desirable": one, "undesirable": other} for token, one, other in tokens],
    }
    verdict = _verdict(found)
    told = [f"{token!r}: in {other:.0%} of undesirable, {one:.0%} of desirable rows" for token, one, other in tokens]
    do = "A model may learn to tell them, instead of what is meant; see the tell-tale tokens"
    return Finding(
        title,
        verdict,
        f"told apart with an AUC of {found.ngrams:.3f} by characters, {found.length:.3f} by length alone",
        figures,
        told,
        do if verdict != "pass" else "",
    )


def _verdict(found: Leakage) -> Verdict:
    worst = max(found.ngrams, found.length)
    return "fail" if worst > GIVEN_AWAY else "warn" if worst > WARN else "pass"


def tell_tales(
    desirable: Sequence[Row], undesirable: Sequence[Row], most: int = SHOWN
) -> list[tuple[str, float, float]]:
    """The tokens (words, signs, white space) whose share of completions differs most between the classes.

    Returns:
        Each token, and the shares of desirable and of undesirable completions that have it.
    """
    one, other = _shares(desirable), _shares(undesirable)
    tokens = sorted(one.keys() | other.keys(), key=lambda token: (-abs(one[token] - other[token]), token))
    return [(token, one[token], other[token]) for token in tokens[:most] if one[token] != other[token]]


def _shares(rows: Sequence[Row]) -> defaultdict[str, float]:
    """The share of completions that have each token."""
    seen: Counter[str] = Counter()
    for row in rows:
        seen.update(set(_TOKEN.findall(plain(row.completion))))
    return defaultdict(float, {token: count / len(rows) for token, count in seen.items()})
