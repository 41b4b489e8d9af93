# SPDX-License-Identifier: BSD-3-Clause
"""A small network in plain NumPy that learns temperatures from spots; knows nothing of ssdag.

Two hidden layers, minimised by Adam (Kingma and Ba, ICLR 2015).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

_HIDDEN = 96
_BETA1, _BETA2, _SMALL = 0.9, 0.999, 1e-8


class Network:
    """Maps spots to temperatures.

    Parameters
    ----------
    outputs : int
        Temperatures of a plate.
    seed : int
        Of the first weights.
    rate : float
        How far a step goes.
    """

    def __init__(self, outputs: int, seed: int = 0, rate: float = 2e-3) -> None:
        random = np.random.default_rng(seed)
        sizes = (3, _HIDDEN, _HIDDEN, outputs)
        self.weights: list[np.ndarray[Any, Any]] = []
        for before, after in itertools.pairwise(sizes):
            scale = np.sqrt(1.0 / before)
            self.weights.append(random.normal(0, scale, (before, after)).astype(np.float32))
            self.weights.append(np.zeros(after, np.float32))
        self.weights[4] *= 0.1
        self._rate = rate
        self._steps = 0
        self._first = [np.zeros_like(w) for w in self.weights]
        self._second = [np.zeros_like(w) for w in self.weights]

    def __call__(self, spots: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return temperatures, shape (count, outputs), for spots of shape (count, 3)."""
        return self._forward(spots)[-1]

    def _forward(self, spots: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        w1, b1, w2, b2, w3, b3 = self.weights
        # Spots between -1 and 1.
        inputs = ((spots - (0.5, 0.5, 0.085)) / (0.3, 0.3, 0.035)).astype(np.float32)
        one = np.tanh(inputs @ w1 + b1)
        two = np.tanh(one @ w2 + b2)
        return [inputs, one, two, two @ w3 + b3]

    def learn(self, spots: np.ndarray[Any, Any], fields: np.ndarray[Any, Any]) -> float:
        """Make one step on a batch; return the mean square error before it."""
        _, _, w2, _, w3, _ = self.weights
        inputs, one, two, found = self._forward(spots)
        wrong = found - fields
        out = wrong * np.float32(2.0 / len(spots))
        in_two = (out @ w3.T) * (1 - two * two)
        in_one = (in_two @ w2.T) * (1 - one * one)
        self._move(
            [
                inputs.T @ in_one,
                in_one.sum(0),
                one.T @ in_two,
                in_two.sum(0),
                two.T @ out,
                out.sum(0),
            ]
        )
        return float(np.mean(wrong * wrong))

    def _move(self, slopes: list[np.ndarray[Any, Any]]) -> None:
        self._steps += 1
        rate = self._rate * np.sqrt(1 - _BETA2**self._steps) / (1 - _BETA1**self._steps)
        for weight, slope, first, second in zip(
            self.weights, slopes, self._first, self._second, strict=True
        ):
            first += (1 - _BETA1) * (slope - first)
            second += (1 - _BETA2) * (slope * slope - second)
            weight -= np.float32(rate) * first / (np.sqrt(second) + np.float32(_SMALL))


def error(found: np.ndarray[Any, Any], true: np.ndarray[Any, Any]) -> float:
    """Return the difference of two sets of fields, relative to the second."""
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))
