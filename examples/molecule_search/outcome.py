# SPDX-License-Identifier: BSD-3-Clause
"""What a search found, and how good that is."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Which share of all molecules counts as "the best".
TOP_SHARE = 0.05


@dataclass(frozen=True, order=True)
class Evaluation:
    """One molecule that was computed, in the order of the search."""

    number: int
    batch: int
    index: int
    smiles: str
    energy_ev: float


@dataclass(frozen=True)
class Failure:
    """One molecule that could not be computed, and why."""

    smiles: str
    error: BaseException


@dataclass(frozen=True)
class Score:
    """How much of the truth a search found.

    Attributes
    ----------
    top : frozenset of int
        The molecules that are truly among the best 5 %.
    threshold_ev : float
        Energy of the last of them.
    recall : float
        Share of them among the evaluated molecules.
    random_recall : float
        Share that as many molecules picked at random hold on average.
    """

    top: frozenset[int]
    threshold_ev: float
    recall: float
    random_recall: float

    @property
    def gain(self) -> float:
        """How many times better than a random pick of the same size."""
        return self.recall / self.random_recall


@dataclass
class Outcome:
    """All that a run learned; filled while it goes, so that Ctrl-C loses nothing.

    Attributes
    ----------
    molecules : list of str
        The search space.
    evaluations : list of Evaluation
        What the search chose to compute.
    failures : list of Failure
        What failed and was replaced, in the search and in the sweep.
    left_out : dict of int to float
        Energies in eV of the molecules that the search did not choose, by index.
    swept : bool
        True if all of the search space has been computed or has failed.
    reused : int
        Simulations that the checkpoint answered.
    """

    molecules: list[str]
    evaluations: list[Evaluation] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    left_out: dict[int, float] = field(default_factory=dict)
    swept: bool = False
    reused: int = 0

    @property
    def best(self) -> Evaluation | None:
        """The molecule of highest energy so far."""
        return max(self.evaluations, key=lambda one: one.energy_ev, default=None)

    def ranked(self) -> list[Evaluation]:
        """Return what the search found, highest energy first."""
        return sorted(self.evaluations, key=lambda one: -one.energy_ev)

    def energies_ev(self) -> dict[int, float]:
        """Return all known energies by molecule index."""
        return {one.index: one.energy_ev for one in self.evaluations} | self.left_out

    def score(self) -> Score | None:
        """Compare with the truth; None as long as not all molecules are computed."""
        if not self.swept or not self.evaluations:
            return None
        energies = self.energies_ev()
        order = sorted(energies, key=lambda index: -energies[index])
        top = order[: max(1, round(TOP_SHARE * len(order)))]
        found = sum(one.index in top for one in self.evaluations)
        return Score(
            top=frozenset(top),
            threshold_ev=energies[top[-1]],
            recall=found / len(top),
            random_recall=len(self.evaluations) / len(energies),
        )
