"""Bad input gets one clear error, exit code 1, and leaves nothing half-written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from support import byte_tokenizer, model_folder, text_records, tiny_llama, write_jsonl

from ktotrain.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def attempt(model: Path, tmp_path: Path) -> Callable[..., Result]:
    """Runs a good recipe, spoilt by overrides, on some rows."""

    def invoke(*overrides: str, rows: list[dict[str, Any]] | None = None) -> Result:
        write_jsonl(tmp_path / "rows.jsonl", text_records() if rows is None else rows)
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(
            f'[model]\npath = "{model}"\n[data]\ntrain = "{tmp_path / "rows.jsonl"}"\n'
            f'[train]\noutput_dir = "{tmp_path / "run"}"\nbatch_size = 8\nprecision = "no"\n[samples]\ncount = 0\n'
        )
        arguments = [part for override in overrides for part in ("--set", override)]
        return CliRunner().invoke(main, ["run", str(recipe), *arguments])

    return invoke


def refused(result: Result, tmp_path: Path, *words: str) -> None:
    assert result.exit_code == 1, (result.output, result.exception)
    error = result.stderr.strip().splitlines()[-1]
    assert result.stderr.count("error:") == 1
    assert "Traceback" not in result.output
    for word in words:
        assert word in error
    assert not (tmp_path / "run" / "model").exists()


def test_the_recipe_is_good_until_spoilt(attempt: Callable[..., Result], tmp_path: Path) -> None:
    assert attempt().exit_code == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("missing", [True, False], ids=["no undesirable row", "no desirable row"])
def test_one_class_only(attempt: Callable[..., Result], tmp_path: Path, missing: bool) -> None:
    rows = [record for record in text_records() if record["label"] is missing]
    refused(attempt(rows=rows), tmp_path, "desirable", "needs both classes")


def test_missing_file(attempt: Callable[..., Result], tmp_path: Path) -> None:
    refused(attempt(f"data.train={tmp_path / 'nowhere.jsonl'}"), tmp_path, "nowhere.jsonl")


@pytest.mark.parametrize("label", ["true", 1, None])
def test_label_of_another_type(attempt: Callable[..., Result], tmp_path: Path, label: object) -> None:
    rows = text_records()
    rows[3]["label"] = label
    refused(attempt(rows=rows), tmp_path, "rows.jsonl", "4", "label is")


def test_a_completion_that_is_no_string(attempt: Callable[..., Result], tmp_path: Path) -> None:
    rows = text_records()
    rows[0]["completion"] = 7
    refused(attempt(rows=rows), tmp_path, "completion is int 7")


def test_chats_and_text_mixed(attempt: Callable[..., Result], tmp_path: Path) -> None:
    chat = {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "ho"}]}
    refused(attempt(rows=[*text_records(), {**chat, "label": True}]), tmp_path, "text", "chat")


def test_chats_without_a_chat_template(tmp_path: Path, attempt: Callable[..., Result]) -> None:
    folder = model_folder(tmp_path / "base")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    byte_tokenizer(template=None).save_pretrained(folder)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"hi {n}"}],
            "completion": [{"role": "assistant", "content": "ho"}],
            "label": n % 2 == 0,
        }
        for n in range(8)
    ]
    refused(attempt(f"model.path={folder}", rows=rows), tmp_path, "no chat template")


def test_a_template_that_refuses_a_row(tmp_path: Path, attempt: Callable[..., Result]) -> None:
    folder = model_folder(tmp_path / "strict")
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}x"
    byte_tokenizer(template=template).save_pretrained(folder)
    rows = [
        {
            "prompt": [{"role": "system", "content": f"hi {n}"}],
            "completion": [{"role": "assistant", "content": "ho"}],
            "label": n % 2 == 0,
        }
        for n in range(8)
    ]
    refused(attempt(f"model.path={folder}", rows=rows), tmp_path, "no system turn")


def test_pack_tokens_below_the_longest_row(attempt: Callable[..., Result], tmp_path: Path) -> None:
    refused(attempt("train.pack_tokens=50"), tmp_path, "train.pack_tokens", "longest sequence has", "or more")
    assert not (tmp_path / "run").exists()


def test_every_prompt_too_long(attempt: Callable[..., Result], tmp_path: Path) -> None:
    refused(attempt("data.max_length=10"), tmp_path, "all 24 rows were dropped", "data.max_length")


def test_batch_size_zero_and_a_mistyped_key_in_one_go(attempt: Callable[..., Result], tmp_path: Path) -> None:
    result = attempt("train.batch_size=0", "optim.learning_rat=1e-3")
    assert result.exit_code == 1
    assert "batch_size" in result.stderr
    assert "learning_rate" in result.stderr
    assert not (tmp_path / "run").exists()


def test_model_folder_without_tokenizer(attempt: Callable[..., Result], tmp_path: Path) -> None:
    from ktotrain.model import quiet

    with quiet():
        tiny_llama().save_pretrained(tmp_path / "bare")
    refused(attempt(f"model.path={tmp_path / 'bare'}"), tmp_path, "bare", "tokenizer")


def test_no_model_folder(attempt: Callable[..., Result], tmp_path: Path) -> None:
    refused(attempt(f"model.path={tmp_path / 'nowhere'}"), tmp_path, "no such folder")


def test_a_folder_without_weights(attempt: Callable[..., Result], tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    refused(attempt(f"model.path={folder}"), tmp_path, "cannot be loaded")


def test_pickled_weights_are_not_read(attempt: Callable[..., Result], tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save(tiny_llama(vocab_size=261).state_dict(), folder / "pytorch_model.bin")
    refused(attempt(f"model.path={folder}"), tmp_path, "cannot be loaded")


def test_damaged_weights(attempt: Callable[..., Result], tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "damaged")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(attempt(f"model.path={folder}"), tmp_path, "cannot be loaded")


def test_missing_weights(attempt: Callable[..., Result], tmp_path: Path) -> None:
    """A checkpoint that lacks a layer would be filled up with random numbers, with no more than a remark."""
    from safetensors.torch import load_file, save_file

    folder = model_folder(tmp_path / "partial")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(attempt(f"model.path={folder}"), tmp_path, "lacks 1 weights", "up_proj")


def test_a_tokenizer_larger_than_the_model(attempt: Callable[..., Result], tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "small", vocab_size=100)
    refused(attempt(f"model.path={folder}"), tmp_path, "261 tokens and the model 100")


def adapter_folder(folder: Path, **changes: Any) -> Path:
    from ktotrain.model import add_lora

    model = add_lora(tiny_llama(vocab_size=261, **changes), rank=2, alpha=4, dropout=0.0, target_modules="all-linear")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 3}, {"hidden_size": 64}], ids=str)
def test_an_adapter_for_another_model(attempt: Callable[..., Result], tmp_path: Path, changes: dict[str, int]) -> None:
    folder = adapter_folder(tmp_path / "adapter", **changes)
    refused(attempt(f"adapter.init={folder}"), tmp_path, "belongs to another model")


def test_no_adapter_where_one_is_named(attempt: Callable[..., Result], tmp_path: Path) -> None:
    refused(attempt(f"adapter.init={tmp_path}"), tmp_path, "no adapter here")


def test_target_modules_that_are_not_there(attempt: Callable[..., Result], tmp_path: Path) -> None:
    refused(attempt('adapter.target_modules=["qq_proj"]'), tmp_path, "adapter.target_modules", "qq_proj")


def test_non_finite_loss_stops_with_the_rows_named(attempt: Callable[..., Result], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = model_folder(tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # The layout probe compares scores, and NaN equals nothing: the padded layout is where training finds out.
    refused(attempt(f"model.path={folder}", "model.attention=padded"), tmp_path, "step 1", "not finite", "rows")
    assert not (tmp_path / "run" / "model").exists()


def test_weights_that_run_away_stop_the_run(attempt: Callable[..., Result], tmp_path: Path) -> None:
    result = attempt("optim.learning_rate=1", "optim.warmup=0", "optim.schedule=constant", "train.max_steps=40")
    if result.exit_code == 0:  # a bounded loss can survive even that; what was logged is then finite
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 40
        assert all(json.loads(line)["loss"] >= 0 for line in lines)
    else:
        refused(result, tmp_path, "not finite")


def test_a_folder_with_a_run_in_it(attempt: Callable[..., Result], tmp_path: Path) -> None:
    assert attempt().exit_code == 0
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    again = attempt()
    assert again.exit_code == 1
    assert "there is a run in it already" in again.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.save_every=5", "save_every"),
        ('train.trackers=["wandb"]', "wandb is not installed"),
        ("model.attention=varlen", "varlen"),
    ],
)
def test_what_is_not_there_is_said(attempt: Callable[..., Result], tmp_path: Path, override: str, words: str) -> None:
    refused(attempt(override), tmp_path, words)
