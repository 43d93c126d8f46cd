"""The last layer for scored tokens alone: the same scores and gradients as in full, or left alone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import random_rows, run_steps, tiny_llama
from torch import Tensor, nn

from benchmarks.architectures import tiny
from ktotrain import attention_products, last_layer
from ktotrain.batch import Branch, PackedBatch, branch_of
from ktotrain.model import add_lora, recompute_activations
from ktotrain.packing import pack
from ktotrain.probe import choose_layout
from ktotrain.scorer import Scorer, find_decoder

# Windows, soft caps, sinks, experts, parallel MLPs, latent attention.
NAMES = ("Llama", "Mistral", "Gemma2", "GptOss", "Qwen3Moe", "GPTNeoX", "Cohere2", "DeepseekV3", "OPT")


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few tokens are spared."""
    monkeypatch.setattr(last_layer, "MOST_NEEDED", 1.0)


def batch_of(groups: list[int] = [0, 0, 1, 2]) -> PackedBatch:  # noqa: B006 (never changed)
    rows = random_rows(groups)
    (batch,) = pack(
        [branch_of(i, row, row, max_length=64) for i, row in enumerate(rows)], pack_tokens=1000, layout="shared"
    )
    return batch


def both(model: Any, score: Callable[[Scorer], Tensor]) -> list[list[Tensor | None]]:
    """Scores and gradients, spared and in full."""
    choice = choose_layout(model, attention="ragged")
    found: list[list[Tensor | None]] = []
    for spared in (True, False):
        scorer = Scorer(model, choice.head)
        assert scorer.spares_last_layer, choice.reason
        scorer.spares_last_layer = spared
        model.zero_grad(set_to_none=True)
        scores = score(scorer)
        (scores * torch.linspace(-1, 2, len(scores))).sum().backward()
        found.append([scores.detach(), *(p.grad for p in model.parameters())])
    return found


def assert_same(found: list[list[Tensor | None]], **tolerance: float) -> None:
    largest = max(float(gradient.abs().max()) for gradient in found[1][1:] if gradient is not None)
    for place, (ours, theirs) in enumerate(zip(*found, strict=True)):
        # A gradient that is nothing at all is either.
        ours = torch.zeros(()) if ours is None else ours
        theirs = torch.zeros_like(ours) if theirs is None else theirs
        scale = float(theirs.abs().max()) if place == 0 else largest
        assert float((ours - theirs).abs().max()) <= tolerance.get("rtol", 1e-5) * scale


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_gradients_are_the_same(name: str) -> None:
    batch = batch_of()
    assert_same(both(tiny(name), lambda scorer: scorer(batch)))


def test_only_needed_tokens_reach_the_last_mlp_and_the_head() -> None:
    model, batch = tiny_llama(), batch_of()
    choice = choose_layout(model, attention="ragged")
    seen: dict[int, list[int]] = {0: [], 1: []}
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(lambda *found, number=number: seen[number].append(found[2].shape[1]))
    Scorer(model, choice.head)(batch)
    assert seen == {0: [batch.positions], 1: [len(batch.needed_M)]}
    assert len(batch.needed_M) < batch.positions


@pytest.mark.parametrize("at_a_time", [128, 3])
def test_only_needed_queries_are_computed_in_the_last_attention(
    at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_products, "QUERIES", at_a_time)
    batch = batch_of()
    assert_same(both(tiny_llama(), lambda scorer: scorer(batch)))
    model = tiny_llama()
    scorer = Scorer(model, choose_layout(model, attention="ragged").head)
    queries: list[int] = []
    weights = attention_products._weights

    def counted(asked: Tensor, *arguments: Any) -> Tensor:
        queries.append(asked.shape[1])
        return weights(asked, *arguments)

    monkeypatch.setattr(attention_products, "_weights", counted)
    scorer(batch)
    layers = model.config.num_hidden_layers
    groups = model.config.num_attention_heads // model.config.num_key_value_heads
    assert sum(queries) == groups * ((layers - 1) * batch.positions + len(batch.needed_M))


@pytest.mark.parametrize("case", ["checkpointing", "lora", "lora and checkpointing", "autocast"])
def test_with_what_a_run_can_ask_for(case: str) -> None:
    model, batch = tiny_llama(), batch_of()
    trained = add_lora(model, rank=4, alpha=8, dropout=0.0, target_modules="all-linear") if "lora" in case else model
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:  # zeros would hide everything
            nn.init.normal_(parameter, std=0.1)

    def score(scorer: Scorer) -> Tensor:
        if "checkpointing" in case:
            recompute_activations(model)
            trained.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
            return scorer(batch)

    assert_same(both(model, score), rtol=2e-2 if case == "autocast" else 1e-5)


