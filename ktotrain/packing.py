"""From the branches of a step to packs: what one forward is fed.

Four layouts give the same numbers:
    shared   [1, T]: each prompt once, followed by its completions (prefix sharing). Needs ragged attention.
    packed   [1, T]: each branch with its own copy of the prompt. Needs ragged attention, shares nothing.
    padded   [B, L]: a branch a row, padded at the end, for models that know nothing else.
    alone    [1, L]: a branch to a pack, for models to which even a neighbour's length matters.

The last token of a completion predicts nothing that is scored, so it is never fed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch

from ktotrain.batch import Branch, Continuation, IdArray, PackedBatch, Unit

Layout: TypeAlias = Literal["shared", "packed", "padded", "alone"]


def pack(branches: Sequence[Branch], *, pack_tokens: int, layout: Layout, pad_id: int = 0) -> list[PackedBatch]:
    """The packs for some branches of a step, each of at most `pack_tokens` positions.

    Branches of one prompt go into one pack as far as they fit. Which branch lies in which pack depends on the
    branches and `pack_tokens` alone.

    Raises:
        ValueError: a branch alone exceeds `pack_tokens`; `longest_branch` lets callers ask before.
    """
    if layout in ("padded", "alone"):
        groups = _padded_groups(branches, pack_tokens, alone=layout == "alone")
        return [_padded(group, pad_id) for group in groups]
    units = _units(branches, pack_tokens, share=layout == "shared")
    return [_ragged(bin_) for bin_ in _first_fit([_fed(unit) for unit in units], units, pack_tokens)]


def longest_branch(branches: Sequence[Branch]) -> int:
    """Positions that the longest branch needs in a pack of its own: the least `pack_tokens` that serves."""
    return max(_fed([branch]) for branch in branches)


def even_share(branches: Sequence[Branch], processes: int) -> int:
    """Tokens of a pack such that about `processes` packs hold all branches: so that nobody stays idle."""
    fed = sum(len(branch.completion_ids) - 1 for branch in branches)
    fed += sum(len(prompt) for prompt in {branch.prompt: branch.prompt_ids for branch in branches}.values())
    return max(longest_branch(branches), -(-fed // processes))


def _fed(unit: Sequence[Branch]) -> int:
    """Tokens fed for branches that share their prompt."""
    return len(unit[0].prompt_ids) + sum(len(branch.completion_ids) - 1 for branch in unit)


def _units(branches: Sequence[Branch], pack_tokens: int, *, share: bool) -> list[list[Branch]]:
    """Branches by prompt, in order of first appearance; a prompt whose branches exceed a pack is repeated."""
    units: list[list[Branch]] = []
    open_unit: dict[int, list[Branch]] = {}
    for branch in branches:
        if _fed([branch]) > pack_tokens:
            raise ValueError(f"a branch of {_fed([branch])} tokens exceeds pack_tokens = {pack_tokens}")
        unit = open_unit.get(branch.prompt) if share else None
        if unit is None or _fed([*unit, branch]) > pack_tokens:
            unit = open_unit[branch.prompt] = []
            units.append(unit)
        unit.append(branch)
    return units


def _first_fit(sizes: Sequence[int], units: Sequence[list[Branch]], capacity: int) -> list[list[list[Branch]]]:
    """Bins of units by first fit, longest first: at most 11/9 of the fewest bins possible."""
    bins: list[list[list[Branch]]] = []
    room: list[int] = []
    for index in sorted(range(len(units)), key=lambda i: -sizes[i]):
        place = next((i for i, free in enumerate(room) if free >= sizes[index]), None)
        if place is None:
            place = len(bins)
            bins.append([])
            room.append(capacity)
        bins[place].append(units[index])
        room[place] -= sizes[index]
    return bins


def _ragged(units: Sequence[Sequence[Branch]]) -> PackedBatch:
    """One [1, T] batch of units laid end to end; each completion's positions restart at the prompt's length."""
    ids: list[IdArray] = []
    positions: list[IdArray] = []
    shapes: list[Unit] = []
    scored = _Scored()
    offset = 0
    for unit in units:
        prompt_ids = unit[0].prompt_ids
        length = len(prompt_ids)
        ids.append(prompt_ids)
        positions.append(np.arange(length, dtype=np.int32))
        last_of_prompt = offset + length - 1
        offset += length
        for branch in unit:
            fed = len(branch.completion_ids) - 1
            ids.append(branch.completion_ids[:fed])
            positions.append(np.arange(length, length + fed, dtype=np.int32))
            scored.add(branch, np.concatenate(([last_of_prompt], np.arange(offset, offset + fed))))
            offset += fed
        shapes.append(Unit(length, tuple(len(branch.completion_ids) - 1 for branch in unit)))
    return scored.batch(np.concatenate(ids)[None], np.concatenate(positions)[None], None, tuple(shapes))


def continuation(batch: PackedBatch, branches: Sequence[Branch]) -> Continuation:
    """Other completions for prompts of a shared batch, one for each of its rows that `branches` has one for.

    Args:
        batch: a batch of the shared layout.
        branches: by `row`, completions of the same prompts; those of rows that lie in other packs are left out.
    """
    by_row = {branch.row: branch for branch in branches}
    ids: list[IdArray] = []
    positions: list[IdArray] = []
    shapes: list[Unit] = []
    spans: list[tuple[int, int]] = []
    scored = _Scored()
    start = taken = offset = 0
    for number, unit in enumerate(batch.units):
        lengths: list[int] = []
        for row in batch.rows[taken : taken + len(unit.completions)]:
            if row not in by_row:
                continue
            branch = by_row[row]
            fed = len(branch.completion_ids) - 1
            ids.append(branch.completion_ids[:fed])
            positions.append(np.arange(unit.prompt, unit.prompt + fed, dtype=np.int32))
            first = len(batch.units) + offset
            scored.add(branch, np.concatenate(([number], np.arange(first, first + fed))))
            lengths.append(fed)
            offset += fed
        shapes.append(Unit(0, tuple(lengths)))
        spans.append((start, unit.prompt))
        taken, start = taken + len(unit.completions), start + unit.size
    fed_batch = scored.batch(np.concatenate(ids)[None], np.concatenate(positions)[None], None, tuple(shapes))
    return Continuation(fed_batch, tuple(spans), torch.tensor([start + length - 1 for start, length in spans]))


def _padded_groups(branches: Sequence[Branch], pack_tokens: int, *, alone: bool) -> list[list[Branch]]:
    """Branches of similar length together, so that rows x longest stays within `pack_tokens`; or each `alone`."""
    groups: list[list[Branch]] = []
    for branch in sorted(branches, key=lambda branch: -_fed([branch])):
        if _fed([branch]) > pack_tokens:
            raise ValueError(f"a branch of {_fed([branch])} tokens exceeds pack_tokens = {pack_tokens}")
        if alone or not groups or _fed(groups[-1][:1]) * (len(groups[-1]) + 1) > pack_tokens:
            groups.append([])
        groups[-1].append(branch)
    return groups


def _padded(branches: Sequence[Branch], pad_id: int) -> PackedBatch:
    """One [B, L] batch, padded at the end."""
    width = max(_fed([branch]) for branch in branches)
    ids = np.full((len(branches), width), pad_id, dtype=np.int32)
    mask = np.zeros((len(branches), width), dtype=bool)
    scored = _Scored()
    for index, branch in enumerate(branches):
        row = np.concatenate((branch.prompt_ids, branch.completion_ids[:-1]))
        ids[index, : len(row)], mask[index, : len(row)] = row, True
        first = index * width + len(branch.prompt_ids) - 1
        scored.add(branch, np.arange(first, first + len(branch.completion_ids)))
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), ids.shape)
    return scored.batch(ids, positions, mask, ())


class _Scored:
    """Collects the scored tokens of a batch."""

    def __init__(self) -> None:
        self.sources: list[np.ndarray[tuple[int, ...], np.dtype[np.int_]]] = []
        self.branches: list[Branch] = []

    def add(self, branch: Branch, source: np.ndarray[tuple[int, ...], np.dtype[np.int_]]) -> None:
        self.branches.append(branch)
        self.sources.append(source)

    def batch(
        self,
        ids: np.ndarray[tuple[int, ...], np.dtype[np.int32]],
        positions: np.ndarray[tuple[int, ...], np.dtype[np.int32]],
        mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] | None,
        units: tuple[Unit, ...],
    ) -> PackedBatch:
        """The batch whose flat positions the sources are."""
        lengths = [len(branch.completion_ids) for branch in self.branches]
        targets = np.concatenate([branch.completion_ids for branch in self.branches])
        sources = np.concatenate(self.sources).astype(np.int64)
        needed, place = np.unique(sources, return_inverse=True)
        return PackedBatch(
            input_ids_BL=torch.from_numpy(ids.astype(np.int64)),
            position_ids_BL=torch.from_numpy(positions.astype(np.int64)),
            mask_BL=None if mask is None else torch.from_numpy(mask),
            units=units,
            source_N=torch.from_numpy(sources),
            target_N=torch.from_numpy(targets.astype(np.int64)),
            needed_M=torch.from_numpy(needed),
            place_N=torch.from_numpy(place),
            branch_N=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
            rows=tuple(branch.row for branch in self.branches),
        )
