"""Which layout a model gets: shared where it is exact, and never where it only looks so."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import byte_tokenizer, random_rows, run_steps, tiny_llama
from torch import Tensor

from benchmarks.architectures import examine, tiny
from ktotrain import attention
from ktotrain.attention import RAGGED, Ragged
from ktotrain.errors import ModelError
from ktotrain.probe import choose_layout, verified_head

SHARED = ("Llama", "Qwen3", "Mistral", "Gemma2", "Granite", "GPT2", "Mixtral", "GptOss")
PADDED = ("Lfm2", "Llama4", "Bloom")


@pytest.mark.parametrize("name", [*SHARED, *PADDED])
def test_the_chosen_layout_is_exact(name: str) -> None:
    """Soft caps, sinks, experts, scales and windows on logical positions: scores and gradients, against row by row."""
    layout, reason, scores, gradients = examine(name)
    assert layout == ("shared" if name in SHARED else "padded"), reason
    assert scores < 1e-5
    assert gradients < 1e-4


@pytest.mark.parametrize("name", SHARED)
def test_shared_models_also_follow_prompts_and_have_a_plain_head(name: str) -> None:
    choice = choose_layout(tiny(name), attention="auto")
    assert choice.attention == RAGGED
    assert choice.head is not None
    assert choice.follows


@pytest.mark.parametrize("name", PADDED)
def test_padded_models_keep_their_attention_and_say_why(name: str) -> None:
    model = tiny(name)
    before = model.config._attn_implementation
    assert choose_layout(model, attention="auto").reason
    assert model.config._attn_implementation == before
    with pytest.raises(ModelError, match="cannot use ragged attention"):
        choose_layout(model, attention="ragged")


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
