"""Ragged attention: only the blocks of a pack that exist are computed, never a dense T x T mask.

Shapes: H query heads, K key/value heads, T tokens of the pack, D head size. In a unit (a prompt P and completions
C1, C2 ...) the prompt and its first completion are one causal block; each further completion attends to the prompt
and to itself.

The function is registered with transformers under `RAGGED`. The units of a pack travel as the keyword argument
`ragged` of the model call, which hands it down to every attention layer, through gradient checkpointing as well.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktotrain.batch import Unit

RAGGED = "ktotrain_ragged"


class Ragged:
    """The units of one pack, their masks (made once, used by all layers), and how often attention was called."""

    def __init__(self, units: tuple[Unit, ...]) -> None:
        self.units = units
        self.calls = 0
        # (length of a unit's causal block, lengths of its further completions): the pack split end to end.
        self.heads = [unit.prompt + (unit.completions[0] if unit.completions else 0) for unit in units]
        self.tails = [[length for length in unit.completions[1:] if length] for unit in units]
        self.sizes = [size for head, tail in zip(self.heads, self.tails, strict=True) for size in (head, *tail)]
        self._masks: dict[tuple[int, int, int], Tensor] = {}

    def mask(self, queries: int, keys: int, window: int, device: torch.device) -> Tensor:
        """Which keys each query sees: the last query sees all, each earlier one a key fewer; bool [queries, keys].

        With a `window` over 0 a query sees that many keys at most, itself included.
        """
        shape = (queries, keys, window)
        if shape not in self._masks:
            seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
            self._masks[shape] = seen.triu(keys - queries - window + 1) if window else seen
        return self._masks[shape]


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    ragged: Ragged,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention over the units of a pack, in the form that transformers calls.

    Args:
        query: [1, H, T, D]; `key` and `value` [1, K, T, D] with K dividing H.
        attention_mask: not used; the units say all.
        ragged: the units, whose sizes add up to T.
        sliding_window: keys a query sees at most, counted in positions of its own branch.
        softcap: tanh cap on attention scores (Gemma 2).
        s_aux: attention sinks, one logit per query head (GPT-OSS).

    Returns:
        [1, T, H, D], and no attention weights.
    """
    ragged.calls += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window or 0
    queries, keys, values = (torch.split(x, ragged.sizes, 2) for x in (query, key, value))
    outputs: list[Tensor] = []
    place = 0
    for unit, head, tail in zip(ragged.units, ragged.heads, ragged.tails, strict=True):
        q, k, v = queries[place], keys[place], values[place]
        mask = ragged.mask(head, head, window, query.device) if _needs_mask(head, window, softcap, s_aux) else None
        outputs.append(_attend(q, k, v, mask, scale, softcap, s_aux))
        for extra in range(1, len(tail) + 1):
            # Sliced from the unit's own block: the slice's backward then fills a block of that size, not of T.
            k_all = torch.cat((k[:, :, : unit.prompt], keys[place + extra]), 2)
            v_all = torch.cat((v[:, :, : unit.prompt], values[place + extra]), 2)
            mask = ragged.mask(tail[extra - 1], k_all.shape[2], window, query.device)
            outputs.append(_attend(queries[place + extra], k_all, v_all, mask, scale, softcap, s_aux))
        place += 1 + len(tail)
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def _needs_mask(length: int, window: int, softcap: float | None, s_aux: Tensor | None) -> bool:
    return bool(0 < window < length or softcap or s_aux is not None)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None, s_aux: Tensor | None
) -> Tensor:
    """One block; without a mask it is causal."""
    groups = q.shape[1] // k.shape[1]
    if softcap or s_aux is not None:
        return _attend_by_scores(q, k, v, mask, scale, softcap, s_aux, groups)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=groups > 1
    )


def _attend_by_scores(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    s_aux: Tensor | None,
    groups: int,
) -> Tensor:
    """The same written out, for what no fused kernel offers: soft-capped scores and attention sinks."""
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = (q @ k.transpose(2, 3)) * scale
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    assert mask is not None, "scores are masked by an explicit mask"
    scores = scores.float().masked_fill(~mask, float("-inf"))
    if s_aux is not None:
        sinks = s_aux.float().reshape(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1)
        weights = torch.cat((scores, sinks), 3).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return weights.to(v.dtype) @ v


def _no_mask(*_: Any, **__: Any) -> None:
    """Ragged attention needs no mask: transformers is told not to build one."""


def register() -> None:
    """Make `RAGGED` an attention implementation that models can be set to."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(RAGGED, ragged_attention)
    AttentionMaskInterface.register(RAGGED, _no_mask)
