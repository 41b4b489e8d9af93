# SPDX-License-Identifier: BSD-3-Clause
"""The simulation: from a SMILES string to an ionization energy.

The recipe is that of the molecular-design demonstrations of the field: a force-field
geometry (RDKit), then two single points with the semi-empirical GFN2-xTB method
(tblite), of the neutral molecule and of its cation at the same geometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from tblite.interface import Calculator

rdBase.DisableLog("rdApp.*")  # our errors say it better

#: eV in one Hartree, with the digits of the reference recipe.
EV_PER_HARTREE = 27.2114
#: Length of one Bohr in Ångström.
ANGSTROM_PER_BOHR = 0.529177210903
#: Empirical shift of GFN2-xTB ionization energies in eV, as ``xtb --vip`` applies it.
IE_SHIFT_EV = 4.8455
#: Seed of the embedding: the same SMILES gives the same geometry everywhere.
EMBED_SEED = 1


class ChemistryError(Exception):
    """A molecule that cannot be computed; ``smiles`` says which, ``reason`` why."""

    def __init__(self, smiles: str, reason: str) -> None:
        super().__init__(smiles, reason)  # both, so that it pickles
        self.smiles = smiles
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.smiles!r}: {self.reason}"


class BadSmilesError(ChemistryError):
    """The text is not a molecule (syntax or valence)."""


class GeometryError(ChemistryError):
    """No three-dimensional structure was found."""


class ElectronicStructureError(ChemistryError):
    """The electronic structure code gave up."""


@dataclass(frozen=True)
class Geometry:
    """Atoms in space.

    Attributes
    ----------
    numbers : ndarray of int, shape (atoms,)
        Atomic numbers.
    positions : ndarray of float64, shape (atoms, 3)
        Positions in Bohr.
    """

    numbers: npt.NDArray[np.int64]
    positions: npt.NDArray[np.float64]


def parse(smiles: str) -> Any:
    """Return the RDKit molecule of a SMILES string; BadSmilesError if it is none."""
    molecule = Chem.MolFromSmiles(smiles, sanitize=False)
    if molecule is None or not smiles.strip():
        raise BadSmilesError(smiles, "not a SMILES string")
    try:
        Chem.SanitizeMol(molecule)
    except ValueError as error:  # valence, aromaticity; RDKit's errors are ValueErrors
        raise BadSmilesError(smiles, str(error).strip()) from None
    return molecule


def embed(smiles: str) -> Geometry:
    """Build a three-dimensional structure: hydrogens, ETKDG embedding, 500 steps of MMFF.

    Raises
    ------
    BadSmilesError
        The text is not a molecule.
    GeometryError
        RDKit finds no structure, or MMFF lacks parameters for it.
    """
    molecule = Chem.AddHs(parse(smiles))
    if rdDistGeom.EmbedMolecule(molecule, randomSeed=EMBED_SEED) != 0:
        raise GeometryError(smiles, "RDKit could not embed it in three dimensions")
    if rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=500) == -1:
        raise GeometryError(smiles, "the MMFF force field has no parameters for it")
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    positions = molecule.GetConformer().GetPositions() / ANGSTROM_PER_BOHR
    return Geometry(numbers, positions)


def total_energy(geometry: Geometry, charge: int = 0, unpaired: int = 0) -> float:
    """Return the GFN2-xTB total energy in Hartree; RuntimeError if it does not converge."""
    calculator = Calculator(
        "GFN2-xTB", geometry.numbers, geometry.positions, charge=charge, uhf=unpaired
    )
    calculator.set("verbosity", 0)
    return float(calculator.singlepoint().get("energy"))


def ionization_energy(smiles: str) -> float:
    """Return the vertical ionization energy of a closed-shell molecule in eV.

    ``(E(cation) - E(neutral)) x 27.2114 - 4.8455``, both at the geometry of
    :func:`embed`.

    Raises
    ------
    BadSmilesError, GeometryError
        As :func:`embed`.
    ElectronicStructureError
        GFN2-xTB did not converge.
    """
    geometry = embed(smiles)
    try:
        neutral = total_energy(geometry)
        cation = total_energy(geometry, charge=1, unpaired=1)
    except RuntimeError as error:  # what tblite raises
        raise ElectronicStructureError(smiles, f"GFN2-xTB failed: {error}") from error
    return (cation - neutral) * EV_PER_HARTREE - IE_SHIFT_EV
