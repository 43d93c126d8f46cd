"""What only a GPU can show: `pytest -m gpu` on a machine that has one checks every attention it can run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import StepNumbers, random_rows, run_steps, tiny_llama
from test_attention import ASKS, SPECIAL
from test_step_golden import GOLDEN, TOLERANCE, recipe

from benchmarks.architectures import examine, tiny
from ktotrain.attention import KERNELS, Ask, KernelName
from ktotrain.attention_choice import TYPICAL, kernel_trouble, rank_kernels
from ktotrain.errors import ModelError
from ktotrain.probe import choose_layout

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    # Of torch's compiler, about itself.
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(900),
]

GROUPS = [0, 0, 0, 1, 2, 3, 2, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12, 13, 12, 13, 14, 15, 16, 17]
HOW: dict[str, Any] = {"beta": 0.5, "weights": (2.0, 0.2), "learning_rate": 2e-3, "steps": 3}
BFLOAT16 = torch.bfloat16
REAL = Ask(heads=12, key_heads=2, key_size=128, value_size=128, scale=128**-0.5)  # Qwen2.5-1.5B's


def trained(**how: Any) -> list[StepNumbers]:
    checkpointing = how.pop("checkpointing", False)
    model = tiny_llama().to("cuda")
    if checkpointing:
        from ktotrain.model import recompute_activations

        recompute_activations(model)
    return run_steps(model, random_rows(GROUPS), **HOW, **how)


def agree(ours: list[StepNumbers], theirs: list[StepNumbers], *, tolerance: float) -> None:
    """Equal to `tolerance`: of losses, of log-probabilities, and of each gradient's norm."""
    for a, b in zip(ours, theirs, strict=True):
        assert (a.loss, a.grad_norm) == pytest.approx((b.loss, b.grad_norm), rel=tolerance)
        assert a.kl == pytest.approx(b.kl, rel=10 * tolerance, abs=10 * tolerance)
        torch.testing.assert_close(a.policy_logps, b.policy_logps, rtol=tolerance, atol=tolerance)
        for name, gradient in a.gradients.items():
            apart = float((gradient - b.gradients[name]).norm() / b.gradients[name].norm())
            assert apart < 10 * tolerance, f"{name}: {apart:.1e}"


@pytest.mark.parametrize("ask", [*ASKS.values(), REAL], ids=[*ASKS, "real"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_varlen_is_what_the_loop_is(ask: Ask, dtype: torch.dtype) -> None:
    assert kernel_trouble(KERNELS["varlen"], {ask: 1}, dtype=dtype, device=torch.device("cuda")) == ""


@pytest.mark.parametrize("ask", [*ASKS.values(), *SPECIAL.values(), REAL], ids=[*ASKS, *SPECIAL, "real"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_flex_is_what_the_loop_is(ask: Ask, dtype: torch.dtype) -> None:
    assert kernel_trouble(KERNELS["flex"], {ask: 1}, dtype=dtype, device=torch.device("cuda")) == ""


@pytest.fixture(scope="module")
def padded() -> list[StepNumbers]:
    return trained(attention="padded")


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("attention", ["ragged", "flex", "auto"])
def test_float32_steps(attention: str, checkpointing: bool, padded: list[StepNumbers]) -> None:
    agree(trained(attention=attention, checkpointing=checkpointing), padded, tolerance=1e-4)


@pytest.mark.parametrize("how", [{"pack_tokens": 80}, {"follow": False}, {"layout": "packed"}], ids=str)
@pytest.mark.parametrize("attention", ["ragged", "flex"])
def test_float32_layouts_and_packs(attention: str, how: dict[str, Any], padded: list[StepNumbers]) -> None:
    agree(trained(attention=attention, **how), padded, tolerance=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("attention", ["ragged", "varlen", "flex", "auto"])
def test_bfloat16_steps(attention: str, checkpointing: bool) -> None:
    """Without learning, since rounding that differs would send the runs apart."""
    how: dict[str, Any] = {"precision": BFLOAT16}
    theirs = run_steps(tiny_llama().to("cuda"), random_rows(GROUPS), attention="padded", **(HOW | {"steps": 1}), **how)
    model = tiny_llama().to("cuda")
    if checkpointing:
        from ktotrain.model import recompute_activations

        recompute_activations(model)
    ours = run_steps(model, random_rows(GROUPS), attention=attention, **(HOW | {"steps": 1}), **how)
    agree(ours, theirs, tolerance=2e-2)


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma2", "GptOss", "DeepseekV3"])
@pytest.mark.parametrize("attention", ["flex", "auto"])
def test_architectures(name: str, attention: str) -> None:
    """Isolation and parity by the probe, then scores and gradients against row by row."""
    found = examine(name, attention, "cuda")
    assert found.layout == "shared", found.reason
    assert found.scores < 1e-4
    assert found.gradients < 1e-3


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen3"])
def test_the_probe_takes_varlen_in_half_precision(name: str) -> None:
    for model, precision in ((tiny(name).to("cuda", BFLOAT16), None), (tiny(name).to("cuda"), BFLOAT16)):
        choice = choose_layout(model, attention="varlen", precision=precision)
        assert (choice.layout, choice.attention) == ("shared", "ktotrain_varlen"), choice.reason
        assert choice.follows


def test_what_varlen_cannot_do_is_refused() -> None:
    with pytest.raises(ModelError, match="this run computes in float32"):
        choose_layout(tiny_llama().to("cuda"), attention="varlen")
    with pytest.raises(ModelError, match="no soft-cap"):
        choose_layout(tiny("Gemma2").to("cuda"), attention="varlen", precision=BFLOAT16)


def test_auto_measures_all_and_takes_the_fastest() -> None:
    ranked = rank_kernels({REAL: 28}, TYPICAL, dtype=BFLOAT16, device=torch.device("cuda"))
    assert "found out in" in ranked.figures
    assert sorted(ranked.names) == ["flex", "ragged", "varlen"]
    choice = choose_layout(tiny_llama().to("cuda"), attention="auto", precision=BFLOAT16)
    for name in KERNELS:
        assert f"{name} " in choice.reason
    assert choice.follows


def test_many_packs_compile_a_few_shapes() -> None:
    from torch._dynamo.utils import counters

    rows = random_rows(list(range(64)) * 2, longest=60)
    counters.clear()
    run_steps(tiny_llama().to("cuda"), rows, attention="flex", batch_size=16, pack_tokens=300, steps=8)
    assert counters["stats"]["unique_graphs"] < 24
    assert not counters["unimplemented"]


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"TRL's trajectories are not here ({GOLDEN.name}/)")
@pytest.mark.parametrize("case", ["kto", "kto_lora", "kto_truncated"])
@pytest.mark.parametrize("attention", ["auto", "ragged", "flex", "padded"])
def test_golden_trajectories(case: str, attention: KernelName, tmp_path: Path) -> None:
    from ktotrain.recipe import recipe_from_dict
    from ktotrain.trainer import run

    golden = json.loads((GOLDEN / f"{case}.json").read_text())
    run(recipe_from_dict(recipe(golden, tmp_path, {"attention": attention}, {})))
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for ours, theirs in zip(logged, golden["steps"], strict=True):
        for key, value in theirs.items():
            assert abs(ours[key] - value) <= TOLERANCE * max(1.0, abs(value)), f"step {ours['step']}, {key}"
