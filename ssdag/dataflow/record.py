# SPDX-License-Identifier: BSD-3-Clause
"""What is remembered of every task, in flat arrays, so that a graph can be made on demand.

A live ``networkx`` graph would cost several times what the engine itself costs per
task. The engine writes a few numbers into arrays instead (30 bytes per task, 9 per
edge) and :meth:`Record.to_networkx` builds the graph when somebody asks for it.
"""

from __future__ import annotations

import time
from array import array
from enum import IntEnum
from math import nan
from typing import TYPE_CHECKING, Any

from ssdag.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    import networkx

#: The executor index of a task that none has been chosen for.
NO_EXECUTOR = 255
_GROW = 1024


class EdgeKind(IntEnum):
    """Why a node waits for another."""

    DATA = 0
    """The parent's result is an argument."""
    AFTER = 1
    """Order only."""
    JOIN = 2
    """The parent was returned by the child's body; the child ends with its value."""
    MEMO = 3
    """The child took the parent's result instead of running."""
    SERVICE = 4
    """The child uses the service."""


class _Node:
    """A node that is no task: a service, or a future of data."""

    __slots__ = ("app", "ended", "kind", "name", "started", "state", "submitted")

    def __init__(self, name: str, kind: str, app: str, submitted: float) -> None:
        self.name = name
        self.kind = kind
        self.app = app
        self.submitted = submitted
        self.state = "pending"
        self.started = nan
        self.ended = nan


