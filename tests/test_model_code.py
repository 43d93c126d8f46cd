"""The code that a reference's scores come from: another one makes a cache stale."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from runs import logged, small_home, stopped, train
from support import model_folder, text_records, tiny_llama, write_jsonl
from torch import nn

from ktotrain.model import add_lora, load_model
from ktotrain.model_code import code_of
from ktotrain.recipe import recipe_from_dict
from ktotrain.trainer import run

OWN = """
from transformers import LlamaForCausalLM
from .factor import FACTOR
class Own(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        norm = self.model.norm.forward
        self.model.norm.forward = lambda hidden: norm(hidden) * FACTOR
"""


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model folder that brings code of its own, in two files."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = model_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "own.Own"}}))
    (folder / "own.py").write_text(OWN)
    (folder / "factor.py").write_text("FACTOR = 1.0\n")
    path = list(sys.path)
    yield folder
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def code(folder: Path) -> str:
    model = load_model(str(folder), dtype="auto", trained=True, device=torch.device("cpu"), trust_remote_code=True)
    assert type(model).__name__ == "Own"
    return code_of(model)


def test_a_models_own_files_count_wherever_they_lie(remote: Path, tmp_path: Path) -> None:
    first = code(remote)
    shutil.copytree(remote, tmp_path / "moved")
    assert code(tmp_path / "moved") == first
    (remote / "factor.py").write_text("FACTOR = 0.5\n")
    helper = code(remote)
    (remote / "own.py").write_text(OWN.replace("* FACTOR", "/ FACTOR"))
    assert len({first, helper, code(remote), code_of(tiny_llama())}) == 4


def test_scores_of_other_code_are_not_used(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KTOKIT_CACHE", str(tmp_path / "cache"))
    rows = write_jsonl(tmp_path / "rows.jsonl", text_records(8))
    for name, factor in (("a", 1.0), ("b", 0.5), ("c", 0.5)):
        (remote / "factor.py").write_text(f"FACTOR = {factor}\n")
        run(
            recipe_from_dict(
                {
                    "model": {"path": str(remote), "trust_remote_code": True},
                    "data": {"train": [str(rows)]},
                    "train": {"output_dir": str(tmp_path / name), "batch_size": 8, "precision": "no"},
                    "samples": {"count": 0},
                }
            )
        )
        assert logged(tmp_path / name)[0]["rewards/chosen"] == pytest.approx(0.0, abs=1e-5)
    said = [line.split(" from ")[0] for line in capsys.readouterr().err.splitlines() if "to score" in line]
    assert said == [f"reference: {missing} sequences to score; {16 - missing} known" for missing in (16, 16, 0)]


@pytest.mark.slow
def test_a_run_that_goes_on_with_other_code_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = small_home(tmp_path)
    stopped(home, tmp_path / "a", 3)
    with monkeypatch.context() as patch:
        patch.setattr(transformers, "__version__", "0")
        resumed = train(home, tmp_path / "a", flags=["--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert "note: the code of the model, or the version of its library, is another one" in resumed.stderr
    stopped(home, tmp_path / "b", 3)
    assert "code of the model" not in train(home, tmp_path / "b", flags=["--resume"]).stderr


def test_libraries_count_with_their_versions_and_peft_where_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = code_of(tiny_llama())
    assert plain == code_of(tiny_llama(num_hidden_layers=3)), "how many layers there are stands in the config"
    adapted = add_lora(tiny_llama(), rank=2, alpha=4, dropout=0.0, target_modules="all-linear").get_base_model()
    assert code_of(adapted, without={"peft"}) == plain
    with_peft = code_of(adapted)
    assert with_peft != plain
    monkeypatch.setattr(peft, "__version__", "0")
    assert code_of(adapted) != with_peft
    assert code_of(tiny_llama()) == plain
    monkeypatch.setattr(transformers, "__version__", "0")
    assert code_of(tiny_llama()) != plain


def test_a_class_without_a_source_counts_by_what_it_does() -> None:
    def made(expression: str) -> nn.Module:
        names: dict[str, Any] = {"__name__": "nowhere", "nn": nn}
        exec(f"class Own(nn.Module):\n    def forward(self, x):\n        return [y for y in {expression}]", names)
        kind = names["Own"]
        kind.__module__ = "nowhere"
        module: nn.Module = kind()
        return module

    assert code_of(made("x + 1")) == code_of(made("x + 1"))
    assert len({code_of(made(what)) for what in ("x + 1", "x + 2", "x - 1", "x.y", "[z + 1 for z in x]")}) == 5
