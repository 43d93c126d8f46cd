"""Attention over a pack by plain matrix products, some queries at a time: what the loop does on a CPU.

torch's CPU kernel for scaled dot product attention gains little from a second thread on blocks as short as these
(2.13, 60 to 400 tokens: 1.0 to 1.4 times), and autograd would note a dozen operations for each. Here the whole layer is
one operation with a backward pass of its own: a chunk of queries meets the keys it can see and no others, gradients
are added up where they belong, and nothing is put together again afterwards.

Shapes: H query heads, K key/value heads, G = H / K, T tokens, n queries of a chunk, N keys they see, D head size.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import torch
from torch import Tensor

from ktotrain.attention_pack import Ask, Ragged, Segment

# Queries at a time: fewer make small products, more compute more of what no query sees.
QUERIES = 128
# Weights are kept for the backward pass while a query sees so many keys per element of a head: then they are no larger
# than four times the queries, and memory stays linear in T. Beyond that they are computed again.
KEPT_KEYS = 4


def products_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ask: Ask,
    ragged: Ragged,
    prefixes: tuple[Tensor, Tensor] | None,
    needed_M: Tensor | None = None,
) -> Tensor:
    """Attention over the segments of a pack, computed in float32.

    Args:
        query: [1, H, T, D]; `key` and `value` [1, K, T, D] with K dividing H; half precision is converted.
        ask: what the layer wants, without soft-cap and sinks.
        prefixes: keys and values in which the segments' prefixes lie, if not in the pack; without gradient.
        needed_M: the queries whose results are read, in order; None if all are. What lies before a segment's first is
            left out.

    Returns:
        [1, T, H, D] in the type of `value`.
    """
    return cast(Tensor, _Attention.apply(query, key, value, ask, ragged, prefixes, needed_M))  # type: ignore[no-untyped-call]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        ask: Ask,
        ragged: Ragged,
        prefixes: tuple[Tensor, Tensor] | None,
        needed_M: Tensor | None,
    ) -> Tensor:
        learns = any(ctx.needs_input_grad)
        kept: list[Tensor | None] = []
        with torch.autocast("cpu", enabled=False):
            q, k, v = query[0].float(), key[0].float(), value[0].float()
            out = torch.empty(q.shape[1], ask.heads, ask.value_size)
            for segment, chunks in _chunks(ragged, ask.window, needed_M):
                keys, values = _seen(segment, k, v, prefixes)
                for chunk in chunks:
                    weights = _weights(_grouped(q[:, chunk.here], ask), keys[:, chunk.seen], chunk, ask)
                    attended = torch.bmm(weights, values[:, chunk.seen])
                    out[chunk.here] = attended.view(ask.heads, -1, ask.value_size).transpose(0, 1)
                    if learns:
                        kept.append(weights if weights.shape[2] <= KEPT_KEYS * ask.key_size else None)
        if learns:
            ctx.ask, ctx.ragged, ctx.prefixes, ctx.needed_M = ask, ragged, prefixes, needed_M
            # Saved as autograd saves: so that checkpointing can do without, and a backward pass frees them.
            ctx.save_for_backward(query, key, value, *kept)
        return out[None].to(value.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *saved = ctx.saved_tensors
        ask, ragged, prefixes = ctx.ask, ctx.ragged, ctx.prefixes
        kept = iter(saved)
        with torch.autocast("cpu", enabled=False):
            q, k, v, by_out = query[0].float(), key[0].float(), value[0].float(), grad[0].transpose(0, 1).float()
            # Laid out as the projections give and take them, [T, heads, D].
            by_q, by_k, by_v = (torch.empty_like(x.transpose(0, 1)).transpose(0, 1) for x in (q, k, v))
            if ctx.needed_M is not None:
                by_q.zero_()
            for segment, chunks in _chunks(ragged, ask.window, ctx.needed_M):
                keys, values = _seen(segment, k, v, prefixes)
                by_keys, by_values = _Sum(keys), _Sum(values)
                # Backwards: without a window the last queries see all keys, and what the others add is added to that.
                ours = [next(kept) for _ in chunks]
                for chunk in reversed(chunks):
                    here, seen = chunk.here, chunk.seen
                    queries, by_attended = _grouped(q[:, here], ask), _grouped(by_out[:, here], ask)
                    weights = ours.pop()
                    if weights is None:
                        weights = _weights(queries, keys[:, seen], chunk, ask)
                    by_values.add(seen, torch.bmm(weights.transpose(1, 2), by_attended))
                    by_weights = torch.bmm(by_attended, values[:, seen].transpose(1, 2))
                    by_scores = torch._softmax_backward_data(by_weights, weights, -1, torch.float32)
                    del weights, by_weights
                    by_queries = torch.bmm(by_scores, keys[:, seen]).view(ask.heads, -1, ask.key_size)
                    torch.mul(by_queries, ask.scale, out=by_q[:, here])
                    by_keys.add(seen, torch.bmm(by_scores.transpose(1, 2), queries))
                by_keys.hand_back(segment, by_k, ask.scale, within=prefixes is None)
                by_values.hand_back(segment, by_v, 1.0, within=prefixes is None)
        grads = (by_q[None].to(query.dtype), by_k[None].to(key.dtype), by_v[None].to(value.dtype))
        return (*grads, None, None, None, None)


@dataclasses.dataclass(frozen=True, slots=True)
class _Chunk:
    """Queries at `here` of the pack, and the keys they see, which lie at `seen` among their segment's.

    `hidden` is what is added to the scores of the last of these keys: 0 where a query sees one, -inf where it does not.
    """

    here: slice
    seen: slice
    hidden: Tensor


def _chunks(ragged: Ragged, window: int, needed_M: Tensor | None) -> list[tuple[Segment, list[_Chunk]]]:
    """Each segment with its queries from the first needed one on, some at a time.

    They are the same for all layers with this window, but for the last: see `ktotrain.last_layer`.
    """

    def chunk(segment: Segment, first: int) -> _Chunk:
        end = min(first + QUERIES, segment.length)
        oldest = max(0, segment.prefix + first - window + 1) if window else 0
        here, seen = slice(segment.start + first, segment.start + end), slice(oldest, segment.prefix + end)
        # The first query sees `before` of these keys, itself included, and each further one a key more. Without a
        # window only the last keys are hidden from anyone.
        before = segment.prefix + first - oldest + 1
        shape = (end - first, seen.stop - seen.start, before) if window else (end - first, end - first, 1)
        return _Chunk(here, seen, ragged.once(("hidden", *shape, window), lambda: _hidden(*shape, window)))

    def make() -> list[tuple[Segment, list[_Chunk]]]:
        starts = torch.tensor([one.start for one in ragged.segments])
        firsts = [0] * len(starts)
        if needed_M is not None:
            # Of a segment that has none this is one of a later segment's, or of none: no query is left then.
            ends = needed_M.new_tensor([sum(ragged.sizes)])
            firsts = (torch.cat((needed_M, ends))[torch.searchsorted(needed_M, starts)] - starts).tolist()
        return [
            (one, [chunk(one, place) for place in range(first, one.length, QUERIES)])
            for one, first in zip(ragged.segments, firsts, strict=True)
        ]

    return ragged.once(("chunks", window, needed_M is None), make)


def _seen(segment: Segment, k: Tensor, v: Tensor, prefixes: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Keys and values of a segment and of the prefix before it: [K, prefix + length, D]."""
    own = slice(segment.start, segment.start + segment.length)
    if not segment.prefix:
        return k[:, own], v[:, own]
    before = slice(segment.prefix_start, segment.prefix_start + segment.prefix)
    first_k, first_v = (k, v) if prefixes is None else (prefixes[0][0].float(), prefixes[1][0].float())
    return torch.cat((first_k[:, before], k[:, own]), 1), torch.cat((first_v[:, before], v[:, own]), 1)


