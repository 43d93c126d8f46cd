"""Packs: what is fed, at which positions, and which tokens are scored from where."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktotrain.batch import Branch, PackedBatch
from ktotrain.packing import Layout, longest_branch, pack


def branch(row: int, prompt: int, prompt_ids: list[int], completion_ids: list[int]) -> Branch:
    return Branch(row, prompt, np.array(prompt_ids, dtype=np.int32), np.array(completion_ids, dtype=np.int32))


A, B = [11, 12, 13], [21, 22]
BRANCHES = [branch(0, 0, A, [14, 15]), branch(1, 1, B, [23]), branch(2, 0, A, [16, 17, 18])]


def scored(batch: PackedBatch) -> set[tuple[int, int, int, int]]:
    """(row, token before, its position, token to predict) of each scored token."""
    ids, positions = batch.input_ids_BL.flatten(), batch.position_ids_BL.flatten()
    return {
        (batch.rows[b], int(ids[s]), int(positions[s]), int(t))
        for s, t, b in zip(batch.source_N, batch.target_N, batch.branch_N, strict=True)
    }


EXPECTED = {
    (0, 13, 2, 14),
    (0, 14, 3, 15),
    (1, 22, 1, 23),
    (2, 13, 2, 16),
    (2, 16, 3, 17),
    (2, 17, 4, 18),
}


def test_shared_layout() -> None:
    (batch,) = pack(BRANCHES, pack_tokens=100, layout="shared")
    # The prompt once; each completion without its last token, from the position after the prompt.
    assert batch.input_ids_BL.tolist() == [[11, 12, 13, 14, 16, 17, 21, 22]]
    assert batch.position_ids_BL.tolist() == [[0, 1, 2, 3, 3, 4, 0, 1]]
    assert [(unit.prompt, unit.completions) for unit in batch.units] == [(3, (1, 2)), (2, (0,))]
    assert scored(batch) == EXPECTED
    assert batch.tokens == batch.positions == 8


def test_packed_layout() -> None:
    (batch,) = pack(BRANCHES, pack_tokens=100, layout="packed")
    assert sorted(batch.input_ids_BL[0].tolist()) == sorted([*A, 14, *B, *A, 16, 17])
    assert all(len(unit.completions) == 1 for unit in batch.units)
    assert scored(batch) == EXPECTED


def test_padded_layout() -> None:
    (batch,) = pack(BRANCHES, pack_tokens=100, layout="padded", pad_id=9)
    assert batch.input_ids_BL.tolist() == [[11, 12, 13, 16, 17], [11, 12, 13, 14, 9], [21, 22, 9, 9, 9]]
    assert batch.mask_BL is not None
    assert batch.mask_BL.sum(1).tolist() == [5, 4, 2]
    assert batch.units == ()
    assert (batch.tokens, batch.positions) == (11, 15)
    assert scored(batch) == EXPECTED


branches = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 8)), min_size=1, max_size=25).map(
    lambda drawn: [branch(row, p, list(range(3 + p)), [7] * n) for row, (p, n) in enumerate(drawn)]
)


@given(branches, st.integers(0, 40), st.sampled_from(["shared", "packed", "padded"]))
def test_every_branch_is_in_one_pack_and_no_pack_is_too_large(drawn: list[Branch], spare: int, layout: Layout) -> None:
    capacity = longest_branch(drawn) + spare
    packs = pack(drawn, pack_tokens=capacity, layout=layout)
    assert sorted(row for batch in packs for row in batch.rows) == list(range(len(drawn)))
    assert all(batch.positions <= capacity for batch in packs)
    assert sum(len(batch.target_N) for batch in packs) == sum(len(branch.completion_ids) for branch in drawn)
    again = pack(drawn, pack_tokens=capacity, layout=layout)
    assert [batch.rows for batch in again] == [batch.rows for batch in packs]


def test_a_group_too_large_for_a_pack_is_split_and_its_prompt_repeated() -> None:
    group = [branch(row, 0, A, [5, 6, 7]) for row in range(6)]
    packs = pack(group, pack_tokens=7, layout="shared")
    assert [batch.positions for batch in packs] == [7, 7, 7]


def test_a_branch_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="exceeds pack_tokens = 4"):
        pack([branch(0, 0, A, [1, 2, 3])], pack_tokens=4, layout="shared")
