"""What a launcher asks for is had or refused, and `--dry-run` shows what each process would get, starting none."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from forked import run
from support import model_folder, text_records, tiny_llama, write_jsonl

from ktotrain.cli import main
from ktotrain.errors import TrainingError
from ktotrain.memory import estimate, shape_of
from ktotrain.parallel import _replicas, _require_kind, asked_for, processes_launched, require_rows_for_all
from ktotrain.sharding import Sharding, _units
from ktotrain.shares import LaunchPlan, in_shards, read_launch
from ktotrain.zero import check_config

RECIPES = Path(__file__).parents[1] / "recipes" / "multi_gpu"


def test_what_a_launcher_asks_for() -> None:
    assert asked_for({}) == "plain"
    assert asked_for({"ACCELERATE_USE_FSDP": "true"}) == "fsdp"
    assert asked_for({"ACCELERATE_USE_DEEPSPEED": "true"}) == "deepspeed"
    with pytest.raises(TrainingError, match="Megatron"):
        asked_for({"ACCELERATE_USE_MEGATRON_LM": "true"})
    with pytest.raises(TrainingError, match="cp_size is 2"):
        asked_for({"PARALLELISM_CONFIG_CP_SIZE": "2", "ACCELERATE_USE_FSDP": "true"})


def test_fewer_processes_than_accelerate_was_asked_for() -> None:
    assert processes_launched({}) == 1
    assert processes_launched({"WORLD_SIZE": "4"}) == 4
    assert processes_launched({"ACCELERATE_MIXED_PRECISION": "no"}) == 1
    # What `accelerate launch --cpu --num_processes 2` leaves behind in the one process that it starts.
    with pytest.raises(TrainingError, match="asked for several processes on a CPU and started one"):
        processes_launched({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"})


@pytest.mark.slow
def test_accelerate_itself_starts_one_process_on_a_cpu_and_is_found_out(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[model]\npath = "m"\n[data]\ntrain = "r"\n')
    launch = [
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = run(*launch, "-m", "ktotrain", "run", str(recipe), env=environment, cwd=tmp_path)
    assert done.returncode
    assert "error: accelerate was asked for several processes on a CPU and started one" in done.stderr


@pytest.mark.parametrize(
    ("kind", "got", "cpu", "right"),
    [
        ("plain", "MULTI_GPU", False, True),
        ("fsdp", "FSDP", False, True),
        ("fsdp", "MULTI_GPU", False, False),
        ("fsdp", "MULTI_CPU", True, True),
        ("deepspeed", "MULTI_GPU", False, False),
        ("plain", "FSDP", False, False),
    ],
)
def test_accelerate_made_what_its_config_asks_for(kind: Any, got: str, cpu: bool, right: bool) -> None:
    if right:
        _require_kind(kind, got, alone_or_cpu=cpu)
    else:
        with pytest.raises(TrainingError, match=f"asks for {kind} and accelerate made it {got}"):
            _require_kind(kind, got, alone_or_cpu=cpu)


def test_more_processes_than_rows_for_any_launcher() -> None:
    require_rows_for_all(8, 8)
    with pytest.raises(TrainingError, match="9 processes and 8 rows a step"):
        require_rows_for_all(8, 9)


def test_replicas() -> None:
    assert _replicas(8, {}) == 1
    assert _replicas(8, {"PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2", "PARALLELISM_CONFIG_DP_SHARD_SIZE": "4"}) == 2
    with pytest.raises(TrainingError, match="is not 8"):
        _replicas(8, {"PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "3", "PARALLELISM_CONFIG_DP_SHARD_SIZE": "2"})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"zero_optimization": {"stage": 3}}, "FSDP2"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}, "offload_optimizer_device cpu"),
        ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "train.precision"),
        ({"zero_optimization": {"stage": 1}, "scheduler": {}}, "table scheduler"),
    ],
)
def test_deepspeed_settings_that_are_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        check_config(config)
    check_config({"zero_optimization": {"stage": 2, "offload_param": {"device": "none"}}, "bf16": {"enabled": "auto"}})


def test_which_modules_are_sharded() -> None:
    model = tiny_llama()
    assert [type(m).__name__ for m in _units(model, Sharding())] == ["LlamaDecoderLayer"] * 2
    assert _units(model, Sharding(wrap="none")) == []
    big = _units(model, Sharding(wrap="size", min_parameters=10**4))
    assert all(sum(p.numel() for p in m.parameters()) >= 10**4 for m in big)
    with pytest.raises(TrainingError, match=r"has no module of class GPT2Block.*LlamaDecoderLayer"):
        _units(model, Sharding(classes=("GPT2Block",)))


def test_memory_in_shards() -> None:
    model = tiny_llama()
    whole = estimate(shape_of(model), pack_tokens=64, half_precision=False, reference_bytes=1000)
    eighth = in_shards(whole, model, LaunchPlan(8, kind="fsdp"), recomputed=True)
    assert eighth.weights == -(-whole.weights // 8)
    assert eighth.optimizer == -(-whole.optimizer // 8)
    assert 0 < eighth.gathered <= 2 * whole.weights * 2
    zero = in_shards(whole, model, LaunchPlan(8, kind="deepspeed"), recomputed=True)
    assert (zero.weights, zero.optimizer) == (whole.weights, -(-whole.optimizer // 8))
    assert in_shards(whole, model, LaunchPlan(8), recomputed=False) == whole


@pytest.mark.parametrize(
    ("name", "processes", "machines"), [("one_node", 8, 1), pytest.param("two_nodes", 16, 2, marks=pytest.mark.slow)]
)
def test_the_recipes_for_many_gpus(tmp_path: Path, name: str, processes: int, machines: int) -> None:
    """On a tiny model in the big one's place: the rest is as shipped."""
    config = RECIPES / f"{name}.yaml"
    assert read_launch(config) == LaunchPlan(processes, machines, "fsdp")
    model = model_folder(tmp_path / "model")
    rows = write_jsonl(tmp_path / "rows.jsonl", text_records(400))
    for recipe in ("full_8b", "lora_8b"):
        settings = ["--set", f"model.path={model}", "--set", f"data.train={rows}"]
        result = CliRunner().invoke(
            main, ["run", str(RECIPES / f"{recipe}.toml"), *settings, "--dry-run", "--accelerate-config", str(config)]
        )
        assert result.exit_code == 0, result.stderr
        lines = result.stdout.splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith(f"{processes} processes"))
        table = [line.split() for line in lines[start + 2 : start + 2 + processes]]
        assert [int(row[0]) for row in table] == list(range(processes))
        assert sum(int(row[1]) for row in table) == 400
        assert "gathered of shards" in result.stdout


