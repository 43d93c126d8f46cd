"""Many rows dealt to stretches of the order: evenly, whatever part of them is handed over first."""

import itertools
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orders import clashes, training_order

from ktodata import stretches
from ktodata.io import Spill
from ktodata.keys import Keys
from ktodata.order import longest_run
from ktodata.schema import Row, make_row
from ktodata.stretches import Dealing

SHARES = st.sampled_from([0.0, 0.34, 0.5, 0.66])  # no deck has few rows then


def keys(count: int, prompt: float, completion: float, desirable: float, seed: int) -> Keys:
    """Rows of which these shares have the prompt 0, the completion 0, the label True."""
    rng = np.random.default_rng(seed)
    own = np.arange(1, count + 1, dtype=np.uint64)
    prompts, completions = (np.where(rng.random(count) < share, 0, own) for share in (prompt, completion))
    return Keys(rng.permutation(own), prompts, completions, rng.random(count) < desirable)


def spread(values: np.ndarray, stretch_of: np.ndarray, count: int) -> int:
    """By how many the stretches differ in rows that have a value."""
    return int(np.ptp(np.bincount(stretch_of[values], minlength=count)))


@settings(max_examples=60)
@given(st.integers(2100, 6000), SHARES, SHARES, st.sampled_from([0.34, 0.5, 0.66]), st.integers(0, 1000))
def test_each_stretch_gets_as_many_of_everything(
    count: int, prompt: float, completion: float, desirable: float, seed: int
) -> None:
    rows = keys(count, prompt, completion, desirable, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretches, "STRETCH", 1000)
        dealing = Dealing(seed, count)
        drawn = dealing.add(rows)
        dealt = dealing.finish()
        stretch_of = dealt.of(rows, drawn)
    assert dealt.count == -(-count // 1000)
    assert spread(np.ones(count, dtype=bool), stretch_of, dealt.count) <= 3
    assert spread(rows.prompts == 0, stretch_of, dealt.count) <= 3
    # Of decks that follow each other stretches have the same number to 2, and more by their share of the 3 rows by
    # which stretches differ: a completion is in two such places at most (one for each prompt's), a label in four.
    assert spread(rows.completions == 0, stretch_of, dealt.count) <= 2 * 2 + 2
    assert spread(rows.labels, stretch_of, dealt.count) <= 4 * 2 + 2
    for below in (0, 2**62, 2**63, 2**64 - 1):
        whole = dealt.whole(below)
        assert (drawn[stretch_of < whole] < below).all()


def test_what_the_dealing_keeps_is_not_the_table(tmp_path: Path) -> None:
    numbers = np.arange(1000, dtype=np.uint64)
    texts = pyarrow.array(["text " * 1000] * 1000)
    with Spill(1, tmp_path, budget=1) as spill:
        spill.add(pyarrow.table([texts, pyarrow.array(numbers)], names=["text", "number"]), np.zeros(1000, dtype=int))
        spill.finish()
        del texts
        before = pyarrow.total_allocated_bytes()
        table = spill.read(0)  # one batch, all columns in one buffer
    assert table is not None
    column = table.column("number").to_numpy()
    assert pyarrow.total_allocated_bytes() - before > 4_000_000
    dealing = Dealing(0, 1000)
    dealing.add(Keys(column, column, column, column > 500))
    del table, column
    assert pyarrow.total_allocated_bytes() - before < 100_000


def half(count: int, most: int, seed: int) -> list[Row]:
    """Rows of which so many have one prompt; a third are undesirable, here and there."""
    rng = random.Random(seed)
    return [
        make_row("P" if n < most else f"q{n}", f"c{n}", rng.random() < 0.67, source="", origin="pair")
        for n in range(count)
    ]


@settings(max_examples=10)
@given(st.integers(250, 900), st.integers(0, 9), st.integers(0, 1000))
def test_a_prompt_with_half_of_the_rows_or_more_meets_itself_where_it_must(count: int, more: int, seed: int) -> None:
    most = (count + 1) // 2 + more
    rows = half(count, most, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretches, "STRETCH", 100)
        ordered = training_order(rows, seed=seed)
        assert training_order(rows[::-1], seed=seed, portion=37) == ordered, "however they are handed over"
    assert Counter(row.id for row in ordered) == Counter(row.id for row in rows)
    assert clashes(ordered) == max(0, 2 * most - count - 1)


@pytest.mark.parametrize("most", [19_996, 20_000, 20_001, 20_003])
@pytest.mark.slow
def test_many_rows_as_they_are_dealt_out(most: int) -> None:
    rows = [make_row("P" if n < most else f"q{n}", f"c{n}", n % 3 > 0, source="", origin="pair") for n in range(40_000)]
    ordered = training_order(rows, seed=0)
    assert clashes(ordered) == max(0, 2 * most - 40_001)
    assert longest_run([row.label for row in ordered]) <= 8


@pytest.mark.parametrize("stretch", [100, pytest.param(0, marks=pytest.mark.slow)])
def test_two_prompts_with_nearly_all_rows_take_turns(stretch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = 1
    if stretch:
        monkeypatch.setattr(stretches, "STRETCH", stretch)
        scale = stretches.STRETCH / 16_384
    for rows, others in ((40_000, 10), (40_001, 3), (50_000, 10), (66_000, 4), (66_000, 2)):
        count = int(rows * scale) - int(rows * scale) % 2 + rows % 2
        first = (count - others) // 2
        prompts = ["A"] * first + ["B"] * (count - others - first) + [f"q{n}" for n in range(others)]
        for seed in range(4 if stretch else 1):
            made = [
                make_row(prompt, f"c{n} {seed}", n % 4 > 0, source="", origin="pair")
                for n, prompt in enumerate(prompts)
            ]
            ordered = training_order(made, seed=seed)
            assert clashes(ordered) == 0
            assert Counter(row.id for row in ordered) == Counter(row.id for row in made)


def test_a_completion_with_half_of_the_rows_meets_itself_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "STRETCH", 128)
    rows = [make_row(f"p{n}", "No." if n % 2 else f"c{n}", n % 3 > 0, source="", origin="pair") for n in range(1280)]
    ordered = training_order(rows, seed=3)
    assert not any(one.completion == other.completion for one, other in itertools.pairwise(ordered))


@pytest.mark.parametrize("others", [0, 2, 30, 300])
def test_labels_of_a_prompt_with_nearly_all_rows_stay_mixed_in_every_stretch(
    others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "STRETCH", 200)
    rows = [
        make_row("P" if n >= others else f"q{n}", f"c{n}", n % 4 > 0, source="", origin="pair") for n in range(1280)
    ]
    ordered = training_order(rows, seed=0)
    assert clashes(ordered) == max(0, 2 * (1280 - others) - 1281)
    assert longest_run([row.label for row in ordered]) <= 8
