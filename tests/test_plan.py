"""The plan: a pure function of rows, seed, epoch and batch size; groups together; both classes in every step."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktotrain.pairing import mismatched_pairs
from ktotrain.plan import Step, plan_epoch, plan_run


def epoch_of(prompts: list[int], labels: list[bool], batch_size: int, *, seed: int = 0, epoch: int = 0) -> list[Step]:
    return plan_epoch(prompts, labels, batch_size=batch_size, seed=seed, epoch=epoch, shuffle=True)


def mixed(steps: list[Step], labels: list[bool]) -> int:
    return sum(len({labels[row] for row in step.rows}) == 2 for step in steps)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=80),
    st.integers(1, 20),
    st.integers(0, 3),
)
def test_every_row_once_in_full_steps_with_groups_together(
    drawn: list[tuple[int, bool]], batch_size: int, seed: int
) -> None:
    prompts, labels = [group for group, _ in drawn], [label for _, label in drawn]
    steps = epoch_of(prompts, labels, batch_size, seed=seed)
    order = [row for step in steps for row in step.rows]
    assert sorted(order) == list(range(len(drawn)))
    assert [len(step.rows) for step in steps[:-1]] == [batch_size] * (len(steps) - 1)
    # Over the whole epoch each prompt is one unbroken stretch: within a step, and across a step's end.
    stretches = [prompts[row] for i, row in enumerate(order) if i == 0 or prompts[order[i - 1]] != prompts[row]]
    assert len(stretches) == len(set(prompts))
    for step in steps:
        partners = mismatched_pairs([prompts[row] for row in step.rows])
        assert step.pairs == tuple((place, step.rows[other]) for place, other in enumerate(partners))


@given(st.integers(2, 12), st.integers(2, 16), st.data())
def test_unique_prompts_mix_classes_in_every_step_if_there_are_enough(
    steps: int, batch_size: int, data: st.DataObject
) -> None:
    count = steps * batch_size
    rare = data.draw(st.integers(steps, count // 2), label="rare rows")
    flip = data.draw(st.booleans(), label="rare is desirable")
    labels = [(row < rare) == flip for row in range(count)]
    planned = epoch_of(list(range(count)), labels, batch_size, seed=data.draw(st.integers(0, 5)))
    assert mixed(planned, labels) == steps


def test_a_class_ratio_of_nine_to_one_is_spread_evenly() -> None:
    labels = [row % 10 != 0 for row in range(1000)]
    steps = epoch_of(list(range(1000)), labels, 20)
    assert Counter(sum(not labels[row] for row in step.rows) for step in steps) == {2: 50}


def test_pairs_of_one_prompt_mix_classes_and_stay_together() -> None:
    prompts, labels = [row // 2 for row in range(128)], [row % 2 == 0 for row in range(128)]
    steps = epoch_of(prompts, labels, 16)
    assert mixed(steps, labels) == 8
    assert all(len({prompts[row] for row in step.rows}) == 8 for step in steps)


def test_few_groups_with_the_rare_class_lie_across_step_ends() -> None:
    """Four groups hold all undesirable rows, two each, and there are eight steps: each group serves two of them."""
    prompts = [row // 2 for row in range(8)] + list(range(100, 156))
    labels = [False] * 8 + [True] * 56
    steps = epoch_of(prompts, labels, 8)
    assert mixed(steps, labels) == 8


# (desirable, undesirable) rows of each prompt. Trying all orders finds one that mixes every step; dealing does not.
PUZZLES = [
    ([(1, 1), (3, 1)], 3),
    ([(1, 4), (1, 3)], 6),
    ([(3, 2), (1, 4)], 4),
    ([(0, 1), (0, 2), (5, 0)], 6),
    ([(0, 3), (2, 0), (3, 0)], 5),
    ([(0, 4), (2, 0), (0, 5)], 6),
    ([(3, 0), (4, 1), (2, 2), (1, 1), (0, 3)], 3),
]


@pytest.mark.parametrize(("groups", "batch_size"), PUZZLES, ids=str)
def test_every_step_is_mixed_if_any_order_of_the_groups_can(groups: list[tuple[int, int]], batch_size: int) -> None:
    prompts = [group for group, counts in enumerate(groups) for _ in range(sum(counts))]
    labels = [label for counts in groups for label in (True, False) for _ in range(counts[not label])]
    for seed in range(10):
        steps = epoch_of(prompts, labels, batch_size, seed=seed)
        assert mixed(steps, labels) == len(steps)
        assert steps == epoch_of(prompts, labels, batch_size, seed=seed)


def test_many_replies_to_a_prompt_all_of_one_class() -> None:
    """Ratings of samples: up to six rows a prompt, a quarter of the prompts undesirable, three steps' worth of each."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 7, 300)
    prompts = np.repeat(np.arange(300), sizes).tolist()
    labels = np.repeat(rng.random(300) < 0.75, sizes).tolist()
    steps = epoch_of(prompts, labels, 12)
    assert mixed(steps, labels) == len(steps)


