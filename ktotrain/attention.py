"""Ragged attention: only the blocks of a pack that exist are computed, never a dense T x T mask.

Shapes: H query heads, K key/value heads, T tokens of the pack, D head size. In a unit (a prompt P and completions
C1, C2 ...) the prompt and its first completion are one causal block; each further completion attends to the prompt
and to itself. Completions can also follow prompts of an earlier pass, whose keys and values were remembered.

The function is registered with transformers under `RAGGED`. What a pack looks like travels as the keyword argument
`ragged` of the model call, which hands it down to every attention layer, through gradient checkpointing as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktotrain.batch import Unit

RAGGED = "ktotrain_ragged"

Block: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values that meet: the last query sees all keys, each one before it a key fewer."""


class Memory:
    """Keys and values of every attention layer in a pass over a pack, and its last hidden states [T, hidden].

    Nothing is copied: what a pass with gradient holds anyway is kept reachable, without its graph.
    """

    def __init__(self) -> None:
        self.layers: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self.hidden: Tensor | None = None

    def note(self, layer: nn.Module, key: Tensor, value: Tensor) -> None:
        """Keep a layer's keys and values; a second pass over the layer (gradient checkpointing) changes nothing."""
        self.layers.setdefault(layer, (key.detach(), value.detach()))


class Ragged:
    """The units of one pack as blocks, their masks (made once, used by all layers), and how often it was called.

    With a `memory`, each layer's keys and values are noted there.
    """

    def __init__(self, units: tuple[Unit, ...], memory: Memory | None = None) -> None:
        self.units, self.memory = units, memory
        self.calls = 0
        # Lengths in the pack, end to end: each unit's causal block, then its further completions.
        self.tails = [[length for length in unit.completions[1:] if length] for unit in units]
        self.sizes = [
            size
            for unit, tail in zip(units, self.tails, strict=True)
            for size in (unit.prompt + sum(unit.completions[:1]), *tail)
        ]
        self._masks: dict[tuple[int, int, int], Tensor] = {}

    def blocks(self, layer: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Iterator[Block]:
        """The blocks of a layer, in the order of the pack."""
        if self.memory is not None:
            self.memory.note(layer, key, value)
        # Split, not sliced: the backward of each slice of T tokens would allocate T tokens of zeros.
        parts = zip(*(torch.split(x, self.sizes, 2) for x in (query, key, value)), strict=True)
        for unit, tail in zip(self.units, self.tails, strict=True):
            q, k, v = next(parts)
            yield q, k, v
            if tail:
                k, v = k[:, :, : unit.prompt], v[:, :, : unit.prompt]
            for _ in tail:
                q, own_k, own_v = next(parts)
                yield q, torch.cat((k, own_k), 2), torch.cat((v, own_v), 2)

    def mask(self, queries: int, keys: int, window: int, device: torch.device) -> Tensor:
        """Which keys each query sees: the last query sees all, each earlier one a key fewer; bool [queries, keys].

        With a `window` over 0 a query sees that many keys at most, itself included.
        """
        shape = (queries, keys, window)
        if shape not in self._masks:
            seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
            self._masks[shape] = seen.triu(keys - queries - window + 1) if window else seen
        return self._masks[shape]


class Following(Ragged):
    """Completions alone, of prompts that a `Memory` holds at `spans` (start, length)."""

    def __init__(self, units: tuple[Unit, ...], spans: tuple[tuple[int, int], ...], memory: Memory) -> None:
        super().__init__(units)
        self.spans, self.source = spans, memory
        self.tails = [[length for length in unit.completions if length] for unit in units]
        self.sizes = [size for tail in self.tails for size in tail]

    def blocks(self, layer: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Iterator[Block]:
        """The blocks of a layer, in the order of the pack."""
        keys, values = self.source.layers[layer]
        parts = zip(*(torch.split(x, self.sizes, 2) for x in (query, key, value)), strict=True)
        for (start, length), tail in zip(self.spans, self.tails, strict=True):
            here = slice(start, start + length)
            for _ in tail:
                q, k, v = next(parts)
                yield q, torch.cat((keys[:, :, here], k), 2), torch.cat((values[:, :, here], v), 2)


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
        module: the layer, by which remembered keys and values are found.
        query: [1, H, T, D]; `key` and `value` [1, K, T, D] with K dividing H.
        attention_mask: not used; the units say all.
        ragged: the units, whose sizes add up to T.
        scaling: factor on scores; D ** -0.5 if None.
        dropout: not used; models are loaded without.
        sliding_window: keys a query sees at most, counted in positions of its own branch.
        softcap: tanh cap on attention scores (Gemma 2).
        s_aux: attention sinks, one logit per query head (GPT-OSS).

    Returns:
        [1, T, H, D], and no attention weights.
    """
    ragged.calls += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window or 0
    dtype = value.dtype  # queries and keys can be float32 under autocast, from rotary embeddings
    # torch's CPU kernel takes up to twice as long in half precision (2.13, blocks of 64 to 400 tokens), and autocast
    # would go back to it.
    exact = query.device.type == "cpu" and dtype != torch.float32
    if exact:
        query, key, value = query.float(), key.float(), value.float()
    outputs: list[Tensor] = []
    with torch.autocast("cpu", enabled=False) if exact else contextlib.nullcontext():
        for q, k, v in ragged.blocks(module, query, key, value):
            queries, keys = q.shape[2], k.shape[2]
            plain = queries == keys and not 0 < window < keys and not softcap and s_aux is None
            mask = None if plain else ragged.mask(queries, keys, window, q.device)
            outputs.append(_attend(q, k, v, mask, scale, softcap, s_aux))
    return torch.cat(outputs, 2).transpose(1, 2).to(dtype).contiguous(), None


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None, s_aux: Tensor | None
) -> Tensor:
    """One block; without a mask it is causal."""
    groups = q.shape[1] // k.shape[1]
    if softcap or s_aux is not None:
        assert mask is not None, "scores are masked by an explicit mask"
        return _attend_by_scores(q, k, v, mask, scale, softcap, s_aux)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=groups > 1
    )


def _attend_by_scores(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float | None, s_aux: Tensor | None
) -> Tensor:
    """The same written out, for what no fused kernel offers: soft-capped scores and attention sinks."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = (q @ k.transpose(2, 3)) * scale
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
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
