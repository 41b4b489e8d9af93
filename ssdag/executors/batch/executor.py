# SPDX-License-Identifier: BSD-3-Clause
"""The batch executor: a task, or many, as one job of a scheduler."""

from __future__ import annotations

import os
import shlex
import tempfile
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError, SsdagError, UnsupportedError
from ssdag.executors.allocation.request import request_of
from ssdag.executors.base import Capabilities, Executor
from ssdag.executors.batch.lines import Lines
from ssdag.executors.batch.watching import Watching
from ssdag.providers.base import JobSpec, Provider
from ssdag.providers.options import BlockOptions
from ssdag.resources import check_seconds

if TYPE_CHECKING:
    from ssdag.executors.allocation.request import Request
    from ssdag.executors.base import Sink
    from ssdag.tasks import AppFuture, Options, Task


class BatchExecutor(Executor):
    """Runs tasks as jobs of a scheduler; a sweep goes out as one job.

    Tasks that become ready within ``coalesce_s`` of each other, and need the same, are the
    members of one job. On its node a small runner starts them, so many at a time as there
    are slots, and notes how each has ended: results come as members end, not at the end
    of the job. Ranks are started by the scheduler's launcher, as an ``AllocationExecutor``
    does it; so is ``$SSDAG_LAUNCH`` there. A member that fails does not disturb the
    others. If the job ends before a member (its time limit, a lost node, cancelled by
    hand) that task fails with a :class:`~ssdag.errors.JobError` in the scheduler's words,
    and may be retried.

    The folder of a job keeps its script, ``progress`` (when each member began and ended,
    and its exit code) and ``logs`` (what members wrote, where they did not say where).

    Parameters
    ----------
    provider : Provider or str
        The scheduler: an object, a name such as "slurm", or "auto". Its options say how
        large a job is, and how long it may run.
    label : str
        Its name, for ``executors=`` of apps.
    slots : int, optional
        Members that run at a time in one job; by default as many as its cores allow.
    tasks_per_job : int
        Members of one job at most.
    max_jobs : int
        Jobs that wait or run at a time; what is ready meanwhile goes out in the next.
    coalesce_s : float
        So long a job waits for more members before it is submitted.
    folder : path, optional
        Where the folders of jobs are made; all nodes must see it. The default is
        ``ssdag-runs`` in the current one.
    lost_after_s : float
        A job ends if its driver has given no sign of life for so long; 0 never.

    Raises
    ------
    ConfigError
        An option is of the wrong type or out of range.
    """

    capabilities = Capabilities(
        steps=True,
        resources=frozenset(
            {"nodes", "ranks", "ranks_per_node", "cores_per_rank", "gpus_per_rank", "cores",
             "gpus", "memory_bytes"}
        ),
    )  # fmt: skip

    def __init__(
        self,
        provider: Provider | str = "auto",
        *,
        label: str = "batch",
        slots: int | None = None,
        tasks_per_job: int = 1000,
        max_jobs: int = 20,
        coalesce_s: float = 0.1,
        folder: str | os.PathLike[str] | None = None,
        lost_after_s: float = 120.0,
    ) -> None:
        super().__init__(label)
        if not isinstance(provider, (Provider, str)):
            raise ConfigError(f"provider={provider!r}: a Provider, its name or 'auto' is needed")
        for name, number in (("slots", slots), ("tasks_per_job", tasks_per_job),
                             ("max_jobs", max_jobs)):  # fmt: skip
            if (number is not None or name != "slots") and (
                isinstance(number, bool) or not isinstance(number, int) or number < 1
            ):
                raise ConfigError(f"{name}={number!r}: an int of at least 1 is needed")
        for name, value in (("coalesce_s", coalesce_s), ("lost_after_s", lost_after_s)):
            check_seconds(name, value)
        self._provider = provider
        self.slots = slots
        self.tasks_per_job = tasks_per_job
        self.max_jobs = max_jobs
        self.coalesce_s = float(coalesce_s)
        self.lost_after_s = float(lost_after_s)
        self._asked_folder = os.path.abspath("ssdag-runs" if folder is None else folder)
        self._folder: str | None = None
        self._lock = threading.Lock()
        self._watching: Watching | None = None

    @property
    def provider(self) -> Provider:
        """The scheduler."""
        if isinstance(self._provider, str):
            from ssdag.providers.auto import named

            self._provider = named(self._provider)
        return self._provider

    @property
    def options(self) -> BlockOptions:
        """How large a job is."""
        options = getattr(self.provider, "options", None)
        return options if isinstance(options, BlockOptions) else BlockOptions()

    @property
    def capacity(self) -> int:
        """Members that can run at a time, about."""
        options = self.options
        per_job = self.slots or options.nodes_per_block * (options.cores_per_node or 1)
        return max(1, per_job * self.max_jobs)

    @property
    def outstanding(self) -> int:
        """Tasks that wait or are in jobs."""
        return 0 if self._watching is None else self._watching.outstanding

    @property
    def parent_folder(self) -> str:
        """Where the folder of this run is made."""
        return self._asked_folder

    @property
    def folder(self) -> str:
        """The folder of this run, made on first use."""
        with self._lock:
            if self._folder is None:
                os.makedirs(self._asked_folder, exist_ok=True)
                stamp = time.strftime("%Y%m%d-%H%M%S")
                self._folder = tempfile.mkdtemp(
                    prefix=f"{self.label.replace('/', '_')}-{stamp}-", dir=self._asked_folder
                )
            return self._folder

    def start(self, sink: Sink) -> None:
        """Begin to serve; nothing is submitted before there is a task."""
        if self._watching is not None:
            raise ConfigError(f"executor {self.label!r} already belongs to an engine")
        self._watching = Watching(self, sink)
        self._watching.start()

    def submit(self, task: Task) -> AppFuture[Any] | None:
        """Let a ready task wait for a job; returns its future."""
        assert self._watching is not None
        future = task.future
        self._watching.put(task, request_of(task.options.resources, mpi=task.app.kind == "mpi"))
        return future

    def cancel(self, task: Task) -> bool:
        """Take a task out of its job, ending it if it runs; the job too if it was the last."""
        assert self._watching is not None
        self._watching.cancel(task)
        return True

    def shutdown(self) -> None:
        """Cancel all jobs; blocks until the scheduler says that they are gone, or a while."""
        if self._watching is not None:
            self._watching.stop()

    def check(self, options: Options, kind: str) -> str | None:
        """Say why a task can never run here; None if it can."""
        there = self.provider.job("check", ("true",), self._asked_folder).folder
        if there != self._asked_folder:
            return (
                f"executor {self.label!r}: jobs on the other machine do not see "
                f"{self._asked_folder}; where both share a file system, choose a folder= in the "
                "provider's ssh_folder, else use a PilotExecutor"
            )
        try:
            request = request_of(options.resources, mpi=kind == "mpi")
            if kind == "python" and (request.launched or request.ranks > 1):
                raise UnsupportedError(
                    "a python_app is one process; mpi_app(python=True) runs a function on every "
                    "rank"
                )
            self.provider.script(self.spec("check", request, os.getcwd(), ["true"]))
            Lines(self.provider, self.options).argv(("program",), request)
        except SsdagError as error:
            return f"executor {self.label!r}: {error}"
        return None

    def spec(self, name: str, request: Request, folder: str, command: list[str]) -> JobSpec:
        """Return what the scheduler is asked for, for members of this kind."""
        options = self.options
        job = options.job(name, [shlex.join(command)], folder)
        nodes = max(options.nodes_per_block, request.nodes or 1)
        per_node = -(-request.ranks // (request.nodes or nodes))
        cores = max(options.cores_per_node or 0, per_node * request.cores_per_rank)
        if cores <= 1 and options.cores_per_node is None:
            cores = 0
        gpus = max(options.gpus_per_node or 0, per_node * request.gpus_per_rank)
        return replace(
            job,
            nodes=nodes,
            cores_per_node=cores or None,
            gpus_per_node=gpus or options.gpus_per_node,
            memory_per_node_bytes=options.memory_per_node_bytes or request.memory_bytes or None,
        )
