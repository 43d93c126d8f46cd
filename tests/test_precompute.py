"""All reference scores before the first step: each of the right sequence, and each prompt encoded once."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support import random_rows, tiny_llama
from torch import Tensor

from ktotrain import precompute
from ktotrain.batch import Branch, PackedBatch, branch_of
from ktotrain.cache import ScoreCache, sequence_key
from ktotrain.packing import pack
from ktotrain.probe import choose_layout
from ktotrain.reference import AsLoaded
from ktotrain.scorer import Scorer
from ktotrain.step import Machinery, Packing


class Noting:
    """A reference that notes how many tokens it is fed."""

    def __init__(self, reference: Any) -> None:
        self.reference, self.tokens = reference, 0

    def __call__(self, batch: PackedBatch) -> Tensor:
        self.tokens += batch.tokens
        scores: Tensor = self.reference(batch)
        return scores


def machine() -> tuple[Machinery, Noting]:
    model = tiny_llama()
    scorer = Scorer(model, choose_layout(model, attention="auto").head)
    reference: Any = Noting(AsLoaded(scorer))
    machinery = Machinery(scorer, reference, torch.device("cpu"), total=lambda x: x, autocast=contextlib.nullcontext)
    return machinery, reference


def branches_of(groups: list[int], *, seed: int = 0) -> dict[bytes, Branch]:
    rows = random_rows(groups, seed=seed)
    return {sequence_key(one): one for one in (branch_of(i, row, row, max_length=512) for i, row in enumerate(rows))}


def scored(missing: dict[bytes, Branch], folder: Path, *, tokens: int = 10_000) -> tuple[dict[bytes, float], int]:
    machinery, reference = machine()
    cache = ScoreCache(folder, "a")
    packing = Packing(512, tokens, "shared")
    assert precompute.precompute(missing, packing, machinery, cache, main=True, report=lambda _: None)
    return cache.scores, reference.tokens


def alone(branch: Branch) -> float:
    _, reference = machine()
    (batch,) = pack([dataclasses.replace(branch, row=0)], pack_tokens=10_000, layout="shared")
    return float(reference(batch))


def test_each_prompt_is_encoded_once_wherever_its_completions_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precompute, "CHUNK", 8)
    missing = branches_of([n % 8 for n in range(32)])
    fed = sum(len(branch.completion_ids) - 1 for branch in missing.values())
    prompts = sum(len(ids) for ids in {one.prompt: one.prompt_ids for one in missing.values()}.values())
    scores, tokens = scored(missing, tmp_path)
    assert tokens == fed + prompts
    for key, branch in list(missing.items())[::5]:
        assert scores[key] == pytest.approx(alone(branch), rel=1e-5)


def test_prompts_that_two_sets_of_rows_number_alike_are_not_taken_for_one(tmp_path: Path) -> None:
    """Training and evaluation rows both number theirs from 0."""
    missing = branches_of([0, 1, 0, 1], seed=1) | branches_of([0, 1, 1, 0], seed=2)
    assert len(missing) == 8
    scores, _ = scored(missing, tmp_path)
    for key, branch in missing.items():
        assert scores[key] == pytest.approx(alone(branch), rel=1e-5)


def test_a_prompt_that_two_sets_of_rows_share_is_encoded_once(tmp_path: Path) -> None:
    one = branches_of([0, 0, 1])
    other = {
        key: dataclasses.replace(branch, prompt=branch.prompt + 7) for key, branch in branches_of([0, 0, 1]).items()
    }
    first, *rest = one
    assert (
        scored(one, tmp_path / "a")[1] == scored({first: one[first]} | {key: other[key] for key in rest}, tmp_path)[1]
    )
