"""A run that was stopped and resumed is the run that was not, bit for bit; and what resuming refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from runs import STEPS, act_before, command, logged, refused, same, small_home, stopped, train, trained
from support import model_folder, text_records, write_jsonl

from ktotrain.log import cut_back
from ktotrain.recipe import load_recipe, recipe_to_dict
from ktotrain.resume import MAY_CHANGE, MOVED
from ktotrain.trainer import run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def half(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was stopped after 3 steps, one checkpoint of step 2 and one of step 3 in it."""
    folder = tmp_path_factory.mktemp("half")
    stopped(home, folder, 3, "train.save_every=2")
    return folder


@pytest.fixture(scope="module")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing has disturbed."""
    return trained(home, tmp_path_factory.mktemp("whole"), "train.save_every=4", "train.keep_checkpoints=0")


@pytest.fixture
def copied(home: Path, half: Path, tmp_path: Path) -> Path:
    """A copy of that run, with a recipe that names the copy."""
    shutil.copytree(half / "run", tmp_path / "run")
    command(home, tmp_path)
    return tmp_path


VARIANTS = {
    "adapter with dropout, samples": (
        *("adapter.rank=2", "adapter.dropout=0.2", "samples.count=2", "samples.max_new_tokens=4"),
    ),
}
SLOW_VARIANTS = {
    "full, evaluation": ("train.eval_every=2", "EVAL"),
    "fp16 and its scaler": ("train.precision=fp16", "loss.desirable_weight=1000", "loss.beta=5"),
    "bf16": ("train.precision=bf16",),
    "bf16 weights": ("model.dtype=bfloat16",),
    "cached reference": ("model.reference_logps=cached", "adapter.rank=2"),
    "several packs": ("train.pack_tokens=140", "model.gradient_checkpointing=true"),
    "apo, linear, warm": ("loss.kind=apo_zero_unpaired", "optim.schedule=linear", "optim.weight_decay=0.1"),
}


@pytest.mark.parametrize(
    "overrides",
    [
        *(pytest.param(value, id=name) for name, value in VARIANTS.items()),
        *(pytest.param(value, id=name, marks=pytest.mark.slow) for name, value in SLOW_VARIANTS.items()),
    ],
)
def test_stopped_twice_and_resumed_is_undisturbed(home: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    how = [f"data.eval={home / 'eval.jsonl'}" if override == "EVAL" else override for override in overrides]
    whole = trained(home, tmp_path / "whole", *how)
    folder = tmp_path / "stopped"
    result = stopped(home, folder, 2, *how)
    assert "stopped after step 2 of 6" in result.stderr
    stopped(home, folder, 2, *how, flags=["--resume"])
    assert {path.name for path in (folder / "run" / "checkpoints").iterdir()} == {"step-2", "step-4"}
    same(whole, trained(home, folder, *how, flags=["--resume"]))


def test_the_library_does_what_the_command_does(copied: Path, whole: Path) -> None:
    result = run(load_recipe(copied / "recipe.toml", ["train.save_every=2"]), resume=True)
    assert result is not None
    assert result.steps == STEPS
    assert [record["step"] for record in logged(result.output_dir)] == [1, 2, 3, 4, 5, 6]
    same(whole, result.output_dir)


def test_what_the_message_says_is_what_goes_on(home: Path, tmp_path: Path) -> None:
    import shlex

    result = stopped(home, tmp_path, 2, "optim.learning_rate=2e-2", number=2)
    said = result.stderr.strip().splitlines()[-1]
    assert said.startswith(f"stopped after step 2 of 6; {tmp_path / 'run' / 'checkpoints' / 'step-2'} is saved. ")
    typed = shlex.split(said.partition("Go on with: ")[2])
    assert typed == ["ktotrain", *command(home, tmp_path, "optim.learning_rate=2e-2"), "--resume"]


def test_checkpoints_at_every_so_many_steps_and_at_the_end(whole: Path) -> None:
    assert {path.name for path in (whole / "checkpoints").iterdir()} == {"step-4", "step-6"}
    saved = whole / "checkpoints" / "step-6"
    assert (saved / "weights.safetensors").exists()
    for path in saved.iterdir():
        if path.suffix == ".pt":
            torch.load(path, weights_only=True)
        else:
            assert path.suffix in (".json", ".safetensors")


@pytest.mark.pictures
def test_killed_while_finishing_the_rest_is_written(home: Path, whole: Path, tmp_path: Path) -> None:
    """Between the model and the card a run is not finished: resumed from its last step, it writes everything again."""
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "README.md").unlink()
    trained(home, tmp_path, "train.save_every=4", "train.keep_checkpoints=0", flags=["--resume"])
    same(whole, folder)
    assert (folder / "README.md").exists()
    assert len(list((folder / "plots").iterdir())) == 4


def test_a_damaged_checkpoint_costs_only_its_steps(copied: Path, home: Path, whole: Path) -> None:
    weights = copied / "run" / "checkpoints" / "step-3" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 16
    weights.write_bytes(content)
    result = train(home, copied, "train.save_every=2", flags=["--resume"])
    assert result.exit_code == 0, result.output
    assert "step-3 is damaged (weights.safetensors does not have its checksum)" in result.stderr
    assert "2 of 6 steps are done" in result.stderr
    same(whole, copied / "run")


def test_metrics_are_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 0.5}) + "\n" for step in range(1, 6)]
    path.write_text("".join(lines) + '{"step": 6, "lo')
    assert cut_back(path, 3, {"lines": 3, "waiting": []}) == ""
    assert path.read_text() == "".join(lines[:3])
    # Two lines waited for room on the disk when the checkpoint was saved.
    assert cut_back(path, 5, {"lines": 5, "waiting": lines[3:]}) == ""
    assert path.read_text() == "".join(lines)
    path.write_text("".join(lines[1:]))
    assert cut_back(path, 5, {"lines": 5, "waiting": []}) == f"{path} lacks 1 of 5 lines up to step 5"
    # A later step's line never fills a gap.
    path.write_text("".join(lines[1:]))
    assert cut_back(path, 4, {"lines": 4, "waiting": []}) == f"{path} lacks 1 of 4 lines up to step 4"
    assert path.read_text() == "".join(lines[1:4])


def test_another_machine_is_noted(copied: Path, home: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        result = train(home, copied, "train.save_every=2", flags=["--resume"])
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    assert f"to rounding, not bit for bit: threads {threads} then, {threads + 1} now" in result.stderr


# --- what is refused ----------------------------------------------------------------------------------------------


def resume(home: Path, folder: Path, *overrides: str, force: bool = False) -> object:
    return train(home, folder, "train.save_every=2", *overrides, flags=["--resume", *["--force"] * force])


def test_another_recipe(copied: Path, home: Path) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    changes = ("optim.learning_rate=1e-3", "train.log_every=2")
    refused(
        resume(home, copied, *changes),
        *("optim.learning_rate was 0.01 and is 0.001", "train.log_every was 1 and is 2", "another recipe"),
        "Put back optim.learning_rate",
    )
    refused(resume(home, copied, *changes, force=True), "--force does not change what decides the numbers")
    refused(resume(home, copied, "adapter.rank=2"), "adapter.rank was absent and is 2")
    refused(resume(home, copied, "train.log_every=2"), "allow it with --force")
    assert before == {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}


def test_force_lets_what_does_not_decide_the_numbers_change(
    copied: Path, home: Path, whole: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(home / "model", tmp_path / "moved")
    how = (
        "train.keep_checkpoints=1",
        "train.pack_tokens=4096",
        "train.eval_every=2",
        f"data.eval={home / 'eval.jsonl'}",
    )
    result = resume(home, copied, *how, f"model.path={moved}", force=True)
    assert result.exit_code == 0, result.output
    assert [path.name for path in (copied / "run" / "checkpoints").iterdir()] == ["step-6"]
    assert [record["step"] for record in logged(copied / "run") if "eval_loss" in record] == [4, 6]
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (whole, copied / "run")]
    assert weights[0] == weights[1]
    assert json.loads((copied / "run" / "recipe.json").read_text())["train"]["keep_checkpoints"] == 1


def test_every_key_that_may_change_is_a_key() -> None:
    from ktotrain.recipe import recipe_from_dict

    tables = recipe_to_dict(recipe_from_dict({"model": {"path": "m"}, "data": {"train": ["r"]}, "adapter": {}}))
    keys = {f"{table}.{key}" for table, values in tables.items() for key in values}
    assert keys >= {*MAY_CHANGE, MOVED}
    assert not {key for key in MAY_CHANGE if key.startswith(("optim.", "loss.", "samples."))}


def test_another_model_of_the_same_shape(copied: Path, home: Path, tmp_path: Path) -> None:
    other = model_folder(tmp_path / "other", initializer_range=0.1)
    refused(resume(home, copied, f"model.path={other}"), "model.path was", "allow it with --force")
    refused(resume(home, copied, f"model.path={other}", force=True), "started from other weights")


def test_a_model_that_was_changed_in_its_place(half: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    here = small_home(tmp_path / "home")
    stopped(here, tmp_path, 2)
    weights = load_file(here / "model" / "model.safetensors")
    weights["model.norm.weight"][5] += 1e-3
    save_file(weights, here / "model" / "model.safetensors", metadata={"format": "pt"})
    refused(train(here, tmp_path, flags=["--resume"]), "started from other weights")


def test_another_architecture(copied: Path, home: Path, tmp_path: Path) -> None:
    other = model_folder(tmp_path / "other", intermediate_size=96)
    refused(resume(home, copied, f"model.path={other}", force=True), "of another model", "[32, 64]", "[32, 96]")


def test_rows_that_changed(copied: Path, home: Path, tmp_path: Path) -> None:
    records = text_records(24)
    records[5]["completion"] += "!"
    rows = write_jsonl(tmp_path / "changed.jsonl", records)
    refused(
        resume(home, copied, f"data.train={rows}", force=True), "training rows", "not those that the run began with"
    )


def test_a_finished_run(home: Path, whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    before = (folder / "metrics.jsonl").read_bytes()
    refused(train(home, tmp_path, flags=["--resume"]), "the run in it is finished", "model")
    refused(train(home, tmp_path), "there is a run in it already. Name another")
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_no_checkpoint(home: Path, tmp_path: Path) -> None:
    refused(train(home, tmp_path, flags=["--resume"]), "there is no checkpoint to resume from", "without --resume")
    assert not (tmp_path / "run").exists()
    with pytest.MonkeyPatch.context() as patch:

        def fail() -> None:
            raise ZeroDivisionError

        act_before(patch, 2, fail)
        assert isinstance(train(home, tmp_path).exception, ZeroDivisionError)
    refused(train(home, tmp_path, flags=["--resume"]), "stopped before its first", "delete")
    refused(train(home, tmp_path), "stopped before its first checkpoint", "delete that one")


def test_the_only_checkpoint_is_damaged(copied: Path, home: Path) -> None:
    shutil.rmtree(copied / "run" / "checkpoints" / "step-2")
    (copied / "run" / "checkpoints" / "step-3" / "state.json").write_text("{}")
    refused(resume(home, copied), "no checkpoint is whole", "state.json has 2 of")


def test_a_folder_with_checkpoints_without_resume(copied: Path, home: Path) -> None:
    refused(train(home, copied, "train.save_every=2"), "saved up to step 3", "by --resume")


def test_a_checkpoint_with_a_pickle_in_it(copied: Path, home: Path) -> None:
    """Checksums tell damage, not malice; what runs code when it is read is refused by torch."""
    import pickle

    from ktotrain.checkpoint import checksum

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("code was run",)

    folder = copied / "run" / "checkpoints" / "step-3"
    (folder / "rng.pt").write_bytes(pickle.dumps([Evil()], protocol=2))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["rng.pt"] = {
        "bytes": (folder / "rng.pt").stat().st_size,
        "xxh3_128": checksum(folder / "rng.pt"),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    result = resume(home, copied)
    assert "code was run" not in result.output
    refused(result, "step-3", "cannot be read", "Unpickl")


def test_force_alone_is_wrong_usage(home: Path, tmp_path: Path) -> None:
    result = train(home, tmp_path, flags=["--force"])
    assert result.exit_code == 2
    assert "give --resume too" in result.stderr
