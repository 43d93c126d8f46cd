"""`ktotrain run` reproduces every trajectory that TRL 1.16 produced: in each layout, whole or in packs."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import SHARED

from ktotrain.recipe import recipe_from_dict
from ktotrain.trainer import run

GOLDEN = SHARED / "golden"
TOLERANCE = 5e-4  # relative; absolute where the value is below 1
CASES = ("kto", "kto_chat", "kto_lora", "kto_truncated", "kto_weighted", "apo_zero_unpaired")

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"TRL's trajectories are not here ({GOLDEN.name}/)")


def recipe(golden: dict[str, Any], folder: Path, model: dict[str, Any], train: dict[str, Any]) -> dict[str, Any]:
    """The settings of a case as a recipe."""
    settings = golden["settings"]
    rows = "chat_rows.jsonl" if golden["data"].startswith("chat") else "rows.jsonl"
    assert settings["lr_scheduler_type"] == "constant"
    tables: dict[str, Any] = {
        "model": {"path": str(GOLDEN / "model"), **model},
        "data": {"train": [str(GOLDEN / rows)], "max_length": settings["max_length"], "shuffle": False},
        "loss": {
            "kind": settings["loss_type"],
            "beta": settings["beta"],
            "desirable_weight": settings["desirable_weight"],
            "undesirable_weight": settings["undesirable_weight"],
        },
        "optim": {
            "learning_rate": settings["learning_rate"],
            "schedule": "constant",
            "warmup": 0.0,
            "weight_decay": settings["weight_decay"],
            "betas": [settings["adam_beta1"], settings["adam_beta2"]],
            "eps": settings["adam_epsilon"],
            "max_grad_norm": settings["max_grad_norm"],
        },
        "train": {
            "output_dir": str(folder / "run"),
            "batch_size": settings["per_device_train_batch_size"],
            "max_steps": settings["max_steps"],
            "seed": settings["seed"],
            "precision": "no",
            **train,
        },
        "samples": {"count": 0},
    }
    if golden["adapter"]:
        tables["adapter"] = {"init": str(GOLDEN / golden["adapter"])}
    return tables


@pytest.mark.parametrize(
    ("case", "model", "train"),
    [
        *((case, {}, {}) for case in CASES),
        *((case, {"attention": "padded"}, {}) for case in ("kto", "kto_truncated")),
        *((case, {}, {"pack_tokens": 600}) for case in ("kto_chat", "kto_lora")),
        ("kto_weighted", {"reference_logps": "online"}, {}),
        ("kto_lora", {"reference_logps": "cached"}, {}),
        ("kto", {"gradient_checkpointing": True}, {}),
    ],
    ids=str,
)
def test_trajectory(case: str, model: dict[str, Any], train: dict[str, Any], tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / f"{case}.json").read_text())
    run(recipe_from_dict(recipe(golden, tmp_path, model, train)))
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(logged) == len(golden["steps"]) == 6
    for ours, theirs in zip(logged, golden["steps"], strict=True):
        assert theirs.keys() >= {"loss", "kl", "grad_norm", "rewards/chosen", "logps/rejected"}
        for key, value in theirs.items():
            assert abs(ours[key] - value) <= TOLERANCE * max(1.0, abs(value)), f"step {ours['step']}, {key}"
