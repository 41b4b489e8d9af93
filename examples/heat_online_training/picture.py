# SPDX-License-Identifier: BSD-3-Clause
"""The picture: what was learnt, how fast, and who worked when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .training import Learnt, Produced

BLUE, ORANGE, RED, GREY = "#4477aa", "#ee7733", "#cc3311", "#888888"
STYLE = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10.5,
}


def draw(made: Sequence[Produced], learnt: Learnt, goal: float, path: Path) -> None:
    """Draw what producers and learner have done."""
    first = min(begin for one in made for begin, _ in one.times)
    with mpl.rc_context(STYLE):
        figure: Any = Figure(figsize=(10.5, 6.4), layout="constrained")
        axes = figure.subplot_mosaic(
            [["true", "said", "error"], ["who", "who", "who"]],
            width_ratios=(1, 1, 1.5), height_ratios=(1.6, 1.0),
        )  # fmt: skip
        _draw_plates(figure, axes["true"], axes["said"], learnt)
        _draw_error(axes["error"], learnt, goal)
        _draw_work(axes["who"], made, learnt, first)
        figure.savefig(path, dpi=110)


def _draw_plates(figure: Any, left: Any, right: Any, learnt: Learnt) -> None:
    assert learnt.example is not None
    true, said = learnt.example
    for axes, plate, title in ((left, true, "Simulated"), (right, said, "Learnt")):
        image = axes.imshow(plate.T, origin="lower", cmap="inferno", vmin=0, vmax=true.max())
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.colorbar(image, ax=[left, right], shrink=0.7, label="temperature", location="bottom")


def _draw_error(axes: Any, learnt: Learnt, goal: float) -> None:
    axes.semilogy([n for _, n, _ in learnt.errors], [e for _, _, e in learnt.errors], color=ORANGE)
    lines = (
        (learnt.average_error, "average of all plates", GREY, 0.98, "right"),
        (goal, "goal: stop", RED, 0.02, "left"),
    )
    for level, words, colour, place, side in lines:
        axes.axhline(level, color=colour, lw=1, ls="--")
        axes.annotate(words, (place, level), xycoords=("axes fraction", "data"), ha=side,
                      xytext=(0, 3), textcoords="offset points", color=colour)  # fmt: skip
    axes.set(xlabel="samples that have come", ylabel="relative error on unseen plates")
    axes.set_title("While samples come")


def _draw_work(axes: Any, made: Sequence[Produced], learnt: Learnt, first: float) -> None:
    rows = [(f"producer {i}", one.times, BLUE) for i, one in enumerate(made)]
    rows.append(("learner", learnt.times, ORANGE))
    for row, (_, times, colour) in enumerate(reversed(rows)):
        bars = [(begin - first, end - begin) for begin, end in times]
        axes.broken_barh(bars, (row - 0.4, 0.8), color=colour, lw=0)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
    if learnt.told_s is not None:
        axes.axvline(learnt.told_s - first, color=RED, lw=1.2)
        axes.annotate("stop", (learnt.told_s - first, 1.0), xycoords=("data", "axes fraction"),
                      ha="right", va="bottom", color=RED)  # fmt: skip
    axes.set(xlabel="time / s")
    axes.set_title("Who worked when")
