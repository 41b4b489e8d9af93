# SPDX-License-Identifier: BSD-3-Clause
"""How often eddies leave the cylinder, from what a probe in its wake sees."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: So many periods in a row must agree.
_PERIODS = 4
#: By how much the longest and the shortest of them may differ, relative to their mean.
_SPREAD = 0.01
#: By how much their swings may differ: until then the wake still grows.
_GROWTH = 0.02


@dataclass
class Wake:
    """The velocity across the channel behind a cylinder, as it comes in.

    Parameters
    ----------
    diameter : float
        Of the cylinder, in cells.
    speed : float
        Of the fluid that comes in, in cells per step.

    Attributes
    ----------
    crossings : list of float
        Steps at which the velocity passed zero upwards.
    swings : list of float
        Its highest value between each two of them.
    """

    diameter: float
    speed: float
    crossings: list[float] = field(default_factory=list)
    swings: list[float] = field(default_factory=list)
    _before: tuple[float, float] | None = None
    _highest: float = 0.0

    def add(self, samples: Iterable[tuple[float, float]]) -> None:
        """Take pairs of step and velocity, in their order."""
        for step, value in samples:
            if self._before is not None:
                last_step, last = self._before
                if last < 0.0 <= value:
                    if self.crossings:
                        self.swings.append(self._highest)
                    self._highest = 0.0
                    self.crossings.append(last_step + (step - last_step) * last / (last - value))
            self._highest = max(self._highest, value)
            self._before = step, value

    @property
    def strouhal(self) -> float | None:
        """Frequency times diameter over speed, of the last periods; None before there are any."""
        last = self.crossings[-_PERIODS - 1 :]
        if len(last) <= _PERIODS:
            return None
        return _PERIODS * self.diameter / (self.speed * (last[-1] - last[0]))

    @property
    def steady(self) -> bool:
        """Whether the last periods are alike, and the wake grows no more."""
        if self.strouhal is None:
            return False
        last = self.crossings[-_PERIODS - 1 :]
        periods = [b - a for a, b in itertools.pairwise(last)]
        swings = self.swings[-_PERIODS:]
        return _alike(periods, _SPREAD) and _alike(swings, _GROWTH)


def _alike(values: list[float], spread: float) -> bool:
    return max(values) - min(values) <= spread * sum(values) / len(values)
