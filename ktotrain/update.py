"""What happens to gradients: summed over processes, clipped, and turned into an update."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ktotrain.recipe import OptimRecipe

# fp16: a gradient that overflows at a larger scale than this is the search for a scale; at this one it is a bad step.
LEAST_SCALE = 1.0
# Elements of gradients that are summed over processes at a time: 256 MiB in float32.
SUMMED_AT_ONCE = 2**26


class BadGradientError(Exception):
    """The gradient is not finite. It has been dropped, and nothing has been updated."""


class Update:
    """Gradients of a step, and what is done with them at its end."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        scaler: torch.amp.GradScaler,
        parameters: Sequence[tuple[str, torch.nn.Parameter]],
        max_norm: float,
        accelerator: Any,
    ) -> None:
        self.optimizer, self.scheduler, self.scaler = optimizer, scheduler, scaler
        self.named = list(parameters)
        self.parameters = [parameter for _, parameter in self.named]
        self.max_norm, self.accelerator = max_norm, accelerator

    def backward(self, loss: Tensor) -> None:
        """Add a pack's gradient. `loss` is already the pack's share of the step's mean over rows."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def forget(self) -> None:
        """Drop what has been added up."""
        self.optimizer.zero_grad(set_to_none=True)

    def skip(self) -> None:
        """Pass over a step: its gradient is dropped, the schedule goes on."""
        self.forget()
        with warnings.catch_warnings():  # torch takes a first step that is skipped for a mistake in the order of calls
            warnings.simplefilter("ignore")
            self.scheduler.step()

    def apply(self) -> dict[str, float]:
        """Update the weights; returns `learning_rate`, as used, and `grad_norm`, before clipping.

        In fp16 the scaler skips a step whose gradient overflows, and tries the next with a smaller scale: such a
        step has no `grad_norm`.

        Raises:
            BadGradientError: the gradient is not finite, and no scaler sees to it.
        """
        sharded = isinstance(self.parameters[0], DTensor)  # torch has summed those within the backward pass
        if self.accelerator.num_processes > 1 and not sharded:
            _sum_over_processes(self.parameters, self.accelerator)
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        total = torch.nn.utils.get_total_norm(gradients)
        norm = float(_whole(total))
        if not math.isfinite(norm) and not (self.scaler.is_enabled() and self.scaler.get_scale() > LEAST_SCALE):
            named = [name for name, p in self.named if p.grad is not None and not torch.isfinite(_whole(p.grad)).all()]
            if self.scaler.is_enabled():
                self.scaler.update()
            self.forget()
            weights = f", in {len(named)} of {len(self.named)} weights, first {named[0]}" if named else ""
            raise BadGradientError(f"the gradient is not finite (norm {norm}{weights})")
        torch.nn.utils.clip_grads_with_norm_(self.parameters, self.max_norm or math.inf, total)
        learning_rate = float(self.scheduler.get_last_lr()[0])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.forget()
        return ({"grad_norm": norm} if math.isfinite(norm) else {}) | {"learning_rate": learning_rate}


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _sum_over_processes(parameters: list[torch.nn.Parameter], accelerator: Any) -> None:
    """A flat sum of all gradients, in few pieces: a step that fits on one GPU has no room for another copy of them.

    Exact where DDP is not: its mean is over processes, whatever they hold. A process whose packs are fewer, or none,
    takes part with zeros, so nobody waits for anybody.
    """
    pieces: list[list[torch.nn.Parameter]] = [[]]
    for parameter in parameters:
        if pieces[-1] and sum(p.numel() for p in pieces[-1]) + parameter.numel() > SUMMED_AT_ONCE:
            pieces.append([])
        pieces[-1].append(parameter)
    for piece in pieces:
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in piece]
        summed = accelerator.reduce(torch.cat([grad.flatten() for grad in grads]), reduction="sum")
        for parameter, part in zip(piece, summed.split([p.numel() for p in piece]), strict=True):
            parameter.grad = part.view_as(parameter)


def make_optimizer(
    parameters: Sequence[torch.nn.Parameter], settings: OptimRecipe, steps: int
) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW, without decay on biases and norms, and its schedule over `steps`."""
    from transformers import get_scheduler

    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )
    warmup = int(settings.warmup * steps)  # the first of them has a rate of 0: a run of a few steps needs them all
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    return optimizer, get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)


@contextlib.contextmanager
def autocast(device: str, precision: str) -> Iterator[None]:
    """The context in which matrices are multiplied in `precision`: bf16, fp16 or no."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
        yield
