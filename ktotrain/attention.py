"""The kernels that attention over a pack can run on, by name, and their registration with transformers.

    ragged   a loop over the segments: exact for every model, on every device
    varlen   one call of torch's variable-length flash attention: CUDA, half precision, no soft-cap, no sinks
    flex     one call of torch's flex attention with a block mask: CUDA, compiled when first used

All read the same description of the pack, `ktotrain.attention_pack`. Which one a run takes: `ktotrain.probe`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ktotrain import attention_flex, attention_loop, attention_varlen
from ktotrain.attention_mask import stand_in
from ktotrain.attention_pack import Ask, Following, Memory, NotServedError, Ragged
from ktotrain.last_layer import in_two_runs

__all__ = [
    "IMPLEMENTATIONS",
    "KERNELS",
    "Ask",
    "Following",
    "Kernel",
    "KernelName",
    "Memory",
    "NotServedError",
    "Ragged",
    "refusal",
    "register",
]

KernelName: TypeAlias = Literal["ragged", "varlen", "flex"]


@dataclasses.dataclass(frozen=True, slots=True)
class Kernel:
    """One way to compute attention over a pack.

    `attend` has the form that transformers calls. `machine_trouble` says why a device and precision rule it out, and
    `ask_trouble` why something that a layer asks for does; both "" if nothing does.
    """

    name: KernelName
    attend: Callable[..., tuple[Tensor, None]]
    machine_trouble: Callable[[torch.device, torch.dtype], str]
    ask_trouble: Callable[[Ask], str]

    @property
    def implementation(self) -> str:
        """Its name among transformers' attention implementations."""
        return f"ktotrain_{self.name}"


def _anywhere(*_: Any) -> str:
    return ""


KERNELS: dict[KernelName, Kernel] = {
    "ragged": Kernel("ragged", attention_loop.loop_attention, _anywhere, _anywhere),
    "varlen": Kernel(
        "varlen",
        attention_varlen.varlen_attention,
        attention_varlen.machine_trouble,
        attention_varlen.ask_trouble,
    ),
    "flex": Kernel("flex", attention_flex.flex_attention, attention_flex.machine_trouble, attention_flex.ask_trouble),
}
IMPLEMENTATIONS = frozenset(kernel.implementation for kernel in KERNELS.values())


def refusal(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16, asks: Iterable[Ask] = ()) -> str:
    """Why the recipe's `model.attention` cannot be had here, and what can; "" if nothing speaks against it.

    `dtype` is what attention will compute in, and `asks` what the model's layers want, as far as they are known.
    """
    asks = list(asks)

    def trouble(kernel: Kernel) -> str:
        asked = (kernel.ask_trouble(ask) for ask in asks)
        return kernel.machine_trouble(device, dtype) or next(filter(None, asked), "")

    found: dict[str, str] = {"auto": ""} | {kernel.name: trouble(kernel) for kernel in KERNELS.values()}
    if not (why := found.get(name)):
        return ""
    usable = ", ".join(f'"{other}"' for other, reason in found.items() if not reason)
    return f'"{name}" is not available on {device.type}: {why}. There are {usable} and "padded"'


def register() -> None:
    """Make all kernels attention implementations that models can be set to."""
    from transformers import AttentionInterface, AttentionMaskInterface

    for kernel in KERNELS.values():
        AttentionInterface.register(kernel.implementation, in_two_runs(kernel.attend))
        AttentionMaskInterface.register(kernel.implementation, stand_in)
