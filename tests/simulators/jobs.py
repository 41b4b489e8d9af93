# SPDX-License-Identifier: BSD-3-Clause
"""The part that all simulated schedulers share: jobs, hosts, and what runs on them.

Jobs run for real, each as a session of its own; hosts are only names. A host runs one job
at a time. Nothing here knows how a scheduler words its answers.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Stage(Enum):
    """Where a job stands; schedulers have their own words for each."""

    QUEUED = "queued"
    WAITING = "waiting for another job"
    HELD = "held"
    RUNNING = "running"
    ENDING = "being killed"
    ENDED = "ended"


@dataclass
class Job:
    """A job, or one task of an array."""

    number: int
    name: str
    argv: list[str]
    cwd: str
    env: dict[str, str]
    stdout: str
    stderr: str
    nodes: int = 1
    cores: int = 1
    walltime_s: float | None = None
    after: tuple[int, ...] = ()
    index: int | None = None
    rerunnable: bool = True
    spool: bool = False  # output is put where it belongs only at the end
    append: bool = False  # output files grow instead of being made new
    orphan_ends: bool = True  # ends if a job that it waits for ends badly; else waits for ever
    facts: dict[str, Any] = field(default_factory=dict)

    stage: Stage = Stage.QUEUED
    #: How it ended: exit, walltime, cancelled, lost (its host), dependency.
    how: str = ""
    waitstatus: int | None = None
    hosts: tuple[str, ...] = ()
    runs: int = 0
    submitted_s: float = field(default_factory=time.time)
    started_s: float = 0.0
    ended_s: float = 0.0
    pid: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """Number and index, as the cluster files it."""
        return self.number, -1 if self.index is None else self.index

    @property
    def exit_code(self) -> int | None:
        """Exit code of its process, None if a signal ended it or it never ran."""
        if self.waitstatus is None or not os.WIFEXITED(self.waitstatus):
            return None
        return os.WEXITSTATUS(self.waitstatus)

    @property
    def signal(self) -> int | None:
        """Signal that ended its process."""
        if self.waitstatus is None or not os.WIFSIGNALED(self.waitstatus):
            return None
        return os.WTERMSIG(self.waitstatus)


class Timers:
    """What is to be done later."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def add(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something after some seconds."""
        heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._order), call))

    def wait_s(self) -> float | None:
        """Return how long nothing is due."""
        return max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None

    def run(self) -> None:
        """Call what is due."""
        while self._heap and self._heap[0][0] <= time.monotonic():
            heapq.heappop(self._heap)[2]()


