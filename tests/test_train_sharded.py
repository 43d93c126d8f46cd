"""FSDP2 by accelerate's config file: the numbers of one process, and checkpoints for any number of them."""

import dataclasses
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Forked, run
from runs import in_this_process
from safetensors.torch import load_file
from support import model_folder, random_rows, text_records, write_jsonl

from ktotrain.empty import empty_pack
from ktotrain.lockstep import even_out
from ktotrain.losses import LOSSES
from ktotrain.plan import plan_run
from ktotrain.step import Packing, build_packs

LAUNCH = ["-m", "accelerate.commands.accelerate_cli", "launch"]
FSDP = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
num_machines: 1
num_processes: 2
machine_rank: 0
mixed_precision: bf16
fsdp_config:
  fsdp_version: {version}
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_reshard_after_forward: true
  fsdp_cpu_ram_efficient_loading: true
"""
DEEPSPEED = """
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
num_machines: 1
num_processes: 2
machine_rank: 0
mixed_precision: bf16
deepspeed_config: {{zero_stage: {stage}, offload_optimizer_device: none, offload_param_device: none}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its rows and a recipe; and the config files."""
    folder = tmp_path_factory.mktemp("sharded")
    model = model_folder(folder / "model")
    model_folder(folder / "tied", tie_word_embeddings=True)
    rows = write_jsonl(folder / "rows.jsonl", text_records(26))
    evaluation = write_jsonl(folder / "eval.jsonl", text_records(10))
    (folder / "recipe.toml").write_text(
        f'[model]\npath = "{model}"\n[data]\ntrain = "{rows}"\neval = "{evaluation}"\n[optim]\nlearning_rate = 1e-2\n'
        f'[train]\nbatch_size = 8\nprecision = "no"\nmax_steps = 4\n[samples]\ncount = 2\nmax_new_tokens = 6\n'
    )
    (folder / "fsdp.yaml").write_text(FSDP.format(version=2))
    (folder / "fsdp1.yaml").write_text(FSDP.format(version=1))
    (folder / "zero2.yaml").write_text(DEEPSPEED.format(stage=2))
    (folder / "zero3.yaml").write_text(DEEPSPEED.format(stage=3))
    return folder


def on_cpu() -> dict[str, str]:
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def train(
    home: Path, out: Path, *settings: str, config: str = "", processes: int = 2, flags: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """A run, by accelerate if there is a config, else in this process."""
    overrides = [part for setting in (*settings, f"train.output_dir={out}") for part in ("--set", setting)]
    arguments = ["run", str(home / "recipe.toml"), *overrides, *flags]
    if not config:
        return in_this_process(arguments)
    port = str(20000 + os.getpid() % 10000)
    how = [*LAUNCH, "--config_file", str(home / config), "--num_processes", str(processes)]
    return run(*how, "--main_process_port", port, "-m", "ktotrain", *arguments, env=on_cpu())


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def require_equal(one: Path, other: Path) -> None:
    """Losses and gradient norms to 1e-5, kl to 1e-4; the same samples; the same files, and nearly the same weights."""
    for a, b in zip(metrics(one), metrics(other), strict=True):
        assert a.keys() == b.keys()
        for name in ("loss", "grad_norm", "eval_loss"):
            assert b.get(name, 0) == pytest.approx(a.get(name, 0), rel=1e-5)
        for name in ("kl", "kl_raw", "eval_kl", "rewards/margins", "eval_rewards/margins"):
            assert b.get(name, 0) == pytest.approx(a.get(name, 0), rel=1e-4, abs=1e-4)
    assert (one / "samples.jsonl").read_text() == (other / "samples.jsonl").read_text()
    models = one / "model", other / "model"
    assert {path.name for path in models[0].iterdir()} == {path.name for path in models[1].iterdir()}
    for path in models[0].glob("*.safetensors"):
        weights, others = load_file(path), load_file(models[1] / path.name)
        assert weights.keys() == others.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(weight, others[name], rtol=1e-3, atol=1e-4)
    if (models[0] / "config.json").exists():
        assert (models[0] / "config.json").read_text() == (models[1] / "config.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "settings"),
    [
        (3, ("train.batch_size=3", "model.reference_logps=online", "model.gradient_checkpointing=true")),
        (2, ("adapter.rank=2", "model.reference_logps=cached", "model.attention=padded", "train.pack_tokens=300")),
    ],
    ids=["few rows", "adapter"],
)
def test_shards_give_the_numbers_of_one_process(
    home: Path, tmp_path: Path, processes: int, settings: tuple[str, ...]
) -> None:
    assert train(home, tmp_path / "one", *settings).returncode == 0
    done = train(home, tmp_path / "shards", *settings, config="fsdp.yaml", processes=processes)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the trained model is in") == 1
    require_equal(tmp_path / "one", tmp_path / "shards")


@pytest.mark.slow
def test_a_sharded_run_goes_on_in_another_number_of_processes(home: Path, tmp_path: Path) -> None:
    """Tied weights; packs in plenty, so that gradients add up; saved in two shards, resumed in one process."""
    settings = (
        f"model.path={home / 'tied'}",
        "train.pack_tokens=200",
        "train.save_every=2",
        "train.keep_checkpoints=0",
    )
    assert train(home, tmp_path / "one", *settings).returncode == 0
    done = train(home, tmp_path / "shards", *settings, config="fsdp.yaml")
    assert done.returncode == 0, done.stderr
    require_equal(tmp_path / "one", tmp_path / "shards")
    moved = tmp_path / "shards"
    for path in (moved / "checkpoints" / "step-4", moved / "model"):
        path.rename(tmp_path / f"old-{path.name}")
    (moved / "README.md").unlink()
    resumed = train(home, moved, *settings, flags=["--resume"])
    assert resumed.returncode == 0, resumed.stderr
    assert "2 of 4 steps are done" in resumed.stderr
    require_equal(tmp_path / "one", moved)


@pytest.mark.slow
def test_processes_agree_on_which_scores_are_known(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run loads the reference in shards, the second one not at all; nor does one process after them."""
    monkeypatch.setenv("KTOKIT_CACHE", str(tmp_path / "cache"))
    model_folder(tmp_path / "other", initializer_range=0.1)
    how = f"model.reference={tmp_path / 'other'}"
    for name, config in (("first", "fsdp.yaml"), ("second", "fsdp.yaml"), ("one", "")):
        done = train(home, tmp_path / name, how, "samples.count=0", config=config)
        assert done.returncode == 0, done.stderr
        said = next(line for line in done.stderr.splitlines() if "to score" in line)
        assert said.startswith("reference: 0 ") == (name != "first"), said
        for a, b in zip(metrics(tmp_path / "first"), metrics(tmp_path / name), strict=True):
            assert b.get("loss", 0) == pytest.approx(a.get("loss", 0), rel=1e-5)
    assert abs(metrics(tmp_path / "one")[0]["rewards/chosen"]) > 0.01


@pytest.mark.slow
def test_deepspeed_gives_the_numbers_of_one_process(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install 'ktokit[deepspeed]'")
    settings = ("train.pack_tokens=200", "train.save_every=2", "train.keep_checkpoints=0")
    assert train(home, tmp_path / "one", *settings).returncode == 0
    done = train(home, tmp_path / "shards", *settings, config="zero2.yaml")
    assert done.returncode == 0, done.stderr
    require_equal(tmp_path / "one", tmp_path / "shards")


@pytest.mark.slow
def test_settings_that_cannot_be_had_are_refused_in_one_message(home: Path, tmp_path: Path) -> None:
    done = train(home, tmp_path / "run", config="fsdp1.yaml")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "FSDP 1 is not supported" in errors[0]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_processes_without_rows_run_what_the_others_run() -> None:
    """Every process has as many passes of each kind as any other, and follows where the others do."""
    rows = random_rows([0, 0, 0, 1, 2, 3])
    groups, labels = [row.group for row in rows], [row.label for row in rows]
    (step,) = plan_run(groups, labels, batch_size=6, seed=0, shuffle=True, epochs=1, max_steps=0)
    for processes in (2, 5):
        for tokens in (60, 10_000):
            packing = Packing(512, tokens, "shared", processes=processes, follow=True, lockstep=True)
            shares = [
                build_packs(step, rows, dataclasses.replace(packing, process=p), LOSSES["kto"])
                for p in range(processes)
            ]
            mine = [[len(s.reference), len(s.graded), len(s.mismatched), int(s.following is not None)] for s in shares]
            most = torch.tensor(mine).max(0).values
            evened = [even_out(s, "shared", lambda _, m=most: m, torch.device("cpu")) for s in shares]
            kinds = {(len(s.reference), len(s.graded), len(s.mismatched), s.following is not None) for s in evened}
            assert len(kinds) == 1
            graded = sorted(row for share in evened for batch in share.graded for row in batch.rows)
            assert graded == list(range(6))


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
def test_an_empty_pack_scores_nothing_and_has_a_gradient_of_zero(layout: Any) -> None:
    from support import tiny_llama

    from ktotrain.probe import choose_layout
    from ktotrain.scorer import Scorer

    model = tiny_llama()
    choice = choose_layout(model, attention="padded" if layout == "padded" else "auto")
    scores = Scorer(model, choice.head)(empty_pack(layout))
    assert scores.shape == (0,)
    scores.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(grad is not None and not grad.any() for grad in gradients)


@pytest.mark.slow
def test_two_machines(home: Path, tmp_path: Path) -> None:
    """Two launchers, as on two machines, with one process each: shards over both."""
    port = str(30000 + os.getpid() % 10000)
    launch = [*LAUNCH, "--config_file", str(home / "fsdp.yaml"), "--num_machines", "2"]
    launch += ["--main_process_ip", "127.0.0.1", "--main_process_port", port, "--rdzv_backend", "static"]
    what = ["-m", "ktotrain", "run", str(home / "recipe.toml"), "--set", f"train.output_dir={tmp_path / 'two'}"]
    launchers = [Forked(*launch, "--machine_rank", str(rank), *what, env=on_cpu()) for rank in range(2)]
    try:
        assert [launcher.wait(timeout=150) for launcher in launchers] == [0, 0]
    finally:
        for launcher in launchers:
            launcher.kill()
    assert train(home, tmp_path / "one").returncode == 0
    require_equal(tmp_path / "one", tmp_path / "two")


PLAIN = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
num_machines: 1
num_processes: 3
machine_rank: 0
mixed_precision: bf16
"""


@pytest.mark.slow
def test_accelerate_without_shards_and_fewer_rows_than_processes_in_the_last_step(home: Path, tmp_path: Path) -> None:
    """26 rows by 3 leave a step of 2: one process has nothing in it. With evaluations and an adapter."""
    (home / "plain.yaml").write_text(PLAIN)
    settings = ("train.batch_size=3", "train.max_steps=0", "adapter.rank=2", "train.eval_every=4")
    assert train(home, tmp_path / "one", *settings).returncode == 0
    done = train(home, tmp_path / "three", *settings, config="plain.yaml", processes=3)
    assert done.returncode == 0, done.stderr
    assert len(metrics(tmp_path / "three")) == 9 + 3  # 8 steps of 3 rows, 1 of 2; evaluations after 4, 8 and 9
    require_equal(tmp_path / "one", tmp_path / "three")


FAILING = """
import os, runpy, sys
import ktotrain.launch, ktotrain.learn, ktotrain.trainer
from ktotrain.errors import TrainingError

def fail(*arguments):
    if os.environ["RANK"] == "1":
        raise TrainingError("the disk of process 1 is gone")
    return step(*arguments)

ktotrain.launch.PATIENCE = 1  # process 0 has no error to say first
step, ktotrain.trainer.train_step = ktotrain.trainer.train_step, fail
runpy.run_module("ktotrain", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("config", ["plain.yaml", "fsdp.yaml"])
def test_an_error_in_one_process_ends_all_with_its_message(home: Path, tmp_path: Path, config: str) -> None:
    (home / "plain.yaml").write_text(PLAIN)
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    launch = [*LAUNCH, "--config_file", str(home / config), "--num_processes", "2"]
    launch += ["--main_process_port", str(25000 + os.getpid() % 5000), str(script)]
    settings = ["--set", f"train.output_dir={tmp_path / 'run'}"]
    done = run(*launch, "run", str(home / "recipe.toml"), *settings, env=on_cpu(), timeout=150)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == ["error: the disk of process 1 is gone"]
