"""What stands for attention masks while a model is fed packs.

The segments of a pack say who sees whom, so transformers is told to build no mask. But some models put their sliding
window into the mask and nowhere else (Qwen2-MoE, PhiMoE), and others put more there: chunks, blocks that see all of
themselves. So of each mask that is asked for, a window goes on to the layers that are given the mask, and `Asked`
holds its definition, which `ktotrain.trial` looks at: whatever else it hides or shows cannot be served.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

MaskFunction: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether (row of the batch, head, query, key) meet, as transformers defines masks: tensors of indices, any shape."""

# Pairs of these places are looked at, besides all of a short row and those around a window's end.
PLACES = tuple(2**power for power in range(18))
SHORT = 40
OWN_MASKS = "its layers make attention masks of their own"


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Stands for a causal mask in which a query sees `size` keys at most, itself included."""

    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """A mask that a model asked for: its definition, and the window that came with it (0: none)."""

    function: MaskFunction
    window: int

    def trouble(self, device: torch.device) -> str:
        """Why it is not a plain causal mask with that window, or ""."""
        pairs = {(query, key) for query in range(SHORT) for key in range(SHORT)}
        pairs |= {(query, key) for query in PLACES for key in (*PLACES, query - 1, 0)}
        ends = (self.window, self.window + 1, 2 * self.window, 2 * self.window + 1) if self.window else ()
        pairs |= {(end, max(0, end - self.window + step)) for end in ends for step in (-1, 0, 1)}
        query, key = torch.tensor(sorted(pairs), device=device).T
        nothing = torch.zeros_like(query)
        try:
            seen = self.function(nothing, nothing, query, key).expand(query.shape)
        except (TypeError, RuntimeError, ValueError, AttributeError, IndexError):
            return "its attention mask is of a kind of its own"
        expected = (key <= query) & (query - key < self.window) if self.window else key <= query
        return "" if torch.equal(seen, expected) else "its attention mask is not a causal one with at most a window"


_asked: list[Asked] | None = None


@contextlib.contextmanager
def noted_masks() -> Iterator[list[Asked]]:
    """The masks that a model asks for within: filled as it does."""
    global _asked  # transformers calls a function that it knows by name; there is nothing else to hang them on
    before, _asked = _asked, []
    try:
        yield _asked
    finally:
        _asked = before


def stand_in(*_: Any, mask_function: MaskFunction, local_size: int | None = None, **__: Any) -> Window | None:
    """What transformers takes for a mask: None for a plain causal one, the window where there is one.

    Called as `AttentionMaskInterface` has it, since 5.3: by name, `local_size` is a window's (or a chunk's) size.
    """
    if _asked is not None:
        _asked.append(Asked(mask_function, local_size or 0))
    return Window(local_size) if local_size else None