class Cluster:
    """Hosts, the queue, and the jobs that run."""

    def __init__(self, folder: str, hosts: list[str], cores: int, timers: Timers) -> None:
        self.folder = folder
        self.hosts = hosts
        self.cores = cores
        self.timers = timers
        self.jobs: dict[tuple[int, int], Job] = {}
        self.down: set[str] = set()
        self.frozen = False  # nothing starts
        self.kill_after_s = 0.3  # between TERM and KILL
        self.minute_s = 60.0  # tests need not wait for real ones
        self.last_number = 0
        self.on_start: Callable[[Job], None] = lambda job: None
        self.on_end: Callable[[Job], None] = lambda job: None

    # -- asking ----------------------------------------------------------------------

    def tasks(self, number: int) -> list[Job]:
        """Return a job, as a list of one, or all tasks of an array."""
        return [job for job in self.jobs.values() if job.number == number]

    def free_hosts(self) -> list[str]:
        """Return the hosts that are up and run nothing."""
        busy = {h for j in self.jobs.values() if self._runs(j) for h in j.hosts}
        return [h for h in self.hosts if h not in busy and h not in self.down]

    @staticmethod
    def _runs(job: Job) -> bool:
        return job.stage in (Stage.RUNNING, Stage.ENDING)

    # -- changing --------------------------------------------------------------------

    def new_number(self) -> int:
        """Return the number of the next job."""
        self.last_number += 1
        return self.last_number

    def add(self, job: Job) -> None:
        """Queue a job."""
        if job.after and job.stage is Stage.QUEUED:
            job.stage = Stage.WAITING
        self.jobs[job.key] = job
        self.timers.add(0.02, self.schedule)

    def schedule(self) -> None:
        """Start what can start, in order; settle what waits for others."""
        for job in list(self.jobs.values()):
            if job.stage is Stage.WAITING:
                self._settle(job)
        free = self.free_hosts()
        for job in list(self.jobs.values()):
            if self.frozen or job.stage is not Stage.QUEUED or job.nodes > len(free):
                continue
            job.hosts, free = tuple(free[: job.nodes]), free[job.nodes :]
            self._start(job)

    def _settle(self, job: Job) -> None:
        parents = [p for number in job.after for p in self.tasks(number)]
        if any(p.stage is Stage.ENDED and not self._ended_well(p) for p in parents):
            if job.orphan_ends:
                self._end(job, "dependency")
        elif all(p.stage is Stage.ENDED for p in parents):
            job.stage = Stage.QUEUED

    @staticmethod
    def _ended_well(job: Job) -> bool:
        return job.how == "exit" and job.exit_code == 0

    def cancel(self, job: Job, how: str = "cancelled") -> None:
        """End a job: TERM to its session, then KILL."""
        if not self._runs(job):
            if job.stage is not Stage.ENDED:
                self._end(job, how)
            return
        if job.stage is Stage.RUNNING:
            job.stage, job.how = Stage.ENDING, how
            pid = job.pid
            self._signal(pid, signal.SIGTERM)
            self.timers.add(self.kill_after_s, lambda: self._signal(pid, signal.SIGKILL))

    def hold(self, job: Job) -> None:
        """Keep a job from starting."""
        if job.stage in (Stage.QUEUED, Stage.WAITING):
            job.stage = Stage.HELD

    def release(self, job: Job) -> None:
        """Let a held job start."""
        if job.stage is Stage.HELD:
            job.stage = Stage.QUEUED
            self.timers.add(0, self.schedule)

    def lose(self, host: str) -> None:
        """A host dies: everything of the jobs on it is killed."""
        self.down.add(host)
        for job in list(self.jobs.values()):
            if self._runs(job) and host in job.hosts:
                job.how = "lost"
                self._signal(job.pid, signal.SIGKILL)

    def requeue(self, job: Job) -> None:
        """Kill a running job and queue it again."""
        if self._runs(job):
            job.how = "requeued"
            self._signal(job.pid, signal.SIGKILL)

    # -- processes -------------------------------------------------------------------

    def _spooled(self, job: Job, path: str, kind: str) -> str:
        return f"{self.folder}/spool/{job.number}.{job.index}.{kind}" if job.spool else path

    def _open(self, job: Job, path: str, kind: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if job.append else os.O_TRUNC)
        try:
            return os.open(self._spooled(job, path, kind), flags, 0o644)
        except OSError:  # as a real one: the job runs, its output is lost
            return os.open(os.devnull, os.O_WRONLY)

    def _start(self, job: Job) -> None:
        self.on_start(job)
        streams = [self._open(job, job.stdout, "OU")]
        if job.stderr != job.stdout:
            streams.append(self._open(job, job.stderr, "ER"))
        job.runs += 1
        job.started_s = time.time()
        try:
            popen = subprocess.Popen(
                job.argv,
                cwd=job.cwd,
                env=job.env,
                stdin=subprocess.DEVNULL,
                stdout=streams[0],
                stderr=streams[-1],
                start_new_session=True,
            )
        except OSError:
            job.waitstatus = 127 << 8
            self._end(job, "exit")
            return
        finally:
            for stream in streams:
                os.close(stream)
        popen.returncode = 0  # we reap it
        job.pid, job.stage, job.how = popen.pid, Stage.RUNNING, ""
        if job.walltime_s is not None:
            run = job.runs
            self.timers.add(job.walltime_s, lambda: self._out_of_time(job, run))

    def _out_of_time(self, job: Job, run: int) -> None:
        if job.stage is Stage.RUNNING and job.runs == run:
            self.cancel(job, "walltime")

    def reap(self) -> None:
        """Take note of processes that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for job in self.jobs.values():
                if job.pid == pid and self._runs(job):
                    self._ended(job, status)
                    break

    def _ended(self, job: Job, status: int) -> None:
        self._signal(job.pid, signal.SIGKILL)  # what it left behind
        job.waitstatus = status
        how = job.how or "exit"
        if how == "requeued" or (how == "lost" and job.rerunnable):
            job.facts["after_loss"] = how == "lost"
            job.stage, job.hosts, job.pid = Stage.QUEUED, (), 0
            self.timers.add(0.02, self.schedule)
            return
        self._end(job, how)

    def _end(self, job: Job, how: str) -> None:
        job.stage, job.how, job.ended_s = Stage.ENDED, how, time.time()
        if job.spool and job.runs:
            self._deliver(job, job.stdout, "OU")
            if job.stderr != job.stdout:
                self._deliver(job, job.stderr, "ER")
        self.on_end(job)
        self.timers.add(0, self.schedule)

    def _deliver(self, job: Job, path: str, kind: str) -> None:
        try:
            with open(self._spooled(job, path, kind), "rb") as spooled, open(path, "wb") as out:
                out.write(spooled.read())
        except OSError:
            pass  # the folder is gone

    @staticmethod
    def _signal(session: int, number: int) -> None:
        for pid, _, sid in _processes():
            if sid == session and session:
                _kill(pid, number)

    def kill_all(self) -> None:
        """Kill all descendants; we are the one to whom orphans fall."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            below = {os.getpid()}
            grew = True
            table = _processes()
            while grew:
                more = {pid for pid, parent, _ in table if parent in below} - below
                grew = bool(more)
                below |= more
            for pid in below - {os.getpid()}:
                _kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _processes() -> list[tuple[int, int, int]]:
    """Return pid, parent and session of every process."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                rest = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue
        found.append((int(name), int(rest[1]), int(rest[3])))
    return found
