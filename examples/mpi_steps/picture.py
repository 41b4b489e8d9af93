# SPDX-License-Identifier: BSD-3-Clause
"""The picture: how the error falls with the grid, and which step had which cores when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .steps import Solved

#: A palette that colour-blind readers can tell apart, by position of the number of ranks.
COLOURS = ("#4477aa", "#ee7733", "#228833", "#aa3377", "#66ccee", "#bbbbbb")
MARKERS = "osD^vP"
STYLE = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10.5,
}


def draw(found: Sequence[Solved], cores: int, path: Path) -> None:
    """Draw what the steps have brought; `cores` is the number of the allocation."""
    ranks = sorted({one.ranks for one in found})
    style = {n: (COLOURS[i % 6], MARKERS[i % 6]) for i, n in enumerate(ranks)}
    with mpl.rc_context(STYLE):
        figure: Any = Figure(figsize=(10.5, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.6))
        _draw_errors(left, found, style)
        _draw_cores(right, found, cores, style)
        figure.savefig(path, dpi=110)


def _draw_errors(axes: Any, found: Sequence[Solved], style: dict[int, tuple[str, str]]) -> None:
    for i, (ranks, (colour, marker)) in enumerate(style.items()):
        mine = sorted((1 / (one.n + 1), one.error) for one in found if one.ranks == ranks)
        # The same numbers lie on each other: larger marks beneath.
        axes.loglog(*zip(*mine, strict=True), marker, color=colour, mfc="none", mew=1.5,
                    ms=12 - 3 * i, label=f"{ranks} rank{'s' * (ranks > 1)}")  # fmt: skip
    widths = sorted({1 / (one.n + 1) for one in found})
    last = max(found, key=lambda one: one.n).error
    axes.loglog(widths, [last * (h / widths[0]) ** 2 for h in widths], color="#888888", lw=1,
                zorder=0, label="second order")  # fmt: skip
    axes.set_xticks(widths, [f"1/{round(1 / h)}" for h in widths], rotation=45)
    axes.minorticks_off()
    axes.set(xlabel="distance of points h", ylabel="largest error")
    axes.set_title("The error, on one rank as on many")
    axes.legend(frameon=False)


def _draw_cores(
    axes: Any, found: Sequence[Solved], cores: int, style: dict[int, tuple[str, str]]
) -> None:
    """One row for each core; a step takes as many as it has ranks."""
    first = min(one.began_s for one in found)
    long_s = (max(one.ended_s for one in found) - first) / 25  # there is room for a text
    free_at = [0.0] * cores
    for one in sorted(found, key=lambda one: one.began_s):
        begin, end = one.began_s - first, one.ended_s - first
        free = [row for row in range(cores) if free_at[row] <= begin + 1e-3]
        rows = (free or sorted(range(cores), key=lambda row: free_at[row]))[: one.ranks]
        for row in rows:
            free_at[row] = end
            axes.barh(row, end - begin, left=begin, height=0.9, color=style[one.ranks][0],
                      edgecolor=style[one.ranks][0], linewidth=0.8)  # fmt: skip
        if end - begin > long_s:
            axes.annotate(f"{one.n}²", (begin, sum(rows) / len(rows)), xytext=(2, 0), va="center",
                          textcoords="offset points", color="white", fontsize=7)  # fmt: skip
    axes.set(xlabel="time / s", ylabel="core", ylim=(-0.6, cores - 0.4))
    axes.set_yticks(range(0, cores, max(1, cores // 8)))
    axes.set_title("Steps on the cores of the allocation (white: ranks start or end)")
