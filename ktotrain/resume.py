"""Where a run starts: fresh, or from a checkpoint that belongs to the same recipe, model and rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ktotrain.checkpoint import checkpoints, folder_of, newest_good
from ktotrain.errors import RecipeError, TrainingError, UsageError
from ktotrain.log import holds_a_run, is_finished
from ktotrain.model_code import code_of
from ktotrain.prepare import Policy, RunData
from ktotrain.recipe import Recipe, recipe_from_dict, recipe_to_dict
from ktotrain.run_state import Saved, read_state
from ktotrain.sharding import whole_tensors

# Keys that may change with --force, and why the numbers stay what they were. Any other key decides the numbers.
WHEN = "decides when something is written, not what is learned"
HOW = "decides how a step is computed; numbers agree to rounding"
NAME = "a name: the rows and weights behind it are compared by themselves"
MAY_CHANGE = {
    "train.save_every": WHEN,
    "train.keep_checkpoints": WHEN,
    "train.log_every": WHEN,
    "train.eval_every": WHEN,
    "train.trackers": WHEN,
    "train.max_bad_steps": "decides when a run gives up",
    "train.pack_tokens": HOW,
    "model.attention": HOW,
    "model.gradient_checkpointing": HOW,
    "model.reference_logps": HOW,
    "model.path": NAME,
    "model.revision": NAME,
    "model.reference": NAME,
    "adapter.init": NAME,
    "data.train": NAME,
    "data.eval": "decides what is measured, not what is learned",
}
# The folder that the checkpoint was found in.
MOVED = "train.output_dir"
# Values of a weight that its fingerprint looks at, evenly spread.
SAMPLED = 1 << 16


def find_start(
    output_dir: Path, recipe: Recipe, *, resume: bool, force: bool, say: Callable[[str], None]
) -> Path | None:
    """The checkpoint to go on from, or None for a fresh run. The folder should be locked.

    Raises:
        UsageError: `force` without `resume`.
        TrainingError: a fresh run, and there is a run in the folder; or a resumed one, and there is none, it is
            finished, all checkpoints are damaged, or the recipe is another.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise TrainingError("is a file", where=str(output_dir), do="Name another train.output_dir")
    if force and not resume:
        raise UsageError("--force says that a resumed run's recipe may differ", do="Give --resume too")
    if not resume:
        _require_fresh(output_dir)
        return None
    if is_finished(output_dir):
        raise TrainingError(
            "the run in it is finished",
            where=str(output_dir),
            do=f"Its model is in {output_dir / 'model'}; to train that further, name it in a new recipe",
        )
    found = newest_good(output_dir, say)
    if found is None:
        unsaved = holds_a_run(output_dir)
        raise TrainingError(
            "there is no checkpoint to resume from",
            where=str(folder_of(output_dir)),
            do="The run was stopped before its first: delete its folder, and start without --resume"
            if unsaved
            else "Look at train.output_dir, or start without --resume",
        )
    refuse_other_recipe(read_state(found).identity["recipe"], recipe, force=force, where=found)
    return found


def _require_fresh(output_dir: Path) -> None:
    there = checkpoints(output_dir)
    if is_finished(output_dir) or not (there or holds_a_run(output_dir)):
        resumable = ""
    elif there:
        resumable = f", saved up to step {there[-1][0]}"
    else:
        resumable = ", stopped before its first checkpoint"
    if there or holds_a_run(output_dir):
        raise TrainingError(
            f"there is a run in it already{resumable}",
            where=str(output_dir),
            do=("Go on with it by --resume, name" if there and resumable else "Name")
            + " another train.output_dir, or delete that one",
        )


def refuse_other_recipe(saved: Mapping[str, Mapping[str, Any]], recipe: Recipe, *, force: bool, where: Path) -> None:
    """Refuse to go on with a recipe that would change the numbers; with `force`, let keys change that do not.

    Raises:
        TrainingError: a key differs that may not, or any without `force`. It names each with both values.
    """
    try:
        old = _flat(recipe_to_dict(recipe_from_dict(saved)))
    except RecipeError as error:
        raise TrainingError(f"its recipe is of another version of ktokit ({error})", where=str(where)) from None
    new = _flat(recipe_to_dict(recipe))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and key != MOVED)
    fixed = [key for key in differing if key not in MAY_CHANGE]
    if not differing or (force and not fixed):
        return
    listed = ", ".join(f"{key} was {_show(old, key)} and is {_show(new, key)}" for key in differing)
    if not fixed:
        advice = "Put that back, or allow it with --force: the numbers do not depend on it"
    elif force:
        advice = f"--force does not change what decides the numbers: put back {', '.join(fixed)}, or start a new run"
    else:
        advice = f"Put back {', '.join(fixed)}, or start a new run in another train.output_dir"
    raise TrainingError(f"the checkpoint belongs to another recipe: {listed}", where=str(where), do=advice)


