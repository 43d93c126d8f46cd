"""Which layout a model gets: shared where it is exact, and never where it only looks so."""

import dataclasses
from pathlib import Path
from typing import Any

import kernels
import pytest
import torch
import transformers
from support import byte_tokenizer, model_folder, random_rows, run_steps, text_records, tiny_llama, write_jsonl
from torch import Tensor

from benchmarks.architectures import ARCHITECTURES, COMMON, examine, tiny, write
from ktotrain import attention
from ktotrain.attention import KERNELS, Ragged
from ktotrain.attention_choice import KernelChoice
from ktotrain.errors import ModelError, RecipeError
from ktotrain.model import add_lora
from ktotrain.probe import choose_layout, verified_head

SHARED = ("Llama", "Qwen3", "Mistral", "Gemma2", "Granite", "GPT2", "Mixtral", "GptOss")
PADDED = ("Lfm2", "Llama4", "Bloom")


@pytest.mark.parametrize("name", [*SHARED, *PADDED])
def test_the_chosen_layout_is_exact(name: str) -> None:
    """Soft caps, sinks, experts, scales and windows on logical positions: scores and gradients, against row by row."""
    found = examine(name)
    assert found.layout == ("shared" if name in SHARED else "padded"), found.reason
    assert found.scores < 1e-5
    assert found.gradients < 1e-4
    special = name in ("Gemma2", "GptOss")
    assert found.kernels == (
        (("ragged", "flex") if special else ("ragged", "varlen", "flex")) if name in SHARED else ()
    )


@pytest.mark.parametrize("name", SHARED)
def test_shared_models_also_follow_prompts_and_have_a_plain_head(name: str) -> None:
    choice = choose_layout(tiny(name), attention="auto")
    assert choice.attention == "ktotrain_ragged"
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("wrong", ["leaking", "hiding", "never called"])
def test_a_wrong_attention_is_found_out(wrong: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    def function(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, ragged: Ragged, **_: Any) -> Any:
        ragged.calls += wrong != "never called"
        if wrong == "hiding":
            return hiding(query, key, value, ragged).transpose(1, 2), None
        return leaking(query, key, value).transpose(1, 2), None

    with monkeypatch.context() as patch:
        patch.setitem(KERNELS, "ragged", dataclasses.replace(KERNELS["ragged"], attend=function))
        choice = choose_layout(tiny_llama().to(dtype), attention="auto")
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
    with pytest.raises(ModelError, match=f"{kind}.*not available on cpu.*needs a CUDA GPU") as caught:
        choose_layout(tiny_llama(), attention=kind)
    assert 'There are "auto", "ragged" and "padded"' in str(caught.value)


QUICK = (("varlen", "Mistral"), ("varlen", "Gemma2"), ("varlen", "GptOss"))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=() if (kind, name) in QUICK else pytest.mark.slow)
        for kind in ("varlen", "flex")
        for name in SHARED
    ],
)
def test_kernels_by_name_where_they_are_exact(kind: str, name: str) -> None:
    """Through the whole probe, with stand-ins: windows, caps, sinks, experts; and a clear no where it cannot be."""
    with kernels.stand_ins():
        if kind == "varlen" and name in ("Gemma2", "GptOss"):
            with pytest.raises(ModelError, match=r"varlen.*it has no") as caught:
                choose_layout(tiny(name), attention=kind)
            assert 'There are "auto", "ragged", "flex" and "padded"' in str(caught.value)
            return
        choice = choose_layout(tiny(name), attention=kind)
        assert choice.attention == f"ktotrain_{kind}", choice.reason
        assert choice.follows
        found = examine(name, attention=kind)
    assert found.layout == "shared", found.reason
    assert found.scores < 1e-5
    assert found.gradients < 1e-4


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, names: list[Any]) -> None:
    """As if models lay on a GPU that gave these figures, while everything is computed here."""
    monkeypatch.setattr("ktotrain.trial.Trial.on_gpu", property(lambda trial: True))
    monkeypatch.setattr("ktotrain.probe.rank_kernels", lambda *_, **__: KernelChoice(names, "figures"))


def test_auto_takes_the_fastest_and_gives_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu(monkeypatch, ["flex", "ragged"])
    with kernels.stand_ins():
        choice = choose_layout(tiny_llama(), attention="auto")
    assert choice.attention == "ktotrain_flex"
    assert choice.reason == "exact by probe; figures"
    assert choice.follows


def test_auto_goes_on_to_the_next_where_a_kernel_is_wrong_in_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu(monkeypatch, ["varlen", "flex", "ragged"])
    with kernels.stand_ins(kernels.varlen_attn_top_left):
        choice = choose_layout(tiny_llama(num_key_value_heads=4), attention="auto")
    assert choice.attention == "ktotrain_flex"
    assert "not varlen after all: scores differ from padded ones" in choice.reason


def test_nothing_is_measured_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktotrain.probe.rank_kernels", lambda *_, **__: pytest.fail("measured"))
    assert choose_layout(tiny_llama(), attention="auto").attention == "ktotrain_ragged"


