"""Plots: drawn from any metrics.jsonl that a run can leave behind, readable at any length, the same bytes each time."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ktotrain.errors import DataError, TrainingError
from ktotrain.plots import MOST_POINTS, PLOTS, draw_plots, read_metrics, series, smooth, thin

BLUE = (0x00, 0x72, 0xB2)


def metrics(steps: int) -> list[dict[str, Any]]:
    """What a run logs: a class absent now and then, and an evaluation each tenth step."""
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        part = step / steps
        line = {"step": step, "epoch": part, "loss": 0.5 - 0.2 * part + 0.02 * math.sin(7 * step), "grad_norm": 1.0}
        line |= {"kl_raw": math.sin(step), "kl": max(0.0, math.sin(step)), "rewards/rejected": -part}
        if step % 7:
            line |= {"rewards/chosen": part, "rewards/margins": 2 * part, "rewards/auc": 0.5 + part / 2}
            line |= {"rewards/accuracy": 0.5 + part / 3}
        lines.append(line)
        if step % 10 == 0:
            lines.append({"step": step, "epoch": part, "eval_loss": 0.45, "eval_rewards/margins": part})
    return lines


def written(folder: Path, lines: list[dict[str, Any]]) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def pixels(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def close_to(image: Any, colour: tuple[int, int, int]) -> Any:
    """Where a picture has about this colour."""
    return (abs(image - np.array(colour)).max(axis=2) < 40).nonzero()


@pytest.mark.parametrize("steps", [1, 20, 200])
def test_every_plot_is_drawn(tmp_path: Path, steps: int) -> None:
    drawn = draw_plots(written(tmp_path, metrics(steps)), tmp_path / "plots")
    assert [path.name for path in drawn] == ["loss.png", "rewards.png", "kl.png", "separation.png"]
    for path in drawn:
        height, width, _ = pixels(path).shape
        assert (width, height) == (960, 540)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(path.name for path in drawn)


def test_the_loss_that_falls_is_seen_to_fall(tmp_path: Path) -> None:
    draw_plots(written(tmp_path, metrics(200)), tmp_path)
    image = pixels(tmp_path / "loss.png")[:430]  # without the legend
    rows, columns = close_to(image, BLUE)
    left, right = columns < 200, columns > 760
    assert left.any()
    assert right.any()
    assert rows[left].mean() + 150 < rows[right].mean()  # pixels count downwards


@pytest.mark.slow
def test_drawing_is_deterministic_and_replaces_old_plots(tmp_path: Path) -> None:
    path = written(tmp_path, metrics(120))
    first = [plot.read_bytes() for plot in draw_plots(path, tmp_path)]
    assert [plot.read_bytes() for plot in draw_plots(path, tmp_path)] == first
    written(tmp_path, metrics(60))
    assert [plot.read_bytes() for plot in draw_plots(path, tmp_path)] != first


def test_a_loss_without_reference_point_has_no_kl_plot(tmp_path: Path) -> None:
    lines = [{key: value for key, value in line.items() if key != "kl_raw"} | {"kl": 0} for line in metrics(20)]
    drawn = draw_plots(written(tmp_path, lines), tmp_path)
    assert "kl.png" not in [path.name for path in drawn]


def test_an_absent_class_leaves_a_gap_in_the_points_not_a_nan() -> None:
    steps, values = series(metrics(14), "rewards/chosen")
    assert steps == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13]
    assert all(map(math.isfinite, values))


def test_a_step_logged_twice_counts_once_and_the_last_line_holds() -> None:
    lines = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}, {"step": 2, "loss": 3.0}, {"step": 3, "loss": "x"}]
    assert series(lines, "loss") == ([1.0, 2.0], [1.0, 3.0])


def test_smoothing_keeps_a_constant_and_lags_behind_nothing() -> None:
    assert smooth([0.25] * 99) == pytest.approx([0.25] * 99)
    line = [float(step) for step in range(300)]
    assert smooth(line)[10:-10] == pytest.approx(line[10:-10])
    noise = [(-1.0) ** step for step in range(300)]
    assert max(map(abs, smooth(noise)[10:-10])) < 0.1


def test_long_runs_are_drawn_with_a_bounded_number_of_points(tmp_path: Path) -> None:
    count = 3 * MOST_POINTS + 7
    steps, values = thin(range(count), [1.0] * count)
    assert len(steps) == len(values) == MOST_POINTS
    assert values == pytest.approx([1.0] * MOST_POINTS)
    assert steps == sorted(steps)
    assert sum(thin(range(2 * MOST_POINTS), range(2 * MOST_POINTS))[1]) * 2 == sum(range(2 * MOST_POINTS))
    assert thin([1, 2], [3, 4]) == ([1, 2], [3, 4])


def test_a_spike_does_not_squash_the_rest(tmp_path: Path) -> None:
    lines = metrics(200)
    lines[0]["loss"] = 1000.0
    draw_plots(written(tmp_path, lines), tmp_path)
    rows, _ = close_to(pixels(tmp_path / "loss.png")[:430], BLUE)
    assert np.ptp(rows) > 200


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, metrics(5))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4, 5]
    assert len(draw_plots(path, tmp_path)) == len(PLOTS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no logged step"),
        ('{"step": 1, "epoch": 1}\n', "holds no logged step"),
        ('{"step": 1\n{"step": 2, "loss": 1}\n', "metrics.jsonl:1: not JSON"),
        ('{"loss": 1}\n', "metrics.jsonl:1: not a JSON object with a number `step`"),
        ("[1]\n", "metrics.jsonl:1: not a JSON object"),
    ],
)
def test_what_are_no_metrics_says_so(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        draw_plots(path, tmp_path / "plots")
    assert says in str(caught.value)
    assert not (tmp_path / "plots").exists()


def test_no_file_and_no_place_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        draw_plots(tmp_path / "metrics.jsonl", tmp_path)
    path = written(tmp_path, metrics(3))
    with pytest.raises(TrainingError, match=r"metrics\.jsonl/loss\.png: cannot be written"):
        draw_plots(path, path)
