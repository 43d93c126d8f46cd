"""What happens to gradients: summed over processes, clipped, and turned into an update."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ktotrain.errors import TrainingError
from ktotrain.recipe import OptimRecipe


class Update:
    """Gradients of a step, and what is done with them at its end."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        scaler: torch.amp.GradScaler,
        parameters: Sequence[torch.nn.Parameter],
        max_norm: float,
        accelerator: Any,
    ) -> None:
        self.optimizer, self.scheduler, self.scaler = optimizer, scheduler, scaler
        self.parameters = list(parameters)
        self.max_norm, self.accelerator = max_norm, accelerator

    def backward(self, loss: Tensor) -> None:
        """Add a pack's gradient. `loss` is already the pack's share of the step's mean over rows."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def forget(self) -> None:
        """Drop what has been added up."""
        self.optimizer.zero_grad(set_to_none=True)

    def apply(self, where: str) -> dict[str, float]:
        """Update the weights; returns `learning_rate`, as used, and `grad_norm`, before clipping.

        In fp16 the scaler skips a step whose gradient overflows, and tries the next with a smaller scale: such a
        step has no `grad_norm`.

        Raises:
            TrainingError: the gradient is not finite, and no scaler sees to it.
        """
        if self.accelerator.num_processes > 1:
            _sum_over_processes(self.parameters, self.accelerator)
        self.scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm or math.inf))
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            self.forget()
            raise TrainingError("the gradient is not finite", where=where, do="Lower optim.learning_rate")
        learning_rate = float(self.scheduler.get_last_lr()[0])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.forget()
        return ({"grad_norm": norm} if math.isfinite(norm) else {}) | {"learning_rate": learning_rate}


def _sum_over_processes(parameters: list[torch.nn.Parameter], accelerator: Any) -> None:
    """One flat sum of all gradients. Exact where DDP is not: its mean is over processes, whatever they hold.

    A process whose packs are fewer, or none, takes part with zeros, so nobody waits for anybody.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    summed = accelerator.reduce(flat, reduction="sum")
    for parameter, part in zip(parameters, summed.split([p.numel() for p in parameters]), strict=True):
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
