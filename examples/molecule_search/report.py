# SPDX-License-Identifier: BSD-3-Clause
"""The report: lines for the reader and a table of all energies for further use."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ssdag import Utilization

    from .outcome import Outcome

#: Molecules that are listed.
LISTED = 10


def lines(outcome: Outcome, usage: Utilization, workers: int) -> list[str]:
    """Return what to print at the end, a line each."""
    ended = usage.done + usage.remembered
    text = ["", "best molecules"]
    text += [
        f"  {one.energy_ev:7.3f} eV  evaluation {one.number + 1:4}  {one.smiles}"
        for one in outcome.ranked()[:LISTED]
    ]
    if outcome.failures:
        text += ["", "failed and replaced"]
        text += [f"  {one.smiles!r}: {_reason(one.error)}" for one in outcome.failures[:LISTED]]
        if len(outcome.failures) > LISTED:
            text += [f"  and {len(outcome.failures) - LISTED} more"]
    text += [
        "",
        f"evaluations: {len(outcome.evaluations)} of {len(outcome.molecules)} molecules",
        f"simulations from the checkpoint: {outcome.reused}",
        f"tasks/s: {usage.tasks_per_s:.1f} ({ended} tasks in {usage.elapsed_s:.1f} s)",
        f"utilisation: {100 * usage.fraction:.0f} % of {workers} workers",
    ]
    score = outcome.score()
    if score is not None:
        text += [
            f"random pick of the same size: {score.random_recall:.2f}",
            f"better than random: {score.gain:.1f} times",
            f"recall of the top 5 %: {score.recall:.2f}",
        ]
    return text


def _reason(error: BaseException) -> str:
    text = getattr(error, "reason", None) or f"{type(error).__name__}: {error}"
    return " ".join(str(text).splitlines()[0].split())


def write_table(outcome: Outcome, path: Path) -> None:
    """Write all known energies as CSV, highest first.

    ``evaluation`` is empty for molecules that the search left out.
    """
    numbers = {one.index: one.number + 1 for one in outcome.evaluations}
    energies = outcome.energies_ev()
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ionization_energy_ev", "evaluation", "smiles"])
        for index in sorted(energies, key=lambda index: -energies[index]):
            row = [f"{energies[index]:.6f}", numbers.get(index, ""), outcome.molecules[index]]
            table.writerow(row)
