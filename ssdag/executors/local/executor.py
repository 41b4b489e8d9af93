# SPDX-License-Identifier: BSD-3-Clause
"""The local executor: worker processes on this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError
from ssdag.executors.base import Capabilities, Executor
from ssdag.executors.local import revoking
from ssdag.executors.local.hub import Hub
from ssdag.executors.local.switching import SWITCH_INTERVAL
from ssdag.executors.waiting import call_and_wait
from ssdag.wire.segment_folder import make_folder, remove_folder
from ssdag.wire.shared import THRESHOLD_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.executors.base import Sink
    from ssdag.tasks import AppFuture, Task

#: The hub's thread may be busy with somebody's callback: a cancel then works later. Long
#: enough for a machine that stands still for a moment.
_CANCEL_WAIT_S = 2.0


class LocalExecutor(Executor):
    """Runs tasks in processes on this machine.

    Workers are fresh interpreters (nothing is forked), started when there is work for
    them. A worker that dies fails the task that it ran with
    :class:`~ssdag.WorkerLostError`; tasks that waited behind it go to others, and a new
    worker takes its place. Arrays over a threshold travel through ``/dev/shm``.

    Parameters
    ----------
    max_workers : int, optional
        Processes; the default is the number of cores that this process may use.
    label : str, optional
        Its name, for ``executors=`` of apps.
    env : mapping of str to str, optional
        Added to the workers' environment, for example ``{"OMP_NUM_THREADS": "1"}``.
    threshold_bytes : int, optional
        Arrays of this many bytes or more travel by reference; the default is
        256 KiB.
    switch_interval_s : float or None, optional
        While the executor lives, the interpreter's thread switch interval is at most
        this (``sys.setswitchinterval``), so that a busy main thread does not hold up
        the hub for 5 ms a step; it is restored at the end. None leaves it alone.

    Raises
    ------
    ConfigError
        An option is out of range.
    """

    capabilities = Capabilities(walltime=True)
    reach = "memory"

    def __init__(
        self,
        max_workers: int | None = None,
        label: str = "local",
        *,
        env: Mapping[str, str] | None = None,
        threshold_bytes: int = THRESHOLD_BYTES,
        switch_interval_s: float | None = 0.0005,
    ) -> None:
        super().__init__(label)
        if max_workers is None:
            max_workers = len(os.sched_getaffinity(0))
        if isinstance(max_workers, bool) or not isinstance(max_workers, int) or max_workers < 1:
            raise ConfigError(f"LocalExecutor(max_workers={max_workers!r}): an int of at least 1")
        if not isinstance(threshold_bytes, int) or threshold_bytes < 4096:
            raise ConfigError(f"threshold_bytes={threshold_bytes!r}: an int of at least 4096")
        self._max_workers = max_workers
        self._env = {str(name): str(value) for name, value in (env or {}).items()}
        self._threshold = threshold_bytes
        self._switch_interval_s = switch_interval_s
        self._pid = os.getpid()
        self._hub: Hub | None = None
        self._folder: str | None = None

    @property
    def capacity(self) -> int:
        """Worker processes."""
        return self._max_workers

    @property
    def outstanding(self) -> int:
        """Tasks queued or held by workers."""
        if self._hub is None:
            return 0
        return len(self._hub.queue) + sum(len(link.fifo) for link in tuple(self._hub.links))

    def worker_pids(self) -> list[int]:
        """Return the process numbers of the workers that live now."""
        return [link.process.pid for link in tuple(self._hub.links)] if self._hub else []

    def start(self, sink: Sink) -> None:
        """Start the hub's thread; workers follow with the first tasks."""
        if self._hub is not None:
            raise ConfigError(f"executor {self.label!r} already belongs to an engine")
        self._folder = make_folder()
        self._pid = os.getpid()
        if self._switch_interval_s is not None:
            SWITCH_INTERVAL.shorten(self._switch_interval_s)
        self._hub = Hub(
            self.label, self._max_workers, self._folder, self._threshold, self._env, sink
        )
        self._hub.start()

    def submit(self, task: Task) -> AppFuture[Any] | None:
        """Queue a ready task; returns its future."""
        assert self._hub is not None
        self._hub.put(task)
        return task.future

    def submit_many(self, tasks: Sequence[Task]) -> None:
        """Queue ready tasks of one app."""
        assert self._hub is not None
        self._hub.put_many(tasks)

    def cancel(self, task: Task) -> bool:
        """Take the task back, or kill the worker that runs it.

        Once this has returned, a body that had not begun will not begin any more. It
        waits for the hub's thread for that, usually some 100 µs.
        """
        hub = self._hub
        if hub is None or not hub.is_alive():
            return False
        call_and_wait(hub, hub.call, lambda: revoking.cancel(hub, task), _CANCEL_WAIT_S)
        return True

    def shutdown(self) -> None:
        """Kill the workers and remove all segments; values that lie in them stay readable.

        In a forked copy of the process nothing happens: all is the parent's.
        """
        if self._hub is None or os.getpid() != self._pid:
            return
        self._hub.stop()
        if self._switch_interval_s is not None:
            SWITCH_INTERVAL.restore()
        if self._folder is not None:
            self._hub.lent.keep_all()
            remove_folder(self._folder)
            self._folder = None