def test_config_files_that_cannot_be_had(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text, reason in [
        ("distributed_type: FSDP\nnum_processes: 2\n", "FSDP 1"),
        ("distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 3}\n", "stage 3"),
        ("distributed_type: MULTI_CPU\nnum_processes: 2\n", "one process of a MULTI_CPU"),
        ("[", "not a config file"),
        ("- 1", "not a config file"),
    ]:
        path.write_text(text)
        with pytest.raises(TrainingError, match=reason):
            read_launch(path)
    with pytest.raises(TrainingError, match="No such file"):
        read_launch(tmp_path / "absent.yaml")


def test_a_plan_for_processes_that_are_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktotrain.cli.launch", SimpleNamespace())
    model = model_folder(tmp_path / "model")
    rows = write_jsonl(tmp_path / "rows.jsonl", text_records(24))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[model]\npath = "{model}"\n[data]\ntrain = "{rows}"\n[train]\nbatch_size = 8\n')
    result = CliRunner().invoke(main, ["run", str(recipe), "--dry-run", "--processes", "8"])
    assert result.exit_code == 0, result.stderr
    assert "8 processes; each holds the whole model; of all steps:" in result.stdout
    assert "memory, estimated, of each process" in result.stdout
    assert not torch.distributed.is_initialized()
    refused = CliRunner().invoke(main, ["run", str(recipe), "--accelerate-config", "x.yaml"])
    assert refused.exit_code == 2
    assert "accelerate launch --config_file x.yaml" in refused.stderr
