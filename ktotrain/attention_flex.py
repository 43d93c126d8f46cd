"""Attention of a whole pack in one call: torch's flex attention with a mask of blocks (CUDA, any precision).

It serves what flash attention does not: soft-capped scores, attention sinks, float32. Tokens are described by three
vectors, (unit, branch, position), from which the kernel masks those blocks that are seen in part; which blocks are
seen at all, or in full, is worked out here from the segments, without ever making a mask of T x T.

The kernel has to be compiled for each shape, so packs are filled up to powers of two: the filling is in this function
alone, each filling query sees only itself, and a run compiles at most log2(pack_tokens) shapes.

Shapes: H query heads, K key/value heads, T tokens of the pack, Q and S queries and keys with filling, D head size.
Keys lie in this order: the pack's own up to Q, then those of an earlier pass, if prefixes lie there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktotrain.attention_mask import Window
from ktotrain.attention_pack import Ask, Ragged

BLOCK = 128
SMALLEST_HEAD = 16
# Shapes x windows x (with and without gradient) of a long run; torch's own limit is 8.
COMPILATIONS = 128

Ints: TypeAlias = npt.NDArray[np.int32]
Bools: TypeAlias = npt.NDArray[np.bool_]
Score: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Tokens:
    """What each query or key is: int32 vectors.

    `unit` numbers the prompts (negative: filling, which nobody else sees), `branch` the segments of a unit (prompt and
    what directly follows it are seen by position alone: 0 is the prompt, 1 the first completion ...), `position` counts
    from the beginning of the prompt.
    """

    unit: Ints
    branch: Ints
    position: Ints


def machine_trouble(device: torch.device, dtype: torch.dtype) -> str:
    """Why this machine cannot run it, or ""."""
    if device.type != "cuda":
        return "it needs a CUDA GPU (on a CPU it has no backward pass)"
    from torch.nn.attention import flex_attention as flex
    from torch.utils._triton import has_triton

    if not hasattr(flex, "AuxRequest"):
        return f"it needs torch 2.9 or later (this is {torch.__version__})"
    return "" if has_triton() else "it needs Triton, which is not installed or does not know this GPU"


def ask_trouble(ask: Ask) -> str:
    """Why it cannot do what a layer asks for: never."""
    return ""


def flex_attention(
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
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention over the segments of a pack; arguments and result as of `ktotrain.attention_loop.loop_attention`."""
    ask = ragged.called(query, key, value, attention_mask, scaling, sliding_window, softcap, s_aux)
    dtype = value.dtype  # queries and keys can be float32 under autocast, from rotary embeddings
    query, key = query.to(dtype), key.to(dtype)
    ragged.note(module, key, value)
    remembered = ragged.remembered(module)
    tokens = query.shape[2]
    queries = bucket(tokens)
    before = 0 if remembered is None else remembered[0].shape[2]
    keys = queries + (bucket(before) if before else 0)
    query, key, value = (_filled(x, queries) for x in (query, key, value))
    if remembered is not None:
        key, value = (
            torch.cat((own, _filled(there, keys - queries)), 2)
            for own, there in zip((key, value), remembered, strict=True)
        )
    mask = ragged.once(("flex", ask.window), lambda: _block_mask(ragged, queries, keys, ask.window, query.device))
    out, lse = _kernel(query.device.type)(
        query, key, value, mask, ask.scale, ask.heads != ask.key_heads, _score_mod(ask.softcap), ask.sinks
    )
    if s_aux is not None and lse is not None:
        # A sink is one more logit that has no value: it takes its share of the softmax's sum and gives nothing.
        out = out * torch.sigmoid(lse.float() - s_aux.float()[None, :, None]).to(out.dtype)[..., None]
    return out[:, :, :tokens, : ask.value_size].transpose(1, 2).to(dtype).contiguous(), None


def bucket(tokens: int) -> int:
    """Tokens with filling: a power of two, and no less than a block."""
    return max(BLOCK, 1 << (tokens - 1).bit_length())


def _filled(x: Tensor, tokens: int) -> Tensor:
    """[1, H, T, D] with zeros behind T and, for very small heads, behind D."""
    size = max(SMALLEST_HEAD, x.shape[-1])
    return F.pad(x, (0, size - x.shape[-1], 0, tokens - x.shape[2]))


