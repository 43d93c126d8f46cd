"""Which layout a model gets: shared where it is exact, and never where it only looks so."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import byte_tokenizer, random_rows, run_steps, tiny_llama
from torch import Tensor

from ktotrain import attention
from ktotrain.attention import RAGGED, Ragged
from ktotrain.errors import ModelError
from ktotrain.probe import choose_layout, verified_head

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
}
SHARED = {
    "Llama": {},
    "Qwen3": {"head_dim": 8},
    "Mistral": {"sliding_window": 12, "head_dim": 8},
    "Gemma2": {"head_dim": 8, "sliding_window": 12, "final_logit_softcapping": 4.0},
    "Granite": {"logits_scaling": 4.0},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "Mixtral": {"num_local_experts": 4},
    "GptOss": {"head_dim": 8, "num_local_experts": 4, "sliding_window": 12},
}
PADDED = {
    "Lfm2": {"num_hidden_layers": 3, "full_attn_idxs": [1]},
    "Llama4": {"head_dim": 8, "num_local_experts": 2, "attention_chunk_size": 12, "intermediate_size_mlp": 64},
    "Bloom": {"n_layer": 2, "n_head": 4},
}


def tiny(name: str, **changes: Any) -> Any:
    """A random model of an architecture, with weights large enough that every token matters to every later one."""
    import transformers

    config = {"Llama4": "Llama4TextConfig"}.get(name, f"{name}Config")
    model = {"GPT2": "GPT2LMHeadModel"}.get(name, f"{name}ForCausalLM")
    torch.manual_seed(0)
    made = getattr(transformers, model)(getattr(transformers, config)(**(SIZES | changes))).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    return made


@pytest.mark.parametrize("name", SHARED)
def test_shared_where_exact(name: str) -> None:
    model = tiny(name, **SHARED[name])
    choice = choose_layout(model, attention="auto")
    assert (choice.layout, choice.attention) == ("shared", RAGGED), choice.reason
    assert verified_head(model) is not None


@pytest.mark.parametrize("name", PADDED)
def test_padded_where_it_is_not(name: str) -> None:
    model = tiny(name, **PADDED[name])
    before = model.config._attn_implementation
    choice = choose_layout(model, attention="auto")
    assert choice.layout == "padded"
    assert choice.reason
    assert model.config._attn_implementation == before
    with pytest.raises(ModelError, match="cannot use ragged attention"):
        choose_layout(model, attention="ragged")


@pytest.mark.parametrize("name", ["Gemma2", "GptOss"])
def test_gradients_too(name: str) -> None:
    """Soft caps, sinks and windows on logical positions, through the backward pass, against the model's own."""
    rows = random_rows([0, 0, 1, 2, 1, 3, 3, 3], longest=40)
    ours, theirs = (run_steps(tiny(name, **SHARED[name]), rows, attention=kind, steps=1) for kind in ("auto", "padded"))
    for gradient, expected in zip(ours[0].gradients.values(), theirs[0].gradients.values(), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=2e-3, atol=1e-5)


def leaking(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention over the whole pack: what a model does that ignores its units."""
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def hiding(query: Tensor, key: Tensor, value: Tensor, ragged: Ragged) -> Tensor:
    """Blocks without their prompt: what transformers makes of restarting positions."""
    parts = zip(*(x.split(ragged.sizes, 2) for x in (query, key, value)), strict=True)
    return torch.cat([leaking(q, k, v) for q, k, v in parts], 2)


@pytest.mark.parametrize("wrong", ["leaking", "hiding", "never called"])
def test_a_wrong_attention_is_found_out(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def function(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, ragged: Ragged, **_: Any) -> Any:
        ragged.calls += wrong != "never called"
        if wrong == "hiding":
            return hiding(query, key, value, ragged).transpose(1, 2), None
        return leaking(query, key, value).transpose(1, 2), None

    original: Callable[..., Any] = attention.ragged_attention
    monkeypatch.setattr(attention, "ragged_attention", function)
    try:
        choice = choose_layout(tiny_llama(), attention="auto")
    finally:
        monkeypatch.setattr(attention, "ragged_attention", original)
        attention.register()
    expected = {
        "leaking": ("padded", "depends on another completion"),
        # Without siblings there is nothing to hide: whole rows in a pack are right, prefix sharing is not.
        "hiding": ("packed", "prefix sharing is not exact"),
        "never called": ("padded", "called the attention 0 times"),
    }
    layout, reason = expected[wrong]
    assert choice.layout == layout, choice.reason
    assert reason in choice.reason


def test_a_head_that_is_more_than_a_matrix_is_left_to_the_model() -> None:
    def doubling() -> Any:
        model = tiny_llama()
        plain = model.lm_head.forward
        model.lm_head.forward = lambda hidden: plain(hidden) * 2.0
        return model

    assert verified_head(tiny_llama()) is not None
    assert verified_head(doubling()) is None
    rows = random_rows([0, 1, 1, 2, 3, 3, 4, 5])
    doubled = tiny_llama()
    with torch.no_grad():
        doubled.lm_head.weight.mul_(2.0)
    expected = run_steps(doubled, rows, steps=1, learning_rate=0.0)[0].policy_logps
    for kind in ("auto", "padded"):
        torch.testing.assert_close(
            run_steps(doubling(), rows, attention=kind, steps=1, learning_rate=0.0)[0].policy_logps,
            expected,
            rtol=1e-5,
            atol=1e-4,
        )


@pytest.mark.parametrize("kind", ["flex", "varlen"])
def test_an_attention_that_the_machine_lacks(kind: str) -> None:
    with pytest.raises(ModelError, match=f"{kind}.*not available on cpu"):
        choose_layout(tiny_llama(), attention=kind)


def test_the_byte_tokenizer_of_these_tests_round_trips() -> None:
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(tokenizer("naïve 🙂\n")["input_ids"]) == "naïve 🙂\n"
