"""The chunked head equals log_softmax over whole logits, in values and gradients, whichever case it takes."""

import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from ktotrain.logps import Head, branch_logps, chunk_elements_on, chunk_tokens, token_logps

N, H, V = 37, 16, 50


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, H, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(V, generator=generator).to(dtype).requires_grad_()
    target = torch.randint(0, V, (N,), generator=generator)
    upstream = torch.randn(N, generator=generator)
    return hidden, weight, bias, target, upstream


def whole(hidden: Tensor, head: Head, target: Tensor) -> Tensor:
    logits = hidden @ head.weight_VH.T
    if head.bias_V is not None:
        logits = logits + head.bias_V
    logits = logits * head.scale
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits.log_softmax(-1).gather(1, target[:, None])[:, 0]


@pytest.mark.parametrize(
    "chunks", [{}, {"chunk_elements": 7 * V}, {"chunk_elements": 7 * V, "keep_elements": 0}], ids=str
)
@pytest.mark.parametrize(
    "kind", [{}, {"scale": 0.25}, {"softcap": 5.0}, {"scale": 2.0, "softcap": 3.0, "bias": True}], ids=str
)
@pytest.mark.parametrize("trained", [True, False], ids=["head trained", "head frozen"])
def test_values_and_gradients(chunks: dict[str, int], kind: dict[str, Any], trained: bool) -> None:
    gradients = []
    for compute in (lambda h, head, t: token_logps(h, t, head, **chunks), whole):
        hidden, weight, bias, target, upstream = inputs()
        for parameter in (weight, bias):
            parameter.requires_grad_(trained)
        extra = {key: value for key, value in kind.items() if key != "bias"}
        head = Head(weight, bias if "bias" in kind else None, **extra)
        logps = compute(hidden, head, target)
        (logps * upstream).sum().backward()
        gradients.append([logps, hidden.grad, weight.grad, bias.grad])
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_logits_are_never_held_whole_where_the_head_is_frozen() -> None:
    """What the graph keeps for the backward pass is the size of the hidden states, not of the logits."""
    hidden, weight, _, target, _ = inputs()
    weight.requires_grad_(False)
    sizes: list[int] = []

    def note(saved: Tensor) -> Tensor:
        sizes.append(saved.numel())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        token_logps(hidden, target, Head(weight)).sum().backward()
    assert sizes == [N * H]


def test_bfloat16_sums_are_float32() -> None:
    hidden, weight, _, target, _ = inputs(torch.bfloat16)
    logps = token_logps(hidden, target, Head(weight))
    assert logps.dtype == torch.float32
    exact = whole(hidden.float(), Head(weight.float()), target)
    torch.testing.assert_close(logps, exact, rtol=2e-2, atol=0.2)


def test_autocast_computes_in_its_type_and_gives_gradients_in_the_weights() -> None:
    hidden, weight, _, target, _ = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logps = token_logps(hidden, target, Head(weight))
    assert not torch.equal(logps, token_logps(hidden, target, Head(weight)))
    logps.sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_sums_by_branch() -> None:
    sums = branch_logps(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 2]), 4)
    assert sums.tolist() == [1, 0, 6, 0]


def test_a_long_branchs_sum_is_as_exact_as_its_type() -> None:
    """What is learned from is the difference of two such sums: their errors must not grow with length."""
    logps = -torch.rand(4000, generator=torch.Generator().manual_seed(0)) * 9
    exact = torch.tensor(math.fsum(logps.tolist())).float()
    assert branch_logps(logps, torch.zeros(4000, dtype=torch.int64), 1)[0] == exact


def test_the_weights_gradient_is_summed_in_float32_over_chunks() -> None:
    """Half-precision sums lose what each further chunk adds: against float32 throughout, no worse than one rounding."""
    generator = torch.Generator().manual_seed(1)
    count, chunks = 4096, 256
    hidden = torch.randn(count, H, generator=generator).abs().bfloat16()
    weight = torch.randn(V, H, generator=generator).bfloat16()
    target = torch.zeros(count, dtype=torch.int64)  # one row of the gradient grows with every chunk
    exact = weight.float().requires_grad_()
    whole(hidden.float(), Head(exact), target).sum().backward()
    weight.requires_grad_()
    token_logps(hidden, target, Head(weight), chunk_elements=count // chunks * V, keep_elements=0).sum().backward()
    assert weight.grad is not None
    assert exact.grad is not None
    assert weight.grad.dtype == torch.bfloat16
    error = (weight.grad[0].float() - exact.grad[0]).abs() / exact.grad[0].abs()
    assert error.max() < 1e-2


class Peak(TorchDispatchMode):
    """The most numbers that tensors held at once, of those made within; autograd's own kept ones included."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in (one for one in tree_flatten(out)[0] if isinstance(one, Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.live:
                self.live[storage._cdata] = storage.nbytes() // 4
                weakref.finalize(storage, self.live.pop, storage._cdata, None)
        self.most = max(self.most, sum(self.live.values()))
        return out


@pytest.mark.parametrize(
    ("trained", "graded", "keep", "grows"),
    [(True, True, 0, False), (False, True, 2**30, False), (True, False, 2**30, False), (True, True, 2**30, True)],
    ids=["computed again", "frozen head", "no gradient", "kept"],
)
def test_memory_grows_with_the_tokens_only_where_logits_are_kept(
    trained: bool, graded: bool, keep: int, grows: bool
) -> None:
    """A chunk's logits and, per token, a few hidden states, however many tokens are scored."""
    wide = 1000
    weight = torch.randn(wide, H, requires_grad=trained)
    peaks = []
    for count in (64, 512):
        hidden = torch.randn(count, H, requires_grad=graded)
        target = torch.zeros(count, dtype=torch.int64)
        with Peak() as peak, torch.set_grad_enabled(graded):
            total = token_logps(hidden, target, Head(weight), chunk_elements=8 * wide, keep_elements=keep).sum()
            if graded:
                total.backward()
        peaks.append(peak.most)
    assert peaks[0] >= 8 * wide, "a chunk is seen"
    assert (peaks[1] - peaks[0] >= (512 - 64) * wide) == grows
    assert grows or peaks[1] - peaks[0] <= (512 - 64) * 8 * H


@pytest.mark.parametrize("keep", [2**20, 0], ids=["kept", "computed again"])
def test_a_second_backward_gives_the_same(keep: int) -> None:
    """The gradient overwrites the logits that were kept for it: who comes again must not find them."""
    hidden, weight, _, target, upstream = inputs()
    weight.requires_grad_()
    total = (token_logps(hidden, target, Head(weight), chunk_elements=7 * V, keep_elements=keep) * upstream).sum()
    first = torch.autograd.grad(total, (hidden, weight), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(total, (hidden, weight)), first)


def test_chunks_suit_the_device() -> None:
    """Qwen2.5's vocabulary and a small one: a GPU gets as many tokens as keep it busy, in whole tiles."""
    assert chunk_tokens(chunk_elements_on("cpu", 151_936), 151_936) == 110
    assert chunk_tokens(chunk_elements_on("cpu", 8192), 8192) == 512
    assert chunk_tokens(chunk_elements_on("cuda", 151_936), 151_936) == 3 * 128
    assert chunk_tokens(10, 100) == 1
