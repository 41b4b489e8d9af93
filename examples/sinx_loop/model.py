# SPDX-License-Identifier: BSD-3-Clause
"""A model of one variable: a sum of fixed bumps whose sizes are learnt; knows nothing of ssdag.

Sizes by ridge regression, so that learning is one linear solve.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

#: What the model is asked for lies between 0 and this.
SPAN = 2 * math.pi
_BUMPS = 60
_STIFF = 1e-4


def _features(x: Array) -> Array:
    random = np.random.default_rng(0)
    slopes = random.normal(0.0, 1.5, _BUMPS)
    places = random.uniform(-1.5 * math.pi, 1.5 * math.pi, _BUMPS)
    return np.tanh(np.outer(x - SPAN / 2, slopes) + places)


def untaught() -> Array:
    """Return the sizes of a model that knows nothing: it says 0 everywhere."""
    return np.zeros(_BUMPS)


def fit(x: Array, y: Array) -> Array:
    """Return sizes for points; shapes (n,) and (n,)."""
    seen = _features(x)
    return np.asarray(np.linalg.solve(seen.T @ seen + _STIFF * np.eye(_BUMPS), seen.T @ y))


def predict(sizes: Array, x: Array) -> Array:
    """Return what a model says at some places; shape (n,)."""
    return _features(x) @ sizes
