"""Trials in half precision, where rounding hides what is wrong: they compute in float32, a layer at a time."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_llama
from torch import Tensor, nn

from benchmarks.architectures import ARCHITECTURES, tiny
from ktotrain import trial
from ktotrain.attention import KERNELS, NotServedError, Ragged
from ktotrain.batch import Unit
from ktotrain.model import add_lora
from ktotrain.packing import pack
from ktotrain.probe import choose_layout
from ktotrain.scorer import Scorer, last_hidden
from ktotrain.upcast import in_float32


def types(model: nn.Module) -> dict[str, tuple[torch.dtype, int]]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: (tensor.dtype, tensor.data_ptr()) for name, tensor in tensors}


@pytest.mark.parametrize("name", ["Llama", "Mixtral", "GptOss", "GPT2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_computes_what_a_float32_copy_would(name: str, dtype: torch.dtype) -> None:
    model = tiny(name).to(dtype)
    before, copied = types(model), copy.deepcopy(model).float()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        with in_float32(model):
            (found,) = model.base_model(ids, use_cache=False, return_dict=False)
        (expected,) = copied.base_model(ids, use_cache=False, return_dict=False)
        rounded = model.base_model(ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert rounded.dtype == dtype
    assert types(model) == before


def test_no_more_than_a_layer_is_float32_at_once_and_none_after_an_error() -> None:
    model = tiny_llama().to(torch.bfloat16)
    before = types(model)
    layers = model.model.layers
    wide: list[list[bool]] = []

    def note(module: nn.Module, *_: Any) -> None:
        wide.append([all(w.dtype == torch.float32 for w in layer.parameters()) for layer in layers])
        assert model.lm_head.weight.dtype == torch.bfloat16
        if len(wide) == 3:
            raise RuntimeError("in the second pass")

    for layer in layers:
        layer.mlp.register_forward_hook(note)
    ids = torch.arange(9)[None]
    with torch.no_grad(), in_float32(model):
        model.model(ids)
        with pytest.raises(RuntimeError, match="second pass"):
            model.model(ids)
    assert wide[:2] == [[True, False], [False, True]]
    assert types(model) == before


def test_parity_is_held_as_closely_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with an adapter in float32 or in half precision; and rounding is no reason to fall back."""
    held: list[tuple[float, str]] = []
    usual = trial._too_far

    def too_far(ours: Tensor, expected: Tensor, most: float, what: str) -> str:
        held.append((most, what))
        return usual(ours, expected, most, what)

    monkeypatch.setattr(trial, "_too_far", too_far)
    for adapted in (None, torch.float32, torch.bfloat16):
        model = tiny_llama().to(torch.bfloat16)
        if adapted is not None:
            wrapped = add_lora(model, rank=2, alpha=4, dropout=0.0, target_modules="all-linear")
            for name, parameter in wrapped.named_parameters():
                if "lora_" in name:
                    parameter.data = torch.randn_like(parameter, dtype=adapted) / 8
        assert choose_layout(model, attention="auto").layout == "shared"
    assert held == [(trial.PARITY, "hidden states differ from padded ones'")] * 3


def test_a_model_that_casts_what_it_is_given_is_held_to_what_rounding_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where float32 cannot be had, scores in half precision tell what is far off, and no more."""
    monkeypatch.setattr(trial, "in_float32", _fails)
    model = tiny_llama().to(torch.bfloat16)
    assert choose_layout(model, attention="auto").layout == "shared"
    model = tiny_llama().to(torch.bfloat16)
    usual = model.model.forward

    def counting(*arguments: Any, position_ids: Tensor | None = None, **named: Any) -> Any:
        """Positions of its own, whatever it is told: wrong for all but a prompt's first completion."""
        return usual(*arguments, **named)

    model.model.forward = counting
    choice = choose_layout(model, attention="auto")
    assert choice.layout == "packed"  # where nothing but distances between positions counts
    assert "scores differ from padded ones by" in choice.reason


def _fails(model: nn.Module) -> Any:
    raise RuntimeError("no float32 here")


@pytest.mark.parametrize("window", [None, 12])
def test_layers_that_mask_attention_themselves_are_refused(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Doge masks by its values: no layout that hides its mask is right, however little that shows."""
    monkeypatch.setitem(ARCHITECTURES, "Doge", {"sliding_window": window})
    for dtype in (torch.float32, torch.bfloat16):
        choice = choose_layout(tiny("Doge").to(dtype), attention="auto")
        assert choice.layout == "padded"
        assert choice.reason == "its layers make attention masks of their own"


@pytest.mark.parametrize("name", list(KERNELS))
def test_a_mask_is_never_ignored(name: Any) -> None:
    x = torch.zeros(1, 2, 8, 4)
    with pytest.raises(NotServedError, match="masks of their own"):
        KERNELS[name].attend(nn.Module(), x, x, x, torch.ones(1, 1, 8, 8), ragged=Ragged((Unit(3, (5,)),)))


def test_hidden_states_come_by_row_whatever_the_layout() -> None:
    model = tiny_llama()
    branches = trial.probe_branches(model, np.random.default_rng(0))
    choose_layout(model, attention="padded")
    (padded,) = pack(branches, pack_tokens=10_000, layout="padded")
    scorer = Scorer(model, None)
    hidden, source_N = last_hidden(scorer, padded)
    first = list(padded.rows).index(0)
    torch.testing.assert_close(
        trial._hidden_by_row(scorer, padded)[: len(branches[0].completion_ids)],
        hidden[source_N[padded.branch_N == first]],
    )
