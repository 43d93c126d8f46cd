"""What to say when memory runs out: which key of the recipe to turn, and to what."""

from __future__ import annotations

from pathlib import Path

import torch

from ktotrain.checkpoint import checkpoints
from ktotrain.errors import TrainingError
from ktotrain.prepare import RunData, longest_sequence
from ktotrain.preview import preview
from ktotrain.recipe import Recipe

TOO_LITTLE = ("can't allocate memory", "can't start new thread")


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory ran out: a GPU's, or the machine's as torch or Python ask for it."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in said for words in TOO_LITTLE)


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
    knobs = _knobs_of_steps(recipe, run_data)
    saved = checkpoints(Path(recipe.train.output_dir))
    go_on = f"; with the first of them, --resume --force goes on from step {saved[-1][0]}" if saved else ""
    return TrainingError(
        f"out of memory: {said}",
        where=f"pack_tokens = {recipe.train.pack_tokens}",
        do=f"Try {', or '.join(knobs)}; `--dry-run` estimates what is needed{go_on}",
    )


def _knobs_of_steps(recipe: Recipe, run_data: RunData) -> list[str]:
    """What makes a step's peak lower, the cheapest first."""
    # What counts is what packs hold, not what they may; and no pack can be smaller than the longest sequence.
    largest, least = preview(run_data, recipe).largest, longest_sequence(run_data, recipe)[0]
    half = max(largest // 2, least)
    if half < largest:
        knobs = [f"train.pack_tokens = {half} (results stay the same)"]
    else:
        knobs = [f"data.max_length = {max(2, least // 2)} (longer rows are cut)"]
    if not recipe.model.gradient_checkpointing:
        knobs.append("model.gradient_checkpointing = true")
    return knobs + (["an [adapter]"] if recipe.adapter is None else [])


def _knobs_of_models(recipe: Recipe) -> list[str]:
    """What makes models smaller."""
    knobs = []
    if recipe.adapter is None:
        knobs.append("an [adapter] (no second model, no optimizer state for every weight)")
    if recipe.model.dtype == "float32" or (recipe.model.dtype == "auto" and recipe.adapter is None):
        knobs.append('model.dtype = "bfloat16"')
    return [*knobs, "a smaller model"]
