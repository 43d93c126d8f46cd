"""Which processes there are, and what the launcher asked of them: plain, FSDP2 or DeepSpeed, by accelerate's settings.

Three launchers start processes: `ktotrain run --processes N` and torchrun (plain), `accelerate launch` (plain, or
sharded by its config file, which reaches each process as environment variables). What is asked for is read from there
by accelerate's own plugins, so a config file that other programs use serves here too; and what cannot be had is
refused, since a run that silently does something else than its config says costs days.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import torch

from ktotrain.errors import TrainingError
from ktotrain.launch import MEETING
from ktotrain.model import recompute_activations
from ktotrain.sharding import Sharding, make_mesh, settings_of, shard
from ktotrain.zero import deepspeed_plugin

T = TypeVar("T")
Kind: TypeAlias = Literal["plain", "fsdp", "deepspeed"]

# What tells an MPI launcher's processes apart; accelerate reads these too.
_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def asked_for(environment: Mapping[str, str] = os.environ) -> Kind:
    """What the launcher's settings ask for.

    Raises:
        TrainingError: something that is not there (Megatron-LM, tensor, context or sequence parallelism).
    """
    if _on(environment, "ACCELERATE_USE_MEGATRON_LM"):
        raise TrainingError("Megatron-LM is not supported", where="accelerate's config", do="Use FSDP with version 2")
    for kind in ("TP", "CP", "SP"):
        size = environment.get(f"PARALLELISM_CONFIG_{kind}_SIZE", "1")
        if size.isdigit() and int(size) > 1:
            raise TrainingError(
                f"{kind.lower()}_size is {size}, and processes share rows and weights only, not layers or sequences",
                where="accelerate's parallelism_config",
                do=f"Set parallelism_config_{kind.lower()}_size to 1; FSDP with version 2 shards the weights",
            )
    if _on(environment, "ACCELERATE_USE_DEEPSPEED"):
        return "deepspeed"
    return "fsdp" if _on(environment, "ACCELERATE_USE_FSDP") else "plain"


@dataclasses.dataclass(frozen=True, slots=True)
class Processes:
    """This process among the others.

    `accelerator` is accelerate's; `plugin` holds the settings of `kind` (None if plain); `sharding` those of FSDP2,
    over `mesh`.
    """

    accelerator: Any
    kind: Kind
    plugin: Any = None
    sharding: Sharding | None = None
    mesh: Any = None

    @property
    def lockstep(self) -> bool:
        """Whether all processes must run the same passes in the same order."""
        return self.kind != "plain" and self.accelerator.num_processes > 1

    @property
    def load_device(self) -> torch.device:
        """Where models are loaded to, before `place`: what is sharded may not fit on one device as a whole."""
        device: torch.device = torch.device("cpu") if self.sharding else self.accelerator.device
        return device

    def place(self, model: Any) -> None:
        """Shard a loaded model, if weights are sharded."""
        if self.sharding:
            if self.sharding.recompute:
                recompute_activations(model)
            shard(model, self.sharding, self.mesh)

    def agree(self, compute: Callable[[], T]) -> T:
        """What `compute` gives in the main process, in all of them; the others do not call it."""
        from accelerate.utils import broadcast_object_list

        if self.accelerator.num_processes == 1:
            return compute()
        found: list[Any] = [compute() if self.accelerator.is_main_process else None]
        value: T = broadcast_object_list(found)[0]
        return value

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Within it models are loaded and placed, by one process of each machine at a time if they are to be sharded.

        Every process must enter it equally often.
        """
        several = self.sharding is not None and self.sharding.in_turn
        mine = self.accelerator.local_process_index if several else 0
        for _ in range(mine):
            self.accelerator.wait_for_everyone()
        yield
        for _ in range(int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - mine if several else 0):
            self.accelerator.wait_for_everyone()


def join(*, trackers: Sequence[str], output_dir: Path, precision: str) -> Processes:
    """Join the other processes, in the way that the launcher's settings ask for.

    Autocast and the gradient scaler follow the recipe's `train.precision`, so accelerate's own `mixed_precision` is
    left aside: one run must not depend on how it was launched.

    Raises:
        TrainingError: the launcher started fewer processes than it was asked for, or others than have found each
            other; or its settings cannot be used.
    """
    from accelerate import Accelerator

    kind, launched = asked_for(), processes_launched()
    plugin = None
    if kind == "fsdp":
        plugin = _fsdp_plugin()
    elif kind == "deepspeed":
        plugin = deepspeed_plugin(precision)
    # Without a GPU accelerate must be told, or several processes on a CPU would not find each other.
    cpu = torch.accelerator.current_accelerator() is None
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="no",
        log_with=list(trackers) or None,
        project_dir=str(output_dir),
        fsdp_plugin=plugin if kind == "fsdp" else None,
        deepspeed_plugin=plugin if kind == "deepspeed" and not cpu else None,
        kwargs_handlers=_meeting(cpu=cpu),
    )
    if accelerator.num_processes != launched:
        raise TrainingError(
            f"{launched} processes were launched and {accelerator.num_processes} found each other",
            do="Look at the launcher's settings (`accelerate env`)",
        )
    _require_kind(kind, str(accelerator.distributed_type.value), alone_or_cpu=cpu or launched == 1)
    if kind != "fsdp" or launched == 1:
        return Processes(accelerator, "plain" if kind == "fsdp" else kind, plugin)
    mesh = make_mesh(accelerator.device, launched, _replicas(launched))
    return Processes(accelerator, kind, plugin, settings_of(plugin), mesh)


