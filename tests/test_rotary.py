"""Rotary positions that stretch: each row by its own length, whatever lies beside it or came before."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support import model_folder, write_jsonl
from torch import Tensor

from benchmarks.architectures import COMMON
from ktotrain.batch import Branch
from ktotrain.packing import pack
from ktotrain.probe import choose_layout
from ktotrain.scorer import Scorer

ORIGINAL = 128
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": ORIGINAL,
}
LONG = {**COMMON, "max_position_embeddings": 1024, "original_max_position_embeddings": ORIGINAL}


def stretching(kind: str) -> Any:
    """A model whose positions stretch beyond 128 tokens."""
    torch.manual_seed(0)
    config: Any
    if kind == "dynamic":
        config = transformers.LlamaConfig(
            **{**COMMON, "max_position_embeddings": ORIGINAL}, rope_parameters=dict(DYNAMIC)
        )
        model: Any = transformers.LlamaForCausalLM(config)
    elif kind == "longrope":
        model = transformers.Phi3ForCausalLM(transformers.Phi3Config(**LONG, rope_parameters=dict(LONGROPE)))
    else:  # longrope written by the model itself
        more = {"num_local_experts": 4, "rope_parameters": {**LONGROPE, "short_mscale": 1.0, "long_mscale": 1.3}}
        model = transformers.PhimoeForCausalLM(transformers.PhimoeConfig(**LONG, **more))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    return model.eval()


def rows_of(*prompts: int) -> list[Branch]:
    rng = np.random.default_rng(0)

    def tokens(count: int) -> Any:
        return rng.integers(3, 96, count, dtype=np.int32)

    return [Branch(row, row, tokens(length), tokens(12)) for row, length in enumerate(prompts)]


def alone(model: Any, branches: list[Branch]) -> Tensor:
    """Each row by a model that has never seen another, which is fed what a pack is fed."""
    scores = []
    for branch in branches:
        ids = torch.from_numpy(np.concatenate((branch.prompt_ids, branch.completion_ids)).astype(np.int64))[None]
        with torch.no_grad():
            logps = copy.deepcopy(model)(input_ids=ids[:, :-1], use_cache=False).logits[0].log_softmax(-1)
        scores.append(logps.gather(1, ids[0, 1:, None])[len(branch.prompt_ids) - 1 :].sum())
    return torch.stack(scores)


def in_packs(model: Any, branches: list[Branch], choice: Any, pack_tokens: int) -> Tensor:
    scores = torch.zeros(len(branches))
    scorer = Scorer(model, choice.head)
    with torch.no_grad():
        for batch in pack(branches, pack_tokens=pack_tokens, layout=choice.layout):
            scores[list(batch.rows)] = scorer(batch)
    return scores


@pytest.mark.parametrize("attention", ["auto", "padded"])
@pytest.mark.parametrize("kind", ["dynamic", "longrope", "its own"])
def test_a_row_has_its_own_length_whatever_lies_beside_it(kind: str, attention: str) -> None:
    model, branches = stretching(kind), rows_of(30, 400, 150, 300, 140, 110)
    expected = alone(model, branches)
    choice = choose_layout(model, attention=attention)
    assert choice.layout == ("packed" if attention == "auto" else "alone")
    assert "rows of more than 128 tokens stretch its rotary positions" in choice.reason
    for tokens in (5000, 450):
        torch.testing.assert_close(in_packs(model, branches, choice, tokens), expected, rtol=1e-5, atol=1e-4)
    backwards = in_packs(model, branches[::-1], choice, 450)  # the longest seen before
    torch.testing.assert_close(backwards, expected, rtol=1e-5, atol=1e-4)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(in_packs(twin, branches, choice, 450), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "its own"])
def test_rows_too_short_to_stretch_anything_share_prompts(kind: str) -> None:
    model, branches = stretching(kind), rows_of(30, 117)
    expected = alone(model, branches)
    choice = choose_layout(model, attention="auto", longest=ORIGINAL)
    assert (choice.layout, choice.reason) == ("shared", "exact by probe")
    torch.testing.assert_close(in_packs(model, branches, choice, 500), expected, rtol=1e-5, atol=1e-4)
    longer = stretching(kind)
    longer(torch.arange(300).remainder(96)[None])  # some remember that, and yet
    choice = choose_layout(longer, attention="auto", longest=ORIGINAL + 1)
    assert choice.layout == "packed"
    assert choice.reason.startswith("rows of more than 128 tokens")


def test_a_run_says_how_long_its_rows_are(tmp_path: Path) -> None:
    from ktotrain import prepare
    from ktotrain.recipe import recipe_from_dict

    records = [{"prompt": "q" * (20 + n), "completion": f" answer {n}", "label": n % 2 == 0} for n in range(4)]
    model = model_folder(tmp_path / "model", max_position_embeddings=64, rope_parameters=dict(DYNAMIC))
    for length, layout in ((30, "shared"), (120, "packed")):
        records[0]["prompt"] = "q" * length
        rows = write_jsonl(tmp_path / "rows.jsonl", records)
        recipe = recipe_from_dict({"model": {"path": str(model)}, "data": {"train": [str(rows)]}})
        policy = prepare.prepare_policy(recipe, prepare.prepare_data(recipe), torch.device("cpu"))
        assert policy.choice.layout == layout, policy.choice.reason


def test_a_run_has_the_same_numbers_in_one_pack_and_in_many(tmp_path: Path) -> None:
    from ktotrain import trainer
    from ktotrain.recipe import recipe_from_dict

    records = [
        {"prompt": f"question {n}:" + " x" * (60 if n % 4 == 0 else 3), "completion": f" no {n}", "label": n % 2 == 0}
        for n in range(8)
    ]
    rows = write_jsonl(tmp_path / "rows.jsonl", records)
    model = model_folder(tmp_path / "model", max_position_embeddings=64, rope_parameters=dict(DYNAMIC))
    found = []
    for tokens in (8192, 170):
        recipe = {
            "model": {"path": str(model), "reference_logps": "online"},
            "data": {"train": [str(rows)]},
            "train": {"output_dir": str(tmp_path / str(tokens)), "batch_size": 8, "pack_tokens": tokens},
            "optim": {"learning_rate": 1e-2, "warmup": 0.0},
            "samples": {"count": 0},
        }
        recipe["train"] |= {"precision": "no", "epochs": 2}  # type: ignore[operator]
        trainer.run(recipe_from_dict(recipe))
        lines = (tmp_path / str(tokens) / "metrics.jsonl").read_text().splitlines()
        found.append([json.loads(line) for line in lines])
    for ours, theirs in zip(*found, strict=True):
        for key in ("loss", "grad_norm", "logps/chosen", "logps/rejected"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5)
