# SPDX-License-Identifier: BSD-3-Clause
"""The simulation: Poisson's equation, solved by all ranks together. Knows nothing of ssdag.

``-(u_xx + u_yy) = f`` on the unit square, zero on its border, by the five-point formula
and conjugate gradients. Each rank has some rows of the grid; neighbours exchange rows, and
all add up scalar products. The right side is made such that the solution is known:
``u = x (1 - x) exp(x) sin(pi y)``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mpi4py.MPI import Comm, Op

#: Conjugate gradients end when the residual is so much smaller than at the start.
TOLERANCE = 1e-10


def solve(comm: Comm, n: int) -> tuple[float, int]:
    """Solve on n x n inner points; all ranks call it together.

    Parameters
    ----------
    comm : mpi4py communicator
        Of the ranks.
    n : int
        Points along each side, at least as many as ranks.

    Returns
    -------
    error : float
        Largest difference from the known solution.
    iterations : int
        Of the conjugate gradients.
    """
    h = 1.0 / (n + 1)
    first = comm.rank * n // comm.size
    rows = (comm.rank + 1) * n // comm.size - first
    x = np.linspace(h, 1 - h, n)[first : first + rows, None]
    y = np.linspace(h, 1 - h, n)[None, :]
    along_x, along_y = x * (1 - x) * np.exp(x), np.sin(math.pi * y)
    exact = along_x * along_y
    right = (x * (3 + x) * np.exp(x) + math.pi**2 * along_x) * along_y

    u = np.zeros((rows, n))
    residual = right.copy()
    # With a border of zeros, and room for the rows of the neighbours.
    direction = np.zeros((rows + 2, n + 2))
    direction[1:-1, 1:-1] = residual
    norm = start = _dot(comm, residual, residual)
    iterations = 0
    while norm > TOLERANCE**2 * start:
        image = _operator(comm, direction, h)
        step = norm / _dot(comm, direction[1:-1, 1:-1], image)
        u += step * direction[1:-1, 1:-1]
        residual -= step * image
        norm, old = _dot(comm, residual, residual), norm
        direction[1:-1, 1:-1] = residual + norm / old * direction[1:-1, 1:-1]
        iterations += 1
    return comm.allreduce(float(np.abs(u - exact).max()), op=_maximum()), iterations


def _operator(comm: Comm, field: np.ndarray, h: float) -> np.ndarray:
    """Return ``-(u_xx + u_yy)``; ranks exchange the rows at their borders first."""
    above = comm.rank - 1 if comm.rank > 0 else _nobody()
    below = comm.rank + 1 if comm.rank < comm.size - 1 else _nobody()
    comm.Sendrecv(field[1], dest=above, recvbuf=field[-1], source=below)
    comm.Sendrecv(field[-2], dest=below, recvbuf=field[0], source=above)
    inner: np.ndarray = 4 * field[1:-1, 1:-1]
    inner -= field[:-2, 1:-1]
    inner -= field[2:, 1:-1]
    inner -= field[1:-1, :-2]
    inner -= field[1:-1, 2:]
    inner /= h * h
    return inner


def _dot(comm: Comm, a: np.ndarray, b: np.ndarray) -> float:
    return float(comm.allreduce(float(np.vdot(a, b))))


def _nobody() -> int:
    from mpi4py import MPI  # only ranks need it

    return int(MPI.PROC_NULL)


def _maximum() -> Op:
    from mpi4py import MPI

    return MPI.MAX
