"""DeepSpeed's ZeRO, stages 1 and 2: optimizer state, and at stage 2 gradients, in shards; weights whole everywhere.

The settings are those of accelerate's DeepSpeed config. DeepSpeed sees the trained parameters and each pack's loss;
the forward pass stays ours, so layouts, the LM head and precision are what they are without it.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ktotrain.errors import TrainingError
from ktotrain.update import BadGradientError, Update

WHERE = "accelerate's deepspeed_config"


def deepspeed_plugin(precision: str) -> Any:
    """accelerate's DeepSpeed settings, from its config file by way of the environment.

    Args:
        precision: the recipe's.

    Raises:
        TrainingError: DeepSpeed is not installed, or the settings ask for what is not there.
    """
    from accelerate.utils import is_deepspeed_available

    if not is_deepspeed_available():
        raise TrainingError("DeepSpeed is not installed", where=WHERE, do="pip install 'ktokit[deepspeed]'")
    if precision == "fp16":
        raise TrainingError(
            "DeepSpeed runs without a gradient scaler here", where="train.precision", do='Set it to "bf16" or "no"'
        )
    if torch.accelerator.current_accelerator() is None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from accelerate import DeepSpeedPlugin

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    try:
        plugin = DeepSpeedPlugin()
    except (ValueError, OSError) as error:
        raise TrainingError(str(error), where=WHERE) from error
    check_config(plugin.deepspeed_config)
    return plugin


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse what would be ignored, or done differently from what was asked for.

    Raises:
        TrainingError: ZeRO-3, offloading, half-precision weights, a schedule or optimizer of DeepSpeed's own.
    """
    zero = config.get("zero_optimization", {})
    if zero.get("stage", 0) not in (1, 2):
        raise TrainingError(
            f"ZeRO stage {zero.get('stage', 0)} is not supported, stages 1 and 2 are",
            where=WHERE,
            do="To shard the weights too, use FSDP2: `distributed_type: FSDP` with `fsdp_version: 2`",
        )
    for part in ("offload_optimizer", "offload_param"):
        device = (zero.get(part) or {}).get("device", "none")
        if device not in (None, "none"):
            raise TrainingError(f"{part}_device {device} is not supported", where=WHERE, do='Set it to "none"')
    for name in ("bf16", "fp16"):
        if config.get(name, {}).get("enabled") is True:
            raise TrainingError(
                f"{name}.enabled is true, and weights would be held in half precision",
                where=WHERE,
                do="Leave it out: the recipe's train.precision says what matrices are multiplied in",
            )
    for name in ("optimizer", "scheduler"):
        if name in config:
            raise TrainingError(f"has a table {name}", where=WHERE, do="Leave it out: the recipe's [optim] says it all")


class ZeroUpdate(Update):
    """`Update` by DeepSpeed. Gradients are reduced with each pack, so all processes must have equally many.

    Args:
        config: DeepSpeed's, as accelerate has read it.
    """

    def __init__(self, *arguments: Any, config: Mapping[str, Any]) -> None:
        super().__init__(*arguments)
        import deepspeed

        if torch.accelerator.current_accelerator() is None:
            # Its own way to sum on a CPU is compiled first and then waits by spinning; torch's serves.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # What DeepSpeed makes of the optimizer holds flat pieces; a checkpoint goes by the weights themselves.
        self.numbered = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.group_sizes = [len(group["params"]) for group in self.optimizer.param_groups]
        own = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,  # a step is over when we say so: packs are not counted
            "gradient_clipping": self.max_norm,
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31,
        }
        kept = {name: value for name, value in config.items() if value != "auto" and name != "train_batch_size"}
        self.engine, *_ = deepspeed.initialize(
            model=_Trained(self.parameters),
            optimizer=self.optimizer,
            config=kept | own,
            dist_init_required=False,
        )

    def backward(self, loss: Tensor) -> None:
        """See `Update`. DeepSpeed takes the mean over processes, and losses are shares of a sum."""
        self.engine.backward(self.engine(loss * self.accelerator.num_processes))

    def forget(self) -> None:
        """See `Update`."""
        zero = self.engine.optimizer
        zero.zero_grad(set_to_none=True)
        for held in (zero.averaged_gradients, zero.all_grad_tensors):
            held.update(dict.fromkeys(held))

    def apply(self) -> dict[str, float]:
        """See `Update`."""
        learning_rate = float(self.scheduler.get_last_lr()[0])
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm() or 0.0)
        if self.engine.optimizer.overflow or not math.isfinite(norm):
            self.forget()
            raise BadGradientError("the gradient is not finite")
        self.scheduler.step()
        return {"grad_norm": norm, "learning_rate": learning_rate}


class _Trained(nn.Module):
    """What DeepSpeed takes for the model: the trained parameters, and a loss that passes through."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.parameters_ = nn.ParameterList(parameters)

    def forward(self, loss: Tensor) -> Tensor:
        return loss
