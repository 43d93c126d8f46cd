"""What each of several processes will get, and hold: for `--dry-run`, without starting any of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ktotrain.errors import TrainingError
from ktotrain.memory import MemoryEstimate
from ktotrain.parallel import Kind
from ktotrain.prepare import RunData
from ktotrain.probe import LayoutChoice
from ktotrain.recipe import Recipe
from ktotrain.step import Packing, build_packs

# Steps that are dealt out for a preview: every process packs each of them.
STEPS = 200


@dataclasses.dataclass(frozen=True, slots=True)
class LaunchPlan:
    """How many processes there will be, on how many machines, and what they share."""

    processes: int
    machines: int = 1
    kind: Kind = "plain"


ALONE = LaunchPlan(1)


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """One process's part of some steps; `largest` is the most tokens, and `scored` the most scored ones, in a pass."""

    rows: int
    graded: int
    mismatched: int
    tokens: int
    largest: int
    scored: int
    idle_steps: int


def read_launch(path: Path) -> LaunchPlan:
    """What accelerate's config file will start.

    Raises:
        TrainingError: it cannot be read, or asks for what is not there.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        processes, machines = int(config.get("num_processes", 1)), int(config.get("num_machines", 1))
        asked = str(config.get("distributed_type", "NO")).upper()
        version = int((config.get("fsdp_config") or {}).get("fsdp_version", 1))
        stage = int((config.get("deepspeed_config") or {}).get("zero_stage", 2))
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise TrainingError(f"not a config file of accelerate: {said}", where=str(path)) from None
    if asked == "FSDP" and version != 2:
        raise TrainingError("FSDP 1 is not supported", where=str(path), do="Write `fsdp_version: 2` in fsdp_config")
    if asked == "DEEPSPEED" and stage not in (1, 2):
        raise TrainingError(f"ZeRO stage {stage} is not supported", where=str(path), do="Use FSDP with version 2")
    if asked == "MULTI_CPU":
        raise TrainingError(
            "accelerate starts one process of a MULTI_CPU config",
            where=str(path),
            do="Write MULTI_GPU: a CPU is used where there is no GPU",
        )
    kinds: dict[str, Kind] = {"FSDP": "fsdp", "DEEPSPEED": "deepspeed"}
    return LaunchPlan(processes if asked != "NO" else 1, machines, kinds.get(asked, "plain"))


def deal(run: RunData, recipe: Recipe, plan: LaunchPlan, choice: LayoutChoice) -> list[Share]:
    """Each process's share of the first steps."""
    shares = []
    for process in range(plan.processes):
        packing = Packing(
            recipe.data.max_length,
            recipe.train.pack_tokens,
            choice.layout,
            process=process,
            processes=plan.processes,
            follow=choice.follows,
            lockstep=plan.kind != "plain",
        )
        rows = graded = mismatched = tokens = largest = scored = idle = 0
        for step in run.steps[:STEPS]:
            packs = build_packs(step, run.train.rows, packing, run.objective.loss)
            rows += sum(len(batch.rows) for batch in packs.graded)
            graded += len(packs.graded)
            mismatched += len(packs.policy_batches) - len(packs.graded)
            tokens += sum(batch.tokens for batch in packs.policy_batches)
            largest = max([largest, *(batch.positions for batch in packs.graded)])
            scored = max([scored, *(len(batch.target_N) for batch in packs.graded)])
            idle += not packs.graded
        shares.append(Share(rows, graded, mismatched, tokens, largest, scored, idle))
    return shares


def share_lines(shares: list[Share], steps: int, plan: LaunchPlan) -> list[str]:
    """A table of them, a line for each process."""
    seen = min(steps, STEPS)
    shared = {
        "plain": "each holds the whole model",
        "fsdp": "FSDP2: weights, gradients and optimizer state in shards",
        "deepspeed": "DeepSpeed ZeRO: optimizer state in shards",
    }[plan.kind]
    machines = f" on {plan.machines} machines" if plan.machines > 1 else ""
    of = "all steps" if seen == steps else f"the first {seen:,} steps"
    lines = [f"{plan.processes} processes{machines}; {shared}; of {of}:"]
    lines.append(
        f"  {'process':>7} {'rows':>8} {'graded packs':>13} {'mismatched':>11} {'tokens':>12} {'idle steps':>11}"
    )
    lines += [
        f"  {number:>7} {s.rows:>8,} {s.graded:>13,} {s.mismatched:>11,} {s.tokens:>12,} {s.idle_steps:>11,}"
        for number, s in enumerate(shares)
    ]
    return lines


def in_shards(whole: MemoryEstimate, model: Any, plan: LaunchPlan, *, recomputed: bool) -> MemoryEstimate:
    """What one process holds of what a single one would.

    FSDP2 keeps a decoder layer whole while it computes and the next one while that is gathered, and embedding, last
    norm and LM head whole throughout a pass, with their gradients where they are trained. What autocast makes of
    gathered weights stays until the backward pass, unless that computes them again.

    Args:
        model: the model on any device, adapters included.
        recomputed: whether activations are.
    """
    count = plan.processes
    if plan.kind == "deepspeed":
        return dataclasses.replace(
            whole, gradients=-(-whole.gradients // count), optimizer=-(-whole.optimizer // count)
        )
    if plan.kind == "plain":
        return whole
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    classes = set(base._no_split_modules or ())
    layers = [module for module in base.modules() if type(module).__name__ in classes]
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}

    def held(parameter: Any) -> int:
        size = int(parameter.numel() * parameter.element_size())
        return size * (2 if parameter.requires_grad else 1)

    root = sum(held(parameter) for parameter in base.parameters() if id(parameter) not in inside)
    layer = max((sum(held(parameter) for parameter in one.parameters()) for one in layers), default=0)
    return dataclasses.replace(
        whole,
        weights=-(-whole.weights // count),
        reference=-(-whole.reference // count),
        gradients=-(-whole.gradients // count),
        optimizer=-(-whole.optimizer // count),
        half_copies=0 if recomputed else whole.half_copies,
        gathered=root + 2 * layer,
    )
