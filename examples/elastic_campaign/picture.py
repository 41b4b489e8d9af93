# SPDX-License-Identifier: BSD-3-Clause
"""The picture: the patterns, and the blocks that computed them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from .campaign import Outcome

BLUE, RED, GREY = "#4477aa", "#cc3311", "#eeeeee"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10.5,
}


def draw(outcome: Outcome, feeds: np.ndarray, kills: np.ndarray, path: Path) -> None:
    """Draw what a campaign has brought."""
    with mpl.rc_context(STYLE):
        figure: Any = Figure(figsize=(10, 8.2), layout="constrained")
        upper, lower = figure.subplots(2, 1, height_ratios=(2.0, 1.0))
        _draw_patterns(upper, outcome, feeds, kills)
        _draw_blocks(lower, outcome)
        figure.savefig(path, dpi=110)


def _draw_patterns(axes: Any, outcome: Outcome, feeds: np.ndarray, kills: np.ndarray) -> None:
    """One tile for each case, at its rates."""
    size = len(next(iter(outcome.results.values())).field)
    gap = 6
    cell = size + gap
    canvas = np.full((len(feeds) * cell, len(kills) * cell), np.nan)
    for case, result in outcome.results.items():
        row, column = divmod(case, len(kills))
        canvas[row * cell : row * cell + size, column * cell : column * cell + size] = result.field
    axes.imshow(canvas, origin="lower", cmap="viridis", vmin=0, vmax=0.42)
    axes.set_title("What forms at each pair of rates: concentration of v")
    middles = np.arange(max(len(feeds), len(kills))) * cell + size / 2
    axes.set_xticks(middles[: len(kills)], [f"{kill:.4f}" for kill in kills])
    axes.set_yticks(middles[: len(feeds)], [f"{feed:.3f}" for feed in feeds])
    axes.set(xlabel="removal k", ylabel="feed F")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _draw_blocks(axes: Any, outcome: Outcome) -> None:
    """One line for each worker, block by block, with what it ran when."""
    first = min(one.began_s for one in outcome.tries)
    last = max(one.ended_s or one.began_s for one in outcome.tries)
    places = sorted(
        {(one.block, one.worker) for one in outcome.tries},
        key=lambda key: (len(key[0]), key[0], key[1]),
    )
    for y, (block, worker) in enumerate(places):
        mine = [one for one in outcome.tries if (one.block, one.worker) == (block, worker)]
        for one in mine:
            left = one.began_s - first
            if one.ended_s is None:
                axes.plot(left, y, marker="X", ms=8, mew=0, color=RED, zorder=3)
            else:
                axes.barh(y, one.ended_s - one.began_s, left=left, height=0.7, color=BLUE,
                          edgecolor="white", linewidth=0.6)  # fmt: skip
    for y in range(0, len(places), 2):
        axes.axhspan(y - 0.5, y + 0.5, color=GREY, zorder=0, lw=0)
    axes.set_yticks(range(len(places)), [f"block {block}" for block, _ in places])
    axes.invert_yaxis()
    axes.set(xlabel="time / s", xlim=(-0.1, (last - first) * 1.01))
    axes.set_title(
        f"Who computed it: {len(outcome.results)} simulations in {len(outcome.blocks)} blocks; "
        f"the end of a block cut {len(outcome.cut)} (red), which ran again"
    )
