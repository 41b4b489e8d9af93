# SPDX-License-Identifier: BSD-3-Clause
"""Flow past a cylinder by the lattice Boltzmann method; knows nothing of ssdag.

Nine velocities in two dimensions, relaxation with one time constant (Qian, d'Humieres and
Lallemand, Europhys. Lett. 17, 1992). Lengths are in cells, times in steps, so the speed of
sound is 1/sqrt(3). The fluid comes in at the left with a fixed velocity (Zou and He, Phys.
Fluids 9, 1997), leaves at the right, and passes through the upper edge into the lower one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

#: Directions of the nine velocities, rest first, opposite ones behind one another.
_C = np.array(
    [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)], dtype=int
)
_W = np.array([4 / 9] + [1 / 9] * 4 + [1 / 36] * 4)
_OPPOSITE = np.array([0, 2, 1, 4, 3, 6, 5, 8, 7])
_FROM_LEFT, _FROM_RIGHT = np.array([1, 5, 7]), np.array([2, 6, 8])
_ACROSS = np.array([0, 3, 4])


@dataclass(frozen=True)
class Channel:
    """What flows where.

    Attributes
    ----------
    length, width : int
        Of the channel, in cells.
    diameter : float
        Of the cylinder, in cells.
    reynolds : float
        Speed times diameter over viscosity.
    speed : float
        Of the fluid that comes in, in cells per step; well below the speed of sound.
    """

    length: int = 160
    width: int = 48
    diameter: float = 10.0
    reynolds: float = 102.0
    speed: float = 0.1

    @property
    def probe(self) -> tuple[int, int]:
        """Where the wake is looked at: three diameters behind the cylinder, off its axis."""
        return int(self.length / 4 + 3 * self.diameter), int(self.width / 2 + self.diameter / 2)

    @property
    def obstacle(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Cells of the cylinder, shape (length, width)."""
        x, y = np.meshgrid(np.arange(self.length), np.arange(self.width), indexing="ij")
        centre = self.length / 4, self.width / 2 - 0.5
        return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < (self.diameter / 2) ** 2


class Flow:
    """The fluid, step by step.

    Parameters
    ----------
    channel : Channel
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.step = 0
        viscosity = channel.speed * channel.diameter / channel.reynolds
        self._rate = 1.0 / (3.0 * viscosity + 0.5)
        self._solid = channel.obstacle
        shape = channel.length, channel.width
        self._inflow = np.full(channel.width, channel.speed)
        velocity = np.zeros((2, *shape))
        velocity[0] = channel.speed
        velocity[1] = 0.4 * channel.speed  # a gust, or the wake would stay even for long
        self._f = _equilibrium(np.ones(shape), velocity)

    def advance(self, steps: int = 1) -> None:
        """Let so many steps go by."""
        for _ in range(steps):
            self._advance()
        self.step += steps

    def _advance(self) -> None:
        f = self._f
        f[_FROM_RIGHT, -1] = f[_FROM_RIGHT, -2]
        density, velocity = _moments(f)
        velocity[0, 0], velocity[1, 0] = self._inflow, 0.0
        density[0] = (f[_ACROSS, 0].sum(0) + 2 * f[_FROM_RIGHT, 0].sum(0)) / (1 - self._inflow)
        rest = _equilibrium(density, velocity)
        f[_FROM_LEFT, 0] = (
            rest[_FROM_LEFT, 0] + f[_OPPOSITE[_FROM_LEFT], 0] - rest[_OPPOSITE[_FROM_LEFT], 0]
        )
        after = f + self._rate * (rest - f)
        after[:, self._solid] = f[_OPPOSITE][:, self._solid]
        for i, (cx, cy) in enumerate(_C):
            self._f[i] = np.roll(after[i], (cx, cy), axis=(0, 1))

    def velocity(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the velocity, shape (2, length, width), in cells per step; 0 in the cylinder."""
        velocity: np.ndarray[Any, np.dtype[np.float64]] = _moments(self._f)[1]
        velocity[:, self._solid] = 0.0
        return velocity

    def probe(self) -> float:
        """Return the velocity across the channel at :attr:`Channel.probe`."""
        here = self._f[:, self.channel.probe[0], self.channel.probe[1]]
        return float(_C[:, 1] @ here / here.sum())


def _moments(f: Any) -> tuple[Any, Any]:
    density = f.sum(0)
    return density, np.tensordot(_C.T.astype(float), f, axes=1) / density


def _equilibrium(density: Any, velocity: Any) -> Any:
    along = 3.0 * np.tensordot(_C.astype(float), velocity, axes=1)
    square = 1.5 * (velocity**2).sum(0)
    return _W[:, None, None] * density * (1.0 + along + 0.5 * along**2 - square)
