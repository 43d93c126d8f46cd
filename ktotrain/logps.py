"""Log-probabilities of completions from hidden states, without ever holding all logits.

Shapes: N scored tokens, H hidden size, V vocabulary, R branches. The LM head sees scored positions only, in chunks
of tokens, so peak memory does not grow with N x V. Sums are float32 whatever the precision: of log-probabilities, of
softmax, and of the weight's gradient over chunks.

The gradient of a token's log-probability by its logits is `onehot(target) - softmax`, so the backward is in closed
form. Three cases, by what it would need:
- no gradient asked for: logits are dropped chunk by chunk;
- the head is frozen (LoRA): the gradient by the hidden state is the same vector whatever flows in, up to a factor
  per token, so it is computed within the forward and no logits are kept or computed again;
- the head is trained: logits are kept while N x V is small, and computed again chunk by chunk when it is not.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

# 2**26 float32 logits are 256 MiB: below that, keeping them is cheaper than computing them twice.
KEEP_ELEMENTS = 2**26
# The logits of one chunk: 2**24 elements are 64 MiB and still give a CPU GEMMs of full speed at a vocabulary of 150k.
CHUNK_ELEMENTS = 2**24
# With more tokens a CPU's GEMMs are no faster, and softmax finds the logits in memory rather than in a cache: at a
# vocabulary of 8k, chunks of 2,048 tokens took 1.4 times as long in float32 and 1.9 times in bfloat16.
CPU_CHUNK_TOKENS = 512
# There that is 110 tokens, so 110 multiplications for each byte of weights in half precision; an H200 computes 165 in
# the time it takes to read one. 2**26 elements are 256 MiB and, in whole tiles, 384 tokens. Not measured yet.
GPU_CHUNK_ELEMENTS = 2**26
TILE = 128


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A model's output embedding and what it does to logits after it.

    logits = softcap * tanh(scale * (h W^T + b) / softcap), without the cap if `softcap` is 0.
    """

    weight_VH: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0


def chunk_elements_on(device: str, vocabulary: int) -> int:
    """Logits of one chunk on a kind of device."""
    if device == "cpu":
        return min(CHUNK_ELEMENTS, CPU_CHUNK_TOKENS * vocabulary)
    return GPU_CHUNK_ELEMENTS if device == "cuda" else CHUNK_ELEMENTS


def chunk_tokens(elements: int, vocabulary: int) -> int:
    """Tokens of a chunk of so many logits: at least one, and whole tiles of a GPU's GEMM if there are many."""
    tokens = max(1, elements // vocabulary)
    return tokens - tokens % TILE if tokens > TILE else tokens


def branch_logps(token_logps_N: Tensor, branch_N: Tensor, branches: int) -> Tensor:
    """Sums of token log-probabilities per branch: float32 of shape R.

    Added up in float64: one after the other in float32, the sum over 1,000 tokens was off by 2e-3 nats on average, and
    a difference of two such sums is what is learned from. Apple's GPUs have no float64.
    """
    wide = torch.float32 if token_logps_N.device.type == "mps" else torch.float64
    sums_R = torch.zeros(branches, dtype=wide, device=token_logps_N.device)
    return sums_R.index_add(0, branch_N, token_logps_N.to(wide)).float()


def token_logps(
    hidden_NH: Tensor,
    target_N: Tensor,
    head: Head,
    *,
    chunk_elements: int | None = None,
    keep_elements: int = KEEP_ELEMENTS,
) -> Tensor:
    """log softmax(logits)[target] of each scored token: float32 of shape N.

    At most `chunk_elements` logits are computed at once (None: as suits the device), and at most `keep_elements` of a
    trained head's are kept for the backward pass. Under autocast the head's GEMMs run in autocast's type, everything
    after them in float32.
    """
    weight_VH, bias_V = head.weight_VH, head.bias_V
    if chunk_elements is None:
        chunk_elements = chunk_elements_on(hidden_NH.device.type, len(weight_VH))
    if not torch.is_grad_enabled():
        # A function of autograd's is told of a parameter that it needs a gradient, even where none is computed.
        weight_VH, bias_V = weight_VH.detach(), None if bias_V is None else bias_V.detach()
    return cast(
        Tensor,
        _TokenLogps.apply(  # type: ignore[no-untyped-call]
            hidden_NH, weight_VH, bias_V, target_N, head.scale, head.softcap, chunk_elements, keep_elements
        ),
    )


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float) -> Tensor:
    logits = F.linear(hidden, weight, bias).float()
    if scale != 1.0:
        logits = logits * scale
    if softcap:
        logits = torch.tanh(logits / softcap) * softcap
    return logits


