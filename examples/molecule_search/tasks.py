# SPDX-License-Identifier: BSD-3-Clause
"""The apps: what runs in worker processes, and the names under which data meet.

Simulations *publish*: each writes a tensor ``evaluation.<number>`` that holds the
molecule's index and its energy. Training waits for those tensors and for nothing else,
so it does not matter which task wrote one, or whether a task wrote it at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ssdag import RetryPolicy, python_app

from . import surrogate
from .chemistry import ionization_energy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    import ssdag

#: Tensor of bool, shape (molecules, 256).
FINGERPRINTS = "fingerprints"
#: A lost worker or connection is worth another try; a molecule that cannot be computed
#: is not, it fails in the same way again.
RETRIES = RetryPolicy(2, transient_only=True)


def evaluation_name(number: int) -> str:
    """Name the tensor of one evaluation: float64, ``[molecule index, energy in eV]``."""
    return f"evaluation.{number}"


def publish(client: ssdag.Client, number: int, index: int, energy_ev: float) -> None:
    """Write the tensor of one evaluation."""
    client.put_tensor(evaluation_name(number), np.array([index, energy_ev]))


@python_app(
    cache=True,
    ignore_for_cache=["index", "number", "db"],
    retries=RETRIES,
    walltime_s=120,
)
def simulate(smiles: str, index: int, number: int, db: ssdag.Client) -> float:
    """Compute one ionization energy in eV and publish it as evaluation `number`.

    Only `smiles` decides whether it was computed before: the same molecule costs
    nothing in the next run, whatever number it has there.
    """
    energy_ev = ionization_energy(smiles)
    publish(db, number, index, energy_ev)
    return energy_ev


@python_app
def publish_fingerprints(smiles: Sequence[str], db: ssdag.Client) -> None:
    """Compute the fingerprints of all molecules, once, and publish them."""
    db.put_tensor(FINGERPRINTS, surrogate.fingerprints(smiles))


@python_app
def train(bits: npt.NDArray[np.bool_], evaluations: Sequence[npt.NDArray[np.float64]]) -> Any:
    """Fit the surrogate to what has been published."""
    known = np.array(evaluations)
    return surrogate.fit(bits[known[:, 0].astype(np.int64)], known[:, 1])


@python_app
def infer(
    model: Any, bits: npt.NDArray[np.bool_], start: int, stop: int
) -> npt.NDArray[np.float64]:
    """Estimate the energies of the molecules ``start`` to ``stop``."""
    return surrogate.predict(model, bits[start:stop])


@python_app
def select(inputs: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.int64]:
    """Reduce the chunks of the inference to one ranking, most promising first."""
    return surrogate.rank(inputs)
