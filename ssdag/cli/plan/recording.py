# SPDX-License-Identifier: BSD-3-Clause
"""Run a script on executors that only write down what they are given."""

from __future__ import annotations

import contextlib
import itertools
import queue
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ssdag.cli.launch import run_script
from ssdag.cli.plan.values import PlanEnd, Unknown
from ssdag.dataflow import session
from ssdag.executors.base import Executor
from ssdag.executors.local.executor import LocalExecutor
from ssdag.futures import DataFuture, Future
from ssdag.services.data_futures import DataFutures
from ssdag.services.node import ServiceNode
from ssdag.services.orchestrator import Orchestrator
from ssdag.tasks import Outcome, launch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ssdag.client.waiting.conditions import Condition
    from ssdag.config import Config
    from ssdag.executors.base import Sink
    from ssdag.tasks import AppFuture, Options, Task


@dataclass(frozen=True)
class Planned:
    """A task that a script would run.

    Attributes
    ----------
    task_id : int
    app, kind : str
        Name and kind of its app.
    options : Options
        Of the task.
    command : str or tuple of str, optional
        What its body returned, for a ``bash_app`` or an ``mpi_app``.
    """

    task_id: int
    app: str
    kind: str
    options: Options
    command: str | tuple[str, ...] | None = None


class RecordingExecutor(Executor):
    """Stands for an executor: takes what that would take, and ends each task at once.

    Parameters
    ----------
    real : Executor
        Never started.
    """

    def __init__(self, real: Executor) -> None:
        super().__init__(real.label)
        self.real = real
        self.capabilities = real.capabilities
        self.planned: list[Planned] = []
        #: The most tasks of it that no other one must precede.
        self.widest = 0
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._sink: Any = None

    @property
    def capacity(self) -> int:
        """As of the real one."""
        return self.real.capacity

    @property
    def outstanding(self) -> int:
        """Tasks that it has; used to choose between executors."""
        return len(self.planned)

    def check(self, options: Options, kind: str) -> str | None:
        """Ask the real one."""
        return self.real.check(options, kind)

    def start(self, sink: Sink) -> None:
        """Begin to take tasks."""
        self._sink = sink
        self._thread = threading.Thread(target=self._serve, name="ssdag-plan", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> AppFuture[Any] | None:
        """Write a task down."""
        future = task.future
        self._tasks.put(task)
        return future

    def cancel(self, task: Task) -> bool:
        """Say that it can be cancelled: nothing runs."""
        return True

    def shutdown(self) -> None:
        """Look at the graph, and end."""
        self._tasks.put(None)
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        self.widest = max(self.widest, _widest(self._sink.graph(), self.label))

    def _serve(self) -> None:
        while (one := self._tasks.get()) is not None:
            for task, args, kwargs in launch([one]):
                command = _command(task, args, kwargs)
                self.planned.append(
                    Planned(task.task_id, task.app.name, task.app.kind, task.options, command)
                )
                value: Any = Unknown(f"{task.app.name} of task {task.task_id}")
                if command is not None:
                    value = 0  # the exit code
                now = time.monotonic()  # with times, the graph says who had it
                self._sink.finished((Outcome(task, value, None, now, now),))


def _command(
    task: Task, args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> str | tuple[str, ...] | None:
    """Return the command that a body composes; None for other bodies."""
    if task.app.kind not in ("bash", "mpi"):
        return None
    if task.app.kind == "mpi" and type(task.app.func).__name__ != "MpiCommand":
        return None
    values = {name: value for name, value in (kwargs or {}).items() if name != "_ssdag_io"}
    try:
        command = task.app.source(*args, **values)
    except PlanEnd as end:
        return f"(composed in the run: {end})"
    except Exception as error:  # user code, which may not like what it is given
        return f"(composed in the run: {type(error).__name__}: {error})"
    return command if isinstance(command, str) else tuple(map(str, command))


def _widest(graph: Any, label: str) -> int:
    import networkx

    graph = graph.copy()
    if not networkx.is_directed_acyclic_graph(graph):
        return 0
    nodes = graph.nodes
    return max(
        (
            sum(nodes[node].get("executor") == label for node in generation)
            for generation in networkx.topological_generations(graph)
        ),
        default=0,
    )


@dataclass
class Recording:
    """What became of a script.

    Attributes
    ----------
    executors : list of RecordingExecutor
        Of all engines that it has started, in their order.
    services : list of str
        Names of the services that it would start.
    ended : str
        Why it did not come to its end; empty if it did.
    """

    executors: list[RecordingExecutor] = field(default_factory=list)
    services: list[str] = field(default_factory=list)
    ended: str = ""


def record(script: Path, arguments: Sequence[str], config: Config) -> Recording:
    """Run a script so that no task and no service of it runs.

    Its own code runs, and so do the bodies of ``join_app``, ``bash_app`` and
    ``mpi_app``, which only say what to do. What it prints goes to standard error.

    Parameters
    ----------
    script : Path
        An existing file.
    arguments : sequence of str
        Its own.
    config : Config
        For engines that the script starts without naming one.
    """
    recording = Recording()

    def stand_in(wanted: Config) -> Config:
        real = tuple(wanted.executors) or (LocalExecutor(),)
        made = [RecordingExecutor(executor) for executor in real]
        recording.executors += made
        # The user's checkpoint and store must not get values of a plan.
        without: dict[str, Any] = {"checkpoint": None, "store": False, "listeners": ()}
        return replace(wanted, executors=made, retries=0, **without)

    session.set_default_config(config)
    with (
        session.stand_in(stand_in),
        _no_services(recording),
        contextlib.redirect_stdout(sys.stderr),
    ):
        try:
            code = run_script(script, arguments)
        except PlanEnd as end:
            recording.ended = str(end)
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
            recording.ended = f"it left with exit code {code}" if code else ""
        else:
            recording.ended = f"it failed, with exit code {code}" if code else ""
        session.close_all()
    return recording


@contextlib.contextmanager
def _no_services(recording: Recording) -> Iterator[None]:
    """Let services be ready at once, and whatever is waited for in them be there."""
    numbers = itertools.count()

    def begin(node: ServiceNode) -> Future[Any]:
        if not node.ready.done():
            recording.services.append(node.name)
            node.ready.set_result(Unknown(f"client of {node.name}"))
        return node.ready

    def start(node: ServiceNode) -> ServiceNode:
        begin(node)
        return node

    def data(
        node: ServiceNode,
        condition: Condition,
        _result: object,
        _timeout_s: object,
        future: DataFuture[Any] | None = None,
    ) -> DataFuture[Any]:
        begin(node)
        if future is None:
            future = DataFuture(condition.name, condition.kind, source=node)
        future.set_result(Unknown(f"{condition} (number {next(numbers)})"))
        return future

    def unknown(what: str) -> Any:
        return lambda node: Unknown(f"{what} of {start(node).name}")

    changes: list[tuple[type, str, Any]] = [
        (ServiceNode, "start_in_background", begin),
        (ServiceNode, "start", start),
        (DataFutures, "_future", data),
        (Orchestrator, "client", unknown("client")),
        (Orchestrator, "environment", lambda node: {"SSDB": str(unknown("address")(node))}),
        *((Orchestrator, name, property(unknown(name)))
          for name in ("address", "tcp_address", "password_file")),
    ]  # fmt: skip
    kept = [(owner, name, vars(owner).get(name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in kept:
            if value is None:  # it has it from a base
                delattr(owner, name)
            else:
                setattr(owner, name, value)
