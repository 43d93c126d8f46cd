"""Every trajectory that TRL 1.16 produced is reproduced, in each layout, whole and in many packs."""

import json
from typing import Any

import pytest
import torch
from support import SHARED, StepNumbers, run_steps

from ktodata.schema import parse_row
from ktotrain.data import tokenize
from ktotrain.model import load_adapter, load_model, load_tokenizer
from ktotrain.probe import verified_head
from ktotrain.reference import FrozenAdapter
from ktotrain.scorer import Scorer

GOLDEN = SHARED / "golden"
TOLERANCE = 5e-4  # relative; absolute where the value is below 1
CASES = ("kto", "kto_chat", "kto_lora", "kto_truncated", "kto_weighted", "apo_zero_unpaired")

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"TRL's trajectories are not here ({GOLDEN.name}/)")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(str(GOLDEN / "model"))


def reproduce(case: str, tokenizer: Any, **how: Any) -> tuple[list[StepNumbers], list[dict[str, float]]]:
    golden = json.loads((GOLDEN / f"{case}.json").read_text())
    settings = golden["settings"]
    name = "chat_rows.jsonl" if golden["data"].startswith("chat") else "rows.jsonl"
    lines = (GOLDEN / name).read_text(encoding="utf-8").splitlines()
    rows = [parse_row(json.loads(line), where=name, source=name) for line in lines]
    tokenized = tokenize(rows, tokenizer, max_length=settings["max_length"])
    cpu = torch.device("cpu")
    model = load_model(str(GOLDEN / "model"), dtype="auto", trained=golden["adapter"] is None, device=cpu)
    reference = None
    if golden["adapter"]:
        base, model = model, load_adapter(model, str(GOLDEN / golden["adapter"]))
        reference = FrozenAdapter(model, Scorer(base, verified_head(base)))
    numbers = run_steps(
        model,
        tokenized.rows,
        reference=reference,
        batch_size=settings["per_device_train_batch_size"],
        max_length=settings["max_length"],
        loss=settings["loss_type"],
        beta=settings["beta"],
        weights=(settings["desirable_weight"], settings["undesirable_weight"]),
        learning_rate=settings["learning_rate"],
        steps=settings["max_steps"],
        **how,
    )
    return numbers, golden["steps"]


def as_trl_logs(step: StepNumbers, beta: float) -> dict[str, float]:
    chosen = step.labels
    rewards = beta * step.log_ratios
    return {
        "loss": step.loss,
        "kl": step.kl,
        "grad_norm": step.grad_norm,
        "rewards/chosen": float(rewards[chosen].mean()),
        "rewards/rejected": float(rewards[~chosen].mean()),
        "logps/chosen": float(step.policy_logps[chosen].mean()),
        "logps/rejected": float(step.policy_logps[~chosen].mean()),
    }


@pytest.mark.parametrize(
    ("case", "how"),
    [
        *((case, {}) for case in CASES),
        ("kto", {"attention": "padded"}),
        ("kto_truncated", {"attention": "padded", "pack_tokens": 300}),
        ("kto", {"layout": "packed"}),
        ("kto_chat", {"pack_tokens": 600}),
        ("kto_lora", {"pack_tokens": 600}),
    ],
    ids=str,
)
def test_trajectory(case: str, how: dict[str, Any], tokenizer: Any) -> None:
    ours, theirs = reproduce(case, tokenizer, **how)
    beta = json.loads((GOLDEN / f"{case}.json").read_text())["settings"]["beta"]
    assert len(ours) == len(theirs) == 6
    for number, (step, logged) in enumerate(zip(ours, theirs, strict=True), start=1):
        got = as_trl_logs(step, beta)
        assert got.keys() == logged.keys()
        for key, value in logged.items():
            assert abs(got[key] - value) <= TOLERANCE * max(1.0, abs(value)), f"step {number}, {key}"
