"""`ktotrain run` on a tiny model: what it writes, that it repeats, and that each setting reaches the step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support import model_folder, text_records, tiny_llama, write_jsonl

from ktotrain.cli import main
from ktotrain.prepare import prepare_data
from ktotrain.preview import memory_estimate, preview
from ktotrain.recipe import load_recipe
from ktotrain.trainer import RunResult, run

TIMES = {"tokens_per_second", "rows_per_second", "step_seconds"}
KEYS = {
    *("step", "epoch", "loss", "kl", "kl_raw", "grad_norm", "learning_rate", "padding", "saturation"),
    *("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/auc", "rewards/accuracy"),
    *("logps/chosen", "logps/rejected"),
    *TIMES,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, rows to train on and rows to evaluate on."""
    folder = tmp_path_factory.mktemp("home")
    model_folder(folder / "model")
    write_jsonl(folder / "rows.jsonl", text_records(24))
    write_jsonl(folder / "eval.jsonl", text_records(10))
    chats = [
        {
            "prompt": [{"role": "user", "content": record["prompt"]}],
            "completion": [{"role": "assistant", "content": record["completion"]}],
            "label": record["label"],
        }
        for record in text_records(12)
    ]
    write_jsonl(folder / "chats.jsonl", chats)
    return folder


def recipe_file(home: Path, folder: Path) -> Path:
    path = folder / "recipe.toml"
    path.write_text(
        f"""
[model]
path = "{home / "model"}"
[data]
train = "{home / "rows.jsonl"}"
[optim]
learning_rate = 1e-3
[train]
output_dir = "{folder / "run"}"
batch_size = 8
precision = "no"
[samples]
count = 2
max_new_tokens = 4
""",
        encoding="utf-8",
    )
    return path


def train(home: Path, folder: Path, *overrides: str) -> RunResult:
    folder.mkdir(exist_ok=True)
    result = run(load_recipe(recipe_file(home, folder), overrides))
    assert result is not None
    return result


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


@pytest.mark.pictures
def test_full_fine_tuning_writes_everything_and_repeats(home: Path, tmp_path: Path) -> None:
    first = train(home, tmp_path / "a")
    second = train(home, tmp_path / "b")
    folder = first.output_dir
    records = logged(tmp_path / "a")
    assert [record["step"] for record in records] == [1, 2, 3]
    assert all(record.keys() == KEYS for record in records)
    assert records[-1]["epoch"] == 1.0
    assert records[0]["loss"] == pytest.approx(0.5)
    assert without_times(records) == without_times(logged(tmp_path / "b"))
    assert second.metrics["loss"] == first.metrics["loss"]

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    initial = AutoModelForCausalLM.from_pretrained(home / "model")
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), initial.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(folder / "model").eos_token == "</s>"
    assert {path.name for path in first.plots} == {"loss.png", "rewards.png", "kl.png", "separation.png"}
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [sample.keys() for sample in samples] == [{"prompt", "before", "after"}] * 2
    assert json.loads((folder / "recipe.json").read_text())["train"]["batch_size"] == 8
    assert "12 |" in (folder / "README.md").read_text(encoding="utf-8")
    assert (folder / "model" / "README.md").read_text(encoding="utf-8").count("ktokit")
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_lora_saves_an_adapter_that_loads_and_can_be_trained_on(home: Path, tmp_path: Path) -> None:
    first = train(home, tmp_path / "a", "adapter.rank=4", "data.eval=" + str(home / "eval.jsonl"), "train.eval_every=2")
    from peft import AutoPeftModelForCausalLM

    adapter = first.output_dir / "model"
    assert (adapter / "adapter_model.safetensors").is_file()
    assert AutoPeftModelForCausalLM.from_pretrained(adapter) is not None
    evaluated = [record for record in logged(tmp_path / "a") if "eval_loss" in record]
    assert [record["step"] for record in evaluated] == [2, 3]
    assert evaluated[-1]["eval_loss"] == first.evaluation["eval_loss"]
    assert {f"eval_{key}" for key in ("kl", "rewards/auc", "rewards/margins")} <= evaluated[-1].keys()

    second = train(home, tmp_path / "b", f"adapter.init={adapter}")
    start = logged(tmp_path / "b")[0]
    # The reference is the adapter as loaded, so rewards begin at zero again.
    assert start["rewards/chosen"] == pytest.approx(0.0, abs=1e-5)
    assert start["logps/chosen"] != logged(tmp_path / "a")[0]["logps/chosen"]
    saved = list((second.output_dir / "model").rglob("*.safetensors"))
    assert [path.name for path in saved] == ["adapter_model.safetensors"], "the frozen adapter is not saved"


