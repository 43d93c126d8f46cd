"""Packs without rows, for processes that must run as many forward passes as the others.

Where weights are sharded, each pass over the model is a conversation: a process with fewer packs than another would
leave it waiting for ever. It runs packs of a single token instead, with no scored position: nothing of theirs can
count, and their gradient is zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from ktotrain.batch import Continuation, PackedBatch, Unit
from ktotrain.empty import empty_pack
from ktotrain.packing import Layout
from ktotrain.step import StepPacks


def fill(packs: list[PackedBatch], count: int, layout: Layout) -> list[PackedBatch]:
    """`packs`, and empty ones up to `count`."""
    return packs + [empty_pack(layout)] * (count - len(packs))


def even_out(packs: StepPacks, layout: Layout, most: Callable[[Tensor], Tensor], device: torch.device) -> StepPacks:
    """A step's packs with as many passes of each kind as the process with most of them has.

    Args:
        most: the maximum of a tensor over processes, elementwise.
        device: where `most` takes its tensor.
    """
    mine = [len(packs.reference), len(packs.graded), len(packs.mismatched), int(packs.following is not None)]
    reference, graded, mismatched, follows = most(torch.tensor(mine, device=device)).tolist()
    following = packs.following
    if follows and following is None:
        # A process without rows: `build_packs` lets mismatched pairs follow everywhere or nowhere.
        assert not packs.graded, "every process follows, or none does"
        nothing = torch.zeros(0, dtype=torch.int64)
        token = torch.zeros(1, 0, dtype=torch.int64)
        batch = dataclasses.replace(empty_pack(layout), input_ids_BL=token, position_ids_BL=token, units=(Unit(0, ()),))
        following = Continuation(batch, ((0, 1),), nothing)
    return dataclasses.replace(
        packs,
        reference=fill(packs.reference, reference, layout),
        graded=fill(packs.graded, graded, layout),
        mismatched=fill(packs.mismatched, mismatched, layout),
        following=following,
    )