def test_a_run_says_what_it_will_be_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice is made on the run's own precision and on one of its packs; what cannot be is refused before that."""
    from ktotrain import prepare
    from ktotrain.recipe import recipe_from_dict

    def recipe(**model: str) -> Any:
        write_jsonl(tmp_path / "rows.jsonl", text_records(24))
        return recipe_from_dict(
            {
                "model": {"path": str(model_folder(tmp_path / "model")), **model},
                "data": {"train": [str(tmp_path / "rows.jsonl")]},
                "train": {"batch_size": 8, "precision": "bf16"},
            }
        )

    told: dict[str, Any] = {}
    choose = prepare.choose_layout

    def choosing(model: Any, **circumstances: Any) -> Any:
        told.update(circumstances)
        return choose(model, **circumstances)

    monkeypatch.setattr(prepare, "choose_layout", choosing)
    run = prepare.prepare_data(recipe())
    prepare.prepare_policy(recipe(), run, torch.device("cpu"))
    assert told["precision"] == torch.bfloat16
    assert sum(len(unit.completions) for unit in told["units"]) == 8
    with pytest.raises(RecipeError, match=r'model.attention: "flex" is not available on cpu: .* There are "auto"'):
        prepare.refuse_what_is_missing(recipe(attention="flex"))


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("Mixtral", {"router_aux_loss_coef": 0.5}, True),
        ("Mixtral", {"router_aux_loss_coef": 0.0}, False),
        ("Llama", {}, False),
    ],
)
def test_a_run_says_what_trl_adds_for_experts(name: str, more: dict[str, Any], said: bool, tmp_path: Path) -> None:
    from ktotrain import prepare, preview
    from ktotrain.recipe import recipe_from_dict

    sizes = {**COMMON, **ARCHITECTURES[name], "vocab_size": 261, **more}
    getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**sizes)).save_pretrained(
        tmp_path
    )
    byte_tokenizer().save_pretrained(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", text_records(8))
    recipe = recipe_from_dict({"model": {"path": str(tmp_path)}, "data": {"train": [str(tmp_path / "rows.jsonl")]}})
    run = prepare.prepare_data(recipe)
    lines: list[str] = []
    preview.announce(lines.append, recipe, run, prepare.prepare_policy(recipe, run, torch.device("cpu")))
    found = [line for line in lines if "load-balancing" in line]
    assert len(found) == said
    assert not said or "router_aux_loss_coef = 0.5" in found[0]


def test_the_byte_tokenizer_of_these_tests_round_trips() -> None:
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(tokenizer("naïve 🙂\n")["input_ids"]) == "naïve 🙂\n"


def test_lines_of_the_table_can_be_made_anew_one_by_one(tmp_path: Path) -> None:
    path, head = tmp_path / "table.md", ["| architecture | layout |", "|---|---|"]
    assert write(path, [*head, "| A | shared |", "| B | padded |"], device="cpu", all_of_them=True) == ""
    assert write(path, [*head, "| B | shared |"], device="cpu", all_of_them=False) == ""
    assert path.read_text().splitlines()[-4:] == [*head, "| A | shared |", "| B | shared |"]
    assert "made with other versions" in write(path, [*head, "| B | padded |"], device="cuda", all_of_them=False)
    assert path.read_text().endswith("| B | shared |\n")


def test_an_adapter_with_dropout_is_never_followed() -> None:
    """A graded pass remembers what dropout has left of its prompts; in evaluation mode the probe would not see it."""
    model = tiny_llama()
    add_lora(model, rank=2, alpha=4, dropout=0.1, target_modules="all-linear")
    choice = choose_layout(model, attention="auto")
    assert not choice.follows
    assert choice.reason == "exact by probe; mismatched completions encode prompts again (an adapter with dropout)"


@pytest.mark.parametrize("attention", ["auto", "padded"])
def test_a_head_that_the_model_computes_is_named(attention: str) -> None:
    model = tiny_llama()
    add_lora(model, rank=2, alpha=4, dropout=0.0, target_modules=["lm_head", "q_proj"])
    choice = choose_layout(model, attention=attention)
    assert choice.head is None
    head = "the LM head carries an adapter, so the model computes it (in chunks)"
    if attention == "padded":
        assert choice.reason == f"asked for; {head}"
        return
    assert choice.reason.startswith(f"exact by probe; {head}; the last layer computes prompts in full")
    assert "mismatched completions encode prompts again (as the model computes its LM head)" in choice.reason


def test_a_head_behind_another_matrix_is_no_plain_one() -> None:
    """RemBERT's takes something else than hidden states: no traceback, and the model's own logits."""
    model = tiny_llama()
    model.lm_head = torch.nn.Linear(7, 96)
    between = torch.nn.Linear(model.config.hidden_size, 7)
    plain = model.lm_head.forward
    model.lm_head.forward = lambda hidden: plain(between(hidden))
    choice = choose_layout(model, attention="auto")
    assert choice.head is None
    assert "the LM head is more than a matrix, so the model computes it (in chunks)" in choice.reason


def test_layers_that_hand_nothing_down_are_named_in_a_users_words() -> None:
    choice = choose_layout(tiny("Nemotron"), attention="auto")
    assert choice.layout == "padded"
    assert choice.reason == "its layers do not pass on to attention where the rows of a pack begin"


@pytest.mark.parametrize("where", ["first", "last", "while changed", "in float32", "head", "spared", "followed"])
def test_no_memory_is_no_layouts_trouble(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's shortage is a RuntimeError, as is what a model raises that is fed what it cannot take."""

    def runs_out(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    model: Any = tiny_llama()
    if where == "in float32":
        model = model.to(torch.bfloat16)
        monkeypatch.setattr("ktotrain.trial.in_float32", runs_out)
    elif where == "first":
        monkeypatch.setattr("ktotrain.trial.no_grad_scores", runs_out)
    elif where == "last":
        model.model.layers[-1].register_forward_pre_hook(runs_out)
    elif where == "while changed":
        monkeypatch.setattr("ktotrain.trial._scores", runs_out)
    elif where == "head":
        model.lm_head.forward = runs_out
    elif where == "spared":
        monkeypatch.setattr("ktotrain.last_layer._LastLayer.forward", runs_out)
    else:
        monkeypatch.setattr("ktotrain.scorer.Scorer.following", runs_out)
    with pytest.raises(torch.OutOfMemoryError):
        choose_layout(model, attention="auto")
