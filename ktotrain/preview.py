"""What a run will do and need, before it does: for `--dry-run` and for the head of a log."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click

from ktotrain.attention_products import KEPT_KEYS
from ktotrain.errors import ModelError
from ktotrain.log import holds_a_run
from ktotrain.logps import chunk_elements_on
from ktotrain.memory import MemoryEstimate, available_bytes, estimate, shape_of
from ktotrain.model import add_lora, load_config, quiet, router_note, trained_parameters
from ktotrain.packing import Layout
from ktotrain.prepare import Policy, RunData
from ktotrain.probe import LayoutChoice
from ktotrain.recipe import Recipe
from ktotrain.redact import printable
from ktotrain.shares import ALONE, LaunchPlan, deal, in_shards, share_lines
from ktotrain.step import Packing, build_packs

# Which layout a model gets is known only once it is loaded; most get this one.
EXPECTED = LayoutChoice("shared", "", "", follows=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Preview:
    """The plan in numbers, over all steps. Tokens are counted as fed to the policy; `largest` is one forward's,
    `largest_step` one step's in all its passes.
    """

    graded_packs: int
    mismatched_packs: int
    mixed_steps: int
    row_tokens: int
    tokens: int
    positions: int
    largest: int
    largest_scored: int
    largest_step: int

    @property
    def padding(self) -> float:
        """Share of all positions computed that is padding."""
        return 1 - self.tokens / self.positions


def preview(run: RunData, recipe: Recipe, choice: LayoutChoice = EXPECTED) -> Preview:
    """Pack every step of the plan and count."""
    packing = Packing(recipe.data.max_length, recipe.train.pack_tokens, choice.layout, follow=choice.follows)
    graded = mismatched = mixed = row_tokens = tokens = positions = largest = scored = in_step = 0
    for step in run.steps:
        packs = build_packs(step, run.train.rows, packing, run.objective.loss)
        batches = packs.policy_batches
        graded, mismatched = graded + len(packs.graded), mismatched + len(batches) - len(packs.graded)
        mixed += bool(packs.labels_n.any() and not packs.labels_n.all())
        row_tokens += packs.row_tokens
        fed = sum(batch.tokens for batch in batches)
        tokens, in_step = tokens + fed, max(in_step, fed)
        positions += sum(batch.positions for batch in batches)
        largest = max(largest, *(batch.positions for batch in packs.graded))
        scored = max(scored, *(len(batch.target_N) for batch in packs.graded))
    return Preview(graded, mismatched, mixed, row_tokens, tokens, positions, largest, scored, in_step)


def plan_lines(run: RunData, seen: Preview, layout: Layout = EXPECTED.layout) -> list[tuple[str, str]]:
    """The plan as lines of name and value."""
    train, steps = run.train, len(run.steps)
    sizes = Counter(len(step.rows) for step in run.steps)
    lines = [
        ("rows", f"{len(train.rows):,}: {train.desirable:,} desirable, {train.undesirable:,} undesirable"),
        ("prompts", f"{len({row.group for row in train.rows}):,} distinct"),
        ("texts", f"{train.encoded:,} tokenized, {train.recalled:,} known from an earlier run"),
        ("steps", f"{steps:,}: " + ", ".join(f"{count:,} of {size} rows" for size, count in sizes.most_common())),
        ("class mix", f"{seen.mixed_steps:,} of {steps:,} steps hold both classes"),
        ("weights", f"desirable {run.objective.desirable_weight:g}, undesirable {run.objective.undesirable_weight:g}"),
        ("packs", f"{seen.graded_packs:,} graded, {seen.mismatched_packs:,} mismatched, {layout} layout"),
        (
            "tokens",
            f"{seen.row_tokens:,} in the rows; {seen.tokens:,} fed to the policy, mismatched pairs included; "
            f"{seen.padding:.1%} padding",
        ),
        ("cut at max_length", f"{train.cut:,} of {len(train.rows):,} distinct rows"),
    ]
    lines += [("dropped", f"{count:,} rows: {reason}") for reason, count in train.dropped.items()]
    if run.evaluation is not None:
        lines.append(("evaluation", f"{len(run.evaluation.rows):,} rows in {len(run.eval_steps):,} steps"))
    alone = sum(not step.pairs for step in run.steps)
    if alone and run.objective.loss.estimates_z_ref:
        lines.append(("one-prompt steps", f"{alone:,}: no mismatched pair there, so z_ref is 0"))
    return lines


def notices(run: RunData, recipe: Recipe) -> list[str]:
    """What is allowed and yet probably not meant, one sentence each."""
    train, objective = run.train, run.objective
    found = list(run.token_notes)
    if not run.chat and run.tokenizer.chat_template:
        found.append(
            "the rows are plain text and this model has a chat template: for a model to chat with, make them chats "
            "with `ktodata unpair FILE --as chat`"
        )
    dropped = sum(train.dropped.values())
    if dropped * 10 > dropped + len(train.rows):
        found.append(f"{dropped:,} of {dropped + len(train.rows):,} rows are dropped; raise data.max_length")
    if train.cut * 4 > len(train.rows):
        found.append(f"{train.cut:,} of {len(train.rows):,} rows are cut; raise data.max_length")
    balance = objective.desirable_weight * train.desirable / (objective.undesirable_weight * train.undesirable)
    if not 0.99 <= balance <= 1.51:
        found.append(
            f"the classes count {balance:.2f} to 1, outside of the paper's 1 to 1.5; "
            'loss.desirable_weight = "auto" sets both weights'
        )
    if recipe.train.batch_size < 2:
        found.append("one row a step estimates no reference point and holds one class; 16 rows or more are usual")
    return found


def announce(say: Callable[[str], None], recipe: Recipe, run_data: RunData, policy: Policy) -> None:
    """Say what is about to be trained, and how."""
    trained = sum(parameter.numel() for _, parameter in policy.parameters)
    whole = sum(parameter.numel() for parameter in policy.model.parameters())
    say(
        f"{recipe.model.path}: {trained:,} of {whole:,} parameters trained, precision {recipe.train.precision} on "
        f"{policy.base.device}; layout {policy.choice.layout} ({policy.choice.reason})"
    )
    seen = preview(run_data, recipe, policy.choice)
    for name, value in plan_lines(run_data, seen, policy.choice.layout):
        say(f"{name}: {value}")
    for notice in [router_note(policy.base.config), *notices(run_data, recipe)]:
        if notice:
            say(f"note: {notice}")


def show_plan(recipe: Recipe, run_data: RunData, plan: LaunchPlan) -> None:
    """Print the plan of a run, what each process gets of it, and the memory that takes; notes go to stderr."""
    seen = preview(run_data, recipe)
    lines = plan_lines(run_data, seen)
    width = max(len(name) for name, _ in lines)
    click.echo("plan")
    for name, value in lines:
        click.echo(f"  {name:<{width}}  {value}")
    if plan.processes > 1:
        shares = deal(run_data, recipe, plan, EXPECTED)
        seen = dataclasses.replace(
            seen,
            largest=max(share.largest for share in shares),
            largest_scored=max(share.scored for share in shares),
        )
        for line in share_lines(shares, len(run_data.steps), plan):
            click.echo(line)
    click.echo("memory, estimated" + (", of each process" if plan.processes > 1 else ""))
    click.echo(memory_estimate(recipe, seen, plan).table(available_bytes()))
    for notice in notices(run_data, recipe):
        click.echo(printable(f"note: {notice}"), err=True)
    if holds_a_run(Path(recipe.train.output_dir)):
        already = f"note: there is a run in {recipe.train.output_dir} already: a new one is refused there"
        click.echo(printable(already), err=True)


def memory_estimate(recipe: Recipe, seen: Preview, plan: LaunchPlan = ALONE) -> MemoryEstimate:
    """Peak memory of a step in one process, from the model's config alone: no weights are loaded."""
    import torch
    from transformers import AutoModelForCausalLM

    settings, adapter = recipe.model, recipe.adapter
    config = load_config(settings.path, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
    frozen = getattr(config, "dtype", None) or torch.float32
    auto = torch.float32 if adapter is None else frozen
    dtype = auto if settings.dtype == "auto" else getattr(torch, settings.dtype)
    with torch.device("meta"), quiet():  # peft and transformers remark on empty weights
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=settings.trust_remote_code)
        except ValueError as error:
            raise ModelError(
                f"no causal language model: {type(config).__name__}", where=settings.path, do="Name one"
            ) from error
        base = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        if adapter is not None:
            model = add_lora(
                model, rank=adapter.rank, alpha=adapter.alpha, dropout=0.0, target_modules=adapter.target_modules
            )
    assert trained_parameters(model)
    online = settings.reference_logps == "online"
    # Before the first step the policy is its own reference; later it is so with its adapter switched off.
    second = settings.reference != "initial" or (online and adapter is None)
    shape, on_gpu = shape_of(model), torch.cuda.is_available()
    # Of a causal row's keys a token sees half; beyond a bound no weights are kept: see `attention_products`.
    most_keys = min(recipe.data.max_length, seen.largest, KEPT_KEYS * shape.query // shape.heads)
    whole = estimate(
        shape,
        pack_tokens=seen.largest,
        half_precision=recipe.train.precision != "no",
        gradient_checkpointing=settings.gradient_checkpointing,
        reference_bytes=base if second else 0,
        scored_tokens=seen.largest_scored,
        chunk_logits=chunk_elements_on("cuda" if on_gpu else "cpu", shape.vocabulary),
        kept_keys=0 if on_gpu else most_keys // 2,
        # Packs that are filled before the first step are so with sequences of all steps.
        reference_tokens=min(recipe.train.pack_tokens, seen.largest_step if online else seen.tokens),
        online=online,
    )
    return in_shards(whole, model, plan, recomputed=settings.gradient_checkpointing)
