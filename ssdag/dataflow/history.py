# SPDX-License-Identifier: BSD-3-Clause
"""What an engine writes in its record, and the graph that is made of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ssdag.dataflow.record import NO_EXECUTOR, EdgeKind, Record
from ssdag.futures import LOCK, DataFuture

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from concurrent.futures import Future

    import networkx

    from ssdag.tasks import AppSpec, Outcome, Task


class History:
    """The apps, tasks, services and data of an engine, for its graph.

    All methods but :meth:`graph` are called under :data:`ssdag.futures.LOCK`.

    Parameters
    ----------
    executors : sequence of Executor
        In the order of their numbers in the record.

    Attributes
    ----------
    record : Record
        Times, states and edges.
    apps : list of AppSpec
        In the order of their numbers in the record.
    """

    def __init__(self, executors: Sequence[Any]) -> None:
        self.record = Record()
        self.apps: list[AppSpec] = []
        self._labels = [executor.label for executor in executors]
        self._places = {executor: place for place, executor in enumerate(executors)}
        self._services: dict[int, Any] = {}
        self._service_nodes: dict[int, int] = {}
        #: The node of each output: a file that two tasks write is two pieces of data, or a
        #: task that changes a file in place would be its own parent.
        self._files: WeakKeyDictionary[DataFuture[Any], int] = WeakKeyDictionary()
        self._versions: dict[str, int] = {}
        #: Nodes of data that have an edge from the service that holds them.
        self._held: set[int] = set()

    def app(self, app: AppSpec) -> int:
        """Return the number of an app that is new."""
        self.apps.append(app)
        return len(self.apps) - 1

    def service(self, service: Any, task: Task) -> None:
        """Note that a task uses a service."""
        self.record.edge(self._service_node(service), task.task_id, EdgeKind.SERVICE)

    def _service_node(self, service: Any) -> int:
        node = self._service_nodes.get(id(service))
        if node is None:
            kind = type(service).__name__
            node = self._new_node(str(getattr(service, "name", kind)), "service", kind)
            self._service_nodes[id(service)] = node
            self._services[node] = service  # alive, so that its id stays its own
        return node

    def _new_node(self, name: str, kind: str, app: str) -> int:
        """Return a node of its own, also where another one has the name."""
        number = self._versions[name] = self._versions.get(name, 0) + 1
        shown = name if number == 1 else f"{name} ({number})"
        return self.record.node(shown, kind, app, time.perf_counter())

    def data_node(self, future: Future[Any]) -> int | None:
        """Return the record's node of a future of data; None for a foreign future."""
        if not isinstance(future, DataFuture):
            return None
        name = f"{future.kind} {future.name}"
        if future.kind == "file":
            known = self._files.get(future)
            if known is None:
                known = self._files[future] = self._new_node(name, "data", future.kind)
            return known
        node = self.record.node(name, "data", future.kind, time.perf_counter())
        if future.source is not None and node not in self._held:
            self._held.add(node)
            self.record.edge(self._service_node(future.source), node, EdgeKind.SERVICE)
        return node

    def note_outputs(self, task: Task, state: str) -> None:
        """Note the files that a task makes ("pending"), or how it left them."""
        assert task.extras is not None
        for output in task.extras.outputs:
            node = self.data_node(output)
            assert node is not None
            if state == "pending":
                self.record.edge(task.task_id, node, EdgeKind.DATA)
            else:
                self.record.node_state(node, state, ended=time.perf_counter())

    def ended(self, outcome: Outcome) -> None:
        """Note the end of a task."""
        task = outcome.task
        place = self._places.get(task.executor, NO_EXECUTOR) if outcome.started else NO_EXECUTOR
        self.record.ended(
            task.task_id,
            outcome.state,
            outcome.started,
            outcome.ended or time.perf_counter(),
            place,
        )
        if task.extras is not None and task.extras.outputs:
            self.note_outputs(task, str(outcome.state))

    def graph(self, open_tasks: Mapping[int, Task]) -> networkx.DiGraph:
        """Build the graph; see :meth:`Record.to_networkx`."""
        with LOCK:
            record = self.record.copy()
            live = {task_id: int(task.state) for task_id, task in open_tasks.items()}
            self._place(record, open_tasks.values())
            names = [app.name for app in self.apps]
            for node, service in self._services.items():
                record.node_state(node, str(service.state))
        return record.to_networkx(names, executors=self._labels, live=live)

    def _place(self, record: Record, tasks: Iterable[Task]) -> None:
        for task in tasks:
            place = self._places.get(task.executor)
            if place is not None:
                record.executor(task.task_id, place)
