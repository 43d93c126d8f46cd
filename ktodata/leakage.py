"""How easily a classifier tells negatives from real completions, without seeing the prompt.

What a classifier can see, the policy can learn instead of what was meant: a stray space, a phrase that only negatives
have. The measure is the AUC of a logistic regression on character 1- to 4-grams, over folds that never split a prompt:
.5 is chance, 1 is certainty.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import math
from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

from ktodata.schema import Row, plain

MOST = 2000  # rows of a class that are looked at
FEWEST = 50  # rows of a class below which an AUC says nothing
LONGEST = 4000  # characters of a completion that are looked at
FOLDS = 5
WARN, GIVEN_AWAY = 0.75, 0.95


@dataclasses.dataclass(frozen=True, slots=True)
class Leakage:
    """The AUC by character n-grams and by length alone, and how many negatives they are from.

    NaN where there are too few rows to say anything.
    """

    ngrams: float
    length: float
    negatives: int

    @property
    def verdict(self) -> Literal["too few", "fine", "warn", "given away"]:
        """`warn` over .75, `given away` over .95."""
        if math.isnan(self.ngrams):
            return "too few"
        if self.ngrams > GIVEN_AWAY:
            return "given away"
        return "warn" if self.ngrams > WARN else "fine"

    def __str__(self) -> str:
        if math.isnan(self.ngrams):
            return f"too few rows to say ({self.negatives})"
        alone = f", by length alone {_short(self.length)}" if self.length > WARN else ""
        said = {
            "fine": "",
            "warn": "; over .75, a model may learn to tell them instead of what is meant",
            "given away": "; over .95, they give themselves away",
        }[self.verdict]
        return f"{_short(self.ngrams)}{alone}{said}"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def leakage_of(negatives: Sequence[Row], desirable: Sequence[Row], *, most: int = MOST) -> Leakage:
    """How easily `negatives` are told from the desirable rows they were made of (their parents, found by id).

    Args:
        negatives: rows of one strategy.
        desirable: rows among which their parents are.
        most: rows of a class at most; which ones depends on their ids alone, so the order of rows does not matter.

    Returns:
        The measure; deterministic.
    """
    chosen = sorted(negatives, key=lambda row: _draw(row.id))[:most]
    known = {row.id: row for row in desirable}
    parents = {row.parent_id: known[row.parent_id] for row in chosen if row.parent_id in known}
    return told_apart(sorted(parents.values(), key=lambda row: row.id), sorted(chosen, key=lambda row: row.id))


Of = TypeVar("Of")


class Smallest(Generic[Of]):
    """Of what comes, so many as were asked for: those whose names have the smallest hashes, in whatever order."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._count = 0
        # The largest draw on top: what a smaller one takes the place of. Two that are equal are told apart by their
        # count, as what is kept has no order.
        self._heap: list[tuple[int, str, int, Of]] = []

    def add(self, drawn_by: str, name: str, kept: Of) -> None:
        """One more; `name` decides between equal draws."""
        self._count += 1
        entry = (-int.from_bytes(_draw(drawn_by), "big"), name, self._count, kept)
        if len(self._heap) < self.most:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def kept(self) -> list[Of]:
        """Those that were kept, in no order."""
        return [entry[3] for entry in self._heap]


class Sampled:
    """The rows that `leakage_of` would look at, kept as negatives come, so that no more need be."""

    def __init__(self, most: int = MOST) -> None:
        self._pairs: Smallest[tuple[Row, Row]] = Smallest(most)

    def add(self, negative: Row, parent: Row) -> None:
        """One negative, and the row it was made of."""
        self._pairs.add(negative.id, negative.id, (negative, parent))

    def measure(self) -> Leakage:
        """`leakage_of` all negatives so far."""
        pairs = self._pairs.kept()
        return leakage_of([negative for negative, _ in pairs], [parent for _, parent in pairs])


def _draw(row_id: str) -> bytes:
    return hashlib.blake2b(row_id.encode(), digest_size=8).digest()


def told_apart(desirable: Sequence[Row], undesirable: Sequence[Row]) -> Leakage:
    """The measure between two sets of rows, all of which are looked at."""
    rows = [*desirable, *undesirable]
    groups = [row.prompt_id for row in rows]
    if min(len(desirable), len(undesirable)) < FEWEST or len(set(groups)) < FOLDS:
        return Leakage(math.nan, math.nan, len(undesirable))
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    texts = [plain(row.completion)[:LONGEST] for row in rows]
    labels = np.array([True] * len(desirable) + [False] * len(undesirable))
    model = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 4), lowercase=False, min_df=2, sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=1000, solver="liblinear", random_state=0),
    )
    folds = list(GroupKFold(FOLDS).split(texts, labels, groups))
    if any(len(np.unique(labels[learned])) < 2 for learned, _ in folds):  # one prompt has all rows of a class
        return Leakage(math.nan, math.nan, len(undesirable))
    try:
        scores = cross_val_predict(model, texts, labels, cv=folds, method="decision_function")
    except ValueError as error:
        if "no terms remain" not in str(error) and "empty vocabulary" not in str(error):
            raise
        scores = np.zeros(len(labels))  # no piece of a text comes twice: there is nothing to tell them by
    by_length = roc_auc_score(labels, np.array([len(plain(row.completion)) for row in rows]))
    return Leakage(float(roc_auc_score(labels, scores)), float(max(by_length, 1 - by_length)), len(undesirable))
