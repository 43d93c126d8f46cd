"""Stand-ins for the GPU's attention kernels, so that what surrounds them is tested on any machine.

Each does what torch documents of its kernel, plainly and with gradients: the variable-length one from cumulative
lengths, flex attention by the definition that torch falls back to.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from ktotrain import attention, attention_flex, attention_varlen


def varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """`torch.nn.attention.varlen.varlen_attn` of torch 2.11: as many key heads as query heads, half or not."""
    return _by_lengths(query, key, value, cu_seq_q, cu_seq_k, (max_q, max_k), scale, window_size)


def varlen_attn_grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """The same of torch 2.13, which has grouped heads, if told so."""
    groups = query.shape[1] // key.shape[1] if enable_gqa else 1
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return _by_lengths(query, key, value, cu_seq_q, cu_seq_k, (max_q, max_k), scale, window_size)


def varlen_attn_top_left(*inputs: Any, **settings: Any) -> Tensor:
    """What a kernel would compute that aligns queries and keys at their first token."""
    return _by_lengths(*inputs[:5], inputs[5:7], settings["scale"], settings["window_size"], at_end=False)


def _by_lengths(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    most: tuple[int, int],
    scale: float | None,
    window_size: tuple[int, int],
    at_end: bool = True,
) -> Tensor:
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert query.shape[1:] == key.shape[1:] == value.shape[1:]
    assert query.shape[-1] % 8 == 0
    assert (int(cu_seq_q[-1]), int(cu_seq_k[-1])) == (len(query), len(key))
    assert (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max())) == most
    outputs = []
    for number in range(len(cu_seq_q) - 1):
        here, there = slice(*cu_seq_q[number : number + 2]), slice(*cu_seq_k[number : number + 2])
        q, k, v = (x.transpose(0, 1) for x in (query[here], key[there], value[there]))
        queries, keys = q.shape[1], k.shape[1]
        place = torch.arange(queries)[:, None] + (keys - queries if at_end else 0)
        seen = torch.arange(keys)[None] <= place + window_size[1]
        if window_size[0] >= 0:
            seen &= torch.arange(keys)[None] >= place - window_size[0]
        scores = (q @ k.transpose(1, 2)) * (scale or q.shape[-1] ** -0.5)
        outputs.append((scores.masked_fill(~seen, -math.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)


def eager_flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    scale: float,
    grouped: bool,
    score_mod: Callable[..., Tensor] | None,
    with_lse: bool,
) -> tuple[Tensor, Tensor]:
    """Flex attention's definition, in torch's own words: its public function refuses gradients on a CPU."""
    from torch._higher_order_ops.flex_attention import flex_attention

    assert grouped or query.shape[1] == key.shape[1]
    options = dict.fromkeys(("PRESCALE_QK", "ROWS_GUARANTEED_SAFE", "BLOCKS_ARE_CONTIGUOUS", "OUTPUT_MAX"), False)
    options |= {"WRITE_DQ": True, "OUTPUT_LOGSUMEXP": True}

    def as_it_is(score: Tensor, *_: Tensor) -> Tensor:
        return score

    out, lse, _ = flex_attention(query, key, value, score_mod or as_it_is, mask.as_tuple(), scale, options)
    return out, lse * math.log(2)


@contextmanager
def stand_ins(varlen: Callable[..., Tensor] = varlen_attn_grouped) -> Iterator[None]:
    """Both kernels as they would be on a machine that has them, in any precision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_varlen, "_kernel", lambda: varlen)
        patch.setattr(attention_flex, "_kernel", lambda device: eager_flex)
        for name in ("varlen", "flex"):
            kernel = attention.KERNELS[name]
            patch.setitem(attention.KERNELS, name, _unlocked(kernel))
        yield


def _unlocked(kernel: attention.Kernel) -> attention.Kernel:
    import dataclasses

    return dataclasses.replace(kernel, machine_trouble=lambda device, dtype: "")
