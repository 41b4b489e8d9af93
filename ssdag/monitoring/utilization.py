# SPDX-License-Identifier: BSD-3-Clause
"""How busy the workers were: a listener that adds up run times."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ssdag.monitoring.listeners import Listener
from ssdag.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.monitoring.listeners import Event


class Utilization(Listener):
    """Counts tasks and the time that they ran.

    Give it to ``Config(listeners=[...])`` or ``engine.add_listener``.

    Attributes
    ----------
    done, failed : int
        Tasks that ended well, and that failed (also for a parent's sake) or were cancelled.
    remembered : int
        Tasks that were not run because their result was known.
    busy_s : float
        Seconds that bodies ran, summed over workers.
    by_app : dict of str to (int, float)
        Tasks run and their seconds, by app.
    """

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0
        self.remembered = 0
        self.busy_s = 0.0
        self.by_app: dict[str, tuple[int, float]] = {}
        self._workers = 1
        self._first_s: float | None = None
        self._last_s = 0.0

    def on_start(self, workers: int) -> None:
        """Remember how many workers there are."""
        self._workers = max(1, workers)

    def on_events(self, events: Sequence[Event]) -> None:
        """Add up."""
        for event in events:
            if self._first_s is None:
                self._first_s = event.time_s
            if not event.state.final:
                continue
            if event.state == TaskState.DONE:
                self.done += 1
            elif event.state == TaskState.MEMO_DONE:
                self.remembered += 1
            else:
                self.failed += 1
            self._last_s = max(self._last_s, event.time_s)
            if event.started_s and event.executor != "internal":
                seconds = event.time_s - event.started_s
                self.busy_s += seconds
                count, total = self.by_app.get(event.app, (0, 0.0))
                self.by_app[event.app] = count + 1, total + seconds

    @property
    def elapsed_s(self) -> float:
        """Seconds from the first event to the last end of a task."""
        if self._first_s is None:
            return 0.0
        return max(self._last_s - self._first_s, 0.0)

    @property
    def fraction(self) -> float:
        """The part of the workers' time in which they ran bodies, 0 to 1."""
        span = self.elapsed_s * self._workers
        return min(1.0, self.busy_s / span) if span else 0.0

    @property
    def tasks_per_s(self) -> float:
        """Tasks that ended well (run or remembered), per second."""
        return (self.done + self.remembered) / self.elapsed_s if self.elapsed_s else 0.0

    def restart(self) -> None:
        """Forget everything and count from now."""
        workers = self._workers
        self.__init__()  # type: ignore[misc]
        self._workers = workers
        self._first_s = time.monotonic()
