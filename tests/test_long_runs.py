"""What a run holds and writes does not grow with its steps, and mutated input never ends in a traceback."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import fuzz, long_run
from ktotrain import recipe
from ktotrain.plots import draw_plots


@pytest.mark.slow
def test_objects_and_tensors_do_not_grow_with_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_run, "COUNTED", 40)
    watch = long_run.Watch(trace=False, warm=40)
    shown = long_run.train(tmp_path, 130, watch, every=50)
    assert list(watch.alive) == [0, 40, 80, 120]
    objects, tensors = zip(*watch.alive.values(), strict=True)
    # All steps, their rows and packs are different. The first ones import and compile.
    assert tensors[2] == tensors[3]
    assert objects[3] - objects[2] < 400
    assert len(shown.splitlines()) < 130
    assert len((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 130 + 3


@pytest.mark.slow
def test_plots_of_a_long_run_stay_small(tmp_path: Path) -> None:
    sizes = []
    for steps in (300, 30_000):
        log = tmp_path / f"{steps}.jsonl"
        lines = (json.dumps({"step": step, "loss": (step * 7919 % 1000) / 1000}) for step in range(steps))
        log.write_text("\n".join(lines), encoding="utf-8")
        (path,) = draw_plots(log, tmp_path / f"plots-{steps}")
        with Image.open(path) as picture:
            sizes.append((path.stat().st_size, picture.size))
    assert sizes[1][1] == sizes[0][1]
    assert sizes[1][0] < 300_000


@pytest.mark.parametrize("kinds", [range(4), range(5, 10)], ids=["recipes", "rows"])
def test_mutated_input_ends_with_one_clear_error(kinds: range, capsys: pytest.CaptureFixture[str]) -> None:
    done = fuzz.run([number for number in range(20_000, 20_080) if number % 10 in kinds])
    assert [(number, outcome) for number, outcome in done if outcome.finding] == []
    assert {outcome.code for _, outcome in done} >= {0, 1}


@pytest.mark.slow
def test_mutated_input_at_length() -> None:
    done = fuzz.run(range(30_000, 30_500))
    assert [(number, outcome) for number, outcome in done if outcome.finding] == []


def test_a_traceback_and_a_hang_are_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("a bug")

    def endless(*_: Any) -> Any:
        while True:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "load_recipe", broken)
        assert {outcome.finding for _, outcome in fuzz.run(range(2))} == {"KeyError: 'a bug'"}
    monkeypatch.setattr(fuzz, "CPU_SECONDS", 0.2)
    monkeypatch.setattr(recipe, "load_recipe", endless)
    assert {outcome.finding for _, outcome in fuzz.run(range(1))} == {"hangs"}
    assert len(re.findall("hangs", capsys.readouterr().out)) == 1


def test_a_case_can_be_made_again(capsys: pytest.CaptureFixture[str]) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes().replace(str(folder.parent).encode(), b"") for path in folder.iterdir()}

    seen: list[dict[str, bytes]] = []
    honest = fuzz.Fuzz.case

    def case(self: fuzz.Fuzz, number: int) -> fuzz.Outcome:
        outcome = honest(self, number)
        seen.append(files(self.work))
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuzz.Fuzz, "case", case)
        fuzz.run([11])
        fuzz.run([3, 11])
    assert seen[0] == seen[2] != seen[1]
    assert io.BytesIO(next(iter(seen[0].values()))).read()
