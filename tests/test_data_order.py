"""The order of rows: a function of the set and the seed, mixed, neighbours different where they can be."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orders import clashes, training_order

from ktodata import stretches
from ktodata.order import MAX_RUN, Keys, arrange, longest_run
from ktodata.schema import Row, make_row

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=40)


def rows_of(parts: list[tuple[int, int, bool]]) -> list[Row]:
    return [make_row(f"p{p}", f"c{c}", label, source=f"s{n}", origin="pair") for n, (p, c, label) in enumerate(parts)]


def pairs(count: int, undesirable: float = 1.0, seed: int = 0) -> list[Row]:
    """Both completions of each prompt, or only the desirable one."""
    rng = random.Random(seed)
    labels = [(n, label) for n in range(count) for label in (True, False) if label or rng.random() < undesirable]
    return [make_row(f"p{n}", f"c{n} {label}", label, source="s", origin="pair") for n, label in labels]


@given(ROWS, st.integers(0, 3), st.randoms())
def test_order_is_a_permutation_that_only_the_set_and_the_seed_decide(
    parts: list[tuple[int, int, bool]], seed: int, rng: random.Random
) -> None:
    rows = rows_of(parts)
    ordered = training_order(rows, seed=seed)
    assert sorted(ordered, key=lambda row: row.source) == sorted(rows, key=lambda row: row.source)
    rng.shuffle(rows)
    assert training_order(rows, seed=seed) == ordered


def test_another_seed_is_another_order() -> None:
    rows = pairs(50)
    assert training_order(rows, seed=1) != training_order(rows, seed=2)


def shared(parts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """How many neighbours have one prompt, and how many one completion."""
    pairs_of = list(itertools.pairwise(parts))
    return sum(one[0] == other[0] for one, other in pairs_of), sum(one[1] == other[1] for one, other in pairs_of)


def partitions(count: int) -> Iterator[list[int]]:
    """Every way to share out so many rows: numbered from 0 in the order they come."""
    found = [[0]] if count else [[]]
    for _ in range(count - 1):
        found = [[*one, new] for one in found for new in range(max(one) + 2)]
    yield from found


def tiny_sets(count: int) -> Iterator[list[tuple[int, int]]]:
    """The prompts and completions of all sets of so many rows, but for names and the order they come in."""
    for prompts in partitions(count):
        sizes = [prompts.count(one) for one in range(max(prompts, default=-1) + 1)]
        if prompts == sorted(prompts) and sizes == sorted(sizes):
            for completions in partitions(count):
                yield list(zip(prompts, completions, strict=True))


def fewest(parts: list[tuple[int, int]]) -> tuple[int, int]:
    """`shared` of the best order, by looking at all of them; it has the fewest of one prompt first."""
    best = (len(parts), len(parts))

    def go_on(last: tuple[int, int] | None, left: list[tuple[int, int]], prompts: int, completions: int) -> None:
        nonlocal best
        if (prompts, completions) >= best:
            return
        if not left:
            best = prompts, completions
        for place, one in enumerate(left):
            if one not in left[:place]:
                same = (last[0] == one[0], last[1] == one[1]) if last else (False, False)
                go_on(one, left[:place] + left[place + 1 :], prompts + same[0], completions + same[1])

    go_on(None, parts, 0, 0)
    return best


def arranged(parts: Sequence[tuple[int, int]], labels: Sequence[bool], seed: int) -> tuple[int, int]:
    numbers = np.array(parts, dtype=np.uint64).reshape(-1, 2)
    keys = Keys(np.arange(len(parts), dtype=np.uint64), numbers[:, 0], numbers[:, 1], np.array(labels, dtype=bool))
    order_of = arrange(keys, seed=seed).tolist()
    assert sorted(order_of) == list(range(len(parts)))
    return shared([parts[place] for place in order_of])


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, pytest.param(6, marks=pytest.mark.slow)])
def test_no_order_of_few_rows_has_fewer_neighbours_of_one_prompt_or_then_of_one_completion(count: int) -> None:
    """All sets of so many rows, against all of their orders."""
    for number, parts in enumerate(tiny_sets(count)):
        labels = [bool(place + number & 1) if number & 2 else place >= count / 2 for place in range(count)]
        assert arranged(parts, labels, number % 7) == fewest(parts), (parts, labels)


@pytest.mark.parametrize("seed", range(8))
def test_completions_give_way_to_prompts(seed: int) -> None:
    parts = [(0, 0, True), (0, 1, False), (1, 0, True), (1, 1, False)]
    ordered = training_order(rows_of(parts), seed=seed)
    assert shared([(int(str(row.prompt)[1:]), int(str(row.completion)[1:])) for row in ordered]) == (0, 1)


def test_no_avoidable_neighbours_of_one_prompt_however_completions_stand_in_the_way() -> None:
    for case in range(150):
        rng = random.Random(case)
        count = rng.choice([7, 8, 9, 12, 20, 40])
        prompts, completions = rng.choice([2, 3, 5]), rng.choice([1, 2, 3, 5])
        parts = [(rng.randrange(prompts), rng.randrange(completions)) for _ in range(count)]
        largest = max(Counter(prompt for prompt, _ in parts).values())
        labels = [rng.random() < 0.5 for _ in parts]
        assert arranged(parts, labels, 0)[0] == max(0, 2 * largest - count - 1), parts


def test_no_avoidable_clash_and_no_long_run_among_few_prompts_and_completions() -> None:
    for case in range(150):
        rng = random.Random(case)
        size, share = rng.choice([30, 200, 1500]), rng.choice([0.3, 0.5, 0.7])
        prompts, completions = rng.choice([3, 6, 40, 1000]), rng.choice([3, 6, 40, 1000])
        # Different ones: rows that agree to the letter have been dropped before.
        parts = {(rng.randrange(prompts), rng.randrange(completions), rng.random() < share) for _ in range(size)}
        rows = rows_of(sorted(parts))
        ordered = training_order(rows, seed=case)
        texts = [Counter(row.prompt for row in rows), Counter(row.completion for row in rows)]  # type: ignore[misc]
        heaviest = max(max(counts.values()) for counts in texts)
        assert clashes(ordered) == max(0, 2 * heaviest - len(rows) - 1)
        desirable = sum(row.label for row in rows)
        if max(desirable, len(rows) - desirable) <= 3 * min(desirable, len(rows) - desirable):
            assert longest_run([row.label for row in ordered]) <= MAX_RUN


def test_a_row_left_over_at_the_end_finds_a_place_earlier() -> None:
    for case in (1, 6, 11, 13, 17):
        rng = random.Random(case)
        parts = [(rng.randrange(6), rng.randrange(10), rng.random() < 0.5) for _ in range(1100)]  # with duplicates
        assert clashes(training_order(rows_of(parts), seed=0)) == 0


def test_neighbours_differ_and_classes_mix_up_to_three_to_one() -> None:
    for share in (1.0, 0.7, 0.34):
        for seed in range(5):
            ordered = training_order(pairs(600, share, seed), seed=seed)
            assert clashes(ordered) == 0
            assert longest_run([row.label for row in ordered]) <= MAX_RUN


def test_the_two_classes_are_spread_evenly() -> None:
    labels = [row.label for row in training_order(pairs(2000, 0.25), seed=0)]
    share = sum(labels) / len(labels)
    for start in range(0, len(labels) - 100, 100):
        assert abs(sum(labels[start : start + 100]) / 100 - share) < 0.1


def test_equal_after_normalising_is_equal() -> None:
    texts = ["yes", " YES", "Yes\n", "no", "NO ", "no\n"]
    rows = [make_row(f"p{n}", text, True, source="s", origin="pair") for n, text in enumerate(texts)]
    assert clashes(training_order(rows, seed=0)) == 0
    assert clashes(rows) == 4
    same = [make_row(text, f"c{n}", True, source="s", origin="pair") for n, text in enumerate(texts)]
    assert clashes(training_order(same, seed=0)) == 0


def test_a_prompt_or_completion_with_half_of_all_rows_is_spread() -> None:
    for one_class in (True, False):
        rows = [
            make_row(
                "same" if n < 500 else f"p{n}", f"c{n}", n < 500 if one_class else n % 2 == 0, source="", origin="pair"
            )
            for n in range(1000)
        ]
        assert clashes(training_order(rows, seed=0)) == 0
    rows = [make_row("p" if n % 2 else f"p{n}", f"c{n}", n % 3 == 0, source="", origin="pair") for n in range(5001)]
    assert clashes(training_order(rows, seed=0)) == 0
    rows = [
        make_row(f"p{n}", "Sorry." if n < 500 else f"c{n}", n >= 500, source="", origin="pair") for n in range(1000)
    ]
    assert clashes(training_order(rows, seed=0)) == 0


def test_what_cannot_be_avoided_is_kept_to_the_least() -> None:
    rows = [
        make_row("same" if n < 700 else f"p{n}", f"c{n}", n % 2 == 0, source="", origin="pair") for n in range(1000)
    ]
    assert clashes(training_order(rows, seed=0)) == 700 - 301


def heavy(size: int, share: float, its: float, others: float, rng: random.Random) -> list[Row]:
    """Rows of which about so many have one prompt, with these shares of desirable ones there and elsewhere."""
    ours = [rng.random() < share for _ in range(size)]
    labels = [rng.random() < (its if one else others) for one in ours]
    parts = zip(ours, labels, strict=True)
    return [
        make_row("P" if one else f"q{n}", f"c{n}", label, source="", origin="pair")
        for n, (one, label) in enumerate(parts)
    ]


def within(rows: list[Row], ratio: float) -> bool:
    desirable = sum(row.label for row in rows)
    return max(desirable, len(rows) - desirable) <= ratio * min(desirable, len(rows) - desirable)


SHARES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
HEAVY = st.tuples(st.floats(0.4, 0.98), SHARES, SHARES, st.integers(0, 10_000))


@settings(max_examples=100, deadline=None)
@given(st.integers(10, 120), HEAVY)
def test_runs_are_short_even_where_one_prompt_has_most_rows(size: int, drawn: tuple[float, float, float, int]) -> None:
    rows = heavy(size, *drawn[:3], random.Random(drawn[3]))
    ordered = training_order(rows, seed=0)
    if within(rows, 3):
        assert longest_run([row.label for row in ordered]) <= MAX_RUN
    most = sum(row.prompt == "P" for row in rows)
    assert clashes(ordered) == max(0, 2 * most - len(rows) - 1)


@settings(max_examples=15, deadline=None)
@given(st.integers(500, 1500), HEAVY)
@pytest.mark.slow
def test_runs_are_short_across_stretches_too(size: int, drawn: tuple[float, float, float, int]) -> None:
    rows = heavy(size, *drawn[:3], random.Random(drawn[3]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretches, "STRETCH", 300)
        ordered = training_order(rows, seed=0)
    if within(rows, 2.9):  # a stretch has this ratio but for a row or two
        assert longest_run([row.label for row in ordered]) <= MAX_RUN


def test_all_rows_of_one_prompt_and_label_go_between_the_others() -> None:
    for most, others in ((15, 5), (300, 100), (3_000, 1_010)):
        rows = [
            make_row("P" if n < most else f"q{n}", f"c{n}", n < most, source="", origin="pair")
            for n in range(most + others)
        ]
        ordered = training_order(rows, seed=0)
        assert longest_run([row.label for row in ordered]) <= MAX_RUN
        assert clashes(ordered) == most - others - 1


def test_no_rows_one_row_one_class() -> None:
    assert training_order([], seed=0) == []
    assert len(training_order(pairs(1, 0), seed=0)) == 1
    assert len(training_order(pairs(100, 0), seed=0)) == 100


@pytest.mark.slow
def test_time_grows_about_linearly() -> None:
    def seconds(count: int) -> float:
        rows = pairs(count)
        start = time.process_time()
        training_order(rows, seed=0)
        return time.process_time() - start

    small, large = min(seconds(2000) for _ in range(2)), seconds(20_000)
    assert large < 40 * small + 0.5
    one_prompt = [make_row("p", f"c{n}", n % 2 == 0, source="", origin="pair") for n in range(10_000)]
    start = time.process_time()
    training_order(one_prompt, seed=0)
    assert time.process_time() - start < 5
