# SPDX-License-Identifier: BSD-3-Clause
"""The picture: the model after each lesson, and how wrong it was when it was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from . import loop, model

if TYPE_CHECKING:
    from pathlib import Path

COLOURS = ("#bbbbbb", "#66ccee", "#4477aa", "#aa3377", "#228833", "#ee7733", "#ccbb44")
STYLE = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10.5,
}


def draw(outcome: loop.Outcome, tolerance: float, path: Path) -> None:
    """Draw what the loop has brought."""
    with mpl.rc_context(STYLE):
        figure: Any = Figure(figsize=(10.5, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_models(left, outcome)
        _draw_checks(right, outcome, tolerance)
        figure.savefig(path, dpi=110)


def _draw_models(axes: Any, outcome: loop.Outcome) -> None:
    x = np.linspace(0.0, model.SPAN, 400)
    axes.plot(x, np.sin(x), color="black", lw=4, alpha=0.25, label="sin(x)")
    for version, sizes in enumerate(outcome.models):
        colour = COLOURS[version % len(COLOURS)]
        last = version == len(outcome.models) - 1
        label = "untaught" if version == 0 else f"taught {version} time{'s' * (version > 1)}"
        axes.plot(x, model.predict(sizes, x), color=colour, lw=1.8 if last else 1.1, label=label)
        if version:
            place = outcome.places[version - 1]
            low, high = max(0.0, place - loop.REACH), min(model.SPAN, place + loop.REACH)
            axes.plot((low, high), (-1.45 - 0.09 * version,) * 2, color=colour, lw=4)
    axes.set(ylim=(-1.65 - 0.09 * len(outcome.models), 1.6), xlabel="x")
    axes.set_title("The model after each lesson (bars: where it was taught)")
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")


def _draw_checks(axes: Any, outcome: loop.Outcome, tolerance: float) -> None:
    for i, one in enumerate(outcome.checks, 1):
        colour = COLOURS[one.version % len(COLOURS)]
        face = colour if one.wrong < tolerance else "white"
        axes.semilogy(i, max(one.wrong, 1e-6), "o", color=colour, mfc=face, mew=1.8, ms=8)
    axes.axhline(tolerance, color="#cc3311", lw=1, ls="--")
    axes.annotate("good enough below", (0.99, tolerance), xycoords=("axes fraction", "data"),
                  ha="right", va="bottom", color="#cc3311")  # fmt: skip
    axes.set(xlabel="question", ylabel="how wrong the model was")
    axes.set_title("Each question (open: a lesson followed)")
