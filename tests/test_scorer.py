"""Heads: tied, and those that are more than a matrix, give what plain logits give, a chunk at a time."""

from typing import Any

import pytest
import torch
from support import random_rows, tiny_llama
from torch import Tensor, nn

from benchmarks.architectures import in_layout, row_by_row, rows, tiny
from ktotrain import scorer as scorer_module
from ktotrain.batch import PackedBatch, branch_of
from ktotrain.packing import Layout, pack
from ktotrain.probe import choose_layout
from ktotrain.scorer import Scorer, find_head

VOCABULARY = 96


class Doubling(nn.Linear):
    """A head that no `Head` describes."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).mul(2).sin()


def batch_in(layout: Layout) -> PackedBatch:
    tokenized = random_rows([0, 0, 1, 2])
    branches = [branch_of(i, row, row, max_length=64) for i, row in enumerate(tokenized)]
    (batch,) = pack(branches, pack_tokens=1000, layout=layout)
    return batch


def with_own_head(attention: str) -> Any:
    model = tiny_llama()
    model.lm_head.__class__ = Doubling
    choose_layout(model, attention=attention)
    assert find_head(model) is None
    return model


def plain(model: Any, batch: PackedBatch) -> Tensor:
    """Scores by whole logits and autograd."""
    scorer = Scorer(model, None)
    logits = scorer._whole_logits(batch, scorer._inputs(batch, None), batch.source_N)
    token_logps = logits.float().log_softmax(-1).gather(1, batch.target_N[:, None])[:, 0]
    return torch.zeros(len(batch.rows)).index_add(0, batch.branch_N, token_logps)


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_a_head_of_its_own_in_chunks(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_module, "chunk_elements_on", lambda *_: 7 * VOCABULARY)
    batch = batch_in(layout)
    found = []
    for compute in (lambda model: Scorer(model, None)(batch), lambda model: plain(model, batch)):
        model = with_own_head("ragged" if layout == "shared" else "padded")
        scores = compute(model)
        (scores * torch.tensor([1.0, -2.0, 0.5, 3.0])).sum().backward()
        found.append([scores, *(parameter.grad for parameter in model.parameters())])
        assert "forward" not in vars(model.model), "put back as it was"
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_no_more_than_a_chunk_of_its_logits_is_ever_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither forward nor backward makes a tensor of scored tokens x vocabulary, but of a chunk of them."""
    monkeypatch.setattr(scorer_module, "chunk_elements_on", lambda *_: 7 * VOCABULARY)
    model, batch = with_own_head("ragged"), batch_in("shared")
    scorer = Scorer(model, None)
    kept: list[int] = []
    sizes: list[int] = []
    model.lm_head.register_forward_hook(lambda *found: sizes.append(found[2].shape[-2]))

    def note(saved: Tensor) -> Tensor:
        if saved.shape[-1:] == (VOCABULARY,):
            kept.append(saved.numel())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        scorer(batch).sum().backward()
    assert len(batch.target_N) > 14
    assert scorer.own_head
    assert max(sizes) <= 8, "eight tokens try it out"
    assert len(sizes) >= 2 * -(-len(batch.target_N) // 7), "each chunk is computed again"
    assert max(kept, default=0) <= 8 * VOCABULARY


def test_its_chunks_are_those_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def elements(device: str, vocabulary: int) -> int:
        asked.append((device, vocabulary))
        return 7 * VOCABULARY

    monkeypatch.setattr(scorer_module, "chunk_elements_on", elements)
    Scorer(with_own_head("ragged"), None)(batch_in("shared"))
    assert set(asked) == {("cpu", VOCABULARY)}


def adapted(settings: dict[str, Any]) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    model = tiny_llama()
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.mark.parametrize("attention", ["auto", "padded"])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["lm_head", "embed_tokens", "q_proj"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]},
        {"target_modules": ["q_proj", "lm_head"], "trainable_token_indices": [5, 6]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    ],
    ids=str,
)
def test_adapters_on_embeddings_and_heads(settings: dict[str, Any], attention: str) -> None:
    model = adapted(settings)
    expected = row_by_row(model, rows())
    choice = choose_layout(model, attention=attention)
    assert choice.layout == ("shared" if attention == "auto" else "padded"), choice.reason
    found = in_layout(model, rows(), choice.layout, Scorer(model, choice.head))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_a_head_that_needs_more_than_hidden_states_is_computed_whole() -> None:
    model, batch = with_own_head("ragged"), batch_in("shared")
    usual = model.forward

    def forward(*arguments: Any, input_ids: Tensor, **named: Any) -> Any:
        output = usual(*arguments, input_ids=input_ids, **named)
        output.logits = output.logits * input_ids.float().mean()  # what no hidden state knows
        return output

    model.forward = forward
    scorer = Scorer(model, None)
    torch.testing.assert_close(scorer(batch), plain(model, batch))
    assert scorer.own_head is False


@pytest.mark.parametrize("name", ["Llama4", "Mllama", "ModernBertDecoder"])
def test_only_scored_positions_reach_a_head_wherever_the_decoder_is(name: str) -> None:
    """Models whose `get_decoder` gives the model itself, or its LM head."""
    model = tiny(name)
    expected = row_by_row(model, rows())
    choice = choose_layout(model, attention="auto")
    scorer = Scorer(model, choice.head)
    assert scorer.decoder is model.model
    scored: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda *found: scored.append(found[2].shape[-2]))
    found = in_layout(model, rows(), choice.layout, scorer)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    if name == "ModernBertDecoder":  # a layer and a norm before the matrix: the model computes its logits, in chunks
        assert scorer.own_head
        packs = pack(rows(), pack_tokens=120, layout=choice.layout)
        assert sorted(scored) == sorted([8, 8, *(len(batch.target_N) for batch in packs)]), "eight try it out"
    else:
        assert choice.head is not None
        assert not scored


@pytest.mark.parametrize("keep", [2**26, 0], ids=["logits kept", "computed again"])
def test_a_tied_head_adds_to_its_embeddings_gradient(keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktotrain.logps._TokenLogps.apply", _in_small_chunks(keep))
    batch = batch_in("shared")
    gradients = []
    for own in (True, False):
        model = tiny_llama(tie_word_embeddings=True)
        choose_layout(model, attention="ragged")
        (Scorer(model, find_head(model))(batch) if own else plain(model, batch)).sum().backward()
        assert model.lm_head.weight is model.model.embed_tokens.weight
        gradients.append(model.lm_head.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def _in_small_chunks(keep: int) -> Any:
    from ktotrain.logps import _TokenLogps

    usual = _TokenLogps.apply
    return lambda *arguments: usual(*arguments[:-2], 7 * VOCABULARY, keep)
