"""Windows, chunks and blocks that models put into their masks: the first are honoured, the others found out."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import masking_utils

from benchmarks.architectures import ARCHITECTURES, in_layout, row_by_row, tiny
from ktotrain.attention import KERNELS, NotServedError, Ragged
from ktotrain.attention_mask import Asked, Window, noted_masks, stand_in
from ktotrain.batch import Branch, Unit
from ktotrain.probe import choose_layout
from ktotrain.scorer import Scorer

CPU = torch.device("cpu")


def long_rows(window: int) -> list[Branch]:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 96, length, dtype=np.int32) for length in (window + 60, 5)]
    return [
        Branch(row, owner, prompts[owner], rng.integers(3, 96, 10 + 3 * row, dtype=np.int32))
        for row, owner in enumerate((0, 0, 1, 1))
    ]


@pytest.mark.parametrize("name", ["Qwen2Moe", "Phimoe", "Mistral"])
@pytest.mark.parametrize("window", [12, 300])
def test_a_window_holds_wherever_the_model_puts_it(name: str, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two put it into the mask alone; of 300 no probe sees anything."""
    more = {"sliding_window": window, "max_position_embeddings": 1024}
    monkeypatch.setitem(ARCHITECTURES, name, ARCHITECTURES[name] | more)
    model, branches = tiny(name), long_rows(window)
    expected = row_by_row(model, branches)
    choice = choose_layout(model, attention="auto")
    assert (choice.layout, choice.reason) == ("shared", "exact by probe")
    monkeypatch.setitem(in_layout.__globals__, "pack", lambda rows, pack_tokens, layout: usual(rows, 5000, layout))
    found = in_layout(model, branches, choice.layout, Scorer(model, choice.head))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def usual(branches: list[Branch], pack_tokens: int, layout: Any) -> Any:
    from ktotrain.packing import pack

    return pack(branches, pack_tokens=pack_tokens, layout=layout)


def blocks(*arguments: Any) -> Tensor:
    query, key = arguments[2:]
    return query // 4 == key // 4


@pytest.mark.parametrize(
    ("function", "window", "plain"),
    [
        (masking_utils.causal_mask_function, 0, True),
        (masking_utils.sliding_window_causal_mask_function(7), 7, True),
        (masking_utils.sliding_window_causal_mask_function(3000), 3000, True),
        (masking_utils.sliding_window_causal_mask_function(3000), 0, False),
        (masking_utils.chunked_causal_mask_function(3000, torch.zeros(1, dtype=torch.int64)), 3000, False),
        (masking_utils.chunked_causal_mask_function(3, torch.zeros(1, dtype=torch.int64)), 3, False),
        (masking_utils.bidirectional_mask_function, 0, False),
        (masking_utils.or_masks(masking_utils.causal_mask_function, blocks), 0, False),
        (masking_utils.padding_mask_function(torch.ones(1, 9, dtype=torch.bool)), 0, False),
    ],
)
def test_what_a_mask_is(function: Any, window: int, plain: bool) -> None:
    assert (Asked(function, window).trouble(CPU) == "") == plain


@pytest.mark.parametrize("size", [5, 400])
def test_a_model_with_chunks_of_attention_gets_padded_rows(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer ones than any probe too; what their layers are called does not matter."""
    from transformers.models.llama import modeling_llama

    def chunked(config: Any, **named: Any) -> Any:
        config.attention_chunk_size = size
        return masking_utils.create_chunked_causal_mask(config, **named)

    monkeypatch.setattr(modeling_llama, "create_causal_mask", chunked)
    choice = choose_layout(tiny("Llama"), attention="auto")
    assert choice.layout == "padded"
    assert "its attention mask is not a causal one" in choice.reason


@pytest.mark.parametrize("name", list(KERNELS))
def test_the_mask_and_the_layer_must_agree(name: Any) -> None:
    x = torch.zeros(1, 2, 8, 4)
    ragged = Ragged((Unit(3, (5,)),))
    with pytest.raises(NotServedError, match="window of 4 and their masks for one of 5"):
        KERNELS[name].attend(nn.Module(), x, x, x, Window(5), ragged=ragged, sliding_window=4)


def test_a_window_that_no_mask_has_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.mistral import modeling_mistral

    plain = masking_utils.create_causal_mask
    monkeypatch.setattr(modeling_mistral, "create_sliding_window_causal_mask", plain)
    choice = choose_layout(tiny("Mistral"), attention="auto")
    assert (choice.layout, choice.reason) == ("padded", "its layers ask for a window that their masks do not have")


def test_masks_are_noted_only_where_asked() -> None:
    with noted_masks() as asked:
        assert stand_in(mask_function=masking_utils.causal_mask_function, q_length=9, kv_length=9) is None
        assert stand_in(mask_function=masking_utils.causal_mask_function, local_size=3, kv_length=9) == Window(3)
    stand_in(mask_function=masking_utils.causal_mask_function)
    assert [one.window for one in asked] == [0, 3]
