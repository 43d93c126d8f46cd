"""Samples: left-padded batches equal one by one, and generating leaves the model and the random state as they were."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import byte_tokenizer
from torch import Tensor

from ktotrain.errors import ModelError
from ktotrain.samples import BATCH, generate, pick_prompts, write_samples

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "model"
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PROMPTS = ["hello", "a much longer prompt, of many more tokens than the first", "", "the end."]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer(TEMPLATE)


@pytest.fixture
def model() -> Any:
    return llama()


def llama(**changes: Any) -> Any:
    """A random model, with weights large enough that its likeliest tokens differ by more than rounding."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes = {"vocab_size": 261, "max_position_embeddings": 128, "initializer_range": 0.3}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(shape | sizes | changes)))


@torch.no_grad()
def greedy(model: Any, tokenizer: Any, ids: list[int], count: int) -> str:
    """The likeliest continuation, by whole forward passes over one sequence: no batch, no padding, no cache."""
    length = len(ids)
    for _ in range(count):
        ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
        if ids[-1] == model.config.eos_token_id:
            break
    return str(tokenizer.decode(ids[length:], skip_special_tokens=True))


def refuses(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    raise AssertionError("the attention function for packs was called while generating")


@pytest.fixture
def ragged() -> str:
    """An attention implementation that can only do packs, as the trainer registers one."""
    from transformers import AttentionInterface

    AttentionInterface.register("test_ragged", refuses)
    return "test_ragged"


def test_a_batch_equals_one_by_one_without_padding(model: Any, tokenizer: Any) -> None:
    model.eval()
    prompts = PROMPTS * (BATCH // len(PROMPTS) + 1)  # more than one batch
    expected = [greedy(model, tokenizer, tokenizer(prompt)["input_ids"] or [1], 12) for prompt in prompts]
    found = generate(model, tokenizer, prompts, max_new_tokens=12)
    assert found == expected
    assert len(set(found)) > 2, "the model says the same to everything, so the test shows nothing"


def test_chats_are_rendered_by_the_template(model: Any, tokenizer: Any) -> None:
    model.eval()
    ids = tokenizer("<|user|>hello<|assistant|>")["input_ids"]
    assert len(ids) == 7
    chat = [{"role": "user", "content": "hello"}]
    assert generate(model, tokenizer, [chat, "x"], max_new_tokens=8)[0] == greedy(model, tokenizer, ids, 8)


def test_nothing_is_left_changed(model: Any, tokenizer: Any, ragged: str) -> None:
    expected = generate(model.eval(), tokenizer, PROMPTS, max_new_tokens=5)
    model.set_attn_implementation(ragged)
    model.train()
    model.lm_head.eval()
    model.config.use_cache = False
    settings = model.generation_config
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.max_length = 3
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=5, temperature=0.0) == expected
    generate(model, tokenizer, PROMPTS, max_new_tokens=5, temperature=1.0, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.config._attn_implementation == ragged
    assert model.training
    assert model.model.training
    assert not model.lm_head.training
    assert model.config.use_cache is False
    assert model.generation_config is settings
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_failure_leaves_nothing_changed_either(model: Any, tokenizer: Any, ragged: str) -> None:
    model.set_attn_implementation(ragged)
    model.train()
    settings, state = model.generation_config, torch.get_rng_state()

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no memory")

    model.model.layers[1].forward = fail
    with pytest.raises(RuntimeError, match="no memory"):
        generate(model, tokenizer, PROMPTS)
    assert (model.training, model.config._attn_implementation) == (True, ragged)
    assert model.generation_config is settings
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_depend_on_the_seed_alone(model: Any, tokenizer: Any) -> None:
    def drawn(seed: int) -> list[str]:
        torch.manual_seed(1000 + len(seen))
        seen.append(seed)
        return generate(model, tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, seed=seed)

    seen: list[int] = []
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_draws_are_from_the_whole_distribution(tokenizer: Any) -> None:
    """A hot sample must reach past the 50 likeliest tokens, at which transformers would cut by default."""
    model = llama(tie_word_embeddings=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(1.0)  # whatever came before, the logits are the same
    (text,) = generate(model, tokenizer, ["x"], max_new_tokens=100, temperature=50.0)
    likely = model(input_ids=torch.tensor([[5]])).logits[0, -1].topk(50).indices.tolist()
    drawn = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert sum(token not in likely for token in drawn) > len(drawn) / 2


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks transformers 5.23 for it
def test_an_adapter_is_generated_with(model: Any, tokenizer: Any, ragged: str) -> None:
    from peft import LoraConfig, get_peft_model

    plain = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    adapted.get_base_model().set_attn_implementation(ragged)
    assert generate(adapted, tokenizer, PROMPTS, max_new_tokens=8) == plain  # a fresh adapter changes nothing
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    assert generate(adapted, tokenizer, PROMPTS, max_new_tokens=8) != plain
    assert adapted.get_base_model().config._attn_implementation == ragged


def test_a_model_that_refuses_sdpa_generates_too(tokenizer: Any, ragged: str) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(vocab_size=261, num_key_value_heads=1, head_dim=16, **shape))
    model.set_attn_implementation("eager")
    expected = generate(model, tokenizer, PROMPTS, max_new_tokens=5)
    model.set_attn_implementation(ragged)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=5) == expected
    assert model.config._attn_implementation == ragged


def test_a_prompt_too_long_for_the_model_loses_its_beginning(model: Any, tokenizer: Any) -> None:
    model.eval()
    text = "".join(chr(97 + index % 26) for index in range(500))
    found = generate(model, tokenizer, [text], max_new_tokens=8)
    assert found == [greedy(model, tokenizer, tokenizer(text)["input_ids"][-120:], 8)]


def test_a_tokenizer_that_ends_every_text_does_not_end_prompts(model: Any, tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    plain = generate(model, tokenizer, PROMPTS[:2], max_new_tokens=8)
    inner = tokenizer.backend_tokenizer
    before = inner.post_processor
    inner.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    try:
        assert tokenizer("x")["input_ids"][-1] == 2
        assert generate(model, tokenizer, PROMPTS[:2], max_new_tokens=8) == plain
    finally:
        inner.post_processor = before


def test_chats_without_a_template_are_one_clear_error(model: Any, tokenizer: Any) -> None:
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        with pytest.raises(ModelError, match="chat prompts cannot be rendered"):
            generate(model, tokenizer, [[{"role": "user", "content": "hi"}]])
    finally:
        tokenizer.chat_template = template


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="no shared golden model beside the repository")
def test_the_golden_model_generates_as_one_by_one() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(GOLDEN), AutoTokenizer.from_pretrained(GOLDEN)
    expected = [greedy(model, tokenizer, tokenizer(prompt)["input_ids"] or [1], 10) for prompt in PROMPTS]
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=10) == expected


