"""No code out of models, rows or templates runs, no secret is shown or written, nothing listens to other machines."""

import ast
import contextlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from click.testing import CliRunner
from forked import Forked
from runs import command, refused_in_one_line, small_home, train, trained
from support import TEMPLATE, byte_tokenizer, model_folder, text_records, write_jsonl

from ktodata.cli import main as ktodata_main
from ktotrain.errors import ModelError
from ktotrain.model import load_adapter, load_config, load_model, load_tokenizer

ROOT = Path(__file__).parents[1]
REMOTE_CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class TheirConfig(LlamaConfig):
    model_type = "theirs"
class TheirModel(LlamaForCausalLM):
    config_class = TheirConfig
class TheirTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_home(tmp_path_factory.mktemp("home"))


def changed(path: Path, **values: Any) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | values), encoding="utf-8")


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model of an architecture that only its own code knows, and the file that appears if that code runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, marker = model_folder(tmp_path / "foreign"), tmp_path / "it-ran"
    (folder / "theirs.py").write_text(REMOTE_CODE.format(marker=str(marker)), encoding="utf-8")
    changed(
        folder / "config.json",
        model_type="theirs",
        architectures=["TheirModel"],
        auto_map={"AutoConfig": "theirs.TheirConfig", "AutoModelForCausalLM": "theirs.TheirModel"},
    )
    changed(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "theirs.TheirTokenizer"]})
    return folder, marker


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


# --- code ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["model.path", "model.reference"])
def test_a_models_own_code_does_not_run(home: Path, tmp_path: Path, foreign: tuple[Path, Path], key: str) -> None:
    folder, marker = foreign
    for flags in ((), ("--dry-run",)) if key == "model.path" else ((),):
        said = refused_in_one_line(train(home, tmp_path / "run", f"{key}={folder}", flags=flags))
        assert "model.trust_remote_code = true" in said
    assert not marker.exists()


def test_it_runs_if_the_recipe_says_so(foreign: tuple[Path, Path]) -> None:
    folder, marker = foreign
    assert load_config(str(folder), trust_remote_code=True).model_type == "theirs"
    assert marker.exists()


def test_known_architectures_are_loaded_without_the_code_beside_them(
    tmp_path: Path, foreign: tuple[Path, Path]
) -> None:
    folder, marker = foreign
    changed(folder / "config.json", model_type="llama")
    changed(folder / "tokenizer_config.json", auto_map={})
    model = load_model(str(folder), dtype="auto", trained=False, device=torch.device("cpu"))
    assert type(model).__module__.startswith("transformers.")
    assert len(load_tokenizer(str(folder)))
    assert not marker.exists()


def test_ktodata_runs_no_code_of_a_model_either(tmp_path: Path, foreign: tuple[Path, Path]) -> None:
    folder, marker = foreign
    rows = write_jsonl(tmp_path / "rows.jsonl", text_records(4))
    arguments = ["negatives", str(rows), "-o", str(tmp_path / "out.jsonl"), "--strategy", "base"]
    refused_in_one_line(CliRunner().invoke(ktodata_main, [*arguments, "--set", f"base.model={folder}"]))
    assert not marker.exists()
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize(
    "content", ["", "[]", "null", "[1" * 3000, '{"auto_map": null, "model_type": 5}', '{"a": "\\ud800"}']
)
def test_a_model_folder_with_odd_files_is_one_error(home: Path, tmp_path: Path, name: str, content: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(home / "model", folder)
    (folder / name).write_text(content, encoding="utf-8")
    with contextlib.suppress(ModelError):  # some of them do no harm
        load_tokenizer(str(folder))
        load_config(str(folder))
        load_model(str(folder), dtype="auto", trained=False, device=torch.device("cpu"))


def test_pickled_weights_are_refused(home: Path, tmp_path: Path) -> None:
    folder, marker = model_folder(tmp_path / "model"), tmp_path / "it-ran"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(marker)))
    said = refused_in_one_line(train(home, tmp_path / "run", f"model.path={folder}"))
    assert "safetensors" in said
    assert not marker.exists()


def test_pickled_adapters_are_refused(home: Path, tmp_path: Path) -> None:
    from ktotrain.model import add_lora

    folder, marker = tmp_path / "adapter", tmp_path / "it-ran"

    def model() -> Any:
        return load_model(str(home / "model"), dtype="auto", trained=False, device=torch.device("cpu"))

    add_lora(model(), rank=2, alpha=4, dropout=0.0, target_modules="all-linear").save_pretrained(folder)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Touch(marker)))
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        load_adapter(model(), str(folder))
    # As a model's folder, it would be loaded by transformers together with the model that it names.
    changed(folder / "adapter_config.json", base_model_name_or_path=str(home / "model"))
    with pytest.raises(ModelError, match="is an adapter, not a model"):
        load_model(str(folder), dtype="auto", trained=False, device=torch.device("cpu"))
    rows = write_jsonl(tmp_path / "rows.jsonl", text_records(4))
    arguments = ["negatives", str(rows), "-o", str(tmp_path / "out.jsonl"), "--strategy", "base"]
    result = CliRunner().invoke(ktodata_main, [*arguments, "--set", f"base.model={folder}"])
    assert "adapter_model.safetensors" in refused_in_one_line(result)
    assert not marker.exists()


