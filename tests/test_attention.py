"""Every kernel computes what the loop over segments does: results, gradients, and completions that follow a pass."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import kernels
import numpy as np
import pytest
import torch
from support import random_rows, run_steps, tiny_llama
from torch import Tensor, nn

from ktotrain import attention, attention_flex, attention_products, attention_varlen
from ktotrain.attention import KERNELS, Ask, Following, Memory, Ragged
from ktotrain.attention_choice import TRIED, TRIED_LATER, ask_counts, kernel_trouble, rank_kernels, seconds
from ktotrain.attention_loop import loop_attention
from ktotrain.batch import Unit

CPU = torch.device("cpu")
PLAIN = Ask(4, 2, 10, 10, 10**-0.5)
ASKS = {
    "plain": PLAIN,
    "one key head each": dataclasses.replace(PLAIN, key_heads=4),
    "window": dataclasses.replace(PLAIN, window=12),
    "window across blocks": dataclasses.replace(PLAIN, window=130),
    "values of another size": dataclasses.replace(PLAIN, value_size=18),
    "another scale": dataclasses.replace(PLAIN, scale=0.5),
}
SPECIAL = {
    "soft-cap": dataclasses.replace(PLAIN, softcap=0.5),
    "sinks": dataclasses.replace(PLAIN, sinks=True),
    "all of it": dataclasses.replace(PLAIN, softcap=0.5, sinks=True, window=12),
}


@pytest.fixture
def stand_ins() -> Iterator[None]:
    with kernels.stand_ins():
        yield


def spans(units: tuple[Unit, ...]) -> tuple[tuple[int, int], ...]:
    starts = np.cumsum([0, *(unit.size for unit in units)])
    return tuple((int(start), unit.prompt) for start, unit in zip(starts, units, strict=False))


def dense(ragged: Ragged, others: int = 0) -> Tensor:
    """Who sees whom, token by token from the units: bool [T, `others` + T], remembered keys first."""
    seen = torch.zeros(sum(ragged.sizes), others + sum(ragged.sizes), dtype=torch.bool)
    start = 0
    for number, unit in enumerate(ragged.units):
        at = start + unit.prompt
        if isinstance(ragged, Following):
            prompt = slice(ragged.spans[number][0], sum(ragged.spans[number]))
        else:
            prompt = slice(start, at)
            seen[prompt, prompt] = torch.ones(unit.prompt, unit.prompt, dtype=torch.bool).tril()
        for length in unit.completions:
            own = slice(others + at, others + at + length)
            seen[at : at + length, prompt] = True
            seen[at : at + length, own] = torch.ones(length, length, dtype=torch.bool).tril()
            at += length
        start += unit.size
    return seen


@pytest.mark.parametrize("following", [False, True])
def test_the_loop_is_attention_under_a_dense_mask(following: bool) -> None:
    memory = Memory()
    ragged = Following(TRIED_LATER, spans(TRIED), memory) if following else Ragged(TRIED)
    others = sum(unit.size for unit in TRIED) if following else 0
    layer = nn.Module()
    tokens = sum(ragged.sizes)
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, tokens, 8), torch.randn(1, 2, tokens, 8), torch.randn(1, 2, tokens, 8)
    there = torch.randn(2, 1, 2, others, 8)
    memory.note(layer, there[0], there[1])
    ours, _ = loop_attention(layer, query, key, value, None, ragged=ragged)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query,
        torch.cat((there[0], key), 2),
        torch.cat((there[1], value), 2),
        attn_mask=dense(ragged, others),
        enable_gqa=True,
    )
    torch.testing.assert_close(ours, expected.transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_attention_weights_are_autograds_to_keep_and_to_drop() -> None:
    """Checkpointing hooks into what is saved: weights kept anywhere else would stay, and outlive the backward pass."""
    ragged = Ragged((Unit(5, (4,)),))
    q, k, v = (torch.randn(1, 4, 9, 64, requires_grad=True) for _ in range(3))
    shapes: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out, _ = loop_attention(nn.Module(), q, k, v, None, ragged=ragged)
    assert (4, 9, 9) in shapes
    function = out.grad_fn
    out.sum().backward()
    with pytest.raises(RuntimeError, match="already been freed"):
        _ = function.saved_tensors  # type: ignore[union-attr]


def positions(ragged: Ragged) -> Tensor:
    """Each token's place in its own branch: [T]."""
    places: list[int] = []
    for unit in ragged.units:
        places += range(unit.prompt)
        for length in unit.completions:
            places += range(unit.prompt, unit.prompt + length)
    return torch.tensor(places)


