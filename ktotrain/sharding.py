"""FSDP2: weights, gradients and optimizer state of a model in shards, one in each process.

torch's `fully_shard` is applied here, from the settings of accelerate's plugin, on GPU (NCCL) and CPU (gloo) alike. A
decoder layer's weights are whole while it computes; embedding, last norm and LM head while a forward of the model
runs. The scorer calls the decoder and reads the head's weights itself, so it does that within `inside_forward`, a
forward of the whole model in torch's eyes.

Gradients are sums over processes, not means: each pack's loss is its share of the step's mean already.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ktotrain.errors import TrainingError


@dataclasses.dataclass(frozen=True, slots=True)
class Sharding:
    """How weights are sharded.

    `wrap` says which modules are gathered one by one: decoder `layers` (of the classes in `classes`; none: those that
    the model names), every module of `min_parameters` or more by `size`, or `none` (the whole model at once).
    `reshard` frees a module's whole weights after its forward pass, and gathers them again for the backward pass.
    `offload` keeps shards in the machine's memory, `recompute` is gradient checkpointing;
    with `in_turn` one process of a machine after the other loads its whole model and keeps its shards of it.
    """

    wrap: Literal["layers", "size", "none"] = "layers"
    classes: tuple[str, ...] = ()
    min_parameters: int = 0
    reshard: bool = True
    offload: bool = False
    recompute: bool = False
    in_turn: bool = False


def settings_of(plugin: Any) -> Sharding:
    """What accelerate's `FullyShardedDataParallelPlugin` says.

    Raises:
        TrainingError: a setting that would be ignored.
    """
    if plugin.ignored_modules is not None:
        raise TrainingError(
            "ignored modules are not supported", where="accelerate's config, fsdp_ignored_modules", do="Leave it out"
        )
    if plugin.activation_checkpointing_offload:
        raise TrainingError(
            "activations cannot be offloaded",
            where="accelerate's config, fsdp_activation_checkpointing_offload",
            do="Leave it out; a smaller train.pack_tokens needs less memory",
        )
    policy = getattr(plugin.auto_wrap_policy, "__name__", "")
    wrap: Literal["layers", "size", "none"] = "none"
    if "transformer" in policy:
        wrap = "layers"
    elif "size" in policy:
        wrap = "size"
    return Sharding(
        wrap=wrap,
        classes=tuple(plugin.transformer_cls_names_to_wrap or ()),
        min_parameters=plugin.min_num_params or 0,
        reshard=bool(plugin.reshard_after_forward),
        offload="CPUOffload" in type(plugin.cpu_offload).__name__,
        recompute=bool(plugin.activation_checkpointing),
        in_turn=bool(plugin.cpu_ram_efficient_loading),
    )


def make_mesh(device: torch.device, processes: int, replicas: int = 1) -> Any:
    """The processes as torch wants them described: all in one row, or `replicas` rows that each hold all weights."""
    from torch.distributed.device_mesh import init_device_mesh

    if replicas == 1:
        return init_device_mesh(device.type, (processes,))
    return init_device_mesh(device.type, (replicas, processes // replicas), mesh_dim_names=("replicate", "shard"))


def shard(model: Any, settings: Sharding, mesh: Any) -> None:
    """Shard a causal language model of transformers in place; its parameters become DTensors on the mesh's device.

    Adapters must be on it already, and optimizers and lists of its parameters be made after this.

    Weights are gathered as they are: casting them is left to autocast, since the probe and samples run without it.

    Raises:
        TrainingError: no module of the classes that the settings name.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
    from torch.distributed.fsdp import register_fsdp_forward_method as register

    # Found out from the source file of the class, which torch's subclass of it has not: once known it is inherited.
    model._can_set_attn_implementation()
    offload = CPUOffloadPolicy() if settings.offload and mesh.device_type != "cpu" else OffloadPolicy()
    for module in [*_units(model, settings), model]:
        # The root is freed after its forward too, so that every pass begins alike, whatever ran before it.
        reshard = settings.reshard or module is model
        fully_shard(module, mesh=mesh, reshard_after_forward=reshard, offload_policy=offload)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    model.inside_forward = types.MethodType(_call, model)
    register(model, "inside_forward")


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` has been here."""
    return hasattr(model, "inside_forward")


def whole_tensors(
    model: nn.Module,
    rename: Callable[[str], str] = str,
    wanted: Callable[[str], bool] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """`model.state_dict()` in the order of names, sharded tensors gathered one at a time.

    Every process must go through all of them. Names that share weights (a tied head) give the same tensor.

    Args:
        rename: from a name in the model to the one that is given, and ordered by.
        wanted: which names; all if None.
    """
    from torch.distributed.tensor import DTensor

    named = model.state_dict(keep_vars=True)
    names = sorted((name for name in named if wanted is None or wanted(name)), key=rename)
    last = {id(named[name]): name for name in names}
    held: dict[int, Tensor] = {}  # a tied weight, from its first name to its last
    for name in names:
        value = named[name]
        if id(value) not in held:
            tensor = value.detach()
            held[id(value)] = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        whole = held[id(value)]
        if last[id(value)] == name:
            del held[id(value)]
        yield rename(name), whole


def _call(_: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _units(model: Any, settings: Sharding) -> list[nn.Module]:
    """The modules to shard one by one, innermost first."""
    if settings.wrap == "none":
        return []
    if settings.wrap == "size":
        least = settings.min_parameters
        big = [m for m in model.modules() if m is not model and sum(p.numel() for p in m.parameters()) >= least]
        return [m for m in big if not isinstance(m, nn.ModuleList | nn.ModuleDict)][::-1]
    classes = set(settings.classes or model._no_split_modules or ())
    found = [module for module in model.modules() if type(module).__name__ in classes]
    if not found:
        have = sorted(
            {type(m).__name__ for m in model.modules() if isinstance(m, nn.Module) and "Layer" in type(m).__name__}
        )
        raise TrainingError(
            f"{type(model).__name__} has no module of class {' or '.join(sorted(classes))}",
            where="accelerate's config, fsdp_transformer_layer_cls_to_wrap",
            do=f"Leave it out, or name one of {', '.join(have)}",
        )
    return found[::-1]
