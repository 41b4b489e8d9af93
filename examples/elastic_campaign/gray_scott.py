# SPDX-License-Identifier: BSD-3-Clause
"""The simulation: two chemicals that feed on each other and spread. Knows nothing of ssdag.

Gray and Scott's reaction, with the constants of Pearson, Science 261, 189 (1993), scaled
to a grid of spacing 1 and steps of 1: u is fed at rate F, v is removed at rate F + k, and
2 v + u makes 3 v.
"""

from __future__ import annotations

import numpy as np

#: Diffusion of the two, in cells^2 per step.
DIFFUSION_U, DIFFUSION_V = 0.16, 0.08
#: Cells along each side; the square is periodic.
SIZE = 64


def simulate(feed: float, kill: float, steps: int) -> np.ndarray:
    """Return the concentration of v after some steps.

    Parameters
    ----------
    feed, kill : float
        The rates F and k.
    steps : int
        Time steps.

    Returns
    -------
    ndarray of float32, shape (64, 64)
    """
    noise = np.random.default_rng(1).random((2, SIZE, SIZE), dtype=np.float32)
    u = np.ones((SIZE + 2, SIZE + 2), np.float32)
    v = np.zeros_like(u)
    middle = slice(SIZE // 2 - 10, SIZE // 2 + 10)
    u[middle, middle], v[middle, middle] = 0.5, 0.25
    u[1:-1, 1:-1] += 0.02 * noise[0]
    v[1:-1, 1:-1] += 0.02 * noise[1]
    for _ in range(steps):
        for field in (u, v):  # the square is periodic
            field[0], field[-1] = field[-2], field[1]
            field[:, 0], field[:, -1] = field[:, -2], field[:, 1]
        inner_u, inner_v = u[1:-1, 1:-1], v[1:-1, 1:-1]
        reaction = inner_u * inner_v * inner_v
        change_u = DIFFUSION_U * _laplacian(u) - reaction + feed * (1 - inner_u)
        change_v = DIFFUSION_V * _laplacian(v) + reaction - (feed + kill) * inner_v
        inner_u += change_u
        inner_v += change_v
    return v[1:-1, 1:-1].copy()


def _laplacian(field: np.ndarray) -> np.ndarray:
    """Return the sum of the four neighbours less four times the cell itself."""
    neighbours: np.ndarray = field[:-2, 1:-1] + field[2:, 1:-1] + field[1:-1, :-2] + field[1:-1, 2:]
    neighbours -= 4 * field[1:-1, 1:-1]
    return neighbours


def kind_of(field: np.ndarray) -> tuple[str, float]:
    """Say what has formed, and how long its waves are, in cells.

    Returns
    -------
    kind : str
        "nothing" (v has died out), "even", "spots" or "stripes".
    wavelength : float
        Of the strongest wave; 0 where there are none.
    """
    if float(field.max()) < 0.05:
        return "nothing", 0.0
    if float(field.std()) < 0.02:
        return "even", 0.0
    power = np.abs(np.fft.fft2(field - field.mean())) ** 2
    rows, columns = np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE), indexing="ij")
    frequency = float((np.hypot(rows, columns) * power).sum() / power.sum())
    covered = float((field > (field.max() + field.min()) / 2).mean())
    return ("spots" if covered < 0.3 else "stripes"), 1 / frequency
