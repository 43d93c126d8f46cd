"""Pictures of a dataset. matplotlib is used without pyplot: no display is needed, no global state changes, and the same
counts give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from ktodata.report.facts import Counts

# The palette of Okabe and Ito, told apart by colour-blind readers too.
DESIRABLE, UNDESIRABLE = "#0072B2", "#D55E00"
NAMES = {True: ("desirable", DESIRABLE), False: ("undesirable", UNDESIRABLE)}
BARS = 12  # values that one picture shows


def lengths(counts: Counts) -> bytes:
    """A PNG: how long completions are, per class."""

    def draw(axes: Any) -> None:
        import numpy as np

        longest = max((max(found) for found in counts.lengths.values() if found), default=1)
        bins = np.geomspace(1, max(2, longest) * 1.01, 40)
        for label, (name, colour) in NAMES.items():
            found = np.maximum(1, np.array(counts.lengths[label]))
            if len(found):
                shares = np.full(len(found), 1 / len(found))
                axes.hist(found, bins=bins, weights=shares, histtype="stepfilled", alpha=0.35, color=colour, label=name)
                axes.hist(found, bins=bins, weights=shares, histtype="step", color=colour)
        axes.set(xscale="log", xlabel="characters of a completion", ylabel="share of the class's rows")
        axes.legend(frameon=False)

    return _picture(draw, 3.2)


def shares(counts: Counts) -> bytes:
    """A PNG: rows of each class by origin and strategy."""
    groups = _groups(counts)

    def draw(axes: Any) -> None:
        names = [name for name, _, _ in groups]
        left = [0] * len(groups)
        for label, (name, colour) in NAMES.items():
            widths = [one if label else other for _, one, other in groups]
            axes.barh(names, widths, left=left, height=0.7, color=colour, label=name)
            left = [one + more for one, more in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set_xlabel("rows")
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)  # above, where no bar is

    return _picture(draw, 1.6 + 0.35 * len(groups))


def _groups(counts: Counts) -> list[tuple[str, int, int]]:
    """Origins, and instead of `synthetic` each strategy."""
    origins = [one for one in counts.table("origin") if one[0] != "synthetic"]
    found = [*origins, *(one for one in counts.table("strategy") if one[0])]
    if len(found) > BARS:
        rest = found[BARS - 1 :]
        found = [*found[: BARS - 1], ("others", sum(one[1] for one in rest), sum(one[2] for one in rest))]
    # matplotlib takes text between dollar signs for formulas.
    return [(name.replace("$", r"\$"), one, other) for name, one, other in found]


def _picture(draw: Callable[[Any], None], height: float) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
