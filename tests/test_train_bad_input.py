"""Bad input gets one clear error, exit code 1, and leaves nothing half-written."""

import copy
import dataclasses
import json
import re
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

    def invoke(*overrides: str, rows: list[dict[str, Any]] | None = None, dry: bool = False) -> Result:
        write_jsonl(tmp_path / "rows.jsonl", text_records() if rows is None else rows)
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(
            f'[model]\npath = "{model}"\n[data]\ntrain = "{tmp_path / "rows.jsonl"}"\n'
            f'[train]\noutput_dir = "{tmp_path / "run"}"\nbatch_size = 8\nprecision = "no"\n[samples]\ncount = 0\n'
        )
        arguments = [part for override in overrides for part in ("--set", override)]
        return CliRunner().invoke(main, ["run", str(recipe), *arguments, *["--dry-run"] * dry])

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


def test_evaluation_rows_of_another_kind(attempt: Callable[..., Result], tmp_path: Path) -> None:
    chat = {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "ho"}]}
    rows = write_jsonl(tmp_path / "eval.jsonl", [{**chat, "label": True}])
    refused(attempt(f"data.eval={rows}"), tmp_path, "training rows are text and the evaluation rows chat", "--as")


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
    refused(attempt(f"model.path={folder}"), tmp_path, "the model has 100 tokens")


def test_a_spare_token_that_no_row_holds_is_no_harm(attempt: Callable[..., Result], tmp_path: Path) -> None:
    """Gemma 3 1B's tokenizer has a token for images, for which the model has no embedding."""
    folder = model_folder(tmp_path / "spare", vocab_size=260)
    assert attempt(f"model.path={folder}", "train.max_steps=1").exit_code == 0


def test_a_reference_with_fewer_tokens(attempt: Callable[..., Result], tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "small", vocab_size=100)
    refused(attempt(f"model.reference={folder}"), tmp_path, "model.reference", "the model has 100 tokens")


def other_model(folder: Path, name: str, **config: Any) -> Path:
    import transformers

    from ktotrain.model import quiet

    with quiet():
        torch.manual_seed(0)
        settings = getattr(transformers, f"{name}Config")(vocab_size=261, bos_token_id=1, eos_token_id=2, **config)
        head = {"Bert": "BertForMaskedLM", "GPT2": "GPT2LMHeadModel", "T5": "T5ForConditionalGeneration"}[name]
        getattr(transformers, head)(settings).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_an_encoder_is_no_causal_model(attempt: Callable[..., Result], tmp_path: Path) -> None:
    """transformers loads BERT as a causal model with no more than a remark; its tokens see the ones to be predicted."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    folder = other_model(tmp_path / "bert", "Bert", **sizes)
    refused(attempt(f"model.path={folder}"), tmp_path, "not causal")


def test_an_encoder_decoder(attempt: Callable[..., Result], tmp_path: Path) -> None:
    folder = other_model(tmp_path / "t5", "T5", d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8)
    refused(attempt(f"model.path={folder}"), tmp_path, "cannot be loaded")
    refused(attempt(f"model.path={folder}", dry=True), tmp_path, "no causal language model: T5Config")


def test_rows_longer_than_learned_positions(attempt: Callable[..., Result], tmp_path: Path) -> None:
    folder = other_model(tmp_path / "gpt2", "GPT2", n_embd=32, n_layer=2, n_head=4, n_positions=64)
    refused(attempt(f"model.path={folder}"), tmp_path, "the model 64 positions", "data.max_length to 64")
    assert attempt(f"model.path={folder}", "data.max_length=64", "train.max_steps=1").exit_code == 0


def test_an_adapter_in_place_of_the_model(attempt: Callable[..., Result], model: Path, tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(model)}))
    byte_tokenizer().save_pretrained(folder)
    refused(attempt(f"model.path={folder}"), tmp_path, "is an adapter, not a model", "adapter.init")


def test_a_hub_id_that_cannot_be_had(
    attempt: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(attempt("model.path=nobody/nothing-here"), tmp_path, "nobody/nothing-here", "Look at the name")


def too_much(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. See documentation")


def test_no_memory(attempt: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice can be followed, and helps: packs of half of what they hold, or rows of half of the longest."""
    with monkeypatch.context() as patch:
        patch.setattr("ktotrain.learn.run_step", too_much)
        result = attempt()
        refused(result, tmp_path, "out of memory: CUDA out of memory", "gradient_checkpointing = true", "an [adapter]")
        advised = [8192]
        while found := re.findall(r"train\.pack_tokens = (\d+) ", result.stderr):
            assert 2 * int(found[0]) <= advised[-1] or len(advised) > 2, "half, until the longest row is reached"
            assert int(found[0]) < advised[-1]
            advised.append(int(found[0]))
            result = attempt(f"train.pack_tokens={advised[-1]}", "model.gradient_checkpointing=true", "adapter.rank=2")
            refused(result, tmp_path, "out of memory")
        shorter = re.findall(r"data\.max_length = (\d+) ", result.stderr)
        assert 2 * int(shorter[0]) <= advised[-1] < advised[1] < 8192 // 2, "what packs hold counts"
        assert "gradient_checkpointing" not in result.stderr
        assert "an [adapter]" not in result.stderr
    assert attempt(f"train.pack_tokens={advised[-1]}").exit_code == 0


