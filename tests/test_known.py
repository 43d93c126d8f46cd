"""A second run with scores that are known makes no second model, and no other reference is taken for it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from runs import logged, same, small_home, stopped, train, trained
from safetensors.torch import load_file, save_file
from support import model_folder
from torch import nn
from transformers import PreTrainedModel

from ktotrain import prepare
from ktotrain.known import model_files
from ktotrain.model import load_adapter, load_model
from ktotrain.reference import AdapterAsLoaded, AsLoaded, FrozenAdapter
from ktotrain.scorer import Scorer


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small_home(tmp_path_factory.mktemp("home"))
    model_folder(folder / "other", initializer_range=0.1)
    return folder


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that are loaded, or copied, in their order; and an empty cache."""
    monkeypatch.setenv("KTOKIT_CACHE", str(tmp_path / "cache"))
    found: list[str] = []
    load, deepcopy = prepare.load_model, copy.deepcopy

    def loading(path: str, **how: Any) -> Any:
        found.append(Path(path).name)
        return load(path, **how)

    def copying(value: Any, *more: Any) -> Any:
        if isinstance(value, PreTrainedModel):  # the probe copies a layer at times
            found.append("a copy")
        return deepcopy(value, *more)

    monkeypatch.setattr(prepare, "load_model", loading)
    monkeypatch.setattr(copy, "deepcopy", copying)
    return found


def ran(result: Result) -> str:
    """What a run said about its reference, without numbers of progress."""
    assert result.exit_code == 0, result.output
    (said,) = (line for line in result.stderr.splitlines() if "to score" in line)
    return said.removeprefix("reference: ").split(" from ")[0]


ALL, NONE = "48 sequences to score; 0 known", "0 sequences to score; 48 known"


def test_a_second_run_loads_no_second_model(home: Path, tmp_path: Path, loaded: list[str]) -> None:
    how = f"model.reference={home / 'other'}"
    assert ran(train(home, tmp_path / "a", how)) == ALL
    assert loaded == ["model", "other"]
    first = logged(tmp_path / "a" / "run")
    assert abs(first[0]["rewards/chosen"]) > 0.01
    loaded.clear()
    assert ran(train(home, tmp_path / "b", how, "loss.beta=0.2")) == NONE
    assert loaded == ["model"]
    second = logged(tmp_path / "b" / "run")
    assert second[0]["rewards/chosen"] == pytest.approx(2 * first[0]["rewards/chosen"], rel=1e-6)
    other_pairs = ran(train(home, tmp_path / "c", how, "train.seed=1"))
    assert other_pairs.endswith("; 48 known")
    assert not other_pairs.startswith("0 "), "something is missing: it is loaded again"
    assert loaded == ["model", "model", "other"]


def test_no_copy_of_the_policy_is_made_but_online(home: Path, tmp_path: Path, loaded: list[str]) -> None:
    assert ran(train(home, tmp_path / "a")) == ALL
    assert ran(train(home, tmp_path / "b", "loss.beta=0.5")) == NONE
    assert loaded == ["model", "model"]
    assert train(home, tmp_path / "c", "model.reference_logps=online").exit_code == 0
    assert loaded == ["model", "model", "model", "a copy"]


def test_a_reference_by_path_shares_its_scores_with_the_same_model_as_policy(
    home: Path, tmp_path: Path, loaded: list[str]
) -> None:
    assert ran(train(home, tmp_path / "a")) == ALL
    assert ran(train(home, tmp_path / "b", f"model.reference={home / 'model'}")) == NONE
    assert logged(tmp_path / "a" / "run")[-1]["loss"] == logged(tmp_path / "b" / "run")[-1]["loss"]
    assert loaded == ["model"] * 3, "whose files they were was not known before"
    assert ran(train(home, tmp_path / "c", f"model.reference={home / 'model'}")) == NONE
    assert loaded == ["model"] * 4


@pytest.mark.parametrize(
    "change", ["weights", "note", *(pytest.param(name, marks=pytest.mark.slow) for name in ("config", "dtype"))]
)
def test_other_files_are_another_reference(home: Path, tmp_path: Path, loaded: list[str], change: str) -> None:
    other = model_folder(tmp_path / "other", initializer_range=0.1)
    how = [f"model.reference={other}"]
    ran(train(home, tmp_path / "a", *how))
    if change == "weights":
        weights = load_file(other / "model.safetensors")
        weights["model.norm.weight"][3] += 0.5
        save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    elif change == "config":
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    elif change == "dtype":
        how.append("model.dtype=bfloat16")
    else:
        (note,) = (tmp_path / "cache").glob("loaded-*.json")
        note.write_text(json.dumps(json.loads(note.read_text()) | {"files": "0" * 32}))
    loaded.clear()
    said = ran(train(home, tmp_path / "b", *how))
    assert loaded == ["model", "other"]
    assert said == (NONE if change == "note" else ALL)


