# SPDX-License-Identifier: BSD-3-Clause
"""A heated plate; knows nothing of ssdag.

A square plate with edges at temperature 0 is heated at one spot. It conducts the better the
hotter it is: conductivity 1 + T. With theta = T + T**2 / 2 (Kirchhoff's transformation) the
steady state obeys Poisson's equation, which is solved here by successive over-relaxation of
red and black points in turn.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

#: Points along each side, without the edges.
POINTS = 64
#: Heat per time and area at the middle of the spot.
_POWER = 200.0
_TOLERANCE = 1e-6
_MOST_SWEEPS = 2000

_PLACES = np.arange(1, POINTS + 1) / (POINTS + 1)


def draw_spots(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return random spots: place along x and y, and width; shape (count, 3)."""
    random = np.random.default_rng(seed)
    return random.uniform((0.2, 0.2, 0.05), (0.8, 0.8, 0.12), (count, 3))


def solve(spot: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the temperatures of the plate, shape (POINTS, POINTS).

    Parameters
    ----------
    spot : numpy.ndarray
        Place along x and y, and width of the heated spot, in lengths of the plate.
    """
    h = 1.0 / (POINTS + 1)
    x, y = _PLACES[:, None] - spot[0], _PLACES[None, :] - spot[1]
    heat = h * h * _POWER * np.exp(-(x * x + y * y) / (2 * spot[2] ** 2))
    colour = np.add.outer(np.arange(POINTS), np.arange(POINTS)) % 2 == 0
    over = 2.0 / (1.0 + math.sin(math.pi * h))
    theta = np.zeros((POINTS + 2, POINTS + 2))
    inside = theta[1:-1, 1:-1]
    for _ in range(_MOST_SWEEPS):
        largest = 0.0
        for points in (colour, ~colour):
            around = theta[:-2, 1:-1] + theta[2:, 1:-1] + theta[1:-1, :-2] + theta[1:-1, 2:]
            change = np.where(points, over * (0.25 * (around + heat) - inside), 0.0)
            inside += change
            largest = max(largest, float(np.abs(change).max()))
        if largest < _TOLERANCE:
            break
    return (np.sqrt(1.0 + 2.0 * inside) - 1.0).astype(np.float32)
