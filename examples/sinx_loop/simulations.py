# SPDX-License-Identifier: BSD-3-Clause
"""Two ways to the sine, a cheap and a dear one, on many ranks; they know nothing of ssdag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .model import Array

#: Terms of the series.
_TERMS = 20
#: Steps of the pendulum.
_STEPS = 2000


def series(comm: Any, x: float) -> float:
    """Return the sine by its Taylor series; each rank adds up some of the terms."""
    mine = 0.0
    for k in range(comm.rank, _TERMS, comm.size):
        factors = x / np.arange(1.0, 2 * k + 2)
        mine += (-1.0) ** k * float(np.prod(factors))
    return float(comm.allreduce(mine))


def pendulum(x: Array) -> Array:
    """Return the sine at some places: y'' = -y from rest at 0, by Runge and Kutta's method."""
    h = x / _STEPS
    y, speed = np.zeros_like(x), np.ones_like(x)
    for _ in range(_STEPS):
        k1, l1 = speed, -y
        k2, l2 = speed + 0.5 * h * l1, -(y + 0.5 * h * k1)
        k3, l3 = speed + 0.5 * h * l2, -(y + 0.5 * h * k2)
        k4, l4 = speed + h * l3, -(y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        speed = speed + h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)
    return y
