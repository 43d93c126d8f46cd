"""Which kernel attention runs on: those that are exact for what the model asks, and of them the fastest as measured.

A kernel is held against the loop in float32 on random numbers, gradients included, before it is trusted: whether the
last query sees the last key, how wide a window is and what a sink takes are conventions that differ between kernels
and versions, and getting one wrong gives wrong numbers without an error.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, distributed, nn

from ktotrain.attention import KERNELS, Ask, Following, Kernel, KernelName, Memory, Ragged
from ktotrain.batch import Unit

Asks: TypeAlias = Mapping[Ask, int]
"""What the layers of a model ask of attention, and how many layers ask it."""

# Of the largest value. Rounding in half precision comes to about 0.5 %, a wrong key to 8 % and more.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 3e-2}
# Prompts with completions of many shapes: none, one, several, within a block of 128 and across its border.
TRIED = (Unit(37, (20, 15, 33)), Unit(140, (5,)), Unit(9, (1, 0, 150)), Unit(260, (0, 7)))
TRIED_LATER = (Unit(0, (8, 9)), Unit(0, ()), Unit(0, (130, 0)), Unit(0, (4,)))
# A pack to measure on where the run's own is not known: 8,192 tokens, two completions to a prompt.
TYPICAL = (Unit(212, (150, 150)),) * 16
REPETITIONS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class KernelChoice:
    """Kernels that can be used, the fastest first, and the figures as a sentence."""

    names: list[KernelName]
    figures: str


def ask_counts(asks: Sequence[Ask]) -> Asks:
    """Equal asks as one, with how often they occur."""
    return Counter(asks)


def rank_kernels(asks: Asks, units: tuple[Unit, ...], *, dtype: torch.dtype, device: torch.device) -> KernelChoice:
    """Measure every kernel that is exact for `asks` on a pack of `units`, forward and backward.

    Takes a second or two, and as long as compiling takes for what has to be compiled. All processes of a run take
    the same kernel: the one that is fastest over all of them.
    """
    started = time.perf_counter()
    times: dict[KernelName, float] = {}
    troubles: dict[KernelName, str] = {}
    for name, kernel in KERNELS.items():
        trouble = kernel_trouble(kernel, asks, dtype=dtype, device=device)
        if not trouble:
            try:
                times[name] = seconds(kernel, asks, units, dtype=dtype, device=device)
            except Exception as error:  # noqa: BLE001 (a kernel that fails, however it does, is one not to use)
                trouble = _failure(error)
        if trouble:
            troubles[name] = trouble
    if device.type == "cuda":
        torch.cuda.empty_cache()
    times = _agreed(times)
    names = sorted(times, key=lambda name: times[name])
    tokens = sum(unit.size for unit in units)
    figures = f"attention of {sum(asks.values())} layers over {tokens:,} tokens, forward and backward: "
    figures += ", ".join(f"{name} {1e3 * times[name]:.1f} ms" for name in names)
    figures += "".join(f"; not {name}: {trouble}" for name, trouble in troubles.items())
    figures += f" (found out in {time.perf_counter() - started:.1f} s)"
    return KernelChoice(names, figures)


def kernel_trouble(kernel: Kernel, asks: Asks, *, dtype: torch.dtype, device: torch.device) -> str:
    """Why a kernel cannot be used for what a model's layers ask, computed in `dtype`, or ""."""
    if trouble := kernel.machine_trouble(device, dtype):
        return trouble
    for ask in asks:
        if trouble := kernel.ask_trouble(ask):
            return trouble
    if kernel is KERNELS["ragged"]:
        return ""
    for case in {_telling(ask) for ask in asks}:
        try:
            ours = _results(kernel, case, dtype, rounded=dtype, device=device)
            theirs = _results(KERNELS["ragged"], case, torch.float32, rounded=dtype, device=device)
        except Exception as error:  # noqa: BLE001 (whatever a compiler or a driver raises)
            return _failure(error)
        for what, result in ours.items():
            difference = float((result.float() - theirs[what]).abs().max() / theirs[what].abs().max())
            if not difference <= TOLERANCE[dtype]:  # also where it is not a number
                return f"its {what} differ from the loop's by {difference:.1e} of the largest"
    return ""


