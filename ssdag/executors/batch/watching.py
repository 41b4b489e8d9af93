# SPDX-License-Identifier: BSD-3-Clause
"""Collects tasks into jobs, and takes what comes out of these."""

from __future__ import annotations

import functools
import logging
import math
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from ssdag.errors import EngineClosedError, ProviderError, SubmitError, WorkerLostError
from ssdag.executors.batch.job import Job
from ssdag.executors.batch.lines import Lines
from ssdag.executors.batch.making import by_priority, make_members
from ssdag.executors.pool import Pool
from ssdag.providers.watch import Watcher
from ssdag.tasks import Outcome

if TYPE_CHECKING:
    from ssdag.executors.allocation.request import Request
    from ssdag.executors.base import Sink
    from ssdag.executors.batch.executor import BatchExecutor
    from ssdag.executors.batch.job import Member
    from ssdag.providers.base import JobSpec, JobStatus, Provider
    from ssdag.tasks import Task

_log = logging.getLogger("ssdag.executors")

#: Pauses between two looks at what runners say.
_FIRST_S, _LONGEST_S = 0.02, 2.0
#: A shared file system may show the last lines of a job so late.
_SETTLE_S = 3.0
#: How often we show that we live.
_ALIVE_S = 5.0
#: Jobs may take so long to be gone when the executor ends.
_GONE_S = 15.0
_MOMENT_S = 2.0
#: A scheduler that does not take jobs is asked again for so long.
_SUBMIT_S = 120.0


class _Group:
    """Ready tasks that need the same."""

    def __init__(self, now: float) -> None:
        self.since = now
        self.tasks: list[Task] = []


