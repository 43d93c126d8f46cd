"""The values that travel between the plan, the packs and the model.

Shapes: B rows of a padded layout (1 otherwise), L tokens in each, T = B * L, N scored tokens, R branches.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IdArray: TypeAlias = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TokenizedRow:
    """One row as token ids.

    `group` numbers the distinct prompts among the rows it was read with (same token ids of the prompt alone); rows of
    one group are never each other's mismatched pair. `prompt` numbers the distinct `prompt_ids`, which are what
    prompt and prompt + completion have in common: a tokenizer that merges across the border makes them shorter than
    the prompt alone. `prompt_ids` is never empty; `completion_ids` is uncut. `name` says where the row came from.
    """

    group: int
    prompt: int
    prompt_ids: IdArray
    completion_ids: IdArray
    label: bool
    name: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """A prompt with one completion that is to be scored, already cut to `max_length`.

    `row` is the place within the step of the row the branch belongs to: its own, or, for a mismatched pair, the
    one that lends the prompt.
    """

    row: int
    prompt: int
    prompt_ids: IdArray
    completion_ids: IdArray


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """A prompt and the completions that share it, as fed lengths in tokens, in the order in which they lie in a pack.

    The first completion follows the prompt directly; each one attends to the prompt and to itself.
    """

    prompt: int
    completions: tuple[int, ...]

    @property
    def size(self) -> int:
        """Tokens of the unit."""
        return self.prompt + sum(self.completions)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PackedBatch:
    """One forward's input, and where its scored tokens are: the same for every layout.

    `input_ids_BL` and `position_ids_BL` are what the model is fed. `mask_BL` (True for real tokens) is there for
    the padded layout only; `units` describes the others, whose B is 1. The log-probability of `target_N[n]` is read
    at flat position `source_N[n]` and belongs to branch `branch_N[n]`, which is row `rows[branch]` of the step.
    The M distinct positions among `source_N` are `needed_M`, in order, and `place_N` is where a source is among them.
    """

    input_ids_BL: Tensor
    position_ids_BL: Tensor
    mask_BL: Tensor | None
    units: tuple[Unit, ...]
    source_N: Tensor
    target_N: Tensor
    branch_N: Tensor
    needed_M: Tensor
    place_N: Tensor
    rows: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens fed, padding not counted."""
        return self.positions if self.mask_BL is None else int(self.mask_BL.sum())

    @property
    def positions(self) -> int:
        """Positions computed, padding included."""
        return self.input_ids_BL.numel()

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch with its tensors on `device`."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Continuation:
    """Further completions of prompts that lie in another batch, and were encoded with it.

    Only the completions are fed (`batch`, whose `units` have prompts of length 0). The prompt of unit u lies at
    `spans[u]` (start, length) of the other batch, and its last token at flat position `last_U[u]` there.
    `batch.source_N` counts the U last prompt tokens first, then the tokens fed.
    """

    batch: PackedBatch
    spans: tuple[tuple[int, int], ...]
    last_U: Tensor

    def to(self, device: torch.device) -> Continuation:
        """The same with its tensors on `device`."""
        return Continuation(self.batch.to(device), self.spans, self.last_U.to(device))


def branch_of(row: int, owner: TokenizedRow, completion: TokenizedRow, *, max_length: int) -> Branch:
    """`owner`'s prompt with the completion of a row (its own, or another's), cut at `max_length` tokens in all."""
    room = max_length - len(owner.prompt_ids)
    return Branch(row, owner.prompt, owner.prompt_ids, completion.completion_ids[:room])