def pick(prompts: list[Any], count: int, seed: int = 0) -> list[Any]:
    return pick_prompts(prompts, count, seed=seed)


@pytest.mark.parametrize("make", [str, lambda number: [{"role": "user", "content": str(number)}]])
def test_picked_prompts_depend_on_seed_and_set_alone(make: Callable[[int], Any]) -> None:
    prompts = [make(number) for number in range(50)]
    picked = pick(prompts, 4)
    assert len(picked) == 4
    assert pick(prompts[::-1] + prompts[:10], 4) == picked
    assert all(picked.count(prompt) == 1 for prompt in picked)
    assert pick(prompts, 4, seed=1) != picked
    assert pick(prompts, 3) == picked[:3]
    assert len(pick(prompts[:2] * 5, 4)) == 2
    assert pick(prompts, 0) == []
    assert pick([], 4) == []


def test_own_prompts_take_the_place_of_picked_ones() -> None:
    chat = [[{"role": "user", "content": "x"}]]
    assert pick_prompts(["x"], 4, seed=0, own=["a", "b"]) == ["a", "b"]
    assert pick_prompts(chat, 1, seed=0, own=["a"]) == [[{"role": "user", "content": "a"}]]
    assert pick_prompts(["x"], 0, seed=0, own=["a"]) == []


def test_samples_are_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "run" / "samples.jsonl"
    chat = [{"role": "user", "content": "hé\n"}]
    write_samples(path, ["a", chat], ["b", "c"], ["d", "e\u2028"])
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [
        {"prompt": "a", "before": "b", "after": "d"},
        {"prompt": chat, "before": "c", "after": "e\u2028"},
    ]
    with pytest.raises(ValueError, match="zip"):
        write_samples(path, ["a"], [], [])
    assert len(path.read_text(encoding="utf-8").split("\n")) == len(lines)
    assert [entry.name for entry in path.parent.iterdir()] == ["samples.jsonl"]
