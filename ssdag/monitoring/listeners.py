# SPDX-License-Identifier: BSD-3-Clause
"""Listeners: small classes of hooks that are told what happens to tasks.

The engine puts events on a :class:`Bus`; a thread of the bus hands them to the
listeners in batches. A listener that raises is logged and removed: it can never break
a run. Progress bars, utilisation and monitoring are listeners, and no engine code
knows them.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.states import TaskState

_log = logging.getLogger("ssdag.monitoring")

#: Seconds between the first event of a batch and its delivery.
BATCH_S = 0.05


class Event(NamedTuple):
    """A change of one task's state.

    Attributes
    ----------
    task_id : int
        The task.
    state : TaskState
        Its new state.
    time_s : float
        When, on ``time.monotonic()``'s clock.
    app : str
        Name of the app.
    executor : str
        Label of the executor; empty before one is chosen.
    started_s : float
        For final states: when the body began; 0.0 if it never ran.
    """

    task_id: int
    state: TaskState
    time_s: float
    app: str
    executor: str
    started_s: float = 0.0


class Listener:
    """Base class of listeners: every hook does nothing.

    The hooks are called from one thread, never at the same time. They may take their
    time (the engine does not wait), but must not submit tasks and wait for them.
    """

    def on_start(self, workers: int) -> None:
        """Learn that the engine started with that many workers in all."""

    def on_events(self, events: Sequence[Event]) -> None:
        """Learn what happened; oldest first."""

    def on_stop(self) -> None:
        """Learn that no more events will come."""


class Bus:
    """Hands events to listeners, in batches, from a thread of its own.

    Parameters
    ----------
    listeners : sequence of Listener
        Who listens; more can come with :meth:`add`.
    workers : int
        Told to each in ``on_start``.
    """

    def __init__(self, listeners: Sequence[Listener], workers: int) -> None:
        #: True while anybody listens; the engine makes events only then.
        self.active = False
        self._listeners: list[Listener] = []
        self._workers = workers
        self._events: list[Event] = []
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._idle = threading.Condition()
        self._taken = 0
        self._thread: threading.Thread | None = None
        for listener in listeners:
            self.add(listener)

    def add(self, listener: Listener) -> None:
        """Begin to tell `listener`; it learns of what happens from now on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ssdag-events", daemon=True)
            self._thread.start()
        if self._call(listener, "on_start", self._workers):
            self._listeners.append(listener)
            self.active = True

    def remove(self, listener: Listener) -> None:
        """Stop telling `listener`; a no-op if it is not known."""
        self.flush()
        self._drop(listener)

    def _drop(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)
        self.active = bool(self._listeners)

    def emit(self, events: Sequence[Event]) -> None:
        """Take events; never blocks and never raises."""
        self._events.extend(events)
        if not self._wake.is_set():
            self._wake.set()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Block until all events so far are delivered; False after `timeout_s`."""
        if threading.current_thread() is self._thread or self._thread is None:
            return True
        self._wake.set()
        with self._idle:
            return self._idle.wait_for(lambda: not self._events and not self._taken, timeout_s)

    def close(self) -> None:
        """Deliver what is left, call ``on_stop``, end the thread."""
        if self._thread is not None:
            self._stop.set()
            self._wake.set()
            self._thread.join(5.0)
            self._thread = None

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._stop.wait(BATCH_S)  # let a batch gather
            self._wake.clear()
            self._taken = len(self._events)
            batch, self._events[: self._taken] = self._events[: self._taken], []
            if batch:
                for listener in tuple(self._listeners):
                    self._call(listener, "on_events", batch)
            with self._idle:
                self._taken = 0
                self._idle.notify_all()
            if self._stop.is_set() and not self._events:
                break
        for listener in tuple(self._listeners):
            self._call(listener, "on_stop")
        self._listeners.clear()
        self.active = False

    def _call(self, listener: Listener, hook: str, *args: object) -> bool:
        try:
            getattr(listener, hook)(*args)
        except (Exception, SystemExit):  # a listener is user code
            _log.exception("listener %s failed in %s and is removed", type(listener).__name__, hook)
            self._drop(listener)
            return False
        return True
