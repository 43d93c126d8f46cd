"""Plots of a run, from its metrics.jsonl: loss, rewards, reference point, and how well rewards tell the classes apart.

Drawing is deterministic: the same metrics and libraries give the same bytes. matplotlib is used without pyplot, so
no display is needed and no global state changes.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktotrain.errors import DataError
from ktotrain.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Runs with more points than this get a smoothed line over the raw one.
SMOOTH_FROM = 50
# Most points drawn of one line: beyond that a pixel would hold several. Each is the mean of its stretch of steps.
MOST_POINTS = 1000
# The palette of Okabe and Ito, told apart by colour-blind readers too.
BLUE, RED, GREEN, GREY, ORANGE, BLACK = "#0072B2", "#D55E00", "#009E73", "#7F7F7F", "#E69F00", "#222222"


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot: the metric's key, what the legend calls it, its colour."""

    key: str
    name: str
    colour: str


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture. `guide` is a horizontal line that readers compare with, and `limits` the vertical axis."""

    name: str
    title: str
    axis: str
    curves: tuple[Curve, ...]
    guide: float | None = None
    limits: tuple[float, float] | None = None


PLOTS = (
    Plot("loss", "Loss", "mean loss per row", (Curve("loss", "training", BLUE),)),
    Plot(
        "rewards",
        "Rewards: beta × log-ratio of policy to reference",
        "reward per row (nats × beta)",
        (
            Curve("rewards/chosen", "desirable", GREEN),
            Curve("rewards/rejected", "undesirable", RED),
            Curve("rewards/margins", "margin", BLUE),
        ),
        guide=0.0,
    ),
    Plot(
        "kl",
        "Reference point z_ref, from mismatched completions",
        "nats per completion",
        (Curve("kl_raw", "before the clamp", ORANGE), Curve("kl", "as used (at least 0)", BLUE)),
        guide=0.0,
    ),
    Plot(
        "separation",
        "How well rewards tell desirable from undesirable rows",
        "share (0.5 = cannot)",
        (Curve("rewards/auc", "AUC", BLUE), Curve("rewards/accuracy", "accuracy", ORANGE)),
        guide=0.5,
        limits=(-0.02, 1.02),
    ),
)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, in order; a last line that was cut off by a kill is left out.

    Raises:
        DataError: there is no such file, or a line is not a JSON object with a `step`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError("no such file", where=str(path), do="Name the folder of a run that has logged") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from None
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise DataError(f"not JSON: {error.msg}", where=f"{path}:{number}") from None
        if not isinstance(record, dict) or not _is_number(record.get("step")):
            raise DataError("not a JSON object with a number `step`", where=f"{path}:{number}")
        records.append(record)
    return records


def draw_plots(metrics_file: Path, folder: Path) -> list[Path]:
    """Draws `loss.png`, `rewards.png`, `kl.png` and `separation.png` into a folder; returns those it drew.

    A plot for which nothing was logged (kl of a loss without one) is not drawn. Lines with `eval_` keys become points.

    Raises:
        DataError: the metrics cannot be read, or hold no logged step.
        TrainingError: a picture cannot be written.
    """
    records = read_metrics(metrics_file)
    drawn = []
    for plot in PLOTS:
        picture = _draw(plot, records)
        if picture is not None:
            path = folder / f"{plot.name}.png"
            write_atomic(path, picture)
            drawn.append(path)
    if not drawn:
        raise DataError("holds no logged step", where=str(metrics_file), do="Draw plots once the run has logged a step")
    return drawn


def series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """The steps at which a key was logged, and its values there.

    A run that was killed and resumed may have logged a step twice: the last line counts.
    """
    points = {record["step"]: record[key] for record in records if _is_number(record.get(key))}
    steps = sorted(points)
    return [float(step) for step in steps], [float(points[step]) for step in steps]


def _draw(plot: Plot, records: Sequence[Mapping[str, Any]]) -> bytes | None:
    """The picture as PNG, or None if none of its keys was logged."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    lines = [(curve, series(records, curve.key), series(records, f"eval_{curve.key}")) for curve in plot.curves]
    if not any(train[0] or evaluated[0] for _, train, evaluated in lines):
        return None
    if plot.name == "kl" and not any(value for _, train, evaluated in lines for value in (*train[1], *evaluated[1])):
        return None  # a loss without a reference point logs zeros
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    smoothed = max(len(train[0]) for _, train, _ in lines) > SMOOTH_FROM
    if plot.guide is not None:
        axes.axhline(plot.guide, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for curve, train, evaluated in lines:
        _draw_line(axes, curve, *train, smoothed=smoothed)
        if evaluated[0]:
            axes.plot(
                *evaluated, "o", color=curve.colour, markeredgecolor=BLACK, markersize=6, zorder=4,
                label=f"{curve.name}, evaluation" if len(lines) > 1 else "evaluation",
            )  # fmt: skip
    if plot.limits:
        axes.set_ylim(*plot.limits)
    elif smoothed:
        _limit_to_most(axes, [value for _, train, evaluated in lines for value in (*train[1], *evaluated[1])])
    axes.set_title(plot.title, loc="left", fontsize=11, color=BLACK)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(plot.axis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    axes.grid(True, color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="upper left", bbox_to_anchor=(0, -0.14))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # the version would change the bytes
    return buffer.getvalue()


def _draw_line(axes: Axes, curve: Curve, steps: list[float], values: list[float], *, smoothed: bool) -> None:
    if not steps:
        return
    if not smoothed:
        axes.plot(steps, values, color=curve.colour, linewidth=1.6, marker=".", label=curve.name, zorder=3)
        return
    axes.plot(*thin(steps, values), color=curve.colour, linewidth=0.8, alpha=0.25, zorder=2)
    axes.plot(*thin(steps, smooth(values)), color=curve.colour, linewidth=1.8, label=curve.name, zorder=3)


def smooth(values: Sequence[float]) -> list[float]:
    """A centred moving average over a fifteenth of the run, so that it lags behind nothing.

    At the ends the window is cut off, not narrowed evenly: a step alone there would show as a hook that means nothing.
    """
    half = max(1, len(values) // 30)
    sums = list(itertools.accumulate(values, initial=0.0))
    spans = ((max(0, here - half), min(len(values), here + half + 1)) for here in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def thin(steps: Sequence[float], values: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """At most `most` points: means of equal stretches, so that no spike is picked or lost by chance."""
    if len(steps) <= most:
        return list(steps), list(values)
    edges = [round(index * len(steps) / most) for index in range(most + 1)]
    spans = list(itertools.pairwise(edges))

    def means(line: Sequence[float]) -> list[float]:
        return [sum(line[start:end]) / (end - start) for start, end in spans]

    return means(steps), means(values)


def _limit_to_most(axes: Axes, values: list[float]) -> None:
    """Leaves the outermost half per cent on either side out of the picture if it would squash the rest."""
    ordered = sorted(values)
    cut = len(ordered) // 200
    low, high = ordered[cut], ordered[-1 - cut]
    span = high - low
    if span > 0 and ordered[-1] - ordered[0] > 3 * span:
        axes.set_ylim(low - 0.25 * span, high + 0.25 * span)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
