"""What the benchmark makes of what both sides measured: ratios, shares, and sides that failed."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sides, suite
from benchmarks.shapes import flops_per_token, head_flops_per_token, spared_flops_per_token
from benchmarks.vs_trl import figures, lengthen, main, merge, parser, report, trouble_with
from ktotrain.attention_pack import Ragged
from ktotrain.batch import Unit

STEP = dict.fromkeys(sides.COUNTED, 0) | {"tokens": 300, "graded_tokens": 100, "scored": 90, "graded_scored": 30}
GEMM = {"rate": 1e9, "device": "CPU"}


def options(*arguments: str) -> argparse.Namespace:
    return parser().parse_args(["rows.jsonl", "--batch", "4", "--steps", "4", *arguments])


def side(seconds: float, peak: float, **more: Any) -> dict[str, Any]:
    return {
        "seconds": [9.0, 9.0, seconds, seconds],
        "losses": [0.5, 0.4, 0.3, 0.2],
        "positions": 100,
        "tokens": 80,
        "peak": peak * 2**30,
        **more,
    }


def both() -> dict[str, Any]:
    ours = side(0.5, 1.0, work=[STEP] * 4, packing=[0.005] * 4, layout="shared")
    return {"gemm": GEMM, "trl": merge([side(2.0, 3.0)]), "ktotrain": merge([ours])}


def test_the_first_two_steps_do_not_count() -> None:
    found = figures(both(), options())
    assert (found["ratio"], found["memory"], found["losses"]) == (4, 3, 0)
    work = flops_per_token("7m") * (300 + 2 * 100) + head_flops_per_token("7m") * (90 + 2 * 30)
    assert found["efficiency"] == pytest.approx(work / 0.5 / 1e9)
    assert found["trl_efficiency"] == pytest.approx(work / 2.0 / 1e9)
    assert found["packing"] == pytest.approx(0.01)
    assert "4.00 x rows/s (4.00 x by all steps together), 3.00 x less memory" in report(both(), options())
    assert figures(both(), options("--lora"))["efficiency"] < found["efficiency"], "frozen weights have no gradient"


def test_a_few_long_steps_count_in_the_ratio_of_all_steps_together() -> None:
    results = both()
    results["trl"]["seconds"] = [2.0, 2.0, 8.0]
    results["ktotrain"]["seconds"] = [0.5, 0.5, 0.5]
    found = figures(results, options())
    assert (found["ratio"], found["total_ratio"]) == (4, 8)


def test_both_ways_of_the_reference_are_measured_in_one_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured: list[tuple[bool, bool]] = []

    def measure(settings: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
        there = parser().parse_args(arguments)
        measured.append((there.online, there.precomputed))
        return both()

    monkeypatch.setattr("benchmarks.vs_trl.measure", measure)
    monkeypatch.setattr("benchmarks.vs_trl.trouble_with", lambda _: "")
    found = tmp_path / "found.json"
    for arguments in ([], ["--online"], ["--precomputed"]):
        monkeypatch.setattr("sys.argv", ["vs_trl", "rows.jsonl", "--json", str(found), *arguments])
        main()
    assert measured == [(True, False), (False, True), (True, False), (False, True)]
    assert "trl" in json.loads(found.read_text()), "one way is a file as it always was"


def rows_of(prompts: str, folder: Path) -> list[str]:
    """What is measured in a step of four, of rows with these prompts."""
    lines = [json.dumps({"prompt": prompt, "completion": str(place)}) for place, prompt in enumerate(prompts)]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    chosen = options("--steps", "1", "--own-order")
    chosen.work = folder
    return [row["prompt"] + row["completion"] for row in sides.first_rows(chosen)]


def test_own_order_is_measured_on_all_rows_of_the_first_prompts(tmp_path: Path) -> None:
    assert rows_of("abcdeabcde", tmp_path) == ["a0", "b1", "a5", "b6"]
    assert rows_of("abbb" * 9, tmp_path) == ["a0", "a4", "a8", "a12"]


def test_what_the_last_layer_spares_is_no_work() -> None:
    spared = both()
    spared["ktotrain"]["work"] = [STEP | {"spared": 50, "graded_spared": 20}] * 2
    less = figures(both(), options())["efficiency"] - figures(spared, options())["efficiency"]
    assert less == pytest.approx(spared_flops_per_token("7m") * (50 + 2 * 20) / 0.5 / 1e9)


def test_attention_is_work_that_is_counted_apart() -> None:
    # A prompt of 3 tokens with completions of 2 and 4: 5 causal tokens, then 4 that see the prompt and themselves.
    segments = Ragged((Unit(3, (2, 4)),)).segments
    pairs = sides.attended_pairs(segments, 1)
    assert pairs == (1 + 2 + 3 + 4 + 5) + (4 + 5 + 6 + 7)
    assert sides.attended_pairs(segments, 3, [2, 3, 5, 6, 7]) == 3 * pairs - (1 + 2)
    assert sides.attended_pairs(segments, 2, [2, 3]) == 2 * pairs - (1 + 2) - (4 + 5 + 6 + 7)
    attending = both()
    attending["ktotrain"]["work"] = [STEP | {"attended": pairs, "graded_attended": 10}] * 2
    found = figures(attending, options())
    assert found["efficiency"] == figures(both(), options())["efficiency"]
    # Scores and weighted values, 256 numbers each.
    more = 2 * 2 * 256 * (pairs + 2 * 10)
    assert found["with_attention"] - found["efficiency"] == pytest.approx(more / 0.5 / 1e9)


def test_one_step_is_enough_for_memory() -> None:
    one = side(2.0, 3.0) | {"seconds": [2.0], "losses": [0.5]}
    assert merge([one])["seconds"] == [2.0]
    assert "error" in merge([one | {"seconds": []}])


@pytest.mark.parametrize("failed", ["trl", "ktotrain"])
def test_a_side_without_memory_is_reported_and_the_other_too(failed: str) -> None:
    results = both() | {failed: merge([{"error": "out of memory", "peak": 2.0**37}])}
    said = report(results, options())
    assert "out of memory" in said
    assert "ratio" not in said
    assert ("GEMM rate" in said) == (failed == "trl")
    row = suite.table_row("1.5b-full", results, options())
    assert row.count("|") == suite.HEADER[0].count("|")
    assert "out of memory" in row
    assert "128.00 GiB" in row


def test_out_of_memory_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from ktotrain.errors import TrainingError

    def too_much(_: argparse.Namespace) -> dict[str, Any]:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except torch.OutOfMemoryError as error:
            raise TrainingError("out of memory") from error

    def broken(_: argparse.Namespace) -> dict[str, Any]:
        raise ValueError("something else")

    child = options("--child", "ktotrain", "--work", str(tmp_path))
    monkeypatch.setattr(sides, "run_ktotrain", too_much)
    sides.run_child(child)
    assert json.loads((tmp_path / "ktotrain.json").read_text())["error"] == "out of memory"
    monkeypatch.setattr(sides, "run_ktotrain", broken)
    with pytest.raises(ValueError, match="something else"):
        sides.run_child(child)


def test_rows_grow_to_a_length_and_no_further(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n} " * 5, "completion": f"c{n}", "label": n % 2 == 0, "id": "x"} for n in range(6)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lengthen(path, 60)
    longer = [json.loads(line) for line in path.read_text().splitlines()]
    sizes = [len(row["prompt"] + row["completion"]) for row in longer]
    assert all(30 < size < 60 for size in sizes)
    for row, before in zip(longer, rows, strict=True):
        assert row["prompt"].endswith(before["prompt"])
        assert (row["completion"], row["label"]) == (before["completion"], before["label"])


def test_the_suite_names_what_the_parser_takes() -> None:
    for arguments in [*suite.GPU.values(), *suite.CPU.values()]:
        found = parser().parse_args(["rows", *suite.ON_GPU, *arguments])
        assert found.steps >= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "cuda"), "no GPU that torch can use"),
        (("--batch", "1"), "TRL refuses steps of one row"),
        (("--json", "nowhere/at/all.json"), "no such folder: nowhere/at"),
        (("--only", "ktotrain", "--batch", "1"), ""),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_runs(
    arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    found = trouble_with(options(*arguments))
    assert words in found
    assert bool(found) == bool(words)


def test_without_trl_the_command_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["vs_trl", "rows.jsonl"])
    with pytest.raises(SystemExit, match=r"TRL is not installed: pip install -e '.\[bench\]', or --only ktotrain"):
        main()
    assert not trouble_with(options("--only", "ktotrain"))


@pytest.mark.parametrize("option", ["--steps", "--batch", "--rounds", "--max-length", "--pack-tokens"])
def test_numbers_are_from_one(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options(option, "0")
    assert f"argument {option}: invalid positive value: '0'" in capsys.readouterr().err


def test_the_suite_runs_every_test_that_needs_a_gpu_and_stops_in_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their file alone: the others import what a machine for measuring need not have."""
    mark = "pytest.mark." + "gpu,"
    tests = Path(__file__).parent
    assert [f"tests/{path.name}" for path in tests.glob("*.py") if mark in path.read_text()] == [suite.GPU_TESTS]
    assert suite.run_tests(tmp_path, 0.01) == 1
    assert "stopped after 0 s" in capsys.readouterr().out
