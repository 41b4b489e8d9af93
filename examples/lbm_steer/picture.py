# SPDX-License-Identifier: BSD-3-Clause
"""The picture: the wake as it was at the end, and what the probe saw until then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle

if TYPE_CHECKING:
    from pathlib import Path

    from .flow import Channel
    from .study import Finding, Run

BLUE, RED, GREY = "#4477aa", "#cc3311", "#bbbbbb"
STYLE = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10.5,
}


def draw(channel: Channel, run: Run, finding: Finding, planned: int, path: Path) -> None:
    """Draw a run that was planned for so many steps."""
    with mpl.rc_context(STYLE):
        figure: Any = Figure(figsize=(9.5, 6.2), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(1.5, 1.0))
        _draw_wake(figure, above, channel, run)
        _draw_probe(below, run, finding, planned)
        figure.savefig(path, dpi=110)


def _draw_wake(figure: Any, axes: Any, channel: Channel, run: Run) -> None:
    u, v = run.velocity
    turning = np.gradient(v, axis=0) - np.gradient(u, axis=1)
    turning[channel.obstacle] = 0.0
    most = float(np.quantile(np.abs(turning), 0.99))
    image = axes.imshow(turning.T, origin="lower", cmap="RdBu_r", vmin=-most, vmax=most,
                        interpolation="bicubic")  # fmt: skip
    centre = channel.length / 4, channel.width / 2 - 0.5
    axes.add_patch(Circle(centre, channel.diameter / 2, color="#444444"))
    axes.plot(*channel.probe, "o", color="black", ms=5)
    axes.annotate("probe", channel.probe, xytext=(6, 5), textcoords="offset points")
    axes.set(xlabel="cells along the channel", ylabel="cells across")
    axes.set_title(f"The wake at step {run.steps:,}: which way, and how fast, the fluid turns")
    figure.colorbar(image, ax=axes, shrink=0.8, label="vorticity / (1/step)")


def _draw_probe(axes: Any, run: Run, finding: Finding, planned: int) -> None:
    steps, values = run.samples.T
    axes.plot(steps, values, color=BLUE, lw=1)
    axes.axvspan(run.steps, planned, color=GREY, alpha=0.4, lw=0)
    if run.stopped:
        saved = 100 * (planned - run.steps) / planned
        axes.axvline(finding.at_step, color=RED, lw=1.2)
        axes.annotate(f"not needed: {saved:.0f} % of the steps", ((run.steps + planned) / 2, 0),
                      ha="center", va="center")  # fmt: skip
    known = "not known" if finding.strouhal is None else f"{finding.strouhal:.4f}"
    axes.set_title(f"What the probe saw; Strouhal number {known}")
    axes.set(xlabel="step", ylabel="speed across / (cells/step)", xlim=(0, planned))