class Watching(threading.Thread):
    """The executor's thread.

    Parameters
    ----------
    executor : BatchExecutor
    sink : Sink
        Who is told.
    """

    def __init__(self, executor: BatchExecutor, sink: Sink) -> None:
        super().__init__(name=f"ssdag-batch-{executor.label}", daemon=True)
        self._executor = executor
        self._sink = sink
        self._lines = Lines(executor.provider, executor.options)
        self._groups: dict[Request, _Group] = {}
        self._jobs: list[Job] = []
        #: Jobs on their way to the scheduler.
        self._sending = 0
        self._where: dict[Task, tuple[Job, int]] = {}
        self._number = 0
        self._closing = False
        self._over = False
        self._pause_s = _FIRST_S
        self._alive_at = 0.0
        self._alive_every_s = min(_ALIVE_S, (executor.lost_after_s or math.inf) / 4)
        self._wake = threading.Condition()
        #: Something has changed since the thread began to look around.
        self._stirred = False
        self._pool = Pool(executor.label, 4)
        self._watcher = Watcher(executor.provider, self._changed)

    # -- called from other threads ---------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Tasks that were not reported, about."""
        return sum(len(group.tasks) for group in list(self._groups.values())) + len(self._where)

    def put(self, task: Task, request: Request) -> None:
        """Let a ready task wait for a job."""
        with self._wake:
            if not self._over:
                group = self._groups.get(request)
                if group is None:
                    group = self._groups[request] = _Group(time.monotonic())
                    self._stir()
                group.tasks.append(task)
                if len(group.tasks) == self._executor.tasks_per_job:
                    self._stir()
                return
        self._sink.finished((Outcome(task, error=self._gone()),))

    def cancel(self, task: Task) -> None:
        """Take a task out of its job; the rest of the work is the pool's."""
        self._pool.put(functools.partial(self._cancel, task))

    def stop(self) -> None:
        """Cancel all jobs and end the thread; blocks until they are gone, or a while."""
        with self._wake:
            self._closing = True
            self._stir()
        if self.is_alive() and threading.current_thread() is not self and not self._pool.here():
            self.join(_GONE_S + 15.0)

    # -- the loop --------------------------------------------------------------------

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        failure: BaseException = self._gone()
        try:
            while not self._closing:
                self._turn()
        except BaseException as error:  # thread top: nobody may wait for ever for us
            _log.exception("the thread of executor %r failed", self._executor.label)
            failure = WorkerLostError(
                f"executor {self._executor.label!r} cannot run tasks any more: {error}"
            )
        finally:
            self._end(failure)

    def _gone(self) -> EngineClosedError:
        return EngineClosedError(f"executor {self._executor.label!r} was shut down")

    def _turn(self) -> None:
        now = time.monotonic()
        with self._wake:
            self._stirred = False
            due = self._collect(now)
            jobs = list(self._jobs)
        news = [self._read(job) for job in jobs]
        self._pause_s = _FIRST_S if any(news) else min(self._pause_s * 1.5, _LONGEST_S)
        if jobs and now - self._alive_at > self._alive_every_s:
            self._alive_at = now
            self._show_life()
        pauses = [due] if due is not None else []
        if jobs:
            pauses.append(min(self._pause_s, self._alive_every_s))
        with self._wake:
            if not self._closing and not self._stirred:
                self._wake.wait(min(pauses) if pauses else None)

    def _stir(self) -> None:
        """Have the thread look around, also if it does so now. The lock is held."""
        self._stirred = True
        self._wake.notify_all()  # others wait for the end

    def _show_life(self) -> None:
        try:
            with open(os.path.join(self._executor.folder, "alive"), "w") as file:
                file.write(f"{time.time()}\n")
        except OSError as error:
            _log.warning("cannot show jobs that their driver lives: %s", error)

    def _collect(self, now: float) -> float | None:
        """Send the groups that are due; return seconds until the next is. The lock is held."""
        executor = self._executor
        due = None
        for request, group in list(self._groups.items()):
            if len(self._jobs) + self._sending >= executor.max_jobs:
                return None  # the end of a job wakes us
            left = group.since + executor.coalesce_s - now
            if len(group.tasks) < executor.tasks_per_job and left > 0:
                due = left if due is None else min(due, left)
                continue
            tasks = by_priority(group.tasks)
            first, rest = tasks[: executor.tasks_per_job], tasks[executor.tasks_per_job :]
            if rest:
                group.tasks = rest
                due = 0.0
            else:
                del self._groups[request]
            self._sending += 1
            self._pool.put(functools.partial(self._send, first, request))
        return due

    def _read(self, job: Job) -> bool:
        """Take what a job's runner says; True if there was something."""
        began, ended = job.news()
        if began:
            self._sink.running(began)
        if ended:
            self._pool.put(functools.partial(self._finish, job, ended))
        if job.over_at is not None and (
            job.open.keys() <= job.cut or time.monotonic() - job.over_at > _SETTLE_S
        ):
            with self._wake:
                self._jobs.remove(job)
                self._stir()
            failures = job.failures()
            self._forget([outcome.task for outcome in failures])
            if failures:
                self._sink.finished(failures)
            return True
        return bool(began or ended)

    def _forget(self, tasks: list[Task]) -> None:
        with self._wake:
            for task in tasks:
                self._where.pop(task, None)

    def _changed(self, job_id: str, status: JobStatus) -> None:
        """Learn of a job's state from the watcher."""
        with self._wake:
            for job in self._jobs:
                if job.job_id == job_id:
                    job.status = status
                    if status.state.final and job.over_at is None:
                        job.over_at = time.monotonic()
            self._pause_s = _FIRST_S
            self._stir()

    # -- in the pool -----------------------------------------------------------------

    def _send(self, tasks: list[Task], request: Request) -> None:
        """Make a job of tasks and submit it."""
        job: Job | None = None
        try:
            job = self._make(tasks, request)
            if job is not None:
                self._submit(job, request)
        except BaseException as error:  # a scheduler that refuses, a disk that is full
            failed = tasks if job is None else [m.task for m in job.members]
            self._forget(failed)
            self._sink.finished([Outcome(task, error=error) for task in failed])
        finally:
            with self._wake:
                self._sending -= 1
                self._stir()

    def _make(self, tasks: list[Task], request: Request) -> Job | None:
        with self._wake:
            self._number += 1
            folder = os.path.join(self._executor.folder, f"job-{self._number:05d}")
        members, failed = make_members(tasks, request, self._lines, folder)
        if failed:
            self._sink.finished(failed)
        return Job(folder, members) if members else None

    def _submit(self, job: Job, request: Request) -> None:
        executor = self._executor
        spec = executor.spec(job.name, request, job.folder, job.command())
        slots = executor.slots
        if slots is None and (request.whole or self._lines.alone(request)):
            slots = 1
        self._show_life()
        job.write(
            slots=slots,
            cores=request.ranks * request.cores_per_rank,
            nodes=spec.nodes,
            alive=os.path.join(executor.folder, "alive"),
            lost_after_s=executor.lost_after_s,
        )
        job.job_id = self._take_to(executor.provider, spec)
        with self._wake:
            self._jobs.append(job)
            for index, member in job.open.items():
                self._where[member.task] = job, index
            late = [m.task for m in job.members if m.task.state.final]
            self._stir()
        self._watcher.add(job.job_id)
        for task in late:  # cancelled while it was being submitted
            self._cancel(task)

    def _take_to(self, provider: Provider, spec: JobSpec) -> str:
        """Submit a job; a scheduler that does not answer is asked again for a while."""
        give_up = time.monotonic() + _SUBMIT_S
        pause_s = 0.5
        while True:
            with self._wake:
                if self._closing:
                    raise self._gone()
            try:
                return provider.submit(spec)
            except SubmitError:
                raise
            except ProviderError as error:
                if time.monotonic() + pause_s > give_up:
                    raise
                _log.warning("a job could not be submitted, trying again: %s", error)
            with self._wake:
                self._wake.wait_for(lambda: self._closing, pause_s)
            pause_s = min(2 * pause_s, 10.0)

    def _finish(self, job: Job, ended: list[tuple[Member, dict[str, Any]]]) -> None:
        for member, said in ended:
            outcome = job.outcome(member, said)
            job.clean(member)
            self._forget([member.task])
            self._sink.finished((outcome,))

    def _cancel(self, task: Task) -> None:
        with self._wake:
            for group in self._groups.values():
                if task in group.tasks:
                    group.tasks.remove(task)
                    return
            job, index = self._where.get(task, (None, 0))
            if job is None:
                return
            job.members[index].cancelled = True
            last = all(member.cancelled for member in job.open.values())
        if last:
            self._cancel_jobs([job])
        else:
            job.cancel(index)

    def _cancel_jobs(self, jobs: list[Job]) -> None:
        try:
            self._executor.provider.cancel([job.job_id for job in jobs])
        except ProviderError as error:
            _log.warning("jobs could not be cancelled: %s", error)
        self._watcher.nudge()

    # -- the end ---------------------------------------------------------------------

    def _end(self, failure: BaseException) -> None:
        self._closing = True
        give_up = time.monotonic() + _GONE_S
        with self._wake:
            self._over = True
            self._wake.wait_for(lambda: not self._sending, _GONE_S)
            waiting = [task for group in self._groups.values() for task in group.tasks]
            self._groups.clear()
            jobs = list(self._jobs)
            waiting += [member.task for job in jobs for member in job.open.values()]
        self._sink.finished([Outcome(t, error=failure) for t in waiting])
        busy = [job for job in jobs if job.open]
        if busy:
            self._cancel_jobs(busy)
        self._watcher.nudge()
        with self._wake:
            # A job whose members have all ended needs but a moment.
            self._wake.wait_for(lambda: all(job.over_at is not None for job in jobs), _MOMENT_S)
            gone = self._wake.wait_for(
                lambda: all(job.over_at is not None for job in busy),
                max(0.1, give_up - time.monotonic()),
            )
        if not gone:
            left = ", ".join(job.job_id for job in busy if job.over_at is None)
            _log.warning("jobs that were cancelled are still there: %s", left)
        self._watcher.close()
        self._pool.close()