def test_seed_and_epoch_decide_the_order() -> None:
    prompts, labels = list(range(64)), [row % 3 == 0 for row in range(64)]
    first = epoch_of(prompts, labels, 8)
    assert first == epoch_of(prompts, labels, 8)
    others = [epoch_of(prompts, labels, 8, seed=1), epoch_of(prompts, labels, 8, epoch=1)]
    assert all([step.rows for step in other] != [step.rows for step in first] for other in others)


def test_neighbours_are_drawn_at_random() -> None:
    """Rows of the rarer class are dealt first, but do not lie first within a step."""
    labels = [row % 4 == 0 for row in range(400)]
    firsts = [labels[step.rows[0]] for step in epoch_of(list(range(400)), labels, 8)]
    assert 3 < sum(firsts) < 25


def test_no_shuffle_is_file_order() -> None:
    steps = plan_epoch([0] * 3 + [1] * 4, [True] * 7, batch_size=3, seed=5, epoch=2, shuffle=False)
    assert [step.rows for step in steps] == [(0, 1, 2), (3, 4, 5), (6,)]
    assert all(step.pairs == () for step in steps)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"), [(1, 0, 4), (3, 0, 12), (1, 2, 2), (1, 10, 10), (5, 3, 3)]
)
def test_max_steps_goes_before_epochs(epochs: int, max_steps: int, expected: int) -> None:
    prompts, labels = list(range(15)), [row % 2 == 0 for row in range(15)]
    steps = plan_run(prompts, labels, batch_size=4, seed=0, shuffle=True, epochs=epochs, max_steps=max_steps)
    assert len(steps) == expected
    assert [step.epoch for step in steps] == [number // 4 for number in range(expected)]
    if expected > 4:
        assert steps[0].rows != steps[4].rows


def test_a_large_plan_is_quick_enough_to_make_at_start() -> None:
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 60_000, 100_000).tolist()
    labels = (rng.random(100_000) < 0.3).tolist()
    steps = epoch_of(prompts, labels, 32)
    assert mixed(steps, labels) == len(steps) == 3125


def test_a_share_of_the_pairs_is_spread_over_the_step() -> None:
    prompts, labels = list(range(32)), [row % 2 == 0 for row in range(32)]
    how: dict[str, Any] = {"batch_size": 8, "seed": 0, "shuffle": True, "epochs": 1, "max_steps": 0}
    whole = plan_run(prompts, labels, **how)
    half = plan_run(prompts, labels, pair_share=0.5, **how)
    assert [step.rows for step in half] == [step.rows for step in whole]
    for step, other in zip(half, whole, strict=True):
        assert [place for place, _ in step.pairs] == [0, 2, 4, 6]
        assert set(step.pairs) < set(other.pairs)
    assert all(len(step.pairs) == 1 for step in plan_run(prompts, labels, pair_share=0.01, **how))


def test_fixed_pairs_are_the_first_epochs_in_every_epoch() -> None:
    prompts, labels = [row // 2 for row in range(32)], [row % 2 == 0 for row in range(32)]
    how: dict[str, Any] = {"batch_size": 8, "seed": 0, "shuffle": True, "epochs": 3, "max_steps": 0}

    def partners(steps: list[Step]) -> dict[int, int]:
        return {step.rows[place]: lender for step in steps for place, lender in step.pairs}

    fixed, fresh = plan_run(prompts, labels, fixed_pairs=True, **how), plan_run(prompts, labels, **how)
    assert [step.rows for step in fixed] == [step.rows for step in fresh]
    first = partners(fixed[:4])
    assert len(first) == 32
    assert all(prompts[row] != prompts[lender] for row, lender in first.items())
    assert partners(fixed[4:8]) == partners(fixed[8:]) == first == partners(fresh[:4])
    assert partners(fresh[4:8]) != first


def test_a_share_of_fixed_pairs_is_the_same_rows_in_every_epoch() -> None:
    """Else a cache of the reference would lack pairs of later epochs."""
    prompts, labels = [row // 2 for row in range(64)], [row % 2 == 0 for row in range(64)]
    how: dict[str, Any] = {"batch_size": 16, "seed": 0, "shuffle": True, "epochs": 3, "max_steps": 0}
    steps = plan_run(prompts, labels, fixed_pairs=True, pair_share=0.5, **how)

    def pairs(steps: list[Step]) -> set[tuple[int, int]]:
        return {(step.rows[place], lender) for step in steps for place, lender in step.pairs}

    assert len(pairs(steps[:4])) == 32
    assert pairs(steps[4:8]) == pairs(steps[8:]) == pairs(steps[:4])
    # A step without any of those rows has a pair of its own all the same, and the first epoch's partner in it.
    few = plan_run(prompts, labels, fixed_pairs=True, pair_share=0.01, **how)
    assert all(step.pairs for step in few)
    assert pairs(few) <= pairs(plan_run(prompts, labels, fixed_pairs=True, **how))
