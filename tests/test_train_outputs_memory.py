"""The memory estimate: exact where it can be, and close to what autograd really keeps where it cannot."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ktotrain.batch import Branch
from ktotrain.memory import GIB, MemoryEstimate, available_bytes, estimate, shape_of
from ktotrain.packing import pack
from ktotrain.probe import choose_layout
from ktotrain.scorer import Scorer, no_grad_scores

SIZES = {"vocab_size": 300, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
PEFT_ASKS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


def llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            **(SIZES | {"intermediate_size": 352, "num_key_value_heads": 2, "max_position_embeddings": 512} | changes)
        )
    )


def qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**SIZES, intermediate_size=352, num_key_value_heads=2, head_dim=32))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2}
    return GPT2LMHeadModel(GPT2Config(**SIZES, **off))


def gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**SIZES, intermediate_size=352, num_key_value_heads=2, head_dim=32))


def lora() -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(llama(), LoraConfig(r=4, target_modules="all-linear"))


def kept_for_backward(model: Any, tokens: int, *, autocast: bool) -> int:
    """Bytes that autograd saves in a forward pass through the layers, each storage once, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, Tensor] = {}  # holding on to the tensors keeps their addresses from being used again

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids = (torch.arange(tokens) % 300)[None]
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        base.base_model(input_ids=ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


@PEFT_ASKS
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("make", [llama, qwen3, gpt2, gemma2, lora])
def test_activations_are_within_a_factor_of_two_of_what_autograd_keeps(make: Callable[[], Any], autocast: bool) -> None:
    model = make()
    parts = estimate(shape_of(model), pack_tokens=256, half_precision=autocast)
    measured = kept_for_backward(model, 256, autocast=autocast)
    assert 0.5 < (parts.activations + parts.half_copies) / measured < 2


def test_a_llamas_activations_are_within_a_tenth() -> None:
    parts = estimate(shape_of(llama()), pack_tokens=256, half_precision=False)
    assert parts.activations == pytest.approx(kept_for_backward(llama(), 256, autocast=False), rel=0.1)


def test_attention_weights_that_are_kept_count() -> None:
    """A float32 number for each head and key, in each layer; with checkpointing in one."""
    shape = shape_of(llama(num_hidden_layers=12))

    def activations(**more: Any) -> int:
        return estimate(shape, pack_tokens=256, half_precision=True, **more).activations

    assert activations(kept_keys=100) - activations() == 256 * 12 * shape.heads * 100 * 4
    again: dict[str, Any] = {"gradient_checkpointing": True}
    assert activations(kept_keys=100, **again) - activations(**again) == 256 * shape.heads * 100 * 4


def test_checkpointing_keeps_an_input_per_layer_and_one_whole_layer() -> None:
    model = llama(num_hidden_layers=12)
    newer = getattr(model, "activation_checkpointing_enable", None)  # transformers renamed it in 5.2x
    (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
    model.train()
    whole = estimate(shape_of(model), pack_tokens=256, half_precision=False).activations
    found = estimate(shape_of(model), pack_tokens=256, half_precision=False, gradient_checkpointing=True).activations
    measured = kept_for_backward(model, 256, autocast=False)  # what stays between the two passes
    assert found - whole // 12 == pytest.approx(measured, rel=0.25)


@PEFT_ASKS
@pytest.mark.parametrize("make", [llama, lora, lambda: llama(tie_word_embeddings=True), lambda: llama().bfloat16()])
def test_weights_gradients_and_moments_are_exact(make: Callable[[], Any]) -> None:
    model = make()
    parts = estimate(shape_of(model), pack_tokens=8, half_precision=False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.float().sum().backward()
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    def size(tensors: Any) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert parts.weights == size(model.parameters())
    assert parts.gradients == size(parameter.grad for parameter in trained)
    assert parts.optimizer == size(moments)


@PEFT_ASKS
def test_the_meta_device_gives_the_same_estimate_for_nothing() -> None:
    with torch.device("meta"):
        empty = llama()
    assert shape_of(empty) == shape_of(llama())
    assert next(empty.parameters()).is_meta


def test_the_parts_add_up_and_the_table_names_them() -> None:
    parts = MemoryEstimate(
        weights=GIB, reference=2 * GIB, gradients=GIB, optimizer=GIB, activations=3 * GIB, head=GIB, half_copies=0
    )
    assert parts.total == 9 * GIB
    table = parts.table(available=10 * GIB)
    assert "reference copy               2.00 GiB" in table
    assert "half-precision" not in table  # nothing is held there
    assert table.splitlines()[-2:] == [
        "  total, about                 9.00 GiB",
        "  available                   10.00 GiB",
    ]
    assert parts.table(available=9 * GIB).endswith(": too little")
    assert "available" not in parts.table()


def test_the_references_pass_counts_where_it_is_the_peak() -> None:
    """Before the first step there are no gradients and no optimizer state; online there is all of it."""
    parts: dict[str, Any] = {"weights": GIB, "reference": 2 * GIB, "gradients": GIB, "optimizer": GIB, "half_copies": 0}
    parts |= {"activations": 3 * GIB, "head": GIB}
    before = MemoryEstimate(**parts, scoring=3 * GIB, online=False)
    assert (before.step, before.scored, before.total) == (7 * GIB, 6 * GIB, 7 * GIB)
    assert MemoryEstimate(**parts, scoring=5 * GIB, online=False).total == 8 * GIB
    within = MemoryEstimate(**parts, scoring=6 * GIB, online=True)
    assert (within.step, within.scored, within.total) == (9 * GIB, 10 * GIB, 10 * GIB)
    assert before.table().splitlines()[-4:] == [
        "  a pack of the reference      3.00 GiB",
        "  in a step                    7.00 GiB",
        "  reference, before step 1     6.00 GiB",
        "  total, about                 7.00 GiB",
    ]


def peak_without_gradient(model: Any, tokens: int, *, autocast: bool) -> int:
    """Bytes of tensors alive at once, at most, while a pack of so many tokens is scored, in short sequences."""
    from torch.profiler import ProfilerActivity, profile

    scorer = Scorer(model, choose_layout(model, attention="auto").head)
    branches = []
    for place in range(tokens // 64):
        prompt, completion = torch.randint(0, 300, (33,)).int().numpy(), torch.randint(0, 300, (32,)).int().numpy()
        branches.append(Branch(place, place, prompt, completion))
    (batch,) = pack(branches, pack_tokens=tokens, layout="shared")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        no_grad_scores(scorer, batch)  # what is made once
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            no_grad_scores(scorer, batch)
    events = profiled.profiler.kineto_results.events()
    alive = most = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("make", [llama, qwen3, gpt2, gemma2])
def test_a_pass_without_gradient_is_within_a_fifth_of_what_it_holds(make: Callable[[], Any], autocast: bool) -> None:
    parts = estimate(shape_of(make()), pack_tokens=8, half_precision=autocast, reference_tokens=512)
    measured = peak_without_gradient(make(), 512, autocast=autocast)
    assert 0.8 < parts.scoring / measured < 1.2


def test_the_heads_logits_are_bounded_by_its_chunks() -> None:
    shape = shape_of(llama())

    def head(tokens: int, **bounds: int) -> int:
        return estimate(shape, pack_tokens=tokens, half_precision=False, **bounds).head

    inputs = 8 * 128  # hidden state and its scored copy, float32
    assert head(10, kept_logits=3000, chunk_logits=900) == 4 * (3000 + 3 * 900) + 10 * inputs
    assert head(11, kept_logits=3000, chunk_logits=900) == 4 * 3 * 900 + 11 * inputs  # computed again instead
    assert head(100, scored_tokens=10, kept_logits=3000, chunk_logits=900) == head(
        10, kept_logits=3000, chunk_logits=900
    )


def test_a_reference_copy_and_longer_packs_cost_what_they_cost() -> None:
    shape = shape_of(llama())
    one = estimate(shape, pack_tokens=100, half_precision=True)
    two = estimate(shape, pack_tokens=200, half_precision=True, reference_bytes=12345)
    assert two.reference == 12345
    assert two.activations == 2 * one.activations
    assert two.weights == one.weights


def test_this_machines_memory_is_found() -> None:
    found = available_bytes()
    assert found is None or found > GIB // 4
