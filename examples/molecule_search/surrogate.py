# SPDX-License-Identifier: BSD-3-Clause
"""The surrogate: what fingerprints of known molecules say about unknown ones.

Morgan fingerprints (radius 4, folded to 256 bits) and the four nearest neighbours in
Jaccard distance, weighted by the inverse of the distance. It trains in milliseconds
and is good at one thing, which is all the search needs: ranking.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from sklearn.neighbors import KNeighborsRegressor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

RADIUS = 4
BITS = 256
NEIGHBOURS = 4


def fingerprints(smiles: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return the Morgan fingerprints of molecules.

    Returns
    -------
    ndarray of bool, shape (molecules, 256)

    Raises
    ------
    ValueError
        One of them is not a molecule.
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    bits = np.zeros((len(smiles), BITS), dtype=np.bool_)
    for row, text in zip(bits, smiles, strict=True):
        molecule = Chem.MolFromSmiles(text)
        if molecule is None:
            raise ValueError(f"not a molecule: {text!r}")
        row[:] = generator.GetFingerprintAsNumPy(molecule)
    return bits


def fit(bits: npt.NDArray[np.bool_], energies_ev: npt.NDArray[np.float64]) -> Any:
    """Train on known molecules: fingerprints of shape (known, 256), energies of (known,)."""
    neighbours = min(NEIGHBOURS, len(energies_ev))
    model = KNeighborsRegressor(neighbours, weights="distance", metric="jaccard")
    return model.fit(bits, energies_ev)


def predict(model: Any, bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Estimate ionization energies in eV for fingerprints of shape (molecules, 256)."""
    return np.asarray(model.predict(bits), dtype=np.float64)


def chunks(length: int, count: int) -> list[tuple[int, int]]:
    """Cut ``range(length)`` into at most `count` nearly equal pieces ``(start, stop)``."""
    count = max(1, min(count, length))
    edges = [length * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def rank(estimates: Iterable[npt.NDArray[np.float64]]) -> npt.NDArray[np.int64]:
    """Join the chunks' estimates and return all molecules' indices, most promising first."""
    joined = np.concatenate(list(estimates))
    return np.argsort(-joined, kind="stable")
