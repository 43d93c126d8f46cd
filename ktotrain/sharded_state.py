"""Weights and optimizer state that lie in shards, saved as if one process held them all.

The files are those of `ktotrain.run_state.Whole`, so a checkpoint does not know how many processes there were: eight
can go on where two stopped, sharded or not. Tensors are gathered one at a time; the main process holds them all in
its machine's memory for the moment of writing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ktotrain.parallel import Kind
from ktotrain.run_state import WEIGHTS, Whole, read_optimizer, write_large
from ktotrain.update import Update
from ktotrain.zero import ZeroUpdate
from ktotrain.zero_state import ByZero


class InShards(Whole):
    """`Large` where each process holds its shards (`ktotrain.sharding`)."""

    in_parts = True

    def finite(self) -> bool:
        """See `Large`."""
        norms = [_whole(torch.linalg.vector_norm(p.detach(), ord=torch.inf)) for _, p in self.parameters if p.numel()]
        return all(bool(torch.isfinite(norm)) for norm in norms)

    def save(self, folder: Path, *, main: bool) -> None:
        """See `Large`."""

        def kept(tensor: Tensor) -> Tensor:
            whole = _whole(tensor.detach())
            return whole.cpu() if main else whole.new_empty(0)

        weights = {name: kept(parameter) for name, parameter in self.parameters}
        state = self.optimizer.state_dict()
        moments = {
            index: {key: kept(value) if isinstance(value, Tensor) else value for key, value in values.items()}
            for index, values in state["state"].items()
        }
        if main:
            write_large(folder, weights, {"state": moments, "param_groups": state["param_groups"]})

    def load(self, folder: Path) -> None:
        """See `Large`: every process reads the files and keeps its shards."""
        with safe_open(folder / WEIGHTS, framework="pt") as file, torch.no_grad():
            for name, parameter in self.parameters:
                parameter.copy_(_shard_like(file.get_tensor(name), parameter))
        state = read_optimizer(folder)
        numbered = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for index, values in state["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor) and value.shape == numbered[index].shape and key != "step":
                    values[key] = _shard_like(value, numbered[index])
        self.optimizer.load_state_dict(state)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _shard_like(whole: Tensor, parameter: Any) -> Tensor:
    if not isinstance(parameter, DTensor):
        return whole
    mesh = parameter.device_mesh
    # Every process has the whole, so none needs to send anything.
    return distribute_tensor(whole.to(parameter.device), mesh, parameter.placements, src_data_rank=None)


def large_of(kind: Kind, parameters: Sequence[tuple[str, torch.nn.Parameter]], update: Update) -> Whole:
    """What saves and loads the weights and the optimizer of a run whose processes share them in this way."""
    if isinstance(update, ZeroUpdate):
        return ByZero(parameters, update)
    return (InShards if kind == "fsdp" else Whole)(parameters, update.optimizer)
