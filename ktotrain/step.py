"""One step's computations, for training and evaluation alike: branches, packs, the reference point, row values.

Everything that is one number per row is a float32 tensor of shape n, the step's rows, in which each process fills in
the rows of its own packs and leaves zeros elsewhere; a sum over processes completes it. So the numbers do not depend
on how many packs or processes there are.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ktotrain.batch import Branch, PackedBatch, TokenizedRow, branch_of
from ktotrain.losses import Loss, class_weights
from ktotrain.packing import Layout, pack
from ktotrain.plan import Step
from ktotrain.reference import Reference
from ktotrain.scorer import Scorer, no_grad_scores


@dataclasses.dataclass(frozen=True, slots=True)
class Packing:
    """How branches become packs, and which of them are this process's."""

    max_length: int
    pack_tokens: int
    layout: Layout
    pad_id: int = 0
    process: int = 0
    processes: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Objective:
    """The loss and its constants."""

    loss: Loss
    beta: float
    desirable_weight: float
    undesirable_weight: float


@dataclasses.dataclass(frozen=True, slots=True)
class Machinery:
    """What a step runs on. `total` sums a tensor over processes; `autocast` opens the precision's context."""

    scorer: Scorer
    reference: Reference
    device: torch.device
    total: Callable[[Tensor], Tensor]
    autocast: Callable[[], contextlib.AbstractContextManager[object]]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class StepPacks:
    """A step's packs of this process, and what all processes know of its rows."""

    graded: list[PackedBatch]
    mismatched: list[PackedBatch]
    labels_n: Tensor
    row_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class ReferencePoint:
    """z_ref after the clamp, and before it (`raw`), in nats; both 0 where there was nothing to estimate it from."""

    z_ref: float
    raw: float


def graded_branches(step: Step, rows: Sequence[TokenizedRow], *, max_length: int) -> list[Branch]:
    """Each row's own completion: what is learned from."""
    return [branch_of(i, rows[row], rows[row], max_length=max_length) for i, row in enumerate(step.rows)]


def mismatched_branches(step: Step, rows: Sequence[TokenizedRow], *, max_length: int) -> list[Branch]:
    """Each row's prompt with another prompt's completion: what the reference point is estimated from."""
    return [
        branch_of(i, rows[step.rows[i]], rows[step.rows[other]], max_length=max_length)
        for i, other in enumerate(step.mismatched)
    ]


def build_packs(step: Step, rows: Sequence[TokenizedRow], packing: Packing, loss: Loss) -> StepPacks:
    """This process's packs of a step; mismatched ones only if the loss asks for them."""

    def share(branches: list[Branch]) -> list[PackedBatch]:
        packs = pack(branches, pack_tokens=packing.pack_tokens, layout=packing.layout, pad_id=packing.pad_id)
        return packs[packing.process :: packing.processes]

    graded = graded_branches(step, rows, max_length=packing.max_length)
    mismatched = mismatched_branches(step, rows, max_length=packing.max_length) if loss.estimates_z_ref else []
    return StepPacks(
        graded=share(graded),
        mismatched=share(mismatched) if mismatched else [],
        labels_n=torch.tensor([rows[row].label for row in step.rows]),
        row_tokens=sum(len(branch.prompt_ids) + len(branch.completion_ids) for branch in graded),
    )


def estimate_reference_point(packs: StepPacks, step: Step, machinery: Machinery, loss: Loss) -> ReferencePoint:
    """max(0, mean over all mismatched pairs of the step of (policy_logp - reference_logp)), once per step.

    Sum and count travel over processes, not means: packs and processes hold unequal numbers of pairs.
    """
    if not loss.estimates_z_ref or not step.mismatched:
        return ReferencePoint(0.0, 0.0)
    total = torch.zeros((), dtype=torch.float32, device=machinery.device)
    for cpu_batch in packs.mismatched:
        batch = cpu_batch.to(machinery.device)
        with machinery.autocast():
            total += (no_grad_scores(machinery.scorer, batch) - machinery.reference(batch)).sum()
    raw = float(machinery.total(total)) / len(step.mismatched)
    return ReferencePoint(max(0.0, raw), raw)


def row_losses(
    policy_R: Tensor, reference_R: Tensor, labels_R: Tensor, point: ReferencePoint, objective: Objective
) -> Tensor:
    """The loss of each row of a pack, float32 of shape R."""
    weights_R = class_weights(
        labels_R, desirable_weight=objective.desirable_weight, undesirable_weight=objective.undesirable_weight
    )
    z_ref = torch.tensor(point.z_ref, dtype=torch.float32, device=policy_R.device)
    return objective.loss.per_row(policy_R - reference_R, labels_R, weights_R, z_ref, beta=objective.beta)


def score_rows(
    packs: StepPacks,
    machinery: Machinery,
    objective: Objective,
    point: ReferencePoint,
    learn: Callable[[Tensor], None] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """policy_logps, reference_logps and losses of the step's rows, complete on every process, on the CPU.

    Args:
        learn: called for each pack with the sum of its rows' losses over the rows of the step, to run the backward
            pass; None scores without gradient.
    """
    count = len(packs.labels_n)
    values = torch.zeros(3, count, dtype=torch.float32, device=machinery.device)
    labels_n = packs.labels_n.to(machinery.device)
    for cpu_batch in packs.graded:
        batch = cpu_batch.to(machinery.device)
        rows = torch.tensor(batch.rows, device=machinery.device)
        with machinery.autocast():
            reference_R = machinery.reference(batch)
            policy_R = machinery.scorer(batch) if learn else no_grad_scores(machinery.scorer, batch)
        losses_R = row_losses(policy_R, reference_R, labels_n[rows], point, objective)
        if learn:
            learn(losses_R.sum() / count)
        values[:, rows] = torch.stack((policy_R.detach(), reference_R, losses_R.detach()))
    policy_n, reference_n, losses_n = machinery.total(values).cpu()
    return policy_n, reference_n, losses_n
