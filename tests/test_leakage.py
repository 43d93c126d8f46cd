"""The AUC of negatives against what they were made of: what it says, and what it does not depend on."""

import random
import re

import pytest

from ktodata.leakage import FEWEST, MOST, Leakage, leakage_of
from ktodata.schema import Row, make_row, plain

WORDS = re.findall(
    r"\w+", "yeah sure i can bring the pizza tomorrow if you want to watch that movie with us again maybe"
)


def rows_of(count: int) -> list[Row]:
    rng = random.Random(3)
    return [
        make_row(f"p{n}", " ".join(rng.sample(WORDS, 9)), True, source="s", origin="feedback") for n in range(count)
    ]


def negatives_of(rows: list[Row], change: str) -> list[Row]:
    rng = random.Random(4)
    made = []
    for row in rows:
        text = plain(row.completion)
        text = {
            "shuffled words": lambda text: " ".join(rng.sample(text.split(), 9)),
            "a mark": lambda text: text + " §",
        }[change](text)
        made.append(make_row(row.prompt, text, False, source="s", origin="synthetic", strategy="x", parent_id=row.id))
    return made


def test_chance_and_certainty() -> None:
    rows = rows_of(200)
    mark = leakage_of(negatives_of(rows, "a mark"), rows)
    assert mark.ngrams == 1
    assert mark.verdict == "given away"
    assert str(mark) == "1.000; over .95, they give themselves away"
    # These words are in no order to begin with.
    shuffled = leakage_of(negatives_of(rows, "shuffled words"), rows)
    assert shuffled.ngrams < 0.75
    assert shuffled.verdict == "fine"
    assert shuffled.length == pytest.approx(0.5, abs=0.01)


def test_the_order_of_rows_does_not_matter_and_only_so_many_are_looked_at() -> None:
    rows = rows_of(MOST + 300)
    made = negatives_of(rows, "shuffled words")
    sample = made[: MOST + 100]
    first = leakage_of(sample, rows, most=300)
    assert first == leakage_of(sample[::-1], rows[::-1], most=300)
    assert first.negatives == 300


@pytest.mark.parametrize("count", [0, 1, FEWEST - 1])
def test_too_few_is_said(count: int) -> None:
    rows = rows_of(count)
    found = leakage_of(negatives_of(rows, "a mark"), rows)
    assert found.verdict == "too few"
    assert str(found) == f"too few rows to say ({count})"


def test_verdicts() -> None:
    said = [Leakage(auc, 0.5, 100).verdict for auc in (0.3, 0.75, 0.76, 0.95, 0.951)]
    assert said == ["fine", "fine", "warn", "warn", "given away"]
    assert "by length alone .800" in str(Leakage(0.8, 0.8, 100))
