# SPDX-License-Identifier: BSD-3-Clause
"""The thread executor: tasks in threads of the driver."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from ssdag.arguments import localize
from ssdag.errors import ConfigError, WouldDeadlockError
from ssdag.executors.base import Capabilities, Executor, ReadyQueue
from ssdag.futures import WAIT_GUARD
from ssdag.states import TaskState
from ssdag.tasks import AppFuture, Outcome, launch, path_down
from ssdag.wire.functions import runnable
from ssdag.wire.raised import from_user_code

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.executors.base import Sink
    from ssdag.futures import Future
    from ssdag.tasks import AppSpec, Task


class ThreadExecutor(Executor):
    """Runs tasks in threads of this process.

    For bodies that wait (network, files) or release the interpreter lock, and for
    values that cannot be pickled: nothing is copied. A Python body in a thread cannot
    be killed, so ``walltime_s`` of Python apps is refused and a running one cannot be
    cancelled; commands can.

    Parameters
    ----------
    max_threads : int, optional
        Threads at most; they are started as work needs them. The default is 4.
    label : str, optional
        Its name, for ``executors=`` of apps.

    Raises
    ------
    ConfigError
        An option is out of range.
    """

    capabilities = Capabilities(walltime=False)
    reach = "memory"

    def __init__(self, max_threads: int = 4, label: str = "threads") -> None:
        super().__init__(label)
        if isinstance(max_threads, bool) or not isinstance(max_threads, int) or max_threads < 1:
            raise ConfigError(f"ThreadExecutor(max_threads={max_threads!r}): an int of at least 1")
        self._max_threads = max_threads
        self._queue = ReadyQueue()
        #: One token for each queued task, None to end a thread.
        self._tokens: queue.SimpleQueue[bool | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        #: Tokens that no thread is done with: more than threads means that one is missing.
        self._unfinished = 0
        self._closed = False
        self._blocked = 0
        self._active: set[Task] = set()
        self._sink: Sink | None = None
        self._calls: dict[AppSpec, Callable[..., Any]] = {}

    @property
    def capacity(self) -> int:
        """Threads."""
        return self._max_threads

    @property
    def outstanding(self) -> int:
        """Tasks queued or running."""
        return len(self._queue) + len(self._active)

    def start(self, sink: Sink) -> None:
        """Remember whom to tell; threads follow with the first tasks."""
        if self._sink is not None:
            raise ConfigError(f"executor {self.label!r} already belongs to an engine")
        self._sink = sink

    def submit(self, task: Task) -> AppFuture[Any] | None:
        """Queue a ready task; returns its future."""
        future = task.future
        self._queue.push(task)
        with self._lock:
            self._unfinished += 1
            number = len(self._threads)
            if number < min(self._unfinished, self._max_threads) and not self._closed:
                thread = threading.Thread(
                    target=self._serve, name=f"ssdag-{self.label}-{number}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
        self._tokens.put(True)
        return future

    def cancel(self, task: Task) -> bool:
        """Return False: a body in a thread cannot be stopped once it began."""
        return task.state < TaskState.LAUNCHED

    def shutdown(self) -> None:
        """End idle threads; those that run a body end after it and are not waited for."""
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._tokens.put(None)
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join(0.5 if not self._active else 0.01)

    # -- in the threads --------------------------------------------------------------

    def _serve(self) -> None:
        WAIT_GUARD.before_wait = self._before_wait
        assert self._sink is not None
        while self._tokens.get() is not None:
            for task, args, kwargs in launch(self._queue.pop(1)):
                self._active.add(task)
                self._sink.running((task,))
                _HERE.task = task
                outcome = self._run(task, args, kwargs)
                _HERE.task = None
                del args, kwargs
                self._active.discard(task)
                self._sink.finished((outcome,))
                del task, outcome
            with self._lock:
                self._unfinished -= 1

    def _run(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Outcome:
        started = time.monotonic()
        try:
            if not task.simple:
                args, kwargs = localize(args, kwargs)
            call = self._calls.get(task.app)
            if call is None:
                call = self._calls[task.app] = runnable(task.app.func)
            value = call(*args, **kwargs) if kwargs else call(*args)
        except BaseException as error:  # user code, which may also raise SystemExit
            error = from_user_code(error, __file__)
            return Outcome(task, None, error, started, time.monotonic())
        return Outcome(task, value, None, started, time.monotonic())

    def _before_wait(self, future: Future[Any]) -> Callable[[], None]:
        """Refuse a wait for oneself, and one that leaves no thread for what is awaited."""
        task = future._task if isinstance(future, AppFuture) else None
        if task is None:  # whoever completes it needs no thread of ours
            return _nothing
        me = _HERE.task
        ours = task.executor in (None, self)
        with self._lock:
            reason = ""
            last = self._blocked + 1 >= self._max_threads
            if me is not None and (_waits_for(task, me) or path_down(me, [task])):
                reason = f"it waits for task {me.task_id} ({me.app.name}), which calls it"
            elif ours and task.state <= TaskState.LAUNCHED and last:
                reason = f"all {self._max_threads} threads would be waiting"
            if reason:
                raise WouldDeadlockError(
                    f"result() of task {task.task_id} ({task.app.name}) inside a task of executor "
                    f"{self.label!r} would wait for ever: {reason}. "
                    "Pass the future as an argument, or return it from a join_app"
                )
            self._blocked += ours
            if me is not None:
                _WAITS[me] = task

        def release() -> None:
            with self._lock:
                self._blocked -= ours
                if me is not None:
                    _WAITS.pop(me, None)

        return release


class _Here(threading.local):
    """What the current thread runs."""

    task: Task | None = None


_HERE = _Here()
#: Which task in a thread waits for which, for those that wait now.
_WAITS: dict[Task, Task] = {}


def _waits_for(task: Task, me: Task) -> bool:
    """Say whether `task` is `me`, or waits for it in a thread."""
    step: Task | None = task
    while step is not None and step is not me:
        step = _WAITS.get(step)
    return step is not None


def _nothing() -> None:
    pass
