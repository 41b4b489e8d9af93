# SPDX-License-Identifier: BSD-3-Clause
"""A scheduler of one machine: starts processes, ends them in time, knows how they ended.

One thread waits for the ends of all processes and for the next time limit; it begins with
the first job and ends with the last one. Each task of a job is a session of its own, which
is killed wholly when the task is over, cancelled or out of time, or if the driver dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssdag.providers.base import JobStatus
from ssdag.providers.records import ended
from ssdag.states import JobState
from ssdag.wire import guard
from ssdag.wire.process import Process, spawn

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger("ssdag")

#: Time between SIGTERM and SIGKILL of a task that is cancelled or out of time.
GRACE_S = 2.0


@dataclass(eq=False)
class Task:
    """A process to run.

    Parameters
    ----------
    task_id : str
    argv : tuple of str
    env : mapping of str to str
        Added to ours.
    cwd : str
    out, err : str
        Files for its output, written anew.
    walltime_s : float
    after : tuple of str
        Tasks that must end well first.
    group : str
        No more than a number of tasks of a group run at once.
    """

    task_id: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    out: str
    err: str
    walltime_s: float
    after: tuple[str, ...] = ()
    group: str = ""
    status: JobStatus = field(default_factory=lambda: JobStatus(JobState.PENDING))
    process: Process | None = None
    ends_s: float = float("inf")
    ending: JobState | None = None


class Keeper:
    """Runs tasks. Threads may share it.

    Parameters
    ----------
    host : str
        Name of this machine, for statuses.
    at_once : int
        Tasks of a group that run at the same time.
    """

    def __init__(self, host: str, at_once: int) -> None:
        self._hosts = (host,)
        self._at_once = at_once
        self._lock = threading.Lock()
        self._tasks: dict[str, Task] = {}
        self._open: dict[str, Task] = {}
        self._thread: threading.Thread | None = None
        self._wake = -1

    def add(self, tasks: list[Task]) -> None:
        """Run tasks as soon as they may; returns at once.

        Raises
        ------
        OSError
            The first of them cannot be started: no such folder, no more processes.
        """
        with self._lock:
            for task in tasks:
                self._tasks[task.task_id] = self._open[task.task_id] = task
            try:
                self._start_ready(strict=True)
            except OSError:
                for task in tasks:
                    del self._tasks[task.task_id]
                    self._open.pop(task.task_id, None)
                raise
            self._poke()

    def status(self, task_id: str) -> JobStatus | None:
        """Return what is known of a task; None for one that was never added."""
        with self._lock:
            task = self._tasks.get(task_id)
            return None if task is None else task.status

    def cancel(self, task_ids: list[str]) -> None:
        """End tasks, first with SIGTERM; returns at once. Unknown and ended ones are left."""
        with self._lock:
            for task_id in task_ids:
                if (task := self._open.get(task_id)) is not None:
                    self._end(task, JobState.CANCELLED)
            self._poke()

    def forget(self, task_ids: list[str]) -> None:
        """Remember tasks that are over no longer."""
        with self._lock:
            for task_id in task_ids:
                if task_id not in self._open:
                    self._tasks.pop(task_id, None)

    # -- under the lock --------------------------------------------------------------

    def _poke(self) -> None:
        if self._thread is None and self._open:
            reading, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._thread = threading.Thread(
                target=self._run, args=(reading,), name="ssdag-local-jobs", daemon=True
            )
            self._thread.start()
        elif self._wake >= 0:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake, b"x")

    def _start_ready(self, strict: bool = False) -> None:
        running: dict[str, int] = {}
        for task in self._open.values():
            running[task.group] = running.get(task.group, 0) + (task.process is not None)
        for task in list(self._open.values()):
            if task.process is not None or (task.group and running[task.group] >= self._at_once):
                continue
            if not self._may_start(task):
                continue
            try:
                self._start(task)
            except OSError as error:
                if strict:
                    raise
                self._close(task, JobStatus(JobState.FAILED, reason=f"cannot start: {error}"))
            else:
                running[task.group] += 1

    def _may_start(self, task: Task) -> bool:
        for other_id in task.after:
            other = self._tasks.get(other_id)
            if other is None or (
                other.status.state.final and other.status.state is not JobState.COMPLETED
            ):
                reason = f"job {other_id}, which must end well first, did not"
                self._close(task, JobStatus(JobState.CANCELLED, reason=reason))
                return False
            if not other.status.state.final:
                return False
        return True

    def _start(self, task: Task) -> None:
        with open(task.out, "wb") as out, open(task.err, "wb") as err:
            task.process = spawn(
                task.argv, env={**os.environ, **task.env}, cwd=task.cwd, stdout=out, stderr=err
            )
        guard.session(task.process.pid)
        task.ends_s = time.monotonic() + task.walltime_s
        task.status = JobStatus(JobState.RUNNING, hosts=self._hosts)

    def _end(self, task: Task, state: JobState) -> None:
        if task.process is None:
            self._close(task, JobStatus(state, reason="cancelled by us"))
        elif task.ending is None:
            task.ending = state
            task.ends_s = float("inf")
            threading.Thread(
                target=task.process.terminate_session,
                args=(GRACE_S,),
                name="ssdag-local-kill",
                daemon=True,
            ).start()

    def _close(self, task: Task, status: JobStatus) -> None:
        task.status = status
        self._open.pop(task.task_id, None)

    # -- the thread ------------------------------------------------------------------

    def _run(self, reading: int) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(reading, selectors.EVENT_READ)
            watched: dict[Task, int] = {}
            while self._step(selector, watched):
                left_s = min(task.ends_s for task in watched) - time.monotonic()
                if -1 in watched.values():  # reaped by a thread that killed it
                    left_s = 0.0
                left_s = min(max(0.0, left_s), 3600.0)
                for key, _ in selector.select(left_s):
                    if key.fd == reading:
                        with contextlib.suppress(BlockingIOError):
                            os.read(reading, 4096)
        os.close(reading)

    def _step(self, selector: selectors.BaseSelector, watched: dict[Task, int]) -> bool:
        """Take what has ended, start what may start; False if nothing is left to do."""
        over = []
        for task, fd in list(watched.items()):
            process = task.process
            assert process is not None
            # Ask before the lock is taken: killing what a task left behind may take time.
            if fd < 0 or _has_ended(process):
                process.kill_session()
                guard.release_session(process.pid)
                if fd >= 0:
                    selector.unregister(fd)
                process.let_go()
                del watched[task]
                over.append(task)
        with self._lock:
            for task in over:
                self._close(task, self._end_of(task))
            before = -1
            while before != len(self._open):  # what is cancelled now may end others
                before = len(self._open)
                self._start_ready()
            now = time.monotonic()
            for task in list(self._open.values()):
                if task.process is not None and task not in watched:
                    # Held: else a thread that kills it would close the descriptor.
                    watched[task] = fd = task.process.hold()
                    if fd >= 0:
                        selector.register(fd, selectors.EVENT_READ)
                if task.ends_s <= now:
                    self._end(task, JobState.TIMEOUT)
            if not watched:
                for task in list(self._open.values()):  # each waits for another one
                    self._close(task, JobStatus(JobState.FAILED, reason="waits for itself"))
                self._thread = None
                os.close(self._wake)
                self._wake = -1
            return bool(watched)

    def _end_of(self, task: Task) -> JobStatus:
        assert task.process is not None
        code = task.process.wait()
        end = ended(code, None) if code >= 0 else ended(None, -code)
        state, reason = end.state, end.reason
        if task.ending is JobState.TIMEOUT:
            state, reason = JobState.TIMEOUT, f"over its time limit of {task.walltime_s:g} s"
        elif task.ending is JobState.CANCELLED:
            state, reason = JobState.CANCELLED, "cancelled by us"
        return JobStatus(state, end.exit_code, end.signal, reason, self._hosts)


def _has_ended(process: Process) -> bool:
    """Look without fetching the exit code, so that its descriptor stays open."""
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else has fetched it: terminate_session, for example
        return True
