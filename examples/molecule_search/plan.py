# SPDX-License-Identifier: BSD-3-Clause
"""How to search: how many molecules, in which portions."""

from __future__ import annotations

from dataclasses import dataclass

from .molecules import BAD_SMILES


@dataclass(frozen=True)
class Plan:
    """How to search.

    Attributes
    ----------
    initial, batch, evaluations : int
        Molecules picked at random, molecules of each further batch, and molecules in
        all. Failures do not count.
    chunks : int
        Tasks that one inference is cut into.
    seed : int
        Of the random pick.
    bad : tuple of str
        Mixed in on purpose, one at the head of each of the first batches.
    """

    initial: int = 20
    batch: int = 20
    evaluations: int = 220
    chunks: int = 16
    seed: int = 0
    bad: tuple[str, ...] = BAD_SMILES

    def batches(self) -> list[int]:
        """Return the sizes of all batches, the random one first."""
        sizes = [min(self.initial, self.evaluations)]
        while (room := self.evaluations - sum(sizes)) > 0:
            sizes.append(min(self.batch, room))
        return sizes
