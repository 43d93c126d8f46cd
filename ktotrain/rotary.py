"""Rotary positions that depend on how long a sequence is: `dynamic` and `longrope` scaling, and what is like them.

transformers takes the longest position of the whole pass for that length, and `dynamic` goes on with the longest of
earlier passes too: so a row's numbers would depend on what lies beside it, and on the order of packs. Here each row of
a pack has the frequencies of its own length, as if it were fed alone to a model that has seen nothing else. A prompt
then looks different to completions of different lengths, so `ktotrain.probe` does not let them share one.

Shapes: T tokens of the pack.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ktotrain.failures import FAILURES

Rotations: TypeAlias = tuple[Tensor, ...]
"""What a rotary embedding gives: cosines and sines [1, T, D], or both as one complex tensor."""

# Longer than any model's rows: what does not change up to here never does.
ENDLESS = 2**24
FEW = 8
STRETCHING = ("dynamic", "longrope")


def length_dependence(decoder: nn.Module, longest: int | None) -> str:
    """How positions of a row of `longest` tokens (None: any number) depend on its length, as a reason; "" if not."""
    for module in _rotary(decoder):
        if not _same(module, longest or ENDLESS):
            most = _undisturbed(module, longest or ENDLESS)
            kind = getattr(module, "rope_type", "scaled")
            return (
                f"rows of more than {most:,} tokens stretch its rotary positions ({kind}), each by its own length: "
                "so prompts are not shared"
            )
    return ""


def by_rows(decoder: nn.Module) -> None:
    """Let every such embedding of a model treat each row of a pack by itself."""
    for module in list(_rotary(decoder)):
        if not isinstance(module, _ByRow) and not _same(module, ENDLESS):
            own = type(module)
            # Under its own name, as `ktotrain.last_layer` does it: copies of the model need not know.
            module.__class__ = type(own.__name__, (_ByRow, own), {"__module__": own.__module__})


class _ByRow(nn.Module):
    """Goes before an embedding's own class."""

    def forward(self, x: Tensor, position_ids: Tensor, *more: Any, **named: Any) -> Any:
        sizes = _rows(position_ids)
        if len(sizes) == 1:
            return self._afresh(x, position_ids, *more, **named)
        parts = [self._afresh(x, part, *more, **named) for part in torch.split(position_ids, sizes, 1)]
        if isinstance(parts[0], Tensor):
            return torch.cat(parts, 1)
        return type(parts[0])(torch.cat(pieces, 1) for pieces in zip(*parts, strict=True))

    def _afresh(self, *arguments: Any, **named: Any) -> Any:
        """One row, by a model that has not seen a longer one before."""
        _forget(self)
        return super().forward(*arguments, **named)


def _forget(module: nn.Module) -> None:
    """Put an embedding back to where it has seen no long row."""
    original = getattr(module, "original_max_seq_len", None)
    for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
        if original is None or int(getattr(module, name)) <= original:
            continue
        prefix = name.removesuffix("max_seq_len_cached")
        frequencies = getattr(module, f"{prefix}inv_freq")
        setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq").to(frequencies, copy=True))
        setattr(module, name, original)


def _rows(position_ids: Tensor) -> list[int]:
    """Lengths of a pack's rows, whose positions start at 0; in one piece where there are several in a batch."""
    tokens = position_ids.shape[-1]
    if position_ids.ndim != 2 or len(position_ids) != 1:
        return [tokens]
    starts: list[int] = (position_ids[0, 1:] == 0).nonzero()[:, 0].add(1).tolist()
    return [end - start for start, end in zip([0, *starts], [*starts, tokens], strict=True)]


def _rotary(decoder: nn.Module) -> Iterator[nn.Module]:
    """The modules that give rotations by position."""
    for module in decoder.modules():
        if "rotary" in type(module).__name__.lower() and "position_ids" in inspect.signature(module.forward).parameters:
            yield module


def _same(module: nn.Module, longest: int) -> bool:
    """Whether the first positions' rotations are the same in a row of a few tokens and in one of `longest`."""
    kinds = getattr(module, "rope_type", None)
    for kind in kinds if isinstance(kinds, dict) else (None,):
        named = {} if kind is None else {"layer_type": kind}
        try:
            short, long = (_rotations(module, last, named) for last in (FEW, max(FEW, longest)))
        except FAILURES:
            return not any(name in str(kind or kinds) for name in STRETCHING)  # one that is called in another way
        if not all(map(torch.equal, short, long)):
            return False
    return True


def _rotations(module: nn.Module, tokens: int, named: dict[str, Any]) -> Rotations:
    """The first few positions' rotations in a row of so many tokens."""
    one = next(iter(module.buffers()), torch.zeros(1))
    positions = torch.tensor([[*range(FEW), tokens - 1]], device=one.device)
    with torch.no_grad():
        fresh = copy.deepcopy(module)
        _forget(fresh)
        found = fresh(torch.zeros(1, 1, 1, device=one.device), positions, **named)
    return tuple(x[:, :FEW] for x in ((found,) if isinstance(found, Tensor) else found))


def _undisturbed(module: nn.Module, longest: int) -> int:
    """The most tokens of a row up to which nothing depends on their number, fewer than `longest`."""
    least, most = FEW, longest
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if _same(module, middle) else (least, middle)
    return least
