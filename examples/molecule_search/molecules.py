# SPDX-License-Identifier: BSD-3-Clause
"""The molecules to search in: 1046 real ones from a file that comes with RDKit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdkit import Chem, RDConfig, rdBase

if TYPE_CHECKING:
    import os

rdBase.DisableLog("rdApp.*")

#: What the filter lets through.
ELEMENTS = frozenset({"H", "C", "N", "O", "F"})
MAX_HEAVY_ATOMS = 12

#: Put among the molecules on purpose, to show what the loop does with failures: a ring
#: that is never closed, a carbon with five bonds, an aromatic ring that cannot be one,
#: and a name in place of a structure.
BAD_SMILES = ("C1CC", "CC(C)(C)(C)C", "c1cccc1", "formic acid")


def nci_file() -> Path:
    """Return the path of the first 5000 molecules of the NCI database in RDKit's wheel."""
    return Path(RDConfig.RDDataDir, "NCI", "first_5K.smi")


def is_candidate(molecule: Any) -> bool:
    """Say whether a molecule is small, neutral, closed-shell and made of H, C, N, O, F."""
    if molecule.GetNumHeavyAtoms() > MAX_HEAVY_ATOMS or Chem.GetFormalCharge(molecule) != 0:
        return False
    return all(
        atom.GetSymbol() in ELEMENTS and atom.GetNumRadicalElectrons() == 0
        for atom in molecule.GetAtoms()
    )


def load_molecules(path: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the canonical SMILES of the search space, each once, in the file's order.

    Parameters
    ----------
    path : path, optional
        A file with one SMILES string a line, first column; None takes :func:`nci_file`
        (1046 of its 4999 lines pass). Lines that are no molecules, mixtures and
        whatever :func:`is_candidate` refuses are left out.
    """
    found: dict[str, None] = {}
    for line in Path(path or nci_file()).read_text(encoding="utf-8").splitlines():
        columns = line.split()
        if not columns or "." in columns[0]:
            continue
        molecule = Chem.MolFromSmiles(columns[0])
        if molecule is not None and is_candidate(molecule):
            found[Chem.MolToSmiles(molecule)] = None
    return list(found)


def heavy_atoms(smiles: str) -> int:
    """Return the number of atoms without hydrogen: what a calculation costs grows with it."""
    molecule = Chem.MolFromSmiles(smiles)
    return 0 if molecule is None else int(molecule.GetNumHeavyAtoms())
