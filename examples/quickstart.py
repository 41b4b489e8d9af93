# SPDX-License-Identifier: BSD-3-Clause
"""The first ten minutes: apps, futures, a database for tensors, a future of data.

python examples/quickstart.py
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import ssdag
from ssdag import Orchestrator, python_app


@python_app(retries=2, walltime_s=60)
def simulate(x: int, db: ssdag.Client) -> float:
    """Run in a worker process; `db` arrives there as a connected client."""
    u = np.sin(x) * np.ones((64, 64))
    db.put_tensor(f"u.{x}", u)
    return float(u.max())


@python_app
def train(u: npt.NDArray[np.float64]) -> float:
    """Run as soon as the tensor that it is given exists, and get it as an array."""
    return float(u.mean())


def main() -> None:
    """Build a small graph, run it and look at it."""
    with ssdag.load() as engine:  # no configuration: local processes
        db = Orchestrator()  # a service node: starts when needed, stops with the engine
        model = train(db.tensor("u.3"))  # nobody has computed u.3 yet
        peaks = [simulate(x, db) for x in range(8)]

        print("peaks:", [round(peak, 3) for peak in ssdag.gather(peaks)])
        print("model:", round(model.result(), 3))
        print("graph:", engine.graph())
        print("u.0 read by the driver:", db.client().get_tensor("u.0").shape)


if __name__ == "__main__":
    main()
