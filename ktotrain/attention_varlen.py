"""Attention of a whole pack in one call: torch's variable-length flash attention (CUDA, half precision).

Queries stay as they lie in the pack. Keys and values are gathered segment by segment, so a prompt's are repeated in
front of each further completion. Where queries are fewer than keys the kernel aligns them at the end (bottom right):
the last query sees all keys, which is what a segment means. That is documented nowhere firm, so `ktotrain.probe`
checks it by number before it trusts the kernel.

Shapes: H query heads, K key/value heads, T tokens of the pack, S tokens of all segments' keys, D head size.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktotrain.attention_mask import Window
from ktotrain.attention_pack import Ask, Ragged

HALF = (torch.bfloat16, torch.float16)
# The kernel's own limits.
LARGEST_HEAD = 256
HEAD_MULTIPLE = 8


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """The segments as the kernel wants them, on the device.

    `cu_queries` and `cu_keys` are int32 cumulative lengths, from 0. `index_S` says where each key lies among the keys
    there are (those of an earlier pass first, if prefixes lie there), and is None if all lie in place. Of the gathered
    keys, those at `own_T` are the pack's own in its order, and those at `repeated` are copies of `repeated_from`.
    """

    cu_queries: Tensor
    cu_keys: Tensor
    most_queries: int
    most_keys: int
    index_S: Tensor | None
    own_T: Tensor
    repeated: Tensor
    repeated_from: Tensor


def machine_trouble(device: torch.device, dtype: torch.dtype) -> str:
    """Why this machine and precision cannot run it, or ""."""
    if device.type != "cuda":
        return "it needs a CUDA GPU"
    try:
        there = "window_size" in inspect.signature(_kernel()).parameters
    except ImportError:
        there = False
    if not there:
        return f"it needs torch 2.11 or later (this is {torch.__version__})"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"it needs a GPU of compute capability 8.0 or later ({torch.cuda.get_device_name(device)})"
    if dtype not in HALF:
        return f"it works in bfloat16 and float16 only, and this run computes in {str(dtype).removeprefix('torch.')}"
    return ""


def ask_trouble(ask: Ask) -> str:
    """Why it cannot do what a layer asks for, or ""."""
    if ask.softcap:
        return "it has no soft-cap on scores"
    if ask.sinks:
        return "it has no attention sinks"
    if max(ask.key_size, ask.value_size) > LARGEST_HEAD:
        return f"its heads have {LARGEST_HEAD} dimensions at most, and the model's {ask.key_size}"
    return ""


def varlen_attention(
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
    """Attention over the segments of a pack; arguments and result as of `ktotrain.attention_loop.loop_attention`.

    Raises:
        ValueError: soft-capped scores or sinks are asked for.
    """
    ask = ragged.called(query, key, value, attention_mask, scaling, sliding_window, softcap, s_aux)
    if trouble := ask_trouble(ask):
        raise ValueError(f"varlen attention: {trouble}")
    # Queries and keys can be float32 under autocast, from rotary embeddings; some models have float32 values too.
    dtype = compute_dtype(value)
    key, value = key.to(dtype), value.to(dtype)
    ragged.note(module, key, value)
    remembered = ragged.remembered(module)
    before = 0 if remembered is None else remembered[0].shape[2]
    lengths = ragged.once("varlen", lambda: _lengths(ragged, before, query.device))
    if remembered is not None:
        key, value = torch.cat((remembered[0], key), 2), torch.cat((remembered[1], value), 2)
    size = -(-max(ask.key_size, ask.value_size) // HEAD_MULTIPLE) * HEAD_MULTIPLE
    q, k, v = (_heads_last(x, size) for x in (query.to(dtype), key, value))
    out = _attend(q, _gathered(k, lengths), _gathered(v, lengths), lengths, ask)
    return out[None, :, :, : ask.value_size].to(dtype), None


def compute_dtype(value: Tensor) -> torch.dtype:
    """What the kernel computes in: the values' type if it is a half one, else autocast's if that is on."""
    kind = value.device.type
    if value.dtype in HALF or not torch.is_autocast_enabled(kind):
        return value.dtype
    dtype: torch.dtype = torch.get_autocast_dtype(kind)
    return dtype


def _heads_last(x: Tensor, size: int) -> Tensor:
    """[1, H, T, D] as [T, H, `size`]: zeros are put behind D, which change neither scores nor results."""
    x = x[0].transpose(0, 1)
    return x if x.shape[-1] == size else F.pad(x, (0, size - x.shape[-1]))


def _attend(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, lengths: Lengths, ask: Ask) -> Tensor:
    """The call of the kernel, in the form that the installed torch has."""
    kernel = _kernel()
    grouped = ask.heads != ask.key_heads
    more: dict[str, Any] = {}
    if grouped and _takes_groups(kernel):
        more["enable_gqa"] = True
    elif grouped:  # torch 2.11
        groups = ask.heads // ask.key_heads
        k_SKD, v_SKD = k_SKD.repeat_interleave(groups, 1), v_SKD.repeat_interleave(groups, 1)
    out: Tensor = kernel(
        q_THD,
        k_SKD,
        v_SKD,
        lengths.cu_queries,
        lengths.cu_keys,
        lengths.most_queries,
        lengths.most_keys,
        scale=ask.scale,
        window_size=(ask.window - 1 if ask.window else -1, 0),  # keys to the left of a query's own, and to its right
        **more,
    )
    return out


def _kernel() -> Callable[..., Any]:
    """torch's function. A place of its own, so that tests without a GPU can put the documented semantics there."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


