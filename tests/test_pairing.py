"""Mismatched pairs: never a row's own prompt, each completion once where a rotation serves."""

from hypothesis import given
from hypothesis import strategies as st

from ktotrain.pairing import mismatched_pairs


def test_unique_prompts_rotate_by_one() -> None:
    assert mismatched_pairs([5, 6, 7, 8]) == (3, 0, 1, 2)


def test_contiguous_groups_rotate_by_the_largest_group() -> None:
    assert mismatched_pairs([0, 0, 1, 1, 1, 2, 2, 3]) == tuple((i - 3) % 8 for i in range(8))


def test_the_smallest_rotation_is_taken() -> None:
    # 1 and 2 would pair a prompt with itself (0 1 0 ...), 3 does not.
    assert mismatched_pairs([0, 1, 0, 2, 3, 3]) == tuple((i - 3) % 6 for i in range(6))


def test_a_majority_prompt_steps_back_to_the_nearest_other() -> None:
    # Three of five rows share a prompt: no rotation serves.
    assert mismatched_pairs([0, 0, 0, 1, 2]) == (4, 4, 4, 2, 3)


def test_one_prompt_has_no_mismatched_pair() -> None:
    assert mismatched_pairs([4, 4, 4]) == ()
    assert mismatched_pairs([4]) == ()
    assert mismatched_pairs([]) == ()


@given(st.lists(st.integers(0, 5), max_size=30))
def test_pairs_are_mismatched_and_use_each_completion_once_if_any_rotation_can(prompts: list[int]) -> None:
    pairs = mismatched_pairs(prompts)
    if len(set(prompts)) < 2:
        assert pairs == ()
        return
    count = len(prompts)
    assert len(pairs) == count
    assert all(prompts[row] != prompts[other] for row, other in enumerate(pairs))
    rotations = [k for k in range(1, count) if all(prompts[row] != prompts[(row - k) % count] for row in range(count))]
    if rotations:
        assert pairs == tuple((row - rotations[0]) % count for row in range(count))
