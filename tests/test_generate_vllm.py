"""The back end vLLM, as far as it can be tested without one: what a stand-in module with its names is asked for."""

import dataclasses
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ktodata.errors import ModelError
from ktodata.generate.contract import TOO_LONG, Reply, Request, Sampling
from ktodata.generate.vllm import Vllm

QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart" / "model"


class Engine:
    """Replies with the seed; fails where a test says so."""

    made: Any = None
    failing = False

    def __init__(self, **settings: Any) -> None:
        Engine.made = self
        self.settings = settings
        self.calls: list[tuple[list[Any], list[Any]]] = []

    def generate(self, prompts: list[Any], parameters: list[Any], *, use_tqdm: bool) -> list[Any]:
        if Engine.failing:
            raise RuntimeError("CUDA error: no kernel image\nmore words")
        self.calls.append((prompts, parameters))
        return [
            types.SimpleNamespace(
                outputs=[
                    types.SimpleNamespace(text=f"seed {one.seed}", finish_reason="length" if one.seed == 1 else "stop")
                ]
            )
            for one in parameters
        ]


@dataclasses.dataclass
class Parameters:
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    max_tokens: int
    seed: int
    stop: list[str] | None


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("vllm")
    module.__spec__ = importlib.util.spec_from_loader("vllm", None)
    module.LLM, module.SamplingParams = Engine, Parameters  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(Engine, "failing", False)


@pytest.mark.usefixtures("stand_in")
def test_what_it_is_asked_for() -> None:
    sampling = Sampling(temperature=1.3, top_p=0.9, min_p=0.05, max_tokens=32)
    back_end = Vllm(str(QUICKSTART), sampling=sampling, chat="transcript", batch=2, precision="bfloat16")
    chat = [{"role": "user", "content": "hi"}]
    asked = [Request("a", chat, 1), Request("b", "some longer text, verbatim", 2), Request("c", "word " * 400, 3)]  # type: ignore[list-item]
    asked += [Request(f"k{n}", f"n {n}", n) for n in range(10, 60)]
    found = {request.key: outcome for request, outcome in back_end.generate(asked, known={"k10"})}
    assert found["a"] == Reply("seed 1", "length")
    assert found["b"] == Reply("seed 2", "stop")
    assert found["c"] == TOO_LONG
    assert len(found) == len(asked) - 1
    engine = Engine.made
    assert engine.settings["model"] == str(QUICKSTART)
    assert engine.settings["dtype"] == "bfloat16"
    lengths = [[len(prompt["prompt_token_ids"]) for prompt in prompts] for prompts, _ in engine.calls]
    assert [len(one) for one in lengths] == [32, 19], "portions of 16 batches"
    flat = [length for portion in lengths for length in portion]
    assert flat == sorted(flat, reverse=True)
    parameters = {one.seed: one for _, ones in engine.calls for one in ones}
    assert parameters[1] == Parameters(1.3, 0.9, -1, 0.05, 1.0, 32, 1, ["\nUser:", "\nAssistant:"])
    assert parameters[2].stop is None


@pytest.mark.usefixtures("stand_in")
def test_what_it_says_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "failing", True)
    back_end = Vllm(str(QUICKSTART), sampling=Sampling(max_tokens=8))
    with pytest.raises(ModelError, match=r"vLLM cannot run the model: CUDA error: no kernel image$"):
        list(back_end.generate([Request("a", "x", 1)], known=()))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_where_it_is_not_installed() -> None:
    with pytest.raises(ModelError, match="vLLM is not installed"):
        Vllm(str(QUICKSTART), sampling=Sampling())