@functools.cache
def _takes_groups(kernel: Callable[..., Any]) -> bool:
    return "enable_gqa" in inspect.signature(kernel).parameters


def _lengths(ragged: Ragged, before: int, device: torch.device) -> Lengths:
    """The segments as lengths and indices; the pack's own keys lie behind `before` remembered ones."""
    index: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = []
    own: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = []
    copies: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = []
    sources: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = []
    offset = 0
    for segment in ragged.segments:
        prefix = np.arange(segment.prefix_start, segment.prefix_start + segment.prefix)
        index += [prefix, before + np.arange(segment.start, segment.start + segment.length)]
        copies.append(offset + np.arange(segment.prefix))
        sources.append(prefix)
        own.append(offset + np.arange(segment.prefix, segment.keys))
        offset += segment.keys
    queries, keys = ragged.sizes, [segment.keys for segment in ragged.segments]
    in_place = not before and offset == sum(queries)

    def tensor(parts: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device, non_blocking=True)

    def cumulative(sizes: list[int]) -> Tensor:
        return torch.tensor([0, *np.cumsum(sizes)], dtype=torch.int32).to(device, non_blocking=True)

    return Lengths(
        cu_queries=cumulative(queries),
        cu_keys=cumulative(keys),
        most_queries=max(queries),
        most_keys=max(keys),
        index_S=None if in_place else tensor(index),
        own_T=tensor(own),
        repeated=tensor(copies),
        repeated_from=tensor(sources),
    )


def _gathered(x_TKD: Tensor, lengths: Lengths) -> Tensor:
    """Keys or values in the order of the segments: [S, K, D]."""
    if lengths.index_S is None:
        return x_TKD
    gathered: Tensor = _Gather.apply(x_TKD, lengths)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """`index_select` whose backward sums in float32: a prompt's gradient comes from all completions that share it."""

    @staticmethod
    def forward(ctx: Any, x_TKD: Tensor, lengths: Lengths) -> Tensor:
        assert lengths.index_S is not None, "nothing to gather"
        ctx.lengths = lengths
        return x_TKD.index_select(0, lengths.index_S)

    @staticmethod
    def backward(ctx: Any, gradient_SKD: Tensor) -> tuple[Tensor, None]:
        # Only a pass whose prompts lie in the pack itself has a gradient: remembered keys have none.
        lengths: Lengths = ctx.lengths
        gradient_TKD = gradient_SKD.index_select(0, lengths.own_T).float()
        gradient_TKD.index_add_(0, lengths.repeated_from, gradient_SKD.index_select(0, lengths.repeated).float())
        return gradient_TKD.to(gradient_SKD.dtype), None