def test_completions_follow_what_was_spared() -> None:
    from ktotrain.packing import continuation

    rows = random_rows([0, 0, 1, 2])
    own = [branch_of(i, row, row, max_length=64) for i, row in enumerate(rows)]
    lent = [branch_of(i, row, rows[(i + 2) % 4], max_length=64) for i, row in enumerate(rows)]
    (batch,) = pack(own, pack_tokens=1000, layout="shared")
    model = tiny_llama()
    choice = choose_layout(model, attention="ragged")
    assert choice.follows
    scores = []
    for spared in (True, False):
        scorer = Scorer(model, choice.head)
        scorer.spares_last_layer = spared
        _, memory = scorer.remembering(batch)
        assert (memory.held_M is not None) == spared
        scores.append(scorer.following(continuation(batch, lent), memory))
    torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-5)


def test_whole_steps_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows([0, 0, 1, 2, 3, 3, 4, 5])
    spared = run_steps(tiny_llama(), rows, batch_size=4, steps=2)
    monkeypatch.setattr(last_layer, "MOST_NEEDED", 0.0)
    whole = run_steps(tiny_llama(), rows, batch_size=4, steps=2)
    for ours, theirs in zip(spared, whole, strict=True):
        assert (ours.loss, ours.kl, ours.grad_norm) == pytest.approx(
            (theirs.loss, theirs.kl, theirs.grad_norm), rel=1e-5
        )


def test_a_copy_computes_with_its_own_weights() -> None:
    model, batch = tiny_llama(), batch_of()
    head = choose_layout(model, attention="ragged").head
    before = Scorer(model, head)(batch)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.model.layers[-1].mlp.down_proj.weight.zero_()
    torch.testing.assert_close(Scorer(twin, head)(batch), before)
    assert type(twin.model.layers[-1]).__name__ == "LlamaDecoderLayer"
    twin.set_attn_implementation("sdpa")
    assert twin.generate(torch.ones(1, 4, dtype=torch.int64), max_new_tokens=2, do_sample=False).shape == (1, 6)


def test_a_layer_that_is_sharded_in_pieces_runs_once() -> None:
    batch, found = batch_of(), []
    for pieces in (True, False):
        model = tiny_llama()
        head = choose_layout(model, attention="ragged").head
        layer = model.model.layers[-1]
        calls: list[int] = []
        layer.self_attn.q_proj.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        if pieces:
            layer.self_attn.reshard = None  # what torch's `fully_shard` puts there
        found.append(Scorer(model, head)(batch))
        assert len(calls) == (1 if pieces else 2)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_a_layer_of_another_shape_is_left_alone() -> None:
    choice = choose_layout(model := tiny("GPT2"), attention="ragged")
    assert not last_layer.installed(find_decoder(model))
    assert "the last layer computes prompts in full" in choice.reason


def test_a_layer_that_mixes_tokens_after_attention_is_left_alone() -> None:
    """What no shape tells: the probe compares hidden states."""
    model = tiny_llama()
    mlp = model.model.layers[-1].mlp
    usual = mlp.forward
    mlp.forward = lambda x: usual(x) + x[:, :1]  # each sees the first of what is fed
    assert "hidden states change" in choose_spared(model)
    assert not last_layer.installed(model.model)


def choose_spared(model: Any) -> str:
    """What is said of the last layer, once the model is set to the loop."""
    from ktotrain.attention import KERNELS, register
    from ktotrain.scorer import find_head, spare_last_layer

    register()
    model.set_attn_implementation(KERNELS["ragged"].implementation)
    head = find_head(model)
    assert head is not None
    rows = random_rows([0, 1])
    branches = [Branch(i, i, row.prompt_ids, row.completion_ids) for i, row in enumerate(rows)]
    (batch,) = pack(branches, pack_tokens=1000, layout="shared")
    return spare_last_layer(model, head, batch)


def test_what_has_an_entry_for_each_token_is_taken_wherever_it_is() -> None:
    """Models hand positions on as [1, T] and as [T], and rotary tables as a pair of [1, T, D]."""
    needed_M = torch.tensor([1, 4])
    per_token = torch.arange(5)
    other = torch.zeros(5, 3)
    found = last_layer._taken(
        {"a": per_token, "b": [per_token[None]], "c": (per_token[None, :, None],), "d": other, "e": None}, needed_M, 5
    )
    assert found["a"].tolist() == found["b"][0][0].tolist() == found["c"][0].flatten().tolist() == [1, 4]
    assert found["d"] is other
    assert found["e"] is None