@pytest.mark.parametrize("when", ["cached", pytest.param("online", marks=pytest.mark.slow)])
def test_no_memory_for_the_reference(
    attempt: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Its packs hold sequences of many steps: what is advised is their size, not what makes a step cheaper."""
    monkeypatch.setenv("KTOKIT_CACHE", str(tmp_path / "cache"))
    kind = {"cached": "AsLoaded", "online": "FrozenCopy"}[when]
    how = ("train.batch_size=2", f"model.reference_logps={when}")
    with monkeypatch.context() as patch:
        patch.setattr(f"ktotrain.reference.{kind}.__call__", too_much)
        tokens, sizes = 8192, []
        while True:
            result = attempt(*how, f"train.pack_tokens={tokens}")
            refused(result, tmp_path, "while the reference scored a pack of ", 'model.dtype = "bfloat16"')
            assert "gradient_checkpointing" not in result.stderr
            assert "[adapter]" not in result.stderr
            assert ('reference_logps = "cached"' in result.stderr) == (when == "online")
            (ran_out,) = re.findall(r"scored a pack of ([\d,]+) positions", result.stderr)
            sizes.append(int(ran_out.replace(",", "")))
            assert sizes[-1] <= tokens
            found = re.findall(r"train\.pack_tokens = (\d+) ", result.stderr)
            if not found:
                break
            assert "data.max_length" not in result.stderr, "no row is cut while packs can be smaller"
            assert sizes[-1] // 2 <= int(found[0]) < sizes[-1]
            tokens = int(found[0])
        if when == "cached":
            assert sizes[0] > 5 * sizes[-1], "packs before the first step hold many of them"
        (shorter,) = re.findall(r"data\.max_length = (\d+) ", result.stderr)
        assert int(shorter) == tokens // 2, "packs hold the longest row by now"
    assert attempt(*how, f"train.pack_tokens={tokens}").exit_code == 0


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 1099511627776 bytes. Error code 12 (Cannot allocate memory)",
            "out of memory: can't allocate memory: you tried to allocate 1099511627776 bytes",
        ),
        ("can't start new thread", "out of memory: can't start new thread"),
    ],
    ids=["torch", "threads"],
)
def test_no_memory_on_a_cpu(
    attempt: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    def too_little(*_: Any, **__: Any) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr("ktotrain.learn.run_step", too_little)
    refused(attempt(), tmp_path, told, "train.pack_tokens = ")


@pytest.mark.parametrize("where", ["load_model", "choose_layout", "copy.deepcopy"])
def test_no_memory_for_the_model(
    attempt: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    deepcopy = copy.deepcopy
    monkeypatch.setattr(
        f"ktotrain.prepare.{where}",
        lambda *a, **k: deepcopy(*a, **k) if a and not isinstance(a[0], torch.nn.Module | str) else too_much(),
    )
    knobs = ('model.dtype = "bfloat16"', "an [adapter]") if where == "copy.deepcopy" else ("a smaller model",)
    result = attempt("model.reference_logps=online")
    refused(result, tmp_path, "out of memory while the model was loaded: CUDA out of memory", *knobs)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def full_disk(limit: int, attempt: Callable[..., Result]) -> Result:
    """A run in which no file can grow beyond so many bytes, as on a disk that is full."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        return attempt("model.reference_logps=online")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_full_disk_while_logging(attempt: Callable[..., Result], tmp_path: Path) -> None:
    text = [record | {"completion": record["completion"][:4]} for record in text_records(8)]
    result = full_disk(20_000, lambda *how: attempt(*how, "train.max_steps=60", rows=text))
    refused(result, tmp_path, "the model cannot be saved", "There is no checkpoint to go on from")
    assert "metrics.jsonl cannot be written (File too large); training goes on and tries again" in result.stderr
    assert "step 60/60" in result.stderr
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in logged] == list(range(1, len(logged) + 1))
    assert 20 < len(logged) < 60


def test_a_full_disk_while_the_model_is_saved(attempt: Callable[..., Result], tmp_path: Path) -> None:
    refused(full_disk(40_000, attempt), tmp_path, "the model cannot be saved", "free space")
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("values", "says"), [({"raw": float("nan")}, "reference point"), ({"policy_n": -1}, "rows:")])
def test_numbers_that_a_clamp_or_a_sigmoid_would_hide(
    attempt: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], says: str
) -> None:
    from ktotrain import learn

    honest = learn.run_step

    def broken(*arguments: Any, **how: Any) -> Any:
        scores = honest(*arguments, **how)
        changes = {"policy_n": scores.policy_n - torch.inf} if "policy_n" in values else values
        return dataclasses.replace(scores, **changes)

    monkeypatch.setattr(learn, "run_step", broken)
    refused(attempt(), tmp_path, "steps 1 to 3", says, "not finite", "nothing has been learned")


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
    refused(attempt(f"model.path={folder}", "model.attention=padded"), tmp_path, "steps 1 to 3", "not finite", "rows")
    assert not (tmp_path / "run" / "model").exists()


def test_a_run_that_failed_before_its_first_step_does_not_spoil_its_folder(
    attempt: Callable[..., Result], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = model_folder(tmp_path / "broken")
    whole = load_file(folder / "model.safetensors")
    save_file(whole | {"model.norm.weight": whole["model.norm.weight"] * float("nan")}, folder / "model.safetensors")
    assert attempt(f"model.path={folder}", "model.attention=padded").exit_code == 1
    assert attempt().exit_code == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


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
        ('train.trackers=["wandb"]', "wandb is not installed"),
        ("model.attention=varlen", "varlen"),
    ],
)
def test_what_is_not_there_is_said(attempt: Callable[..., Result], tmp_path: Path, override: str, words: str) -> None:
    refused(attempt(override), tmp_path, words)