def test_one_pack_is_many_packs_and_padded_is_shared(home: Path, tmp_path: Path) -> None:
    runs = [
        train(home, tmp_path / name, *overrides)
        for name, overrides in {
            "one": (),
            "many": ("train.pack_tokens=140",),
            "padded": ("model.attention=padded",),
            "recomputed": ("model.gradient_checkpointing=true",),
        }.items()
    ]
    one, *others = (without_times(logged(result.output_dir.parent)) for result in runs)
    for other in others:
        for a, b in zip(one, other, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
            assert a["kl"] == pytest.approx(b["kl"], rel=1e-4, abs=1e-4)


def test_chats_apo_and_automatic_weights(home: Path, tmp_path: Path) -> None:
    rows = text_records(24)[1::2] + text_records(12)[::2]
    write_jsonl(tmp_path / "uneven.jsonl", rows)
    result = train(home, tmp_path / "w", f"data.train={tmp_path / 'uneven.jsonl'}", "loss.desirable_weight=auto")
    card = (result.output_dir / "README.md").read_text(encoding="utf-8")
    assert "| 6 | 2 |" in card.replace(" 2.0 ", " 2 "), card  # 6 desirable rows against 12: each counts twice
    chat = train(home, tmp_path / "c", f"data.train={home / 'chats.jsonl'}", "loss.kind=apo_zero_unpaired")
    assert chat.metrics["kl"] == chat.metrics["kl_raw"] == 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_and_keeps_float32_weights(home: Path, tmp_path: Path, precision: str) -> None:
    half = train(home, tmp_path / "half", f"train.precision={precision}")
    exact = train(home, tmp_path / "exact")
    assert half.metrics["loss"] == pytest.approx(exact.metrics["loss"], rel=0.05)
    assert half.metrics["loss"] != exact.metrics["loss"]
    from safetensors.torch import load_file

    weights = load_file(half.output_dir / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


SLOW_TOO = [pytest.param(name, marks=pytest.mark.slow) for name in ("full", "loaded adapter")]


@pytest.mark.parametrize("kind", ["adapter", *SLOW_TOO])
def test_cached_is_online_and_a_second_run_needs_no_reference(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("KTOKIT_CACHE", str(tmp_path / "cache"))
    others = [record | {"prompt": f"Other {record['prompt']}"} for record in text_records(10)]
    how = [f"data.eval={write_jsonl(tmp_path / 'eval.jsonl', others)}", "train.epochs=2"]
    if kind != "full":
        how.append("adapter.rank=2")
    if kind == "loaded adapter":
        how.append(f"adapter.init={train(home, tmp_path / 'first', *how).output_dir / 'model'}")
    online = train(home, tmp_path / "online", *how, "model.reference_logps=online")
    cached = train(home, tmp_path / "cached", *how, "model.reference_logps=cached")
    for a, b in zip(logged(tmp_path / "online"), logged(tmp_path / "cached"), strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - TIMES:
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-4), key
    assert cached.evaluation["eval_loss"] == pytest.approx(online.evaluation["eval_loss"], rel=1e-5)

    def never(*_: Any) -> None:
        raise AssertionError("the reference was asked")

    for name in ("AdapterOff", "AsLoaded", "AdapterAsLoaded", "FrozenAdapter", "FrozenCopy"):
        monkeypatch.setattr(f"ktotrain.reference.{name}.__call__", never)
    again = train(home, tmp_path / "again", *how, "loss.beta=0.5")  # by default
    assert again.metrics["loss"] != cached.metrics["loss"]


def test_fixed_pairs_make_the_first_epochs_cache_serve_all(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KTOKIT_CACHE", str(tmp_path / "cache"))
    fixed = ("model.reference_logps=cached", "loss.z_ref_pairs=fixed")
    train(home, tmp_path / "one", *fixed)
    train(home, tmp_path / "three", *fixed, "train.epochs=3")
    train(home, tmp_path / "half", *fixed, "loss.z_ref_share=0.5")
    said = [line.split(" from ")[0] for line in capsys.readouterr().err.splitlines() if "to score" in line]
    assert said == [f"reference: {missing} sequences to score; {48 - missing} known" for missing in (48, 0, 0)]
    whole, half = (logged(tmp_path / name) for name in ("one", "half"))
    assert half[0]["kl_raw"] == whole[0]["kl_raw"] == pytest.approx(0.0, abs=1e-5)
    assert half[2]["kl_raw"] != whole[2]["kl_raw"]


def test_a_run_goes_on_where_no_cache_can_be_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KTOKIT_CACHE", str(tmp_path / "file"))
    without = train(home, tmp_path / "a", "model.reference_logps=cached")
    said = [
        line.partition(":")[2].partition(":")[0] for line in capsys.readouterr().err.splitlines() if "not kept" in line
    ]
    assert said == [" tokens are not kept for later runs", " the reference's scores are not kept for later runs"]
    monkeypatch.setenv("KTOKIT_CACHE", str(tmp_path / "cache"))
    assert train(home, tmp_path / "b", "model.reference_logps=cached").metrics["loss"] == without.metrics["loss"]


def test_a_cache_of_other_weights_is_not_used(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KTOKIT_CACHE", str(tmp_path / "cache"))
    other = model_folder(tmp_path / "other", initializer_range=0.1)
    train(home, tmp_path / "a", "model.reference_logps=cached")
    train(home, tmp_path / "b", "model.reference_logps=cached", f"model.path={other}")
    said = [line for line in capsys.readouterr().err.splitlines() if "to score" in line]
    assert [line.split(" from ")[0] for line in said] == ["reference: 48 sequences to score; 0 known"] * 2
    assert logged(tmp_path / "b")[0]["rewards/chosen"] == pytest.approx(0.0, abs=1e-5)
    assert len(list((tmp_path / "cache").glob("reference-*"))) == 2


def test_fp16_steps_whose_gradient_overflows_are_skipped_and_logged(home: Path, tmp_path: Path) -> None:
    train(home, tmp_path / "a", "train.precision=fp16", "loss.desirable_weight=1000", "loss.beta=5")
    records = logged(tmp_path / "a")
    assert [record["step"] for record in records] == [1, 2, 3]
    assert "grad_norm" not in records[0], "the first scale is too large for such a loss"
    assert records[0].keys() == KEYS - {"grad_norm"}


def test_another_model_as_reference(home: Path, tmp_path: Path) -> None:
    model_folder(tmp_path / "other", initializer_range=0.05)
    result = train(home, tmp_path / "a", f"model.reference={tmp_path / 'other'}", "train.max_steps=1")
    assert abs(logged(tmp_path / "a")[0]["rewards/chosen"]) > 0.01
    assert result.steps == 1


def test_dry_run_prints_the_plan_and_writes_nothing(home: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["run", str(recipe_file(home, tmp_path)), "--dry-run"])
    assert result.exit_code == 0, result.output
    for words in ("24: 12 desirable, 12 undesirable", "3: 3 of 8 rows", "3 of 3 steps hold both classes", "weights"):
        assert words in result.output
    for words in ("a pack of the reference", "reference, before step 1", "total, about"):
        assert words in result.output
    assert not (tmp_path / "run").exists()


def test_the_estimate_counts_packs_of_the_reference_and_second_models_where_there_are_any(home: Path) -> None:
    def estimated(*overrides: str) -> Any:
        tables = load_recipe(recipe_file(home, home), list(overrides))
        return memory_estimate(tables, preview(prepare_data(tables), tables))

    small, large = estimated("train.pack_tokens=100"), estimated("train.pack_tokens=1000")
    assert large.scoring > 5 * small.scoring, "sequences of all steps fill it"
    assert large.reference == 0
    online = estimated("train.pack_tokens=8192", "model.reference_logps=online")
    assert small.scoring < online.scoring < estimated("train.pack_tokens=8192").scoring
    assert online.reference == online.weights
    assert estimated(f"model.reference={home / 'model'}").reference == online.weights
    assert estimated("adapter.rank=2", "model.reference_logps=online").reference == 0


def test_the_last_lines_say_how_it_went_and_where_it_is(home: Path, tmp_path: Path) -> None:
    arguments = ["--set", f"data.eval={home / 'eval.jsonl'}", "--set", "train.max_steps=2"]
    result = CliRunner().invoke(main, ["run", str(recipe_file(home, tmp_path)), *arguments])
    assert result.exit_code == 0, result.output
    *_, evaluation, place = result.stderr.splitlines()
    loss = logged(tmp_path)[-1]["eval_loss"]
    assert evaluation.startswith(f"evaluation: loss {loss:.4f}, rewards/margins ")
    assert str(tmp_path / "run" / "model") in place


def test_lora_samples_and_moves_only_the_adapter(home: Path, tmp_path: Path) -> None:
    result = train(home, tmp_path / "a", "adapter.rank=2", 'adapter.target_modules=["q_proj"]')
    config = json.loads((result.output_dir / "model" / "adapter_config.json").read_text())
    assert config["r"] == 2
    assert config["target_modules"] == ["q_proj"]


def test_the_initializer_of_these_tests_is_seeded() -> None:
    assert torch.equal(tiny_llama().lm_head.weight, tiny_llama().lm_head.weight)


def test_what_is_allowed_and_probably_not_meant_is_noted(home: Path, tmp_path: Path) -> None:
    uneven = write_jsonl(tmp_path / "uneven.jsonl", text_records(24)[1::2] + text_records(8)[::2])
    train(home, tmp_path / "a", "train.max_steps=1")
    how = [f"data.train={uneven}", "train.batch_size=1", f"train.output_dir={tmp_path / 'a' / 'run'}"]
    arguments = [part for override in how for part in ("--set", override)]
    result = CliRunner().invoke(main, ["run", str(recipe_file(home, tmp_path)), "--dry-run", *arguments])
    assert result.exit_code == 0, result.output
    for words in ("--as chat", "count 0.33 to 1", "one row a step", "already"):
        assert words in result.stderr
    good = CliRunner().invoke(
        main, ["run", str(recipe_file(home, tmp_path)), "--dry-run", "--set", f"data.train={home / 'chats.jsonl'}"]
    )
    assert "note:" not in good.output


def test_saved_files_can_be_read_by_everybody_who_may(home: Path, tmp_path: Path) -> None:
    result = train(home, tmp_path / "a", "train.max_steps=1")
    expected = (result.output_dir / "recipe.json").stat().st_mode & 0o777
    files = [path for path in (result.output_dir / "model").iterdir() if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert {path.stat().st_mode & 0o777 for path in files} == {expected}