@functools.cache
def _kernel(device: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The kernel for a kind of device: results [1, H, Q, D] and, if asked for, each softmax's log-sum-exp [1, H, Q].

    Compiled where that is what makes it fast. A place of its own, so that tests without a GPU can exchange it.
    """
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    def call(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        scale: float,
        grouped: bool,
        score_mod: Score | None,
        with_lse: bool,
    ) -> tuple[Tensor, Tensor | None]:
        if not with_lse:
            return flex_attention(query, key, value, score_mod, mask, scale, grouped), None
        aux = AuxRequest(lse=True)
        out, more = flex_attention(query, key, value, score_mod, mask, scale, grouped, return_aux=aux)
        return out, more.lse

    if device != "cuda":
        return call
    from torch import _dynamo

    compiled: Callable[..., tuple[Tensor, Tensor | None]] = torch.compile(call, dynamic=False, fullgraph=True)

    def limited(*inputs: Any) -> tuple[Tensor, Tensor | None]:
        # A thread's own setting: with gradient checkpointing the backward pass calls this from another thread.
        if _dynamo.config.recompile_limit < COMPILATIONS:
            _dynamo.config.recompile_limit = COMPILATIONS
        return compiled(*inputs)

    return limited


@functools.cache
def _score_mod(softcap: float) -> Score | None:
    """What is done to scores: nothing, or the cap. One function per cap, so that nothing is compiled twice."""
    if not softcap:
        return None

    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    return capped


def describe(ragged: Ragged, queries: int, keys: int) -> tuple[Tokens, Tokens]:
    """Queries and keys with filling, as what they are."""
    own, there = _filling(0, queries), _filling(queries, keys)
    prompts: dict[int, int] = {}
    branches: dict[int, int] = {}
    for segment in ragged.segments:
        here = slice(segment.start, segment.start + segment.length)
        start = segment.prefix_start if segment.prefix else segment.start
        unit = prompts.setdefault(start, len(prompts))
        branches[unit] = branches.get(unit, 0) + 1
        own.unit[here] = unit
        own.branch[here] = branches[unit]
        own.position[here] = np.arange(segment.prefix, segment.keys)
        prefix = slice(segment.prefix_start, segment.prefix_start + segment.prefix)
        held = own if ragged.source is None else there
        if segment.prefix:
            held.unit[prefix], held.branch[prefix] = unit, 0
            held.position[prefix] = np.arange(segment.prefix)
    return own, Tokens(
        *(
            np.concatenate((getattr(own, field.name), getattr(there, field.name)))
            for field in dataclasses.fields(Tokens)
        )
    )


def _filling(start: int, end: int) -> Tokens:
    """Tokens that see themselves and nobody else: a row of the softmax without any key would be 0 / 0."""
    numbers = np.arange(start, end, dtype=np.int32)
    return Tokens(-1 - numbers, np.zeros_like(numbers), np.zeros_like(numbers))


def seen_blocks(ragged: Ragged, queries: int, keys: int, window: int) -> tuple[Bools, Bools]:
    """Which blocks of keys each block of queries sees in part, and which in full: bool [Q / BLOCK, S / BLOCK]."""
    some = np.zeros((queries // BLOCK, keys // BLOCK), dtype=bool)
    full = np.zeros_like(some)
    before = 0 if ragged.source is None else queries
    for segment in ragged.segments:
        rows, first_query, last_query, whole_rows = _spans(segment.start, segment.length, segment.prefix)
        pieces = [(segment.start, segment.length, segment.prefix)]
        if segment.prefix:
            pieces.append((before + segment.prefix_start, segment.prefix, 0))
        for piece in pieces:
            columns, first_key, last_key, whole_columns = _spans(*piece)
            seen = first_key[None] <= last_query[:, None]
            covered = whole_rows[:, None] & whole_columns[None] & (last_key[None] <= first_query[:, None])
            if window:
                seen &= first_query[:, None] - last_key[None] < window
                covered &= last_query[:, None] - first_key[None] < window
            some[rows, columns] |= seen
            full[rows, columns] |= covered
    # What fills a pack up sees itself.
    last = sum(ragged.sizes) // BLOCK
    diagonal = np.arange(last, queries // BLOCK)
    some[diagonal, diagonal] = True
    return some & ~full, full


def _spans(start: int, length: int, position: int) -> tuple[slice, Ints, Ints, Bools]:
    """The blocks that `length` tokens at `start` lie in: the first and last position in each, and if it is whole."""
    first, last = start // BLOCK, (start + length - 1) // BLOCK
    edges = np.arange(first, last + 2, dtype=np.int32) * BLOCK
    begins, ends = np.maximum(edges[:-1], start), np.minimum(edges[1:], start + length)
    return slice(first, last + 1), begins - start + position, ends - 1 - start + position, ends - begins == BLOCK


def _block_mask(ragged: Ragged, queries: int, keys: int, window: int, device: torch.device) -> Any:
    """The segments as torch's `BlockMask`."""
    from torch.nn.attention.flex_attention import BlockMask

    partial, full = seen_blocks(ragged, queries, keys, window)
    vectors = ragged.once("flex vectors", lambda: _vectors(ragged, queries, keys, device))
    return BlockMask.from_kv_blocks(
        *_ordered(partial, device),
        *_ordered(full, device),
        BLOCK_SIZE=BLOCK,
        mask_mod=_mask_mod(vectors, window),
        seq_lengths=(queries, keys),
    )


def _ordered(blocks: Bools, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each row, how many blocks are set and, first in the list, which: int32 [1, 1, rows(, columns)]."""
    counts = blocks.sum(1, dtype=np.int32)
    order = np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    return torch.from_numpy(counts)[None, None].to(device), torch.from_numpy(order)[None, None].to(device)


def _vectors(ragged: Ragged, queries: int, keys: int, device: torch.device) -> tuple[Tensor, ...]:
    """`describe` on the device: unit, branch and position of queries, then of keys."""
    return tuple(
        torch.from_numpy(getattr(tokens, field.name)).to(device)
        for tokens in describe(ragged, queries, keys)
        for field in dataclasses.fields(Tokens)
    )


def _mask_mod(vectors: tuple[Tensor, ...], window: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Whether a query sees a key, by `_vectors`."""
    query_unit, query_branch, query_position, key_unit, key_branch, key_position = vectors

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        related = (key_branch[key] == 0) | (key_branch[key] == query_branch[query])
        distance = query_position[query] - key_position[key]
        return (query_unit[query] == key_unit[key]) & related & (distance >= 0)

    def seen_nearby(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return seen(batch, head, query, key) & (query_position[query] - key_position[key] < window)

    return seen_nearby if window else seen