def test_files_are_known_by_their_content(tmp_path: Path) -> None:
    def content(folder: Path) -> str:
        return model_files(str(folder), dtype="auto", trust_remote_code=False).content

    one = model_folder(tmp_path / "one")
    name = content(one)
    assert name == content(model_folder(tmp_path / "two"))
    (one / "own.py").write_text("")
    assert content(one) not in ("", name)
    model = load_model(str(one), dtype="auto", trained=False, device=torch.device("cpu"))
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    parts = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert len(parts) > 1
    assert content(tmp_path / "parts") not in ("", name)
    parts[0].unlink()
    assert content(tmp_path / "parts") == "", "they would have to be fetched first"
    assert content(tmp_path / "nowhere") == ""


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["initial", "other", "adapter"])
def test_a_run_can_go_on_with_its_reference_computed_otherwise(home: Path, tmp_path: Path, reference: str) -> None:
    """It is the same reference: a copy or the policy itself, another model that is loaded or not."""
    how = []
    if reference == "other":
        how = [f"model.reference={home / 'other'}"]
    elif reference == "adapter":
        first = trained(home, tmp_path / "first", "adapter.rank=2", "train.max_steps=2")
        how = [f"adapter.init={first / 'model'}"]
    whole = trained(home, tmp_path / "whole", *how)
    for name, before, after in (("a", "online", "cached"), ("b", "cached", "online")):
        stopped(home, tmp_path / name, 3, *how, f"model.reference_logps={before}")
        resumed = train(home, tmp_path / name, *how, f"model.reference_logps={after}", flags=["--resume", "--force"])
        assert resumed.exit_code == 0, resumed.output
        for one, other in zip(logged(whole), logged(tmp_path / name / "run"), strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)


@pytest.mark.slow
def test_in_half_precision_scores_belong_to_a_layout(home: Path, tmp_path: Path, loaded: list[str]) -> None:
    for name, how, says in (
        ("a", ("train.precision=bf16", "model.attention=padded"), ALL),
        ("b", ("train.precision=bf16",), ALL),
        ("c", ("train.precision=bf16", "loss.beta=0.2"), NONE),
        ("d", ("model.dtype=bfloat16",), ALL),
        ("e", ("model.dtype=bfloat16", "model.attention=padded"), ALL),
        ("f", (), ALL),
        ("g", ("model.attention=padded",), NONE),
    ):
        assert ran(train(home, tmp_path / name, *how)) == says, how
        assert logged(tmp_path / name / "run")[0]["loss"] == pytest.approx(0.5, abs=1e-6), how


def peft_adapter(folder: Path, home: Path, **config: Any) -> Path:
    """A LoRA adapter as peft saves it, with random values in all its weights."""
    from peft import LoraConfig, get_peft_model

    model = load_model(str(home / "model"), dtype="auto", trained=False, device=torch.device("cpu"))
    adapted = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **config))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora" in name or parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def test_an_adapter_that_peft_keeps_once_only(home: Path, tmp_path: Path, loaded: list[str]) -> None:
    folder = peft_adapter(tmp_path / "biased", home, target_modules=["q_proj"], bias="lora_only")
    assert ran(train(home, tmp_path / "a", f"adapter.init={folder}")) == ALL
    start = logged(tmp_path / "a" / "run")[0]
    assert start["rewards/chosen"] == pytest.approx(0.0, abs=1e-5)
    refused = train(home, tmp_path / "b", f"adapter.init={folder}", "model.reference_logps=online")
    assert refused.exit_code == 1
    (error,) = (line for line in refused.stderr.splitlines() if line.startswith("error:"))
    for words in ("adapter.init", "only 1 adapter with bias", 'model.reference_logps = "cached"'):
        assert words in error


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
        {"target_modules": ["q_proj"], "init_lora_weights": "pissa"},
    ],
    ids=["embedding", "whole module", "dora", "pissa"],
)
def test_a_frozen_adapter_is_the_adapter_as_loaded(home: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    folder = peft_adapter(tmp_path / "adapter", home, **config)

    def made(kind: Callable[..., Any]) -> Any:
        model = load_model(str(home / "model"), dtype="auto", trained=False, device=torch.device("cpu"))
        return kind(load_adapter(model, str(folder)), Scorer(model, None))

    frozen, loaded = made(FrozenAdapter), made(AdapterAsLoaded)
    assert frozen.settings() == loaded.settings()
    weights, expected = (dict(reference.weights()) for reference in (frozen, loaded))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


def test_a_reference_that_was_the_policy_is_not_asked_later(home: Path) -> None:
    model = load_model(str(home / "model"), dtype="auto", trained=True, device=torch.device("cpu"))
    reference = AsLoaded(Scorer(model, None))
    reference.release()
    with pytest.raises(AttributeError):
        reference(None)  # type: ignore[arg-type]


def test_all_references_are_released_before_the_first_step(
    home: Path, tmp_path: Path, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second model is gone, not merely unused."""
    import gc
    import weakref

    from ktotrain import trainer

    models: list[weakref.ref[nn.Module]] = []
    load, loop = prepare.load_model, trainer._loop

    def loading(path: str, **how: Any) -> Any:
        model = load(path, **how)
        models.append(weakref.ref(model))
        return model

    alive: list[list[bool]] = []

    def looping(run: Any) -> None:
        gc.collect()
        alive.append([model() is not None for model in models])
        loop(run)

    monkeypatch.setattr(prepare, "load_model", loading)
    monkeypatch.setattr(trainer, "_loop", looping)
    assert ran(train(home, tmp_path / "a", f"model.reference={home / 'other'}")) == ALL
    assert alive == [[True, False]]


def test_same_is_same(home: Path, tmp_path: Path, loaded: list[str]) -> None:
    """With scores from the cache, and with scores of its own, a run is the same to the bit."""
    how = f"model.reference={home / 'other'}"
    same(trained(home, tmp_path / "a", how), trained(home, tmp_path / "b", how))
    assert loaded.count("other") == 1
