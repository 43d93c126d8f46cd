"""All that decides how a run goes on, as files: what a checkpoint holds, and how it is put back.

    weights.safetensors     the trained weights (an adapter's, or the model's)
    optimizer.safetensors   the optimizer's tensors, and optimizer.json its settings
    rng.pt                  random states of Python, NumPy, torch and its devices, for each process
    state.json              place in the plan, schedule, scaler, log, samples, and what it all belongs to

Weights and optimizer are behind `Large`, so that another way to hold them (in parts, over processes) needs another of
those and nothing else. Nothing here is read by a pickle that could run code: rng.pt is loaded with weights_only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ktotrain.errors import TrainingError
from ktotrain.update import Update

WEIGHTS, OPTIMIZER, SETTINGS = "weights.safetensors", "optimizer.safetensors", "optimizer.json"
RANDOM, STATE = "rng.pt", "state.json"


class Large(Protocol):
    """Weights and optimizer state. All of it is called in every process, between two steps.

    `in_parts` says whether a process alone could not save.
    """

    in_parts: bool

    def layout(self) -> dict[str, str]:
        """Type and shape of each trained weight, by its name: equal for equal models."""
        ...

    def finite(self) -> bool:
        """Whether all weights are finite."""
        ...

    def save(self, folder: Path, *, main: bool) -> None:
        """Write files into the folder; what is not in parts, in the `main` process only."""
        ...

    def load(self, folder: Path) -> None:
        """Put back what `save` wrote, whatever the number of processes is now."""
        ...


class Whole:
    """`Large` where every process holds all of it."""

    in_parts = False

    def __init__(self, parameters: Sequence[tuple[str, torch.nn.Parameter]], optimizer: torch.optim.Optimizer) -> None:
        self.parameters, self.optimizer = list(parameters), optimizer

    def layout(self) -> dict[str, str]:
        """See `Large`."""
        return {name: f"{str(p.dtype).removeprefix('torch.')} {list(p.shape)}" for name, p in self.parameters}

    def finite(self) -> bool:
        """See `Large`."""
        # The largest magnitude is not finite if any is not; nothing of a weight's size is made for it.
        largest = [torch.linalg.vector_norm(p.detach(), ord=torch.inf) for _, p in self.parameters if p.numel()]
        return all(bool(torch.isfinite(one)) for one in largest)

    def save(self, folder: Path, *, main: bool) -> None:
        """See `Large`."""
        if not main:
            return
        write_large(folder, {name: p.detach() for name, p in self.parameters}, self.optimizer.state_dict())

    def load(self, folder: Path) -> None:
        """See `Large`."""
        weights = load_file(folder / WEIGHTS)
        with torch.no_grad():
            for name, parameter in self.parameters:
                parameter.copy_(weights[name])
        self.optimizer.load_state_dict(read_optimizer(folder))


def write_large(folder: Path, weights: Mapping[str, Tensor], optimizer: Mapping[str, Any]) -> None:
    """Write weights, and an optimizer's `state_dict` without pickles."""
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    tensors: dict[str, Tensor] = {}
    rest: dict[str, dict[str, Any]] = {}
    for index, values in optimizer["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value.contiguous()
            else:
                rest.setdefault(str(index), {})[key] = value
    save_file(tensors, folder / OPTIMIZER)
    (folder / SETTINGS).write_text(json.dumps({"state": rest, "param_groups": optimizer["param_groups"]}))


def read_optimizer(folder: Path) -> dict[str, Any]:
    """The optimizer's `state_dict` that `write_large` wrote."""
    settings = json.loads((folder / SETTINGS).read_text())
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in settings["state"].items()}
    for name, tensor in load_file(folder / OPTIMIZER).items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor.clone()  # off the file, which may be removed
    groups = [
        {key: tuple(value) if key == "betas" else value for key, value in group.items()}
        for group in settings["param_groups"]
    ]
    return {"state": state, "param_groups": groups}


@dataclasses.dataclass(slots=True)
class Position:
    """Where a run is, after `step` steps; everything fit for JSON.

    `seconds` are those spent in training so far, over all of its parts. `bad_in_a_row` and `skipped` count steps that
    were skipped. `metrics` and `evaluation` are the last ones. `owes_evaluation` says that the step's evaluation was
    due and has not been made.
    """

    step: int = 0
    rows: int = 0
    seconds: float = 0.0
    bad_in_a_row: int = 0
    skipped: int = 0
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    evaluation: dict[str, float] = dataclasses.field(default_factory=dict)
    owes_evaluation: bool = False
    prompts: list[Any] = dataclasses.field(default_factory=list)
    before: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint's state.json. `identity` is what it belongs to, see `ktotrain.resume`; `log` the log's own part."""

    folder: Path
    position: Position
    identity: dict[str, Any]
    log: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any]


def write_state(
    folder: Path,
    position: Position,
    identity: dict[str, Any],
    log: dict[str, Any],
    *,
    large: Large,
    update: Update,
    rng: Sequence[dict[str, Any]],
    main: bool,
) -> None:
    """Write a checkpoint's files into its folder.

    Args:
        rng: each process's `random_state`, by its number.

    Raises:
        OSError, SafetensorError: a file cannot be written.
    """
    large.save(folder, main=main)
    if not main:
        return
    buffer = io.BytesIO()  # torch's own file writer turns a full disk into a RuntimeError
    torch.save(list(rng), buffer)
    (folder / RANDOM).write_bytes(buffer.getbuffer())
    state = {
        "position": dataclasses.asdict(position),
        "identity": identity,
        "log": log,
        "scheduler": update.scheduler.state_dict(),
        "scaler": update.scaler.state_dict(),
    }
    (folder / STATE).write_text(json.dumps(state, allow_nan=False), encoding="utf-8")


def read_state(folder: Path) -> Saved:
    """A whole checkpoint's state.json.

    Raises:
        TrainingError: it is not what this version writes.
    """
    with _readable(folder):
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        state["position"] = Position(**state["position"])
        return Saved(folder=folder, **state)


def restore(saved: Saved, *, large: Large, update: Update, process: int) -> None:
    """Put everything back but the log and the place in the plan. New processes take an old one's state.

    Raises:
        TrainingError: a file is not what this version writes.
    """
    with _readable(saved.folder):
        large.load(saved.folder)
        update.scheduler.load_state_dict(saved.scheduler)
        if saved.scaler:
            update.scaler.load_state_dict(saved.scaler)
        states = torch.load(saved.folder / RANDOM, weights_only=True)
        set_random_state(states[process % len(states)])


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, UnpicklingError) as error:
        lines = str(error).strip().splitlines() or [""]
        raise TrainingError(
            f"the checkpoint is whole and cannot be read ({type(error).__name__}: {lines[0]})",
            where=str(folder),
            do="It was written by another version, or changed; resume with the version that wrote it",
        ) from None


def random_state() -> dict[str, Any]:
    """The state of every generator of this process: plain values and tensors."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    devices: list[Tensor] = []
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and accelerator.type == "cuda":
        devices = torch.cuda.get_rng_state_all()
    elif accelerator is not None:
        devices = [torch.get_device_module(accelerator).get_rng_state()]
    return {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "devices": devices,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave. Devices that are more or fewer now are left as they are."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or not state["devices"]:
        return
    if accelerator.type == "cuda":
        for index, device in enumerate(state["devices"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(device, index)
    else:
        torch.get_device_module(accelerator).set_rng_state(state["devices"][0])
