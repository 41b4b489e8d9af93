# SPDX-License-Identifier: BSD-3-Clause
"""Many tasks at once: ``map``, ``gather`` and a graph that grows while it runs.

    python examples/parallel_pi.py

Darts are thrown at a square in parallel. A ``join_app`` looks at the error bar and
orders more darts until it is small enough: what it returns is a future, and whoever
waits for the join app waits for the last of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import ssdag
from ssdag import join_app, python_app

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Darts that one task throws, and tasks of one round.
DARTS, TASKS = 250_000, 8
#: Standard error that is small enough.
WANTED = 0.0006


class Estimate(NamedTuple):
    """A value of pi and its standard error."""

    pi: float
    error: float
    darts: int

    @classmethod
    def of(cls, hits: Sequence[int]) -> Estimate:
        """Judge the counts of several tasks."""
        darts = DARTS * len(hits)
        pi = 4 * sum(hits) / darts
        return cls(pi, math.sqrt(pi * (4 - pi) / darts), darts)


@python_app
def throw(seed: int) -> int:
    """Count the darts that hit the quarter circle."""
    x, y = np.random.default_rng(seed).random((2, DARTS))
    return int(np.count_nonzero(x * x + y * y < 1.0))


@python_app
def combine(hits: Sequence[int]) -> Estimate:
    """Reduce all counts to one value."""
    return Estimate.of(hits)


@join_app
def improve(hits: list[int]) -> object:
    """Return the future of a good enough value; order more darts if it takes them."""
    if Estimate.of(hits).error < WANTED:
        return combine(hits)
    more = throw.map(range(len(hits), len(hits) + TASKS))
    return improve([*hits, *more])  # futures in a list: it waits for them


def main() -> Estimate:
    """Estimate pi to the wanted error."""
    with ssdag.load():
        hits = ssdag.gather(throw.map(range(TASKS)))  # a first round, in order
        estimate: Estimate = improve(hits).result()
    print(f"pi = {estimate.pi:.4f} ± {estimate.error:.4f} from {estimate.darts:,} darts")
    return estimate


if __name__ == "__main__":
    main()
