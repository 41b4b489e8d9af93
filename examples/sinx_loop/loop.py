# SPDX-License-Identifier: BSD-3-Clause
"""The loop: ask the model, check it, and teach it where it was wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ssdag import Orchestrator, Resources, mpi_app, python_app
from ssdag.connectors import DistributedDict

from . import model, simulations

if TYPE_CHECKING:
    from collections.abc import Callable

#: Points that each rank of the dear simulation makes, and how far around the place.
POINTS, REACH = 32, 1.0
RANKS = Resources(ranks=2)

Shared = DistributedDict[Any]


@dataclass(frozen=True)
class Check:
    """One question to the model, and what the cheap simulation says.

    Attributes
    ----------
    x, said, true : float
    version : int
        Of the model: how often it had been taught.
    """

    x: float
    said: float
    true: float
    version: int

    @property
    def wrong(self) -> float:
        """By how much the model was wrong."""
        return abs(self.said - self.true)


@dataclass(frozen=True)
class Outcome:
    """What the loop has brought.

    Attributes
    ----------
    checks : list of Check
    models : list of numpy.ndarray
        One for each version.
    places : list of float
        Around which it was taught, one for each version but the first.
    points : int
        That it was taught with.
    """

    checks: list[Check]
    models: list[model.Array]
    places: list[float]
    points: int


@python_app(executors=["tasks"])
def ask(shared: Shared, version: int, x: float) -> float:
    """Return what a version of the model says; waits until it is there."""
    return float(model.predict(shared.get(("model", version), timeout_s=60), np.array([x]))[0])


@mpi_app(python=True, executors=["ranks"], resources=RANKS)
def check(x: float) -> float:
    """Return the truth; runs on every rank, and what rank 0 returns is the result."""
    from mpi4py import MPI

    return simulations.series(MPI.COMM_WORLD, x)


@mpi_app(python=True, executors=["ranks"], resources=RANKS, returns="all")
def explore(shared: Shared, version: int, place: float, seed: int) -> int:
    """Make points around a place; each rank puts its own into the dictionary."""
    from mpi4py import MPI

    rank = MPI.COMM_WORLD.rank
    random = np.random.default_rng((seed, version, rank))
    x = np.clip(random.uniform(place - REACH, place + REACH, POINTS), 0.0, model.SPAN)
    shared["points", version, rank] = np.stack([x, simulations.pendulum(x)])
    return POINTS


@python_app(executors=["tasks"])
def teach(shared: Shared, version: int, made: list[int]) -> int:
    """Learn from all points that there are, and put the next version of the model there."""
    points = np.concatenate([shared[key] for key in list(shared) if key[0] == "points"], axis=1)
    shared["model", version] = model.fit(*points)
    return int(points.shape[1])


def run(
    successes: int, tolerance: float, most: int, seed: int, tell: Callable[[Check, bool], object]
) -> Outcome:
    """Go on until the model was right so often in a row, or `most` checks were made.

    Raises
    ------
    SsdagError
        A task failed.
    """
    db = Orchestrator()
    db.start()
    shared: Shared = DistributedDict(db, "sinx")
    shared["model", 0] = model.untaught()
    random = np.random.default_rng(seed)
    checks: list[Check] = []
    places: list[float] = []
    version = right = points = 0
    while right < successes and len(checks) < most:
        x = float(random.uniform(0.0, model.SPAN))
        said, true = ask(shared, version, x), check(x)  # at the same time
        one = Check(x, said.result(), true.result(), version)
        checks.append(one)
        good = one.wrong < tolerance
        tell(one, good)
        right = right + 1 if good else 0
        if not good:
            version += 1
            places.append(x)
            points = teach(shared, version, explore(shared, version, x, seed)).result()
    models = [shared["model", i] for i in range(version + 1)]
    return Outcome(checks, models, places, points)
