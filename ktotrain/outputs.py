"""What a run leaves in its folder when it is done: the model, samples, plots, the card."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from ktotrain.card import Summary, results_of, write_card
from ktotrain.errors import TrainingError
from ktotrain.files import usual_mode
from ktotrain.model import quiet
from ktotrain.plots import draw_plots, read_metrics
from ktotrain.prepare import Policy, RunData
from ktotrain.recipe import Recipe
from ktotrain.samples import Prompt, generate, pick_prompts, write_samples
from ktotrain.sharding import whole_tensors


def sample(
    recipe: Recipe, run: RunData, policy: Policy, prompts: Sequence[Prompt] | None = None
) -> tuple[Sequence[Prompt], list[str]]:
    """Completions of a few prompts: give the prompts that it returned before to see what has changed."""
    settings = recipe.samples
    if prompts is None:
        prompts = pick_prompts(run.prompts, settings.count, seed=recipe.train.seed, own=settings.prompts)
    if not prompts:
        return [], []
    completions = generate(
        policy.model,
        run.tokenizer,
        prompts,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=recipe.train.seed,
    )
    return prompts, completions


@dataclasses.dataclass(frozen=True, slots=True)
class Together:
    """What all processes had to make together, where weights are sharded: the trained weights, and the samples."""

    weights: dict[str, Tensor]
    after: list[str]


def made_together(
    recipe: Recipe, run: RunData, policy: Policy, prompts: Sequence[Prompt], *, main: bool
) -> Together | None:
    """Called by all processes before the main one calls `finish`; None where it can do without the others."""
    if not policy.scorer.sharded:
        return None
    trained = {name for name, _ in policy.parameters} if policy.model is not policy.base else None
    weights: dict[str, Tensor] = {}
    named = policy.model.state_dict(keep_vars=True)
    copies: dict[int, Tensor] = {}  # tied weights stay one tensor
    for name, tensor in whole_tensors(policy.model, wanted=None if trained is None else trained.__contains__):
        if main:
            weights[name] = copies.setdefault(id(named[name]), tensor.cpu())
    return Together(weights, sample(recipe, run, policy, prompts)[1])


def save_model(policy: Policy, tokenizer: Any, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """The trained model or adapter and its tokenizer, as `save_pretrained` writes them: whole, or not there.

    Args:
        weights: those to save, by their names in the model, if it does not hold them whole.

    Raises:
        TrainingError: the disk or the folder's permissions say no.
    """
    saved: dict[str, Any] = {} if weights is None else {"state_dict": weights}
    if policy.model is not policy.base:
        saved["selected_adapters"] = [policy.model.active_adapter]  # not the frozen reference beside it
    aside: Path | None = None
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        with quiet():
            policy.model.save_pretrained(aside, **saved)
        tokenizer.save_pretrained(aside)
        # Temporary folders are their owner's alone, and safetensors makes such files.
        for path in aside.rglob("*"):
            path.chmod(usual_mode() | (0o111 if path.is_dir() else 0))
        aside.chmod(usual_mode() | 0o111)
        if folder.is_dir():  # of a run that was killed right after this, and is resumed: the same model
            shutil.rmtree(folder)
        aside.replace(folder)
    except (OSError, SafetensorError) as error:  # the second is what a full disk is to safetensors
        reason = getattr(error, "strerror", None) or str(error).rpartition(": ")[2]
        raise TrainingError(
            f"the model cannot be saved: {reason}", where=str(folder), do="Look at free space and permissions"
        ) from None
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def finish(
    recipe: Recipe,
    run: RunData,
    policy: Policy,
    *,
    output_dir: Path,
    prompts: Sequence[Prompt],
    before: Sequence[str],
    seconds: float,
    together: Together | None = None,
) -> list[Path]:
    """Write everything; returns the plots. The model comes first: whatever fails after it has cost nothing."""
    save_model(policy, run.tokenizer, output_dir / "model", together.weights if together else None)
    after = together.after if together else sample(recipe, run, policy, prompts)[1]
    if prompts:
        write_samples(output_dir / "samples.jsonl", prompts, before, after)
    plots = draw_plots(output_dir / "metrics.jsonl", output_dir / "plots")
    summary: Summary = {
        "rows_desirable": run.train.desirable,
        "rows_undesirable": run.train.undesirable,
        "rows_dropped": sum(run.train.dropped.values()),
        "desirable_weight": run.objective.desirable_weight,
        "undesirable_weight": run.objective.undesirable_weight,
        "chat": run.chat,
        "steps": len(run.steps),
        "seconds": seconds,
        "parameters": sum(parameter.numel() for parameter in policy.base.parameters()),
        "trained_parameters": sum(parameter.numel() for _, parameter in policy.parameters),
        "device": policy.base.device.type,
        "results": results_of(read_metrics(output_dir / "metrics.jsonl")),
        "samples": [
            {"prompt": prompt, "before": old, "after": new}
            for prompt, old, new in zip(prompts, before, after, strict=True)
        ],
    }
    write_card(output_dir / "model", recipe=recipe, summary=summary)  # what is pushed; peft puts an empty form there
    write_card(output_dir, recipe=recipe, summary=summary)  # last of all: with it the run is finished
    return plots
