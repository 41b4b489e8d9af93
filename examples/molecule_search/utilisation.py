# SPDX-License-Identifier: BSD-3-Clause
"""How busy the workers were: a listener, told by the engine in batches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ssdag.monitoring.listeners import Event, Listener

if TYPE_CHECKING:
    from collections.abc import Sequence


class Utilisation(Listener):
    """Adds up the time that bodies ran.

    Attributes
    ----------
    workers : int
        Workers of the engine.
    tasks : int
        Tasks that ended, in whatever way.
    busy_s, elapsed_s : float
        Seconds that bodies ran, in all workers; seconds from the engine's start to the
        last task's end.
    """

    def __init__(self) -> None:
        self.workers = 0
        self.tasks = 0
        self.busy_s = 0.0
        self._start_s = self._end_s = time.monotonic()

    def on_start(self, workers: int) -> None:
        """Learn the number of workers."""
        self.workers = workers
        self._start_s = self._end_s = time.monotonic()

    def on_events(self, events: Sequence[Event]) -> None:
        """Count what ended."""
        for event in events:
            if event.state.final:
                self.tasks += 1
                self._end_s = max(self._end_s, event.time_s)
                if event.started_s:
                    self.busy_s += event.time_s - event.started_s

    @property
    def elapsed_s(self) -> float:
        """Seconds from the engine's start to the end of the last task."""
        return self._end_s - self._start_s

    @property
    def share(self) -> float:
        """Share of the workers' time that was spent in bodies, 0 to 1."""
        return self.busy_s / (self.workers * self.elapsed_s) if self.elapsed_s else 0.0

    @property
    def rate(self) -> float:
        """Tasks per second."""
        return self.tasks / self.elapsed_s if self.elapsed_s else 0.0