def _log_softmax(logits: Tensor, softcap: float) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of a chunk and, where a cap will ask for the logits again, what was taken off them."""
    # One pass over each row; `logsumexp` takes four.
    logps = logits.log_softmax(1)
    return logps, logits[:, :1] - logps[:, :1] if softcap else None


def _by_logits(
    logps: Tensor, lse: Tensor | None, target: Tensor, factor: Tensor, scale: float, softcap: float
) -> Tensor:
    """factor * d logp / d (h W^T + b) for a chunk: onehot - softmax, through the cap and the scale.

    Overwrites `logps`. `factor` is one number per token.
    """
    slope = None if lse is None else 1 - ((logps + lse) / softcap) ** 2
    factor = (factor * scale)[:, None]
    gradient = logps.exp_().mul_(-factor)
    gradient.scatter_add_(1, target[:, None], factor)
    return gradient if slope is None else gradient.mul_(slope)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        scale: float,
        softcap: float,
        chunk_elements: int,
        keep_elements: int,
    ) -> Tensor:
        device = hidden.device.type
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        by_hidden = ctx.needs_input_grad[0]
        by_weight = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        count, vocabulary = len(hidden), len(weight)
        ctx.chunk = chunk_tokens(chunk_elements, vocabulary)
        keep = by_weight and count * vocabulary <= keep_elements
        ctx.scale, ctx.softcap, ctx.compute, ctx.dtypes = scale, softcap, compute, (hidden.dtype, weight.dtype)
        logps = torch.empty(count, dtype=torch.float32, device=hidden.device)
        kept: list[tuple[Tensor, Tensor | None]] = []
        unit = torch.empty_like(hidden) if by_hidden and not by_weight else None
        with torch.autocast(device, enabled=False):
            head, head_bias = weight.to(compute), None if bias is None else bias.to(compute)
            for start in range(0, count, ctx.chunk):
                here = slice(start, start + ctx.chunk)
                logits = _logits(hidden[here].to(compute), head, head_bias, scale, softcap)
                all_logps, lse = _log_softmax(logits, softcap)
                del logits
                logps[here] = all_logps.gather(1, target[here, None])[:, 0]
                if unit is not None:
                    by_logits = _by_logits(all_logps, lse, target[here], torch.ones_like(logps[here]), scale, softcap)
                    unit[here] = (by_logits.to(compute) @ head).to(unit.dtype)
                elif keep:
                    kept.append((all_logps, lse))
        ctx.kept = kept
        ctx.save_for_backward(*([unit] if unit is not None else [hidden, weight, bias, target]))
        return logps

    @staticmethod
    def backward(ctx: Any, grad_logps: Tensor) -> tuple[Tensor | None, ...]:
        nothing = (None,) * 5
        if len(ctx.saved_tensors) == 1:
            (unit,) = ctx.saved_tensors
            return (unit * grad_logps[:, None].to(unit.dtype), None, None, *nothing)
        hidden, weight, bias, target = ctx.saved_tensors
        compute = ctx.compute
        by_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Sums over chunks are float32, also where the weights are not; a single chunk is no sum.
        sums = torch.float32 if len(hidden) > ctx.chunk else weight.dtype
        by_weight = torch.zeros_like(weight, dtype=sums) if ctx.needs_input_grad[1] else None
        by_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and ctx.needs_input_grad[2] else None
        with torch.autocast(hidden.device.type, enabled=False):
            head, head_bias = weight.to(compute), None if bias is None else bias.to(compute)
            for index, start in enumerate(range(0, len(hidden), ctx.chunk)):
                here = slice(start, start + ctx.chunk)
                inputs = hidden[here].to(compute)
                held = ctx.kept[index] if ctx.kept else None
                if held is not None:
                    # Cleared as it is used: the gradient overwrites it, and a second backward must not see it.
                    ctx.kept[index] = None
                else:
                    held = _log_softmax(_logits(inputs, head, head_bias, ctx.scale, ctx.softcap), ctx.softcap)
                all_logps, lse = held
                by_logits = _by_logits(all_logps, lse, target[here], grad_logps[here], ctx.scale, ctx.softcap)
                del held, all_logps  # overwritten
                cast_gradient = by_logits.to(compute)
                if by_hidden is not None:
                    by_hidden[here] = (cast_gradient @ head).to(by_hidden.dtype)
                if by_weight is not None and by_weight.dtype == compute:
                    by_weight.addmm_(cast_gradient.T, inputs)
                elif by_weight is not None:
                    by_weight += cast_gradient.T @ inputs
                if by_bias is not None:
                    by_bias += by_logits.sum(0)
        if by_weight is not None:
            by_weight = by_weight.to(weight.dtype)
        if by_bias is not None:
            by_bias = by_bias.to(bias.dtype)
        return (by_hidden, by_weight, by_bias, *nothing)