def test_what_a_resumed_run_reads_can_run_no_code(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, marker = trained(home, tmp_path / "run", "train.save_every=3"), tmp_path / "it-ran"
    (run / "model" / "config.json").unlink()
    (run / "README.md").unlink()  # as if it had not ended
    for path in (run / "checkpoints").glob("step-*/rng.pt"):
        path.write_bytes(pickle.dumps(Touch(marker), protocol=2))
    refused_in_one_line(train(home, tmp_path / "run", "train.save_every=3", flags=["--resume"]))
    monkeypatch.setattr("ktotrain.resume.trouble_with", lambda *_: "", raising=False)  # checksums that fit
    monkeypatch.setattr("ktotrain.checkpoint.trouble_with", lambda *_: "")
    refused_in_one_line(train(home, tmp_path / "run", "train.save_every=3", flags=["--resume"]))
    assert not marker.exists()


# Where what is unpickled was set aside on disk by the same run: in a folder of its own, in a file without a name.
OWN_FILES = ("ktodata/unpair.py", "ktodata/chats/export.py")


def test_nothing_unpickles_but_what_a_run_made_itself() -> None:
    found = 0
    for path in [*ROOT.glob("ktotrain/**/*.py"), *ROOT.glob("ktodata/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called == "torch.load":
                found += 1
                assert "weights_only=True" in ast.unparse(node), path
            if called in (
                "pickle.load",
                "pickle.loads",
                "pickle.Unpickler",
                "joblib.load",
                "marshal.loads",
                "shelve.open",
            ):
                found += 1
                assert path.relative_to(ROOT).as_posix() in OWN_FILES, path
            if called in (
                "eval",
                "exec",
                "os.system",
                "yaml.load",
                "np.load",
                "numpy.load",
            ) or "shell=True" in ast.unparse(node):
                raise AssertionError(f"{path}: {ast.unparse(node)}")
    assert found >= 2


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('touch MARKER') }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ messages[0]['content'] + 1 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_chat_templates_are_sandboxed_and_their_errors_clear(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = model_folder(tmp_path / "model")
    tokenizer = byte_tokenizer(TEMPLATE)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    chats = [
        {
            "prompt": [{"role": "user", "content": f"number {n}"}],
            "completion": [{"role": "assistant", "content": f"{n}"}],
            "label": n % 2 == 0,
        }
        for n in range(4)
    ]
    rows = write_jsonl(tmp_path / "chats.jsonl", chats)
    said = refused_in_one_line(
        train(home, tmp_path / "run", f"model.path={folder}", f"data.train={rows}", flags=["--dry-run"])
    )
    assert "chat template" in said
    assert not (tmp_path / "MARKER").exists()


# --- what is drawn from data --------------------------------------------------------------------------------------

HOSTILE = (
    "---\nlicense: mit\n---\n<script>alert(1)</script> <img src=x onerror=alert(1)> ![x](https://example.org/t.png) "
    "[y](javascript:alert(1)) | a | b |\n```\nout of the fence\n````\n# heading {{ 7 * 7 }} {% raw %}"
)


def rendered(markdown: str) -> str:
    from markdown_it import MarkdownIt

    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown.split("\n---\n", 1)[1]))


def test_a_card_shows_rows_as_text(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktotrain.outputs.generate", lambda *_, **__: [HOSTILE], raising=True)
    rows = write_jsonl(
        tmp_path / "a`|<script>b.jsonl", [record | {"prompt": HOSTILE + record["prompt"]} for record in text_records(8)]
    )
    run = trained(home, tmp_path / "run", f'data.train=["{rows}"]', "samples.count=1", "train.max_steps=1")
    card = (run / "README.md").read_text(encoding="utf-8")
    assert card.count("out of the fence") == 3
    assert card.startswith("---\n")
    assert "license" not in card.split("---\n")[1]
    html = rendered(card)
    assert "&lt;script&gt;" in html
    for tag in ("<script", "<img", 'javascript:alert(1)"', "49"):
        assert tag not in re.sub(r"<table>.*?</table>", "", html, flags=re.DOTALL) or tag == "49"
    assert "<script" not in html
    assert "<h1>heading" not in html
    assert "{{ 7 * 7 }}" in html


def test_a_card_of_negatives_shows_names_as_text(tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", text_records(6))
    out = tmp_path / "<img src=x>|[y](z).jsonl"
    arguments = ["negatives", str(rows), "-o", str(out), "--strategy", "corrupt"]
    result = CliRunner().invoke(ktodata_main, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    card = Path(f"{out}.card.md").read_text(encoding="utf-8")
    html = rendered(f"---\n---\n{card}")
    assert "<img" not in html
    assert "<a " not in html


# --- the network --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_listen_on_the_loopback_interface_alone(home: Path, tmp_path: Path) -> None:
    arguments = command(home, tmp_path / "run")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "KTOKIT_CACHE": str(tmp_path / "cache")}
    heard: set[str] = set()
    most = 0
    run = Forked("-m", "ktotrain", *arguments, "--processes", "2", env=environment)
    while run.poll() is None:
        time.sleep(0.005)
        with contextlib.suppress(psutil.Error):
            family = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
            most = max(most, len(family))
            for process in family:
                sockets = process.net_connections(kind="inet")
                heard |= {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
    assert run.returncode == 0
    assert most >= 3, "both processes were looked at"
    assert heard <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.slow
def test_nobody_reading_does_not_end_a_run(home: Path, tmp_path: Path) -> None:
    """As in `ktotrain run recipe.toml 2>&1 | head -1`."""
    arguments = command(home, tmp_path / "run")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "KTOKIT_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        [sys.executable, "-m", "ktotrain", *arguments], env=environment, stderr=subprocess.PIPE
    ) as run:
        assert isinstance(run.stderr, io.BufferedReader)
        assert run.stderr.readline()
        run.stderr.close()
        assert run.wait(300) == 0
    assert (tmp_path / "run" / "run" / "README.md").exists()