def _meeting(*, cpu: bool) -> list[Any]:
    """How the processes of `ktotrain run --processes` find each other: by a file. Other launchers have a port."""
    from accelerate import InitProcessGroupKwargs

    if MEETING not in os.environ:
        return []
    # On a CPU accelerate hands rank and world size to torch itself, elsewhere it expects them to be known.
    who = "" if cpu else f"?rank={os.environ['RANK']}&world_size={os.environ['WORLD_SIZE']}"
    return [InitProcessGroupKwargs(init_method=f"file://{os.environ[MEETING]}{who}")]


def _require_kind(kind: Kind, got: str, *, alone_or_cpu: bool) -> None:
    """Compare what accelerate made of its settings with what they ask for.

    On a CPU it makes plain processes of any, and one process has nothing to share: there we apply the same settings.

    Raises:
        TrainingError: it is something else.
    """
    plain = got == "NO" or got.startswith("MULTI_")
    right = {"plain": plain, "fsdp": got == "FSDP", "deepspeed": got == "DEEPSPEED"}[kind]
    if not right and not (alone_or_cpu and plain):
        raise TrainingError(
            f"accelerate's config asks for {kind} and accelerate made it {got}",
            where="accelerate's config",
            do="Look at distributed_type there (`accelerate env`)",
        )


def _replicas(processes: int, environment: Mapping[str, str] = os.environ) -> int:
    """How many times the whole model is held: accelerate's dp_replicate_size, 1 if weights are sharded over all.

    Raises:
        TrainingError: the processes cannot be divided so.
    """
    replicas = int(environment.get("PARALLELISM_CONFIG_DP_REPLICATE_SIZE", "1"))
    shards = int(environment.get("PARALLELISM_CONFIG_DP_SHARD_SIZE", "1"))
    if replicas == 1 and shards in (1, processes):
        return 1
    if replicas * shards != processes:
        raise TrainingError(
            f"dp_replicate_size {replicas} times dp_shard_size {shards} is not {processes}, the number of processes",
            where="accelerate's parallelism_config",
        )
    return replicas


class LostProcessError(TrainingError):
    """Another process ended, and this one cannot go on without it. That one has the reason to tell."""


def lost_another(error: BaseException) -> bool:
    """Whether an error of torch's is about another process that has gone."""
    from torch.distributed import DistError

    said = str(error)
    return isinstance(error, DistError) or "Connection closed by peer" in said or "Connection reset by peer" in said


def processes_launched(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes a launcher started, this one included.

    Raises:
        TrainingError: `accelerate launch` was asked for several on a CPU and started one, as it does without a word.
    """
    sizes = [environment[name] for name in ("WORLD_SIZE", *_MPI) if name in environment]
    if not sizes and "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment:
        raise TrainingError(
            "accelerate was asked for several processes on a CPU and started one",
            do="`ktotrain run --processes N` starts them; so does `accelerate launch --multi_gpu --num_processes N`, "
            "which uses a CPU where there is no GPU",
        )
    return int(sizes[0]) if sizes else 1


def require_rows_for_all(batch_size: int, processes: int) -> None:
    """Refuse more processes than a step has rows.

    Raises:
        TrainingError: some would have nothing to do in every step.
    """
    if processes > batch_size:
        raise TrainingError(
            f"{processes} processes and {batch_size} rows a step: some would have nothing to do",
            where="train.batch_size",
            do=f"Set it to {processes} or more, or start fewer processes",
        )


def _fsdp_plugin() -> Any:
    """accelerate's FSDP settings, from its config file by way of the environment.

    Raises:
        TrainingError: version 1, or a key that does not fit.
    """
    from accelerate import FullyShardedDataParallelPlugin

    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise TrainingError(
            "FSDP 1 is not supported",
            where="accelerate's config, fsdp_config",
            do="Write `fsdp_version: 2` there; `accelerate to-fsdp2 --config_file FILE` converts a whole file",
        )
    try:
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    except (ValueError, TypeError, KeyError) as error:
        raise TrainingError(str(error), where="accelerate's config, fsdp_config") from error
    # transformers would leave the weights of all processes but the first empty, for accelerate to fill in later.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return plugin


def _on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "false").lower() in ("true", "1", "yes")
