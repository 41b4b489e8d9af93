# SPDX-License-Identifier: BSD-3-Clause
"""The picture: what the search found, when, and what chance would have found."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .outcome import Evaluation, Outcome, Score

# A palette that colour-blind readers can tell apart.
GREY, BLUE, ORANGE, GREEN, INK = "#9aa0a6", "#4477aa", "#ee7733", "#228833", "#222222"
#: Molecules that are drawn.
DRAWN = 6
#: Pixels of one drawing.
PIXELS = (420, 300)
STYLE = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10.5,
    "svg.fonttype": "path",
}


def expected_best(energies_ev: Sequence[float], picks: int) -> list[float]:
    """Return the best energy that 1, 2, ... picks at random find on average.

    Drawn without replacement from n values in descending order, the best is value j
    (from 0) with the chance that the j before it are missed and it is not:
    ``P(j) = P(first j missed) * m / (n - j)``.
    """
    values = np.sort(np.asarray(energies_ev))[::-1]
    count = len(values)
    means = []
    for size in range(1, picks + 1):
        reach = np.arange(count - size + 1)
        hit = size / (count - reach)
        missed = np.concatenate([[1.0], np.cumprod(1.0 - hit)[:-1]])
        means.append(float(np.sum(values[reach] * missed * hit)))
    return means


def _draw_energies(
    axes: Any, found: list[Evaluation], outcome: Outcome, score: Score | None
) -> None:
    """Found energies against evaluation, with best-so-far, chance and threshold."""
    number = np.arange(1, len(found) + 1)
    energy = np.array([one.energy_ev for one in found])
    first = np.array([one.batch == 0 for one in found])
    top = np.array([score is not None and one.index in score.top for one in found])
    axes.axvspan(0.5, first.sum() + 0.5, color="#f1f1f1", zorder=0)
    for mask, colour, label in (
        (first & ~top, GREY, "picked at random"),
        (~first & ~top, BLUE, "picked by the surrogate"),
        (top, ORANGE, "one of the true top 5 %"),
    ):
        if mask.any():
            axes.scatter(number[mask], energy[mask], s=20, color=colour, label=label,
                         edgecolor="white", linewidth=0.4, zorder=3)  # fmt: skip
    axes.step(number, np.maximum.accumulate(energy), where="post", color=INK, lw=1.4,
              label="best so far")  # fmt: skip
    if score is not None:
        known = list(outcome.energies_ev().values())
        axes.plot(number, expected_best(known, len(found)), color=GREEN, lw=1.4, ls=(0, (5, 2)),
                  label="best so far, random picks (mean)")  # fmt: skip
        axes.axhline(score.threshold_ev, color=ORANGE, lw=1.0, ls=":")
        axes.annotate(f"top 5 %\nfrom {score.threshold_ev:.2f} eV", (1, score.threshold_ev),
                      xycoords=("axes fraction", "data"), xytext=(4, 0), va="center",
                      textcoords="offset points", color=ORANGE, fontsize=8.5)  # fmt: skip
    axes.set(xlabel="evaluation", ylabel="ionization energy / eV", xlim=(0, len(found) + 2))
    axes.set_title("Every molecule that the search computed", pad=24)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8.5,
                ncols=5, columnspacing=1.2, handletextpad=0.5, borderaxespad=0.2)  # fmt: skip


def _draw_recall(axes: Any, found: list[Evaluation], outcome: Outcome, score: Score) -> None:
    """Share of the true best that was found, against evaluation."""
    number = np.arange(len(found) + 1)
    hits = np.concatenate([[0], np.cumsum([one.index in score.top for one in found])])
    chance = number / len(outcome.energies_ev())
    axes.plot(number, hits / len(score.top), color=ORANGE, lw=2)
    axes.plot(number, chance, color=GREEN, lw=1.4, ls=(0, (5, 2)))
    axes.fill_between(number, chance, hits / len(score.top), color=ORANGE, alpha=0.12, lw=0)
    for value, colour, text in (
        (score.recall, ORANGE, f"search {score.recall:.2f}"),
        (score.random_recall, GREEN, f"random {score.random_recall:.2f}"),
    ):
        axes.annotate(text, (number[-1], value), xytext=(-4, 6), textcoords="offset points",
                      ha="right", color=colour, fontweight="bold")  # fmt: skip
    axes.set(xlabel="evaluation", xlim=(0, len(found) + 2), ylim=(0, 1))
    axes.set_title("Share of the true top 5 % found")


def _molecule_image(smiles: str) -> Any:
    """Return the drawing of a molecule as an array of pixels."""
    drawer = rdMolDraw2D.MolDraw2DCairo(*PIXELS)
    options: Any = drawer.drawOptions()
    options.bondLineWidth = 3
    options.fixedBondLength = 55
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, Chem.MolFromSmiles(smiles))
    drawer.FinishDrawing()
    return imread(io.BytesIO(drawer.GetDrawingText()), format="png")


def _draw_molecules(panel: Any, best: list[Evaluation], rows: int) -> None:
    panel.suptitle("The best molecules", x=0.02, ha="left", fontsize=10.5, fontweight="bold")
    places = panel.subplots(rows, DRAWN // rows, squeeze=False).flat
    for axes, one in zip(places, best, strict=False):
        axes.imshow(_molecule_image(one.smiles), interpolation="antialiased")
        axes.set_title(f"{one.energy_ev:.2f} eV", loc="center", fontsize=9.5, pad=1)
        axes.set_xlabel(f"evaluation {one.number + 1}", fontsize=8, color="#666666")
    for axes in panel.axes:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)


def draw(outcome: Outcome, paths: Sequence[Path]) -> None:
    """Draw what a run found and write it to each path; the suffix says the format.

    Nothing is written if nothing was found. Without a sweep the truth is unknown, and
    what depends on it is left out.
    """
    found = sorted(outcome.evaluations)
    if not found:
        return
    score = outcome.score()
    with mpl.rc_context(STYLE):
        figure: Any = Figure(figsize=(10.5, 7.2 if score else 6.0), layout="constrained")
        ratios = (1.25, 1.0) if score else (2.0, 1.0)
        upper, lower = figure.subfigures(2, 1, height_ratios=ratios, hspace=0.03)
        _draw_energies(upper.subplots(), found, outcome, score)
        if score is None:
            _draw_molecules(lower, outcome.ranked()[:DRAWN], rows=1)
        else:
            left, right = lower.subfigures(1, 2, width_ratios=(1.0, 1.25))
            _draw_recall(left.subplots(), found, outcome, score)
            _draw_molecules(right, outcome.ranked()[:DRAWN], rows=2)
        for path in paths:
            figure.savefig(path, dpi=110)