class _Sum:
    """The gradient by what a segment sees, added up over its chunks."""

    def __init__(self, seen: Tensor) -> None:
        self.seen = seen
        self.total: Tensor | None = None

    def add(self, here: slice, part: Tensor) -> None:
        """Add the gradient by a piece of it. One that is all of it is taken as it is: so is a short segment's only."""
        if self.total is None and part.shape == self.seen.shape:
            self.total = part
            return
        if self.total is None:
            self.total = self.seen.new_zeros(self.seen.shape)
        self.total[:, here] += part

    def hand_back(self, segment: Segment, by_all: Tensor, scale: float, *, within: bool) -> None:
        """Write `scale` times the segment's own part where it belongs and add its prefix's there, if `within` the pack.

        Each token is part of one segment, and that comes before all of which it is a prefix: so nothing is overwritten.
        """
        own = by_all[:, segment.start : segment.start + segment.length]
        if self.total is None:
            own.zero_()
            return
        torch.mul(self.total[:, segment.prefix :], scale, out=own)
        if segment.prefix and within:
            before = by_all[:, segment.prefix_start : segment.prefix_start + segment.prefix]
            before.add_(self.total[:, : segment.prefix], alpha=scale)


def _grouped(heads: Tensor, ask: Ask) -> Tensor:
    """[H, n, D] as [K, G n, D]: the query heads that share keys, one after the other."""
    return heads if ask.heads == ask.key_heads else heads.reshape(ask.key_heads, -1, heads.shape[2])


def _weights(queries: Tensor, keys: Tensor, chunk: _Chunk, ask: Ask) -> Tensor:
    """Attention weights of a chunk: [K, G n, N]."""
    scores = torch.baddbmm(queries.new_empty(1), queries, keys.transpose(1, 2), beta=0, alpha=ask.scale)
    count, width = chunk.hidden.shape
    scores.view(ask.key_heads, -1, count, scores.shape[2])[..., -width:] += chunk.hidden
    return scores.softmax(-1)


def _hidden(count: int, width: int, before: int, window: int) -> Tensor:
    """0 where a query sees a key, -inf where it does not: [count, width]."""
    seen = torch.ones(count, width, dtype=torch.bool).tril(before - 1)
    if window:
        seen = seen.triu(before - window)
    return torch.zeros(count, width).masked_fill_(~seen, float("-inf"))
