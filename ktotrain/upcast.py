"""A model of half precision computing in float32 for a while, without a copy of it.

Half precision cannot tell a wrong mask from rounding, and a float32 copy of a 7B model does not fit. So each decoder
layer's weights are float32 from when the layer is entered to when it is left: one layer's at a time. What lies outside
of layers (norms, the LM head) is handled module by module; of embeddings only the rows looked up are converted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

HALF = (torch.bfloat16, torch.float16)


@contextlib.contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Forward passes within compute in float32, from the values that the weights have; without gradient only."""
    with contextlib.ExitStack() as stack:
        for module, held in _pieces(model):
            piece = _Piece(held)
            stack.callback(piece.leave)
            hook = module.register_forward_pre_hook(piece.enter, prepend=True, with_kwargs=True)
            stack.callback(hook.remove)
            hook = module.register_forward_hook(piece.leave, always_call=True)
            stack.callback(hook.remove)
        yield


def _pieces(module: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Module]]]:
    """Modules, each with those whose own weights are float32 while it runs: layers whole, what is not in one alone."""
    for child in module.children():
        if isinstance(module, nn.ModuleList):
            yield child, list(child.modules())
            continue
        if isinstance(child, nn.Embedding):
            yield child, []
        elif any(True for _ in _own(child)):
            yield child, [child]
        yield from _pieces(child)


def _own(module: nn.Module) -> Iterator[Tensor]:
    """A module's own weights and buffers of half precision."""
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.dtype in HALF:
            yield tensor


class _Piece:
    """What is to become float32 and back again around a module's forward."""

    def __init__(self, held: list[nn.Module]) -> None:
        self.held = held
        self.before: list[tuple[Tensor, Tensor]] = []

    def enter(self, module: nn.Module, arguments: Any, named: Any) -> tuple[Any, Any]:
        """Before the forward: weights and inputs become float32."""
        if not self.before:
            self.before = [(tensor, tensor.data) for one in self.held for tensor in _own(one)]
        for tensor, data in self.before:
            tensor.data = data.float()
        return _wide(arguments), _wide(named)

    def leave(self, module: nn.Module | None = None, *given: Any) -> Any:
        """After it, also where it failed: weights are what they were, and the result is float32."""
        for tensor, data in self.before:
            tensor.data = data
        self.before = []
        return _wide(given[-1]) if isinstance(module, nn.Embedding) else None


def _wide(value: Any) -> Any:
    """The same with tensors of half precision as float32."""
    return _pytree.tree_map(lambda x: x.float() if isinstance(x, Tensor) and x.dtype in HALF else x, value)
