# SPDX-License-Identifier: BSD-3-Clause
"""What an executor promises the engine, and the queue that executors share."""

from __future__ import annotations

import heapq
import itertools
import threading
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ssdag.errors import ConfigError
from ssdag.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ssdag.tasks import AppFuture, Options, Outcome, Task


Reach = Literal["memory", "node", "anywhere"]


class Sink(Protocol):
    """The engine, as executors see it. Its methods may be called from any thread."""

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """Take the ends of attempts, in batches; a batch costs little more than one."""

    def running(self, tasks: Sequence[Task]) -> None:
        """Learn that these tasks execute now."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an executor can honour; a task that asks for more is refused at submission.

    Parameters
    ----------
    walltime : bool
        It can kill a Python body.
    resources : frozenset of str
        Fields of :class:`~ssdag.Resources` that it understands, beside priority and
        walltime.
    steps : bool
        It starts programs with ranks: what an ``mpi_app`` needs.
    """

    walltime: bool = True
    resources: frozenset[str] = frozenset({"cores", "nodes", "ranks"})
    steps: bool = False


class Executor(ABC):
    """Runs tasks. One object serves one engine, once.

    The life of an executor: the engine calls :meth:`start` with itself as sink, then
    :meth:`submit` for each task as it becomes ready; the executor reports the end of
    each attempt to ``sink.finished``; :meth:`shutdown` ends it. A task that is not
    reported hangs its user, so every path through an executor must end in a report.

    Parameters
    ----------
    label : str
        Its name; apps choose executors by it. Unique within an engine.
    """

    #: What it can honour.
    capabilities = Capabilities()

    #: Where its workers are. "memory": on this machine, and large values come to them
    #: past the driver by themselves. "node": on this machine. "anywhere": perhaps on others.
    reach: Reach = "anywhere"

    def __init__(self, label: str) -> None:
        if not isinstance(label, str) or not label:
            raise ConfigError(f"label={label!r}: an executor needs a non-empty name")
        self.label = label

    @property
    @abstractmethod
    def capacity(self) -> int:
        """Tasks that it can run at a time."""

    @property
    @abstractmethod
    def outstanding(self) -> int:
        """Tasks that it was given and has not reported."""

    @abstractmethod
    def start(self, sink: Sink) -> None:
        """Begin to serve; returns at once, workers may come up later."""

    @abstractmethod
    def submit(self, task: Task) -> AppFuture[Any] | None:
        """Take a ready task; never blocks. Returns the task's future."""

    def submit_many(self, tasks: Sequence[Task]) -> None:
        """Take ready tasks, all of one app; the same as :meth:`submit` for each."""
        for task in tasks:
            self.submit(task)

    @abstractmethod
    def cancel(self, task: Task) -> bool:
        """Stop a launched or running task, killing it if need be.

        Returns
        -------
        bool
            True if it will not go on; the engine then ends it as cancelled and ignores
            what the executor may still report of it. False if it cannot be stopped.
        """

    @abstractmethod
    def shutdown(self) -> None:
        """End all workers, also those that are busy; blocks until they are gone."""

    def check(self, options: Options, kind: str) -> str | None:
        """Say why it cannot honour a task's options; None if it can."""
        if options.walltime_s is not None and kind == "python" and not self.capabilities.walltime:
            return (
                f"executor {self.label!r} cannot kill a Python body, so it cannot honour "
                "walltime_s; use a LocalExecutor"
            )
        if kind == "mpi" and not self.capabilities.steps:
            return (
                f"executor {self.label!r} starts no MPI ranks; use an AllocationExecutor, or a "
                "BatchExecutor"
            )
        needs = options.resources
        if needs is None:
            return None
        for name in ("nodes", "ranks", "ranks_per_node", "cores_per_rank", "gpus_per_rank",
                     "cores", "gpus", "memory_bytes"):  # fmt: skip
            value = getattr(needs, name)
            if value is None:
                continue
            if name not in self.capabilities.resources:
                return f"executor {self.label!r} does not manage {name} ({name}={value} was asked)"
            if value > 1 and name != "cores":
                return f"executor {self.label!r} has one node and one rank ({name}={value})"
            if value > self.capacity:
                return f"executor {self.label!r} has {self.capacity} cores ({name}={value})"
        return None


class ReadyQueue:
    """Tasks that wait for a worker: higher priority first, else in order of arrival.

    Any thread may push; pops need not be in one thread either. Tasks that were
    cancelled while they waited are dropped on the way out.
    """

    def __init__(self) -> None:
        self._plain: deque[Task] = deque()
        self._heap: list[tuple[int, int, Task]] = []
        self._counter = itertools.count()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._plain) + len(self._heap)

    def push(self, task: Task) -> None:
        """Add a task."""
        priority = task.options.priority
        if priority == 0:
            self._plain.append(task)
        else:
            with self._lock:
                heapq.heappush(self._heap, (-priority, next(self._counter), task))

    def push_many(self, tasks: Sequence[Task]) -> None:
        """Add tasks, all with the same options."""
        if tasks[0].options.priority == 0:
            self._plain.extend(tasks)
        else:
            for task in tasks:
                self.push(task)

    def push_front(self, tasks: Sequence[Task]) -> None:
        """Put tasks back that were taken and not begun, before all of their priority."""
        for task in reversed(tasks):
            priority = task.options.priority
            if priority == 0:
                self._plain.appendleft(task)
            else:
                with self._lock:
                    heapq.heappush(self._heap, (-priority, -next(self._counter), task))

    def pop(self, limit: int) -> list[Task]:
        """Take up to `limit` tasks that are still wanted."""
        taken: list[Task] = []
        plain, heap = self._plain, self._heap
        while len(taken) < limit:
            try:
                if heap and (heap[0][0] < 0 or not plain):
                    with self._lock:
                        task = heapq.heappop(heap)[2]
                elif plain:
                    task = plain.popleft()
                else:
                    break
            except IndexError:  # another thread was quicker
                continue
            if task.state == TaskState.READY:
                taken.append(task)
        return taken

    def drain(self) -> Iterable[Task]:
        """Take all that is left."""
        return self.pop(len(self) + 1)
