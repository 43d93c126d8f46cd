"""One step's computations, for training and evaluation alike: branches, packs, the reference point, row values.

Everything that is one number per row is a float32 tensor of shape n, the step's rows, in which each process fills in
the rows of its own packs and leaves zeros elsewhere; a sum over processes completes it. So the numbers do not depend
on how many packs or processes there are.

What is computed, at most once per token and pass:
    reference    prompts, own and mismatched completions together, without gradient
    graded       prompts and own completions, with gradient
    mismatched   without gradient; where the graded rows fit one pack, only the completions, after that pack's prompts
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ktotrain.batch import Branch, Continuation, PackedBatch, TokenizedRow, branch_of
from ktotrain.cache import ScoreCache
from ktotrain.losses import Loss, class_weights
from ktotrain.packing import Layout, continuation, even_share, pack
from ktotrain.plan import Step
from ktotrain.reference import Reference, reference_pass
from ktotrain.scorer import Scorer, no_grad_scores


@dataclasses.dataclass(frozen=True, slots=True)
class Packing:
    """How branches become packs, and which of them are this process's.

    `follow` allows mismatched completions to follow the graded pass's prompts: see `ktotrain.probe`. `lockstep` says
    that all processes must run the same passes in the same order: see `ktotrain.lockstep`.
    """

    max_length: int
    pack_tokens: int
    layout: Layout
    pad_id: int = 0
    process: int = 0
    processes: int = 1
    follow: bool = False
    lockstep: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Objective:
    """The loss and its constants."""

    loss: Loss
    beta: float
    desirable_weight: float
    undesirable_weight: float


@dataclasses.dataclass(frozen=True, slots=True)
class Machinery:
    """What a step runs on. `total` sums a tensor over processes; `autocast` opens the precision's context.

    `even` adds packs without rows until every process has as many as any other, where that is needed.
    """

    scorer: Scorer
    reference: Reference
    device: torch.device
    total: Callable[[Tensor], Tensor]
    autocast: Callable[[], contextlib.AbstractContextManager[object]]
    even: Callable[[StepPacks], StepPacks] = lambda packs: packs


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class StepPacks:
    """A step's packs of this process, and what all processes know of its rows.

    In `reference`, row i + n stands for the mismatched pair of row i; there are no such packs where the reference's
    scores are `known_2n` already. There is either a `following` or `mismatched` packs, or neither where no reference
    point is estimated (`pairs` is then 0).
    """

    reference: list[PackedBatch]
    known_2n: Tensor | None
    graded: list[PackedBatch]
    mismatched: list[PackedBatch]
    following: Continuation | None
    labels_n: Tensor
    pairs: int
    row_tokens: int

    @property
    def policy_batches(self) -> list[PackedBatch]:
        """Everything that is fed to the policy."""
        return [*self.graded, *self.mismatched, *([self.following.batch] if self.following else [])]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class StepScores:
    """A step's numbers, complete on every process: float32 of shape n on the CPU; the reference point in nats.

    `z_ref` is clamped at 0, `raw` is not; both are 0 where there was nothing to estimate it from.
    """

    policy_n: Tensor
    reference_n: Tensor
    losses_n: Tensor
    z_ref: float
    raw: float


def graded_branches(step: Step, rows: Sequence[TokenizedRow], *, max_length: int) -> list[Branch]:
    """Each row's own completion: what is learned from."""
    return [branch_of(i, rows[row], rows[row], max_length=max_length) for i, row in enumerate(step.rows)]


def mismatched_branches(step: Step, rows: Sequence[TokenizedRow], *, max_length: int) -> list[Branch]:
    """Each row's prompt with another prompt's completion: what the reference point is estimated from."""
    return [
        branch_of(place, rows[step.rows[place]], rows[lender], max_length=max_length) for place, lender in step.pairs
    ]


def build_packs(
    step: Step, rows: Sequence[TokenizedRow], packing: Packing, loss: Loss, known: ScoreCache | None = None
) -> StepPacks:
    """This process's packs of a step; mismatched ones only if the loss asks for them.

    Args:
        known: the reference's scores, if all are.
    """

    def packs_of(branches: list[Branch], tokens: int) -> list[PackedBatch]:
        return pack(branches, pack_tokens=tokens, layout=packing.layout, pad_id=packing.pad_id)

    def all_of(branches: list[Branch]) -> list[PackedBatch]:
        tokens = packing.pack_tokens
        if packing.processes > 1:
            tokens = min(tokens, even_share(branches, packing.processes))
        return packs_of(branches, tokens)

    def share_of(packs: list[PackedBatch]) -> list[PackedBatch]:
        return packs[packing.process :: packing.processes]

    own = graded_branches(step, rows, max_length=packing.max_length)
    lent = mismatched_branches(step, rows, max_length=packing.max_length) if loss.estimates_z_ref else []
    all_graded = all_of(own)
    graded = share_of(all_graded)
    # A process estimates from the pairs of the rows that it grades, so that they can follow those rows' prompts.
    mine = {row for batch in graded for row in batch.rows}
    lent_here = [branch for branch in lent if branch.row in mine]
    following = None
    follow = packing.follow and packing.layout == "shared"
    if packing.lockstep:
        follow = follow and _all_can_follow(all_graded, lent, packing)
    if follow and len(graded) == 1 and lent_here:
        following = continuation(graded[0], lent_here)
        if following.batch.positions > packing.pack_tokens:
            following = None
    shifted = [dataclasses.replace(branch, row=branch.row + len(own)) for branch in lent]
    known_2n = None
    if known is not None:
        known_2n = torch.zeros(2 * len(own), dtype=torch.float32)
        known_2n[[branch.row for branch in own + shifted]] = torch.tensor([known[branch] for branch in own + lent])
    return StepPacks(
        reference=share_of(all_of(own + shifted)) if known is None else [],
        known_2n=known_2n,
        graded=graded,
        mismatched=packs_of(lent_here if following is None else [], packing.pack_tokens),
        following=following,
        labels_n=torch.tensor([rows[row].label for row in step.rows]),
        pairs=len(lent),
        row_tokens=sum(len(branch.prompt_ids) + len(branch.completion_ids) for branch in own),
    )


