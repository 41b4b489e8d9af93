# SPDX-License-Identifier: BSD-3-Clause
"""What adapters to other engines have in common: a queue of ours before one of theirs."""

from __future__ import annotations

import concurrent.futures as cf
import logging
import threading
import time
from abc import abstractmethod
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol

from ssdag.errors import ConfigError, SerializationError, WorkerLostError
from ssdag.executors.base import Capabilities, Executor, ReadyQueue
from ssdag.states import TaskState
from ssdag.tasks import Outcome, launch

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.executors.base import Sink
    from ssdag.tasks import AppFuture, Options, Task

_log = logging.getLogger("ssdag.executors")


#: What any executor can promise: one process on one node.
_ALONE = {"nodes": 1, "ranks": 1, "ranks_per_node": 1}


class Handle(Protocol):
    """A call that the other engine was given: the useful half of a future."""

    def add_done_callback(self, fn: Callable[[Any], object]) -> object:
        """Call ``fn(self)`` once it has ended."""


class ForeignExecutor(Executor):
    """Hands tasks to another engine, a few at a time, and takes their ends.

    Adapters say how a call is sent (:meth:`_send`), how its end is read
    (:meth:`_outcome`) and how it is stopped (:meth:`_stop`).

    Parameters
    ----------
    label : str
        Its name, for ``executors=`` of apps.
    """

    capabilities = Capabilities(walltime=False, resources=frozenset({"cores"}))

    #: Calls that the other engine holds for each that it can run: enough to hide its
    #: latency, few enough that priorities and cancel still mean something.
    _ahead = 4

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self._queue = ReadyQueue()
        self._lock = threading.Lock()
        self._held: dict[Task, Handle] = {}
        self._sent = 0
        self._feeding = False
        self._again = False
        self._closed = False
        self._sink: Sink | None = None

    # -- what adapters fill in -------------------------------------------------------

    @abstractmethod
    def _open(self) -> None:
        """Connect to the other engine, or start it."""

    @abstractmethod
    def _close(self) -> None:
        """End what :meth:`_open` started."""

    @abstractmethod
    def _send(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Handle:
        """Give a task to the other engine.

        Raises
        ------
        SerializationError
            It cannot be pickled.
        Exception
            The other engine does not take it.
        """

    @abstractmethod
    def _outcome(self, task: Task, handle: Any) -> Outcome:
        """Read the end of a call; may raise what the other engine raises."""

    @abstractmethod
    def _stop(self, task: Task, handle: Any) -> bool:
        """Stop a call; False if it cannot be stopped any more."""

    # -- executor --------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Tasks queued here or held by the other engine."""
        return len(self._queue) + self._sent

    def check(self, options: Options, kind: str) -> str | None:
        """Say why it cannot honour a task's options; None if it can."""
        if options.walltime_s is not None and kind == "python":
            return (
                f"executor {self.label!r} cannot kill a Python body, so it cannot honour "
                "walltime_s; use a LocalExecutor"
            )
        needs = options.resources
        if needs is None:
            return None
        for item in fields(needs):
            value = getattr(needs, item.name)
            if value is None or item.name in ("walltime_s", "priority"):
                continue
            if item.name not in self.capabilities.resources and value != _ALONE.get(item.name):
                return f"executor {self.label!r} does not manage {item.name} ({value} was asked)"
        if (needs.cores or 0) > self.capacity:
            return f"executor {self.label!r} has {self.capacity} cores ({needs.cores} were asked)"
        return None

    def start(self, sink: Sink) -> None:
        """Connect to the other engine; blocks until it is there."""
        if self._sink is not None:
            raise ConfigError(f"executor {self.label!r} already belongs to an engine")
        self._open()
        self._sink = sink

    def submit(self, task: Task) -> AppFuture[Any] | None:
        """Queue a ready task; returns its future."""
        future = task.future
        self._queue.push(task)
        self._feed()
        return future

    def cancel(self, task: Task) -> bool:
        """Stop a task where the other engine can."""
        with self._lock:
            handle = self._held.get(task)
        if handle is None:
            return task.state < TaskState.LAUNCHED
        return self._stop(task, handle)

    def shutdown(self) -> None:
        """Stop feeding the other engine, and end it if it is ours."""
        with self._lock:
            self._closed = True
            held = list(self._held.items())
        for task, handle in held:
            try:
                self._stop(task, handle)
            except Exception as error:  # the other engine may be gone
                _log.info("stopping task %d on %r: %s", task.task_id, self.label, error)
        if self._sink is not None:
            self._close()

    # -- feeding ---------------------------------------------------------------------

    def _feed(self) -> None:
        """Give queued tasks to the other engine while it takes more.

        One thread at a time: calls may end while they are given, and what follows from
        their ends must not nest.
        """
        with self._lock:
            if self._feeding:
                self._again = True
                return
            self._feeding = True
        while True:
            self._feed_some()
            with self._lock:
                if not self._again:
                    self._feeding = False
                    return
                self._again = False

    def _feed_some(self) -> None:
        limit = self._ahead * self.capacity
        while self._sent < limit and not self._closed:
            batch = launch(self._queue.pop(1))
            if not batch:
                if not len(self._queue):
                    return
                continue
            for task, args, kwargs in batch:
                self._give(task, args, kwargs)

    def _give(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> None:
        assert self._sink is not None
        try:
            handle = self._send(task, args, kwargs)
        except SerializationError as error:
            self._sink.finished((Outcome(task, error=error),))
            return
        except Exception as error:  # the other engine, or user code that pickles itself
            self._sink.finished((Outcome(task, error=self._refusal(task, error)),))
            return
        with self._lock:
            self._sent += 1
            self._held[task] = handle
        handle.add_done_callback(lambda done: self._ended(task, done))

    def _refusal(self, task: Task, error: Exception) -> WorkerLostError:
        lost = WorkerLostError(
            f"task {task.task_id} ({task.app.name}): executor {self.label!r} does not take it: "
            f"{type(error).__name__}: {error}",
            task_id=task.task_id,
        )
        lost.__cause__ = error
        return lost

    def _ended(self, task: Task, handle: Any) -> None:
        """Take the end of a call, in a thread of the other engine."""
        assert self._sink is not None
        try:
            outcome = self._outcome(task, handle)
        except cf.CancelledError:
            outcome = Outcome(task, state=TaskState.CANCELLED)
        except BaseException as error:  # whatever the other engine calls its failures
            lost = WorkerLostError(
                f"task {task.task_id} ({task.app.name}) was lost by executor {self.label!r}: "
                f"{type(error).__name__}: {error}",
                task_id=task.task_id,
            )
            lost.__cause__ = error
            outcome = Outcome(task, error=lost)
        with self._lock:
            self._sent -= 1
            self._held.pop(task, None)
        self._sink.finished((outcome,))
        self._feed()

    @staticmethod
    def _timed(task: Task, value: Any, error: BaseException | None, took_s: float) -> Outcome:
        """Make an outcome; the body's begin is counted back from now, by our own clock."""
        now = time.monotonic()
        return Outcome(task, value, error, now - took_s, now)