@pytest.mark.parametrize("kept", [0, attention_products.KEPT_KEYS], ids=["computed again", "kept"])
@pytest.mark.parametrize("key_heads", [2, 4])
@pytest.mark.parametrize("window", [0, 12, 130])
def test_gradients_are_those_under_a_dense_mask(
    window: int, key_heads: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_products, "KEPT_KEYS", kept)
    ragged = Ragged(TRIED)
    mask = dense(ragged)
    if window:
        place = positions(ragged)
        mask &= place[:, None] - place[None, :] < window
    torch.manual_seed(0)
    sizes = [(4, 64), (key_heads, 64), (key_heads, 64)]
    q, k, v = (torch.randn(1, heads, len(mask), size, requires_grad=True) for heads, size in sizes)
    ours, _ = loop_attention(nn.Module(), q, k, v, None, ragged=ragged, sliding_window=window or None)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    towards = torch.randn_like(expected)
    ours_by = torch.autograd.grad((ours.transpose(1, 2) * towards).sum(), (q, k, v))
    expected_by = torch.autograd.grad((expected * towards).sum(), (q, k, v))
    torch.testing.assert_close(ours.transpose(1, 2), expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(ours_by, expected_by, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
@pytest.mark.parametrize("name", ["varlen", "flex"])
def test_kernels_agree_with_the_loop(name: attention.KernelName, ask: Ask) -> None:
    """Forward, all gradients, and completions after remembered prompts: `kernel_trouble` is that comparison."""
    assert kernel_trouble(KERNELS[name], {ask: 1}, dtype=torch.float32, device=CPU) == ""


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("ask", SPECIAL.values(), ids=SPECIAL)
def test_flex_serves_what_varlen_does_not(ask: Ask) -> None:
    assert kernel_trouble(KERNELS["flex"], {ask: 1}, dtype=torch.float32, device=CPU) == ""
    assert "it has no" in kernel_trouble(KERNELS["varlen"], {PLAIN: 1, ask: 1}, dtype=torch.float32, device=CPU)
    ragged = Ragged(TRIED)
    tokens = sum(ragged.sizes)
    query, key = torch.randn(1, 4, tokens, 8), torch.randn(1, 2, tokens, 8)
    settings: dict[str, Any] = {"softcap": ask.softcap, "s_aux": torch.zeros(4) if ask.sinks else None}
    with pytest.raises(ValueError, match="varlen attention: it has no"):
        attention_varlen.varlen_attention(nn.Module(), query, key, key, None, ragged=ragged, **settings)


@pytest.mark.parametrize("varlen", [kernels.varlen_attn, kernels.varlen_attn_grouped], ids=["torch 2.11", "torch 2.13"])
def test_grouped_heads_in_both_forms_of_the_kernel(varlen: Callable[..., Tensor]) -> None:
    with kernels.stand_ins(varlen):
        assert kernel_trouble(KERNELS["varlen"], {PLAIN: 1}, dtype=torch.float32, device=CPU) == ""


def off_by_one(*inputs: Any, **settings: Any) -> Tensor:
    left, right = settings["window_size"]
    return kernels.varlen_attn_grouped(*inputs, **(settings | {"window_size": (left + (left > 0), right)}))


@pytest.mark.parametrize(
    ("wrong", "ask"), [(kernels.varlen_attn_top_left, "one key head each"), (off_by_one, "window")]
)
def test_a_kernel_with_other_conventions_is_found_out(wrong: Callable[..., Tensor], ask: str) -> None:
    with kernels.stand_ins(wrong):
        trouble = kernel_trouble(KERNELS["varlen"], {ASKS[ask]: 1}, dtype=torch.float32, device=CPU)
    assert "differ from the loop's" in trouble or "it failed" in trouble


@pytest.mark.parametrize("wrong", [kernels.varlen_attn_top_left, off_by_one], ids=["top left", "window + 1"])
def test_half_precision_does_not_hide_it(wrong: Callable[..., Tensor]) -> None:
    ask = dataclasses.replace(ASKS["window"], key_heads=4, key_size=16, value_size=16)
    for varlen, found in ((kernels.varlen_attn, False), (wrong, True)):
        with kernels.stand_ins(varlen):
            trouble = kernel_trouble(KERNELS["varlen"], {ask: 1}, dtype=torch.bfloat16, device=CPU)
        assert bool(trouble) == found, trouble


@pytest.mark.parametrize("window", [0, 12, 128, 200, 400])
@pytest.mark.parametrize("following", [False, True])
def test_flex_blocks_are_those_of_the_dense_mask(window: int, following: bool) -> None:
    """The vectors say who sees whom; the lists of blocks leave out nothing that is seen and hold nothing in vain."""
    units = (*TRIED, Unit(300, (200, 400)))
    later = (*TRIED_LATER, Unit(0, (140, 6)))
    memory = Memory()
    ragged = Following(later, spans(units), memory) if following else Ragged(units)
    tokens, others = sum(ragged.sizes), sum(unit.size for unit in units) if following else 0
    queries = attention_flex.bucket(tokens)
    keys = queries + (attention_flex.bucket(others) if others else 0)
    ours, theirs = attention_flex.describe(ragged, queries, keys)
    distance = ours.position[:, None] - theirs.position[None]
    seen = (ours.unit[:, None] == theirs.unit[None]) & (distance >= 0) & (distance < (window or 10**6))
    seen &= (theirs.branch[None] == 0) | (ours.branch[:, None] == theirs.branch[None])
    expected = dense(ragged, others).numpy()
    if not window:
        assert np.array_equal(seen[:tokens, :tokens], expected[:, others:])
        assert np.array_equal(seen[:tokens, queries : queries + others], expected[:, :others])
    assert seen.any(1).all(), "a row without keys would be 0 / 0"
    size = attention_flex.BLOCK
    blocks = seen.reshape(queries // size, size, keys // size, size).transpose(0, 2, 1, 3)
    partial, full = attention_flex.seen_blocks(ragged, queries, keys, window)
    assert np.array_equal(partial | full, blocks.any((2, 3)))
    assert not (partial & full).any()
    # A block in which one segment ends and its sibling begins is masked though it need not be.
    every = blocks.all((2, 3))
    assert not (full & ~every).any()
    segment = np.repeat(np.arange(len(ragged.sizes)), ragged.sizes)
    for block in range(tokens // size):
        if len(set(segment[block * size : (block + 1) * size])) == 1:
            assert np.array_equal(full[block], every[block])
    if not following and not window:
        assert full.sum() > 3


def test_flex_shapes_are_few() -> None:
    assert sorted({attention_flex.bucket(tokens) for tokens in range(1, 8193)}) == [
        128, 256, 512, 1024, 2048, 4096, 8192,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
def test_flex_compiles_once_for_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other packs, layers and passes of one bucket take what is there; a new window or bucket is compiled."""
    from torch._dynamo.utils import counters

    compiled = torch.compile(attention_flex._kernel("cpu"), dynamic=False, fullgraph=True, backend="eager")
    monkeypatch.setattr(attention_flex, "_kernel", lambda device: compiled)
    torch.compiler.reset()
    counters.clear()

    def graphs(units: tuple[Unit, ...], **settings: Any) -> int:
        ragged = Ragged(units)
        tokens = sum(ragged.sizes)
        for _ in range(2):
            query, key = torch.randn(1, 4, tokens, 16), torch.randn(1, 2, tokens, 16)
            with torch.no_grad():
                attention_flex.flex_attention(nn.Module(), query, key, key, None, ragged=ragged, **settings)
        return int(counters["stats"]["unique_graphs"])

    assert graphs((Unit(50, (20, 30)), Unit(20, (15,)))) == 1
    assert graphs((Unit(9, (20, 30, 40)), Unit(5, (7,)), Unit(60, (30, 1)))) == 1
    assert graphs((Unit(50, (20, 30)),), sliding_window=12) == 2
    assert graphs((Unit(50, (20, 230)),)) == 3
    assert graphs((Unit(50, (20, 340)),)) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU takes g++")
@pytest.mark.parametrize("following", [False, True])
def test_flex_compiled_by_blocks(following: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The definition reads the vectors alone; a compiled kernel goes by the lists of blocks."""
    compiled = torch.compile(attention_flex._kernel("cpu"), dynamic=False, fullgraph=True)
    monkeypatch.setattr(attention_flex, "_kernel", lambda device: compiled)
    units, later, memory = (*TRIED, Unit(300, (200, 400))), (*TRIED_LATER, Unit(0, (140, 6))), Memory()
    ragged = Following(later, spans(units), memory) if following else Ragged(units)
    layer = nn.Module()
    torch.manual_seed(0)
    memory.note(layer, *torch.randn(2, 1, 2, sum(unit.size for unit in units), 16))
    tokens = sum(ragged.sizes)
    query, key, value = torch.randn(1, 4, tokens, 16), torch.randn(1, 2, tokens, 16), torch.randn(1, 2, tokens, 16)
    with torch.no_grad():
        ours, theirs = (
            attend(layer, query, key, value, None, ragged=ragged, sliding_window=130)[0]
            for attend in (attention_flex.flex_attention, loop_attention)
        )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
@pytest.mark.parametrize("ask", [PLAIN, *SPECIAL.values()], ids=["plain", *SPECIAL])
def test_flex_traced_with_gradients(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a CPU can follow the compiler: results, their gradients, and the gradient of the log-sum-exp."""
    from torch.nn.attention import flex_attention as flex

    prepared = flex._apply_kernel_options
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)  # "does not support backward on CPU"
    monkeypatch.setattr(flex, "_apply_kernel_options", lambda *a, **k: prepared(*a, **k) | {"OUTPUT_LOGSUMEXP": True})
    compiled = torch.compile(attention_flex._kernel("cpu"), dynamic=False, fullgraph=True, backend="aot_eager")
    with kernels.stand_ins():
        monkeypatch.setattr(attention_flex, "_kernel", lambda device: compiled)
        assert kernel_trouble(KERNELS["flex"], {ask: 1}, dtype=torch.float32, device=CPU) == ""


GROUPS = [0, 0, 0, 1, 2, 3, 2, 4, 5, 6, 7, 7, 8, 9, 10, 11]


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    "checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "checkpointing"]
)
@pytest.mark.parametrize("name", ["varlen", pytest.param("flex", marks=pytest.mark.slow)])
def test_a_run_is_the_same_on_every_kernel(name: str, checkpointing: bool) -> None:
    """Steps with mismatched completions that follow, through each kernel as asked for by name."""
    from ktotrain.model import recompute_activations

    def trained(kind: str) -> list[Any]:
        model = tiny_llama()
        if checkpointing and kind == name:
            recompute_activations(model)
        how: dict[str, Any] = {"beta": 0.5, "weights": (2.0, 0.2), "steps": 2}
        return run_steps(model, random_rows(GROUPS), attention=kind, **how)

    ours, theirs = trained(name), trained("ragged")
    assert theirs[1].kl > 0.001
    for a, b in zip(ours, theirs, strict=True):
        assert (a.loss, a.kl) == pytest.approx((b.loss, b.kl), rel=1e-4, abs=1e-5)
        for parameter, gradient in a.gradients.items():
            torch.testing.assert_close(gradient, b.gradients[parameter], rtol=1e-3, atol=2e-6, msg=parameter)


@pytest.mark.usefixtures("stand_ins")
def test_ranking_measures_what_is_exact_and_says_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    asks = ask_counts([PLAIN, PLAIN, SPECIAL["soft-cap"]])
    assert asks == {PLAIN: 2, SPECIAL["soft-cap"]: 1}
    figures = {"ragged": 2.0, "flex": 1.0}
    monkeypatch.setattr("ktotrain.attention_choice.seconds", lambda kernel, *_, **__: figures[kernel.name])
    choice = rank_kernels(asks, TRIED, dtype=torch.float32, device=CPU)
    assert choice.names == ["flex", "ragged"]
    assert choice.figures.startswith(
        "attention of 3 layers over 677 tokens, forward and backward: flex 1000.0 ms, ragged 2000.0 ms; "
        "not varlen: it has no soft-cap on scores (found out in "
    )


def test_processes_take_the_kernel_that_is_fastest_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process cannot use varlen, and is slow with the loop: all take flex, though it is not this one's fastest."""
    from ktotrain import attention_choice

    def gather(into: list[Any], mine: Any) -> None:
        into[:] = [mine, {"ragged": 5.0, "flex": 3.0}]

    monkeypatch.setattr(attention_choice.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(attention_choice.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(attention_choice.distributed, "all_gather_object", gather)
    ours: dict[attention.KernelName, float] = {"ragged": 1.0, "varlen": 0.5, "flex": 2.0}
    assert attention_choice._agreed(ours) == {"ragged": 5.0, "flex": 3.0}


@pytest.mark.usefixtures("stand_ins")
def test_a_kernel_that_breaks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such instruction\nmore")

    monkeypatch.setattr(attention_flex, "_kernel", lambda device: broken)
    choice = rank_kernels({PLAIN: 1}, (Unit(20, (5, 6)),), dtype=torch.float32, device=CPU)
    assert sorted(choice.names) == ["ragged", "varlen"]
    assert "not flex: it failed (RuntimeError: no such instruction)" in choice.figures


def test_seconds_count_layers() -> None:
    def timed(layers: int) -> float:
        return seconds(KERNELS["ragged"], {PLAIN: layers}, (Unit(20, (5, 6)),), dtype=torch.float32, device=CPU)

    assert timed(1000) > 10 * timed(1) > 0


@pytest.mark.parametrize(
    ("name", "device", "dtype", "words"),
    [
        ("varlen", "cpu", torch.bfloat16, "needs a CUDA GPU"),
        ("flex", "cpu", torch.float32, "needs a CUDA GPU"),
        ("ragged", "cpu", torch.float32, ""),
    ],
)
def test_what_a_machine_can_run(name: attention.KernelName, device: str, dtype: torch.dtype, words: str) -> None:
    trouble = KERNELS[name].machine_trouble(torch.device(device), dtype)
    assert words in trouble
    assert bool(trouble) == bool(words)


@pytest.mark.parametrize(
    ("capability", "dtype", "kernel", "words"),
    [
        ((9, 0), torch.bfloat16, kernels.varlen_attn, ""),
        ((9, 0), torch.float32, kernels.varlen_attn, "this run computes in float32"),
        ((7, 5), torch.float16, kernels.varlen_attn, "8.0 or later"),
        ((9, 0), torch.bfloat16, lambda query, key, value, is_causal: None, "torch 2.11"),
    ],
)
def test_what_varlen_needs_of_a_gpu(
    capability: tuple[int, int],
    dtype: torch.dtype,
    kernel: Callable[..., Any],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention_varlen, "_kernel", lambda: kernel)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "T4")
    trouble = attention_varlen.machine_trouble(torch.device("cuda"), dtype)
    assert words in trouble
    assert bool(trouble) == bool(words)
