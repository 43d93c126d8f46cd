"""The optimizer state that DeepSpeed holds in pieces, saved as if one process held it all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ktotrain.run_state import WEIGHTS, Whole, read_optimizer, write_large
from ktotrain.zero import ZeroUpdate

MOMENTS = ("exp_avg", "exp_avg_sq")


class ByZero(Whole):
    """`Large` where weights are whole and optimizer state lies in shards. The files are those of `Whole`."""

    in_parts = True

    def __init__(self, parameters: Sequence[tuple[str, torch.nn.Parameter]], update: ZeroUpdate) -> None:
        super().__init__(parameters, update.optimizer)
        self.update = update

    def save(self, folder: Path, *, main: bool) -> None:
        """See `Large`."""
        from deepspeed.utils import safe_get_full_optimizer_state as gathered

        flat = self._flat()[0]
        step = self.optimizer.state[flat].get("step") if flat in self.optimizer.state else None
        state: dict[int, dict[str, Any]] = {}
        if step is not None:
            self._link()
            for index, parameter in enumerate(self.update.numbered):
                moments = {key: gathered(parameter, key) for key in MOMENTS}
                if main:
                    state[index] = {"step": step.cpu().float().clone()} | {k: v.cpu() for k, v in moments.items()}
        if not main:
            return
        groups, first = [], 0
        for group, size in zip(self.optimizer.param_groups, self.update.group_sizes, strict=True):
            groups.append(dict(group) | {"params": list(range(first, first + size))})
            first += size
        write_large(folder, {n: p.detach() for n, p in self.parameters}, {"state": state, "param_groups": groups})

    def load(self, folder: Path) -> None:
        """See `Large`."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        saved = read_optimizer(folder)
        if saved["state"]:
            step = saved["state"][0]["step"]
            for flat in self._flat():
                zeros = {key: torch.zeros_like(flat) for key in MOMENTS}
                self.optimizer.state[flat] = {"step": step.clone().to(flat.device)} | zeros
            self._link()
        weights = load_file(folder / WEIGHTS)
        with torch.no_grad():
            for name, parameter in self.parameters:
                value = weights[name].to(parameter.device)
                parameter.copy_(value)
                safe_set_full_fp32_param(parameter, value.float())
        for index, parameter in enumerate(self.update.numbered if saved["state"] else []):
            for key in MOMENTS:
                moment = saved["state"][index][key].to(parameter.device)
                safe_set_full_optimizer_state(parameter, moment, key)
        for group, old in zip(self.optimizer.param_groups, saved["param_groups"], strict=True):
            group.update({key: value for key, value in old.items() if key != "params"})

    def _link(self) -> None:
        """Have DeepSpeed look up each weight's moments again: of several groups it found the first one's alone."""
        zero = self.update.engine.optimizer
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()

    def _flat(self) -> list[Tensor]:
        flat: list[Tensor] = list(self.update.engine.optimizer.single_partition_of_fp32_groups)
        return flat