def seconds(kernel: Kernel, asks: Asks, units: tuple[Unit, ...], *, dtype: torch.dtype, device: torch.device) -> float:
    """Seconds that all layers' attention takes over a pack, forward and backward: the best of a few trials.

    What is made once for a pack counts once.
    """
    tokens = sum(unit.size for unit in units)
    inputs = {ask: _inputs(ask, tokens, dtype, dtype, device) for ask in asks}

    def layer(ragged: Ragged, ask: Ask) -> None:
        query, key, value, sinks, gradient = inputs[ask]
        out = _attended(kernel, nn.Module(), ask, (query, key, value), sinks, ragged)
        torch.autograd.grad(out, (query, key, value), gradient)

    def trial() -> float:
        ragged = Ragged(units)
        total = 0.0
        for ask, layers in asks.items():
            started = _now(device)
            layer(ragged, ask)
            first = _now(device) - started
            started = _now(device)
            for _ in range(REPETITIONS):
                layer(ragged, ask)
            total += first + (layers - 1) * (_now(device) - started) / REPETITIONS
        return total

    trial()  # compiles, and fills the allocator's pools
    return min(trial() for _ in range(REPETITIONS))


def _telling(ask: Ask) -> Ask:
    """The same with numbers that show: a window within the tried pack, a cap within the scores, which are about 1."""
    return dataclasses.replace(ask, scale=ask.key_size**-0.5, window=min(ask.window, 12), softcap=min(ask.softcap, 1.0))


def _results(
    kernel: Kernel, ask: Ask, dtype: torch.dtype, *, rounded: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """What a kernel makes of the tried pack, its gradients, and what it makes of completions that follow it."""
    tokens = sum(unit.size for unit in TRIED)
    query, key, value, sinks, gradient = _inputs(ask, tokens, dtype, rounded, device)
    layer, memory = nn.Module(), Memory()
    out = _attended(kernel, layer, ask, (query, key, value), sinks, Ragged(TRIED, memory))
    inputs = [query, key, value] if sinks is None else [query, key, value, sinks]
    gradients = torch.autograd.grad(out, inputs, gradient)
    starts = [0]
    for unit in TRIED:
        starts.append(starts[-1] + unit.size)
    spans = tuple((start, unit.prompt) for start, unit in zip(starts, TRIED, strict=False))
    more = [x.detach() for x in _inputs(ask, sum(unit.size for unit in TRIED_LATER), dtype, rounded, device)[:3]]
    with torch.no_grad():
        later = _attended(kernel, layer, ask, more, sinks, Following(TRIED_LATER, spans, memory))
    names = ("query gradients", "key gradients", "value gradients", "sink gradients")
    return {"results": out.detach(), "later results": later, **dict(zip(names, gradients, strict=False))}


def _inputs(
    ask: Ask, tokens: int, dtype: torch.dtype, rounded: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """Random queries, keys, values, sinks if there are any, and a gradient, in the memory order of a model's own."""
    random = torch.Generator().manual_seed(tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(rounded).to(device, dtype)

    query = normal(1, tokens, ask.heads, ask.key_size).transpose(1, 2).requires_grad_()
    key = normal(1, tokens, ask.key_heads, ask.key_size).transpose(1, 2).requires_grad_()
    value = normal(1, tokens, ask.key_heads, ask.value_size).transpose(1, 2).requires_grad_()
    sinks = normal(ask.heads).requires_grad_() if ask.sinks else None
    return query, key, value, sinks, normal(1, tokens, ask.heads, ask.value_size)


def _attended(
    kernel: Kernel, layer: nn.Module, ask: Ask, inputs: Sequence[Tensor], sinks: Tensor | None, ragged: Ragged
) -> Tensor:
    """A kernel's result for a layer's ask, called as transformers does."""
    special: dict[str, Any] = {"sliding_window": ask.window or None, "softcap": ask.softcap or None, "s_aux": sinks}
    return kernel.attend(layer, *inputs, None, ragged=ragged, scaling=ask.scale, **special)[0]


def _now(device: torch.device) -> float:
    """Wall time once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _agreed(times: dict[KernelName, float]) -> dict[KernelName, float]:
    """The slowest process's times, of the kernels that every process can use."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return times
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, times)
    return {name: max(each[name] for each in gathered) for name in times if all(name in each for each in gathered)}


def _failure(error: Exception) -> str:
    """A library's error as half a sentence."""
    return f"it failed ({type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:120]})"