class Record:
    """The history of one engine's tasks and edges.

    No method locks: the engine calls all of them under its own lock, and takes a
    :meth:`copy` there when a graph is to be made outside it. All times are values of
    ``time.perf_counter()``; ``wall_offset_s`` added to one gives seconds since 1970.
    """

    __slots__ = (
        "_app",
        "_child",
        "_ended",
        "_executor",
        "_kind",
        "_node_ids",
        "_nodes",
        "_parent",
        "_room",
        "_started",
        "_state",
        "_submitted",
        "wall_offset_s",
    )

    def __init__(self) -> None:
        self._app = array("i")
        self._submitted = array("d")
        # The arrays below are filled when something happens to a task, and grow in
        # steps, so that `add` has two values to append and not six.
        self._room = 0
        self._started = array("d")
        self._ended = array("d")
        self._state = bytearray()
        self._executor = bytearray()
        self._parent = array("i")
        self._child = array("i")
        self._kind = bytearray()
        self._nodes: list[_Node] = []
        self._node_ids: dict[tuple[str, str], int] = {}
        self.wall_offset_s = time.time() - time.perf_counter()

    # -- writing (the hot path) ------------------------------------------------------

    def add(self, app_index: int, submitted: float) -> None:
        """Append a task; task ids are dense, so this is the next one.

        Parameters
        ----------
        app_index : int
            Position in the ``app_names`` given to :meth:`to_networkx`.
        submitted : float
            ``time.perf_counter()`` of the call.
        """
        self._app.append(app_index)
        self._submitted.append(submitted)

    def edge(self, parent: int, child: int, kind: int) -> None:
        """Append an edge; `parent` is a task id or what :meth:`node` returned."""
        self._parent.append(parent)
        self._child.append(child)
        self._kind.append(kind)

    def ended(
        self, task_id: int, state: int, started: float, ended: float, executor: int = NO_EXECUTOR
    ) -> None:
        """Note a task's final state.

        Parameters
        ----------
        task_id : int
        state : int
            A final :class:`~ssdag.states.TaskState`.
        started, ended : float
            ``time.perf_counter()`` when its body began and when the task ended; 0.0
            or NaN for `started` where no body ran.
        executor : int
            Which executor (position in ``executors``) ran it; 255 for none.
        """
        if task_id >= self._room:
            self._grow(task_id)
        self._state[task_id] = state
        self._started[task_id] = started
        self._ended[task_id] = ended
        if executor != NO_EXECUTOR:
            self._executor[task_id] = executor

    def executor(self, task_id: int, index: int) -> None:
        """Note which executor (position in ``executors``, at most 254) has the task."""
        if task_id >= self._room:
            self._grow(task_id)
        self._executor[task_id] = index

    def _grow(self, task_id: int) -> None:
        # An eighth more: few steps, little waste.
        more = task_id + 1 - self._room + _GROW + (self._room >> 3)
        self._started.extend(array("d", (nan,)) * more)
        self._ended.extend(array("d", (nan,)) * more)
        self._state.extend(bytes(more))
        self._executor.extend(bytes((NO_EXECUTOR,)) * more)
        self._room += more

    # -- nodes that are no tasks (rare) ----------------------------------------------

    def node(self, name: str, kind: str, app: str, submitted: float) -> int:
        """Return the (negative) id of a service or future of data, for :meth:`edge`.

        The same name and kind give the same id.

        Parameters
        ----------
        name : str
            The node's id in the graph: "orchestrator", "tensor u.3".
        kind : str
            "service" or "data".
        app : str
            What it is, for grouping: "Orchestrator", "tensor", "file".
        submitted : float
            When it was first mentioned.
        """
        found = self._node_ids.get((name, kind))
        if found is None:
            self._nodes.append(_Node(name, kind, app, submitted))
            found = self._node_ids[name, kind] = -len(self._nodes)
        return found

    def node_state(self, node: int, state: str, started: float = nan, ended: float = nan) -> None:
        """Set the state of a node made by :meth:`node`; NaN leaves a time as it is."""
        entry = self._nodes[-1 - node]
        entry.state = state
        if started == started:
            entry.started = started
        if ended == ended:
            entry.ended = ended

    # -- reading ---------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self._app)

    @property
    def edges(self) -> int:
        """The number of edges."""
        return len(self._kind)

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays hold, nodes that are no tasks left out."""
        arrays = (self._app, self._submitted, self._started, self._ended)
        flat = (self._state, self._executor, self._kind)
        edges = (self._parent, self._child)
        return sum(a.itemsize * len(a) for a in (*arrays, *edges)) + sum(map(len, flat))

    def copy(self) -> Record:
        """Return a snapshot (a few memcpy), to be read outside the engine's lock."""
        other = Record.__new__(Record)
        for slot in self.__slots__:
            value = getattr(self, slot)
            setattr(other, slot, value[:] if isinstance(value, (array, bytearray)) else value)
        other._nodes = []
        for entry in self._nodes:
            twin = _Node(entry.name, entry.kind, entry.app, entry.submitted)
            twin.state, twin.started, twin.ended = entry.state, entry.started, entry.ended
            other._nodes.append(twin)
        other._node_ids = dict(self._node_ids)
        return other

    def to_networkx(
        self,
        app_names: Sequence[str],
        *,
        executors: Sequence[str] = (),
        live: Mapping[int, int] | None = None,
    ) -> networkx.DiGraph:
        """Build the graph.

        Parameters
        ----------
        app_names : sequence of str
            Name of each ``app_index``.
        executors : sequence of str
            Label of each executor index.
        live : mapping of int to int, optional
            Task id to :class:`~ssdag.states.TaskState` for tasks that have not ended;
            one that is missing here counts as pending.

        Returns
        -------
        networkx.DiGraph
            Tasks have their id (int) as node, services and data their name (str). Node
            attributes: ``kind`` ("task", "service", "data"), ``app``, ``state``,
            ``executor``, ``submitted_s``, ``started_s``, ``ended_s`` (None where it did
            not happen). Edge attribute: ``kind`` (see :class:`EdgeKind`, lower case).
            Graph attribute ``wall_offset_s``: add it to a time for seconds since 1970.
        """
        import networkx

        graph = networkx.DiGraph(wall_offset_s=self.wall_offset_s)
        graph.add_nodes_from(self._tasks(app_names, executors, live or {}))
        graph.add_nodes_from(
            (
                n.name,
                {
                    "kind": n.kind,
                    "app": n.app,
                    "state": n.state,
                    "executor": None,
                    "submitted_s": n.submitted,
                    "started_s": _moment(n.started),
                    "ended_s": _moment(n.ended),
                },
            )
            for n in self._nodes
        )
        graph.add_edges_from(self._edges())
        return graph

    def _tasks(
        self, app_names: Sequence[str], executors: Sequence[str], live: Mapping[int, int]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        states = [state.name.lower() for state in TaskState]
        labels: list[str | None] = [*executors, *[None] * (256 - len(executors))]
        for task_id, (app, submitted) in enumerate(zip(self._app, self._submitted, strict=True)):
            state, executor, started, ended = 0, NO_EXECUTOR, nan, nan
            if task_id < self._room:
                state, executor = self._state[task_id], self._executor[task_id]
                started, ended = self._started[task_id], self._ended[task_id]
            yield (
                task_id,
                {
                    "kind": "task",
                    "app": app_names[app],
                    "state": states[state or live.get(task_id, 0)],
                    "executor": labels[executor],
                    "submitted_s": submitted,
                    "started_s": _moment(started),
                    "ended_s": _moment(ended),
                },
            )

    def _edges(self) -> Iterator[tuple[Hashable, Hashable, dict[str, str]]]:
        kinds = [kind.name.lower() for kind in EdgeKind]
        nodes = self._nodes
        for parent, child, kind in zip(self._parent, self._child, self._kind, strict=True):
            yield (
                parent if parent >= 0 else nodes[-1 - parent].name,
                child if child >= 0 else nodes[-1 - child].name,
                {"kind": kinds[kind]},
            )


def _moment(value: float) -> float | None:
    return value if value > 0 else None  # False for NaN as well


__all__ = ["NO_EXECUTOR", "EdgeKind", "Record"]
