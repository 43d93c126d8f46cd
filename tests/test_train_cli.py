"""The command ktotrain: quick to answer, one line for what went wrong, the right exit code."""

import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ktotrain
from ktotrain.cli import main
from ktotrain.errors import KtotrainError, ModelError, UsageError
from ktotrain.recipe import Recipe, load_recipe

HEAVY = {"torch", "transformers", "datasets", "pandas", "matplotlib", "peft", "accelerate", "rich", "numpy"}
SMALL = '[model]\npath = "m"\n[data]\ntrain = ["a.jsonl"]\n'


def ktotrain_command(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], list[tuple[Recipe, bool]]]:
    """Puts a function in the place of `ktotrain.trainer.run`; returns the calls it gets."""

    def put(act: Callable[..., object]) -> list[tuple[Recipe, bool]]:
        calls: list[tuple[Recipe, bool]] = []

        def run(recipe: Recipe, *, resume: bool, force: bool) -> object:
            calls.append((recipe, False))
            return act()

        def dry_run(recipe: Recipe, *, processes: int, accelerate_config: Path | None) -> None:
            calls.append((recipe, True))

        module = types.ModuleType("ktotrain.trainer")
        module.run, module.dry_run = run, dry_run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "ktotrain.trainer", module)
        monkeypatch.setattr(ktotrain, "trainer", module, raising=False)
        return calls

    return put


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom ktotrain.cli import main\n"
        "try:\n    main(['--help'])\nfinally:\n    print('IMPORTED', *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stderr.split("IMPORTED")[1].split()}
    assert "click" in imported
    assert not imported & HEAVY
    assert not {name for name in imported if name.startswith("ktodata")}
    assert done.stdout.startswith("Usage: ")


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["plot"]])
def test_every_help_has_an_example(command: list[str]) -> None:
    result = ktotrain_command(*command, "--help")
    assert result.exit_code == 0
    assert "Example:\n    ktotrain" in result.output
    assert ktotrain_command(*command, "-h").output == result.output


def test_every_command_is_in_the_parametrization_above() -> None:
    assert set(main.commands) == {"run", "check", "plot"}


def test_the_module_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "ktotrain", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"ktotrain {ktotrain.__version__}\n" == ktotrain_command("--version").output


def test_run_hands_the_checked_recipe_to_the_trainer(recipe_file: Path, train: Any) -> None:
    calls = train(lambda: None)
    result = ktotrain_command("run", str(recipe_file), "--set", "train.seed=3", "--set", "adapter.rank=4")
    assert result.exit_code == 0
    assert calls == [(load_recipe(recipe_file, ["train.seed=3", "adapter.rank=4"]), False)]
    assert ktotrain_command("run", str(recipe_file), "--dry-run").exit_code == 0
    assert calls[1:] == [(load_recipe(recipe_file), True)]


def test_a_wrong_recipe_never_reaches_the_trainer(recipe_file: Path, train: Any) -> None:
    calls = train(lambda: None)
    recipe_file.write_text(SMALL + "[train]\nbatch_size = 0\nsede = 1\n", encoding="utf-8")
    for command in (["run"], ["run", "--dry-run"], ["check"]):
        result = ktotrain_command(*command, str(recipe_file))
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.splitlines() == [
            f"error: {recipe_file} has 2 errors",
            f"  {recipe_file}:6: [train] batch_size is 0; it must be a whole number of at least 1",
            f"  {recipe_file}:7: unknown key 'sede' in [train]. Did you mean 'seed'?",
        ]
    assert calls == []


class ForeignError(Exception):
    """As ktodata's errors are: another tree, the same attribute."""

    exit_code = 1


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (
            ModelError("has no tokenizer", where="models/x", do="Save one there"),
            1,
            "models/x: has no tokenizer. Save one there",
        ),
        (KtotrainError("stop"), 1, "stop"),
        (UsageError("no such thing"), 2, "no such thing"),
        (ForeignError("a.jsonl:3: label is 1"), 1, "a.jsonl:3: label is 1"),
    ],
)
def test_errors_become_one_line_and_their_exit_code(
    recipe_file: Path, train: Any, error: Exception, code: int, says: str
) -> None:
    def fail() -> None:
        raise error

    train(fail)
    result = ktotrain_command("run", str(recipe_file))
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"error: {says}\n")


def test_ctrl_c_is_130(recipe_file: Path, train: Any) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    train(interrupt)
    result = ktotrain_command("run", str(recipe_file))
    assert (result.exit_code, result.stderr) == (130, "stopped\n")


def test_a_bug_is_not_dressed_up_as_an_error(recipe_file: Path, train: Any) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    train(fail)
    assert isinstance(ktotrain_command("run", str(recipe_file)).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["rum", "x"],
        ["run", "x", "--sett"],
        ["run", "x", "--set", "lr=3"],
        ["run", "x", "--set", "train.seed"],
        ["plot"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    result = ktotrain_command(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


@pytest.mark.parametrize("command", ["run", "check", "plot"])
def test_a_missing_file_is_1(command: str, tmp_path: Path) -> None:
    result = ktotrain_command(command, str(tmp_path / "nope"))
    assert result.exit_code == 1
    assert re.fullmatch(r"error: .*/nope\S*: no such file\. .+\n", result.stderr)


def test_check_prints_a_recipe_that_is_the_same_recipe(recipe_file: Path, tmp_path: Path) -> None:
    result = ktotrain_command("check", str(recipe_file), "--set", "adapter.target_modules=['q', 'v']")
    assert result.exit_code == 0
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(result.stdout, encoding="utf-8")
    assert load_recipe(resolved) == load_recipe(recipe_file, ["adapter.target_modules=['q', 'v']"])
    assert "batch_size = 32\n" in result.stdout
    assert result.stderr == f"{recipe_file} is valid\n"


@pytest.mark.pictures
def test_plot_draws_again_and_names_what_it_drew(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 0.5, "rewards/chosen": 0.1 * step} for step in range(1, 4)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    result = ktotrain_command("plot", str(tmp_path))
    assert result.exit_code == 0
    names = result.stdout.splitlines()
    assert names == [str(tmp_path / "plots" / name) for name in ("loss.png", "rewards.png")]
    assert all(Path(name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_a_real_process_ends_with_one_line_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ktotrain", "run", str(tmp_path / "nope.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"error: {tmp_path / 'nope.toml'}: no such file. Name an existing recipe\n"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "")],
    ids=["nothing said", "another number", "another policy"],
)
def test_threads_that_wait_leave_the_cores_to_others(
    environment: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert CliRunner().invoke(main, ["run", str(tmp_path / "none.toml")]).exit_code == 1
    assert os.environ.get("GOMP_SPINCOUNT", "") == expected