def identity(
    recipe: Recipe, run: RunData, policy: Policy, layout: Mapping[str, str], *, processes: int
) -> dict[str, Any]:
    """What a checkpoint of this run belongs to; made before anything has been trained."""
    return {
        "recipe": recipe_to_dict(recipe),
        "weights": dict(layout),
        "model": _model_fingerprint(policy),
        "rows": _rows_fingerprint(run),
        "code": code_of(policy.base),
        "machine": {
            "device": policy.base.device.type,
            "attention": f"{policy.choice.layout}, {policy.choice.attention}",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "processes": processes,
        },
    }


def other_machine(saved: Saved, now: Mapping[str, Any]) -> str:
    """What is different here and may move the numbers, as a sentence; "" if all is as it was."""
    if saved.identity.get("code", now["code"]) != now["code"]:
        return "the code of the model, or the version of its library, is another one: it decides the steps from here on"
    old, new = saved.identity["machine"], now["machine"]
    changed = [f"{name} {old.get(name)} then, {new[name]} now" for name in new if old.get(name) != new[name]]
    return f"numbers will agree to rounding, not bit for bit: {'; '.join(changed)}" if changed else ""


def refuse_others(saved: Saved, now: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another model or of other rows.

    Raises:
        TrainingError: which it is.
    """
    where = str(saved.folder)
    old, new = saved.identity["weights"], now["weights"]
    if old != new:
        name = min(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        raise TrainingError(
            f"the checkpoint is of another model: {name} is {old.get(name, 'absent')} in it and "
            f"{new.get(name, 'absent')} in the recipe's",
            where=where,
            do="Look at model.path and [adapter]",
        )
    if saved.identity["model"] != now["model"]:
        raise TrainingError(
            "the checkpoint is of a run that started from other weights",
            where=where,
            do="Put back the model, reference or adapter that the run began with; names count for nothing",
        )
    if saved.identity["rows"] != now["rows"]:
        raise TrainingError(
            "the training rows, their tokens or their weights are not those that the run began with",
            where=where,
            do="Put back the files of data.train and the tokenizer, or start a new run in another train.output_dir",
        )


def _rows_fingerprint(run: RunData) -> str:
    """Over every row's tokens and label, the plan, and the class weights as numbers."""
    digest = hashlib.blake2b(digest_size=16)
    for row in run.train.rows:
        digest.update(b"%d %d %d " % (row.label, len(row.prompt_ids), len(row.completion_ids)))
        digest.update(row.prompt_ids.tobytes())
        digest.update(row.completion_ids.tobytes())
    for step in run.steps:
        digest.update(repr((step.epoch, step.rows, step.pairs)).encode())
    digest.update(repr((run.objective.desirable_weight, run.objective.undesirable_weight)).encode())
    return digest.hexdigest()


def _model_fingerprint(policy: Policy) -> str:
    """Over the weights that the run starts from, fresh adapters left out, and over those of its reference.

    Each weight counts with name, type, shape and up to 65,536 of its values, evenly spread: a model that was trained
    in any way differs in nearly all of them, and a start should not take as long as reading the model twice.
    """
    digest = hashlib.blake2b(digest_size=16)

    def take(owner: str, name: str, tensor: Tensor) -> None:
        digest.update(f"{owner} {name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            some = tensor.detach().reshape(-1)[:: max(1, tensor.numel() // SAMPLED)].cpu().contiguous()
            digest.update(some.view(torch.uint8).numpy().data)

    for name, tensor in whole_tensors(policy.base):
        if "lora_" not in name:
            take("policy", name.replace(".base_layer", ""), tensor)
    if policy.reference.files:  # it need not have been loaded
        digest.update(policy.reference.files.encode())
        return digest.hexdigest()
    for name, tensor in policy.reference.weights():
        take("reference", name, tensor)
    digest.update(policy.reference.settings().encode())
    return digest.hexdigest()


def _flat(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{table}.{key}": value for table, values in tables.items() for key, value in values.items()}


def _show(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "absent"
