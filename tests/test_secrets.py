"""No password, token or key is shown, written, or quoted in an error."""

import ast
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from runs import refused_in_one_line, small_home, train

import ktodata.redact
import ktotrain.redact
from ktodata.cli import main as ktodata_main
from ktotrain.cli import main as ktotrain_main

SECRET = "Marker5ecret9xQz"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_home(tmp_path_factory.mktemp("home"))


HOLDERS = (
    f"https://user:{SECRET}@example.org/model",
    f"https://{SECRET}@example.org/model",
    f"https://example.org/model?access_token={SECRET}",
    f"hf_{SECRET}{SECRET}",
    f"sk-proj-{SECRET}{SECRET}",
)


@pytest.mark.parametrize("module", [ktodata.redact, ktotrain.redact])
def test_credentials_are_hidden(module: Any) -> None:
    for text in HOLDERS:
        assert SECRET not in module.printable(f"cannot reach {text}, says the server")
    environment = {"HF_TOKEN": SECRET, "WANDB_API_KEY": "short", "HOME": "/home/someone"}
    assert module.redacted(f"{SECRET} short /home/someone", environment) == "[hidden] short /home/someone"
    for text in ("runs/first", "owner/name", "https://example.org/a?b=c", "a@b.org", "Q: 3:4 @ 5", "task-force_hf_x"):
        assert module.printable(text) == text
    assert module.printable("\x1b[31m\x00\u202ea\tb\r\nc\ud800") == "\\x1b[31m\\x00\\u202ea\tb\nc\\ud800"
    assert len(module.printable("x" * 10**6)) < module.LONGEST


def test_both_packages_hide_the_same() -> None:
    def functions(module: Any) -> dict[str, str]:
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        return {
            ast.unparse(node).split("(")[0].split("=")[0]: ast.unparse(node)
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.Assign) and "credential_in" not in ast.unparse(node)
        }

    assert functions(ktodata.redact) == functions(ktotrain.redact) != {}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_recipe_that_holds_a_credential_is_refused_and_not_quoted(home: Path, tmp_path: Path, holder: str) -> None:
    for key in (
        "model.path",
        "model.reference",
        "data.train",
        "train.output_dir",
        "train.seed",
        "model.hub_token",
        "x.y",
    ):
        result = train(home, tmp_path / "run", f"{key}={holder}")
        assert SECRET not in refused_in_one_line(result), key
    arguments = ["check", str(tmp_path / "recipe.toml")]
    (tmp_path / "recipe.toml").write_text(
        f'token = "{holder}"\n[model]\npath = "{holder}"\nhub_token = "{holder}"\n[train]\nseed = "{holder}"\n', "utf-8"
    )
    result = CliRunner().invoke(ktotrain_main, arguments)
    assert "HF_TOKEN in the environment" in refused_in_one_line(result)
    assert SECRET not in result.output
    assert not (tmp_path / "run" / "run").exists()


def test_a_key_called_like_a_secret_is_never_quoted(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(
        f'hub_token = "{SECRET}"\n[model]\npath = "a"\napi_key = "{SECRET}"\n', "utf-8"
    )
    for more in ((), ("--set", f"model.hub_token={SECRET}"), ("--set", f"hub_token={SECRET}")):
        result = CliRunner().invoke(ktotrain_main, ["check", str(tmp_path / "recipe.toml"), *more])
        assert result.exit_code in (1, 2)
        assert SECRET not in result.output


def test_no_secret_of_the_environment_is_in_a_run_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, SECRET + name)
    result = train(home, tmp_path / "run", "train.save_every=3", "samples.count=1")
    assert result.exit_code == 0, (result.output, result.exception)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in result.output


def test_what_a_library_says_is_redacted(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(f"401 for https://user:{SECRET}@mirror.example/api with \x1b[31mBearer {SECRET}env")

    monkeypatch.setenv("HF_TOKEN", f"{SECRET}env")
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    said = refused_in_one_line(train(home, tmp_path / "run"))
    assert "401 for https://[hidden]@mirror.example/api" in said
    assert SECRET not in said
    assert "\x1b[31m" not in said


@pytest.mark.parametrize("verb", ["unpair", "balance", "check", "negatives"])
def test_ktodata_hides_credentials_in_what_it_says(tmp_path: Path, verb: str) -> None:
    more = {"unpair": ["-o", str(tmp_path / "o.jsonl")], "negatives": ["--strategy", "corrupt", "-o", "-"]}.get(
        verb, []
    )
    result = CliRunner().invoke(ktodata_main, [verb, f"https://user:{SECRET}@example.org/rows.jsonl", *more])
    assert SECRET not in refused_in_one_line(result, result.exit_code)
    assert result.exit_code in (1, 2)
