"""What to say when memory runs out: which key of the recipe to turn, and to what."""

from __future__ import annotations

from pathlib import Path

from ktotrain.checkpoint import checkpoints
from ktotrain.errors import TrainingError
from ktotrain.prepare import RunData, longest_sequence
from ktotrain.preview import preview
from ktotrain.recipe import Recipe
from ktotrain.reference import ReferenceShortageError


def shortage(error: BaseException, recipe: Recipe, run_data: RunData, *, loaded: bool) -> TrainingError:
    """The error that users see. `loaded`: whether the models were there already, or did not fit to begin with."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    said = (said.partition("DefaultCPUAllocator: ")[2] or said).partition(". ")[0]  # before it: a line of torch's code
    if not loaded:
        return TrainingError(
            f"out of memory while the model was loaded: {said}",
            where=recipe.model.path,
            do=f"Try {', or '.join(_knobs_of_models(recipe))}; `--dry-run` estimates what is needed",
        )
    saved = checkpoints(Path(recipe.train.output_dir))
    go_on = f"; with the first of them, --resume --force goes on from step {saved[-1][0]}" if saved else ""
    if isinstance(error, ReferenceShortageError):
        when = f" while the reference scored a pack of {error.positions:,} positions"
        knobs = _knobs_of_the_reference(recipe, run_data, error.positions)
    else:
        when, knobs = "", _knobs_of_steps(recipe, run_data)
    return TrainingError(
        f"out of memory{when}: {said}",
        where=f"pack_tokens = {recipe.train.pack_tokens}",
        do=f"Try {', or '.join(knobs)}; `--dry-run` estimates what is needed{go_on}",
    )


def _knobs_of_steps(recipe: Recipe, run_data: RunData) -> list[str]:
    """What makes a step's peak lower, the cheapest first."""
    # What counts is what packs hold, not what they may.
    knobs = _smaller_packs(recipe, run_data, preview(run_data, recipe).largest)
    if not recipe.model.gradient_checkpointing:
        knobs.append("model.gradient_checkpointing = true")
    return knobs + (["an [adapter]"] if recipe.adapter is None else [])


def _knobs_of_the_reference(recipe: Recipe, run_data: RunData, positions: int) -> list[str]:
    """What makes the peak of a pass without gradient lower, which ran out with a pack of so many `positions`.

    Before the first step packs are filled up with sequences of all steps, so they can be larger than any step's.
    """
    knobs = _smaller_packs(recipe, run_data, positions)
    second = recipe.model.reference != "initial" or recipe.adapter is None
    if recipe.model.reference_logps == "online" and second:
        knobs.append('model.reference_logps = "cached" (the reference is gone before the first step)')
    return knobs + _halved_weights(recipe)


def _smaller_packs(recipe: Recipe, run_data: RunData, largest: int) -> list[str]:
    """Half of the pack that ran out, or of the longest sequence, since no pack can be smaller than that."""
    least = longest_sequence(run_data, recipe)[0]
    half = max(largest // 2, least)
    if half < largest:
        return [f"train.pack_tokens = {half} (results stay the same)"]
    return [f"data.max_length = {max(2, least // 2)} (longer rows are cut)"]


def _knobs_of_models(recipe: Recipe) -> list[str]:
    """What makes models smaller."""
    knobs = []
    if recipe.adapter is None:
        knobs.append("an [adapter] (no second model, no optimizer state for every weight)")
    return [*knobs, *_halved_weights(recipe), "a smaller model"]


def _halved_weights(recipe: Recipe) -> list[str]:
    whole = recipe.model.dtype == "float32" or (recipe.model.dtype == "auto" and recipe.adapter is None)
    return ['model.dtype = "bfloat16"'] if whole else []
