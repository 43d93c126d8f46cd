"""Attention block by block: a loop over the segments of a pack, which computes only what exists and runs everywhere.

On a CPU it is `ktotrain.attention_products`, where nothing is faster. Elsewhere, and for soft-caps and sinks, each
segment goes through torch's scaled dot product attention or is written out; on a GPU that costs launches. It is also
what the other kernels are checked against. Shapes as in `ktotrain.attention_pack`.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktotrain.attention_mask import Window
from ktotrain.attention_pack import Ask, Ragged
from ktotrain.attention_products import products_attention


def loop_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Window | None,
    *,
    ragged: Ragged,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    needed_M: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention over the segments of a pack, in the form that transformers calls.

    Args:
        module: the layer, by which remembered keys and values are found.
        query: [1, H, T, D]; `key` and `value` [1, K, T, D] with K dividing H.
        attention_mask: None, or the window that stands for the mask; all else the segments say.
        ragged: the segments, whose lengths add up to T.
        scaling: factor on scores; D ** -0.5 if None.
        dropout: not used; models are loaded without.
        sliding_window: keys a query sees at most, counted in positions of its own branch.
        softcap: tanh cap on attention scores (Gemma 2).
        s_aux: attention sinks, one logit per query head (GPT-OSS).
        needed_M: the queries whose results are read, in order; None if all are. Others may get any result.

    Returns:
        [1, T, H, D], and no attention weights.

    Raises:
        NotServedError: there is a mask of another kind.
    """
    ask = ragged.called(query, key, value, attention_mask, scaling, sliding_window, softcap, s_aux)
    dtype = value.dtype  # queries and keys can be float32 under autocast, from rotary embeddings
    # torch's CPU kernel takes up to twice as long in half precision (2.13, blocks of 64 to 400 tokens), and autocast
    # would go back to it.
    if query.device.type == "cpu" and not ask.softcap and s_aux is None:
        ragged.note(module, key, value)
        return products_attention(query, key, value, ask, ragged, ragged.remembered(module), needed_M), None
    exact = query.device.type == "cpu" and dtype != torch.float32
    if exact:
        query, key, value = query.float(), key.float(), value.float()
    elif query.dtype != dtype or key.dtype != dtype:
        query, key = query.to(dtype), key.to(dtype)
    outputs: list[Tensor] = []
    with torch.autocast("cpu", enabled=False) if exact else contextlib.nullcontext():
        for q, k, v in ragged.blocks(module, query, key, value):
            queries, keys = q.shape[2], k.shape[2]
            plain = queries == keys and not 0 < ask.window < keys and not ask.softcap and s_aux is None
            mask = None if plain else _mask(ragged, queries, keys, ask.window, q.device)
            outputs.append(_attend(q, k, v, mask, ask, s_aux))
    return torch.cat(outputs, 2).transpose(1, 2).to(dtype).contiguous(), None


def _mask(ragged: Ragged, queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """Which keys each query sees: the last query sees all, each earlier one a key fewer; bool [queries, keys]."""

    def make() -> Tensor:
        seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
        return seen.triu(keys - queries - window + 1) if window else seen

    return ragged.once(("mask", queries, keys, window), make)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, ask: Ask, s_aux: Tensor | None) -> Tensor:
    """One block; without a mask it is causal."""
    groups = ask.heads // ask.key_heads
    if ask.softcap or s_aux is not None:
        assert mask is not None, "scores are masked by an explicit mask"
        return _attend_by_scores(q, k, v, mask, ask, s_aux)
    if groups > 1 and mask is not None and q.device.type == "cuda":
        # With a mask and grouped heads CUDA has only the unfused kernel; repeated heads go to a fused one.
        k, v, groups = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=ask.scale, enable_gqa=groups > 1
    )


def _attend_by_scores(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, ask: Ask, s_aux: Tensor | None) -> Tensor:
    """The same written out, for what no fused kernel offers: soft-capped scores and attention sinks."""
    groups = ask.heads // ask.key_heads
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = (q @ k.transpose(2, 3)) * ask.scale
    if ask.softcap:
        scores = torch.tanh(scores / ask.softcap) * ask.softcap
    scores = scores.float().masked_fill(~mask, float("-inf"))
    if s_aux is not None:
        sinks = s_aux.float().reshape(1, -1, 1, 1).expand(1, -1, scores.shape[2], 1)
        weights = torch.cat((scores, sinks), 3).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return weights.to(v.dtype) @ v
