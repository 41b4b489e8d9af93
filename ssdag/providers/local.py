# SPDX-License-Identifier: BSD-3-Clause
"""This machine as a scheduler: each job is a process session, which ends with the driver."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ssdag.errors import ConfigError, ProviderError, SubmitError, UnsupportedError
from ssdag.providers import script as scripts
from ssdag.providers.base import Allocation, JobSpec, JobStatus, Node, Provider
from ssdag.providers.commands import LocalRunner
from ssdag.providers.gpus import installed_gpus, visible_gpus
from ssdag.providers.keeper import Keeper, Task
from ssdag.providers.options import BlockOptions
from ssdag.providers.records import combine
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ssdag.launchers.base import Launcher

_NOT_HERE = ("account", "queue", "qos", "constraint", "reservation", "directives")
_WRITE_TIMEOUT_S = 60.0
_numbers = itertools.count(1)


class LocalProvider(Provider):
    """Jobs are scripts that run on this machine at once. Threads may share a provider.

    A job is one session of processes: all of it ends when its script ends, when it is
    cancelled, at its time limit, and if the driver is killed. The tasks of an array run as
    many at a time as there are cores.

    Parameters
    ----------
    launcher : Launcher, optional
        What starts steps, instead of :class:`ssdag.launchers.SingleLauncher`.
    **options
        Fields of :class:`~ssdag.providers.options.BlockOptions` but those that only a
        scheduler knows; one block is one node.

    Raises
    ------
    ConfigError
        An option is unknown or has a wrong value.
    """

    name = "local"
    least_poll_s = 0.0  # a poll asks nobody

    def __init__(self, *, launcher: Launcher | None = None, **options: object) -> None:
        self.options = BlockOptions.of(self.name, {"exclusive": False, **options})
        for name in _NOT_HERE:
            if getattr(self.options, name):
                raise ConfigError(f"local: {name} is known to schedulers only, leave it out")
        if self.options.nodes_per_block != 1:
            raise ConfigError("local: this machine is one node, nodes_per_block must be 1")
        self._launcher = launcher
        self._runner = LocalRunner()
        self._keeper = Keeper(socket.gethostname(), len(os.sched_getaffinity(0)))
        self._jobs: dict[str, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options})"

    # -- jobs ------------------------------------------------------------------------

    def script(self, job: JobSpec) -> str:
        """See :meth:`Provider.script`."""
        asked = [name for name in _NOT_HERE if getattr(job, name)]
        if asked or job.nodes != 1:
            raise UnsupportedError(
                f"job {job.name!r}: this machine has no {', '.join(asked) or 'second node'}"
            )
        return scripts.build(job, [], own_id="$SSDAG_JOB_ID", index="$SSDAG_ARRAY_INDEX")

    def submit_command(self, job: JobSpec, path: str) -> list[str]:
        """See :meth:`Provider.submit_command`."""
        return ["bash", path]

    def submit(self, job: JobSpec) -> str:
        """See :meth:`Provider.submit`."""
        path = f"{scripts.base_path(job)}.sh"
        try:
            self._runner.write(path, self.script(job), _WRITE_TIMEOUT_S)
        except ProviderError as error:
            raise SubmitError(f"local: job {job.name!r}: {error}") from error
        job_id = f"{os.getpid()}-{next(_numbers)}"
        indexes: Sequence[int | None] = [None] if job.array is None else range(job.array)
        after = tuple(one for other in job.after for one in self._jobs.get(other, (other,)))
        tasks = [self._task(job, job_id, index, path, after) for index in indexes]
        members = tuple(task.task_id for task in tasks)
        try:
            self._keeper.add(tasks)
        except OSError as error:
            raise SubmitError(f"local: job {job.name!r} cannot be started: {error}") from error
        self._jobs[job_id] = members
        return job_id

    def _task(
        self, job: JobSpec, job_id: str, index: int | None, path: str, after: tuple[str, ...]
    ) -> Task:
        task_id = job_id if index is None else f"{job_id}.{index}"
        out, err = scripts.output_paths(job, index)
        env = {"SSDAG_JOB_ID": task_id}
        if index is not None:
            env["SSDAG_ARRAY_INDEX"] = str(index)
        return Task(
            task_id=task_id,
            argv=tuple(self.submit_command(job, path)),
            env=env,
            cwd=job.folder,
            out=out,
            err=err,
            walltime_s=job.walltime_s,
            after=after,
            group="" if index is None else job_id,
        )

    def members(self, job_id: str) -> tuple[str, ...]:
        """Return the ids of an array's tasks, which ``poll`` and ``cancel`` take too."""
        members = self._jobs.get(job_id, ())
        return () if members == (job_id,) else members

    def poll(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """See :meth:`Provider.poll`; this one knows at once, and asks nobody."""
        return {job_id: self._status(job_id) for job_id in job_ids}

    def _status(self, job_id: str) -> JobStatus:
        parts = [self._keeper.status(one) for one in self._jobs.get(job_id, (job_id,))]
        known = [part for part in parts if part is not None]
        if not known:
            reason = f"job {job_id} is not one of this provider's"
            return JobStatus(JobState.FAILED, reason=reason)
        return combine(known)

    def cancel(self, job_ids: Sequence[str]) -> None:
        """See :meth:`Provider.cancel`; SIGTERM first, SIGKILL after two seconds."""
        self._keeper.cancel(
            [one for job_id in job_ids for one in self._jobs.get(job_id, (job_id,))]
        )

    def forget(self, job_ids: Iterable[str]) -> None:
        """Remember jobs that are over no longer; for drivers that run for very long."""
        for job_id in job_ids:
            self._keeper.forget(list(self._jobs.pop(job_id, ())))

    # -- where am I ------------------------------------------------------------------

    def allocation(self, env: Mapping[str, str] = os.environ) -> Allocation:
        """Return this machine: the cores, the memory and the GPUs that we may use."""
        gpus = visible_gpus(env)
        node = Node(
            host=socket.gethostname(),
            cores=len(os.sched_getaffinity(0)),
            gpus=installed_gpus(self._runner) if gpus is None else gpus,
            memory_bytes=memory_limit_bytes(),
        )
        return Allocation(self.name, env.get("SSDAG_JOB_ID", ""), (node,))

    def launcher(self) -> Launcher:
        """See :meth:`Provider.launcher`."""
        if self._launcher is None:
            from ssdag import launchers

            self._launcher = launchers.SingleLauncher()
        return self._launcher


def memory_limit_bytes(proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> int | None:
    """Return the memory that this process may use, in bytes; None if nothing tells it.

    It is the least of the machine's and the limits of our control groups, of version 1
    or 2, from the root to our own.
    """
    limits = []
    for line in _lines(f"{proc}/meminfo"):
        if line.startswith("MemTotal:"):
            limits.append(int(line.split()[1]) << 10)
    for line in _lines(f"{proc}/self/cgroup"):
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = Path(cgroups, "memory") if controllers else Path(cgroups)
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        folder = top / place.lstrip("/")
        for level in (folder, *folder.parents):
            limits += [int(text) for text in _lines(level / name) if text.isdigit()]
            if level == top:
                break
    return min(limits, default=None)


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