def _all_can_follow(graded: list[PackedBatch], lent: list[Branch], packing: Packing) -> bool:
    """Whether each process has one pack at most, with pairs to follow it and room for them: then all do, or none."""
    fed = {branch.row: len(branch.completion_ids) - 1 for branch in lent}
    lengths = [[fed[row] for row in batch.rows if row in fed] for batch in graded]
    fits = all(some and sum(some) <= packing.pack_tokens for some in lengths)
    return fits and len(graded) <= packing.processes


def run_step(
    packs: StepPacks, machinery: Machinery, objective: Objective, learn: Callable[[Tensor], None] | None
) -> StepScores:
    """Score a step's rows and, if there is something to `learn`, run the backward pass.

    z_ref = max(0, mean over all mismatched pairs of the step of (policy_logp - reference_logp)), once per step, without
    gradient; then the losses. Sum and count travel over processes, not means: packs hold unequal numbers of rows.

    Args:
        learn: called for each pack with the sum of its rows' losses over the rows of the step; None scores without
            gradient.
    """
    packs = machinery.even(packs)
    count = len(packs.labels_n)
    reference_2n = reference_scores(packs, machinery)
    lent_n = torch.zeros(count, dtype=torch.float32, device=machinery.device)
    held: Tensor | None = None
    with machinery.autocast():
        if packs.following is not None:
            held = _score_followed(packs, machinery, lent_n, graded=learn is not None)
        for cpu_batch in packs.mismatched:
            batch = cpu_batch.to(machinery.device)
            lent_n[list(batch.rows)] = no_grad_scores(machinery.scorer, batch)
    raw = 0.0
    if packs.pairs:
        raw = float((machinery.total(lent_n) - reference_2n[count:]).sum()) / packs.pairs
    z_ref = torch.tensor(max(0.0, raw), dtype=torch.float32, device=machinery.device)
    values = torch.zeros(2, count, dtype=torch.float32, device=machinery.device)
    labels_n = packs.labels_n.to(machinery.device)
    weights_n = class_weights(
        labels_n, desirable_weight=objective.desirable_weight, undesirable_weight=objective.undesirable_weight
    )
    for cpu_batch in packs.graded:
        rows = torch.tensor(cpu_batch.rows, dtype=torch.int64, device=machinery.device)
        policy_R = _score(cpu_batch, machinery, graded=learn is not None) if held is None else held
        log_ratios_R = policy_R - reference_2n[rows]
        losses_R = objective.loss.per_row(log_ratios_R, labels_n[rows], weights_n[rows], z_ref, beta=objective.beta)
        if learn:
            learn(losses_R.sum() / count)
        values[:, rows] = torch.stack((policy_R.detach(), losses_R.detach()))
        # Nothing of a pack's graph is left when the next one is scored: packs are what bounds memory.
        del policy_R, log_ratios_R, losses_R
        held = None
    policy_n, losses_n = machinery.total(values).cpu()
    return StepScores(policy_n, reference_2n[:count].cpu(), losses_n, float(z_ref), raw)


def reference_scores(packs: StepPacks, machinery: Machinery) -> Tensor:
    """The reference's log-probabilities of the rows and, after them, of their mismatched pairs: float32 of shape 2n."""
    if packs.known_2n is not None:
        return packs.known_2n.to(machinery.device)
    scores_2n = torch.zeros(2 * len(packs.labels_n), dtype=torch.float32, device=machinery.device)
    with machinery.autocast():
        for cpu_batch in packs.reference:
            batch = cpu_batch.to(machinery.device)
            scores_2n[list(batch.rows)] = reference_pass(machinery.reference, batch)
    return machinery.total(scores_2n)


def _score(cpu_batch: PackedBatch, machinery: Machinery, *, graded: bool) -> Tensor:
    batch = cpu_batch.to(machinery.device)
    with machinery.autocast():
        return machinery.scorer(batch) if graded else no_grad_scores(machinery.scorer, batch)


def _score_followed(packs: StepPacks, machinery: Machinery, lent_n: Tensor, *, graded: bool) -> Tensor:
    """The policy's scores of the one graded pack; the pairs', which follow its prompts, are put into `lent_n`.

    The graded pass comes before the reference point then, and its graph waits for it: that costs no more memory
    than one pack does anyway.
    """
    assert packs.following is not None
    following = packs.following.to(machinery.device)
    with contextlib.nullcontext() if graded else torch.no_grad():
        policy_R, memory = machinery.scorer.remembering(packs.graded[0].to(machinery.device))
    lent_n[list(following.batch.rows)] = machinery.scorer.following(following, memory)
    return policy_R
