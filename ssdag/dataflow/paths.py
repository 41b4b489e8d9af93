# SPDX-License-Identifier: BSD-3-Clause
"""The chain of nodes that decided how long a graph took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssdag.errors import CycleError

if TYPE_CHECKING:
    import networkx


def critical_path(graph: networkx.DiGraph) -> list[Any]:
    """Return the nodes of the longest chain of :meth:`Engine.graph`, by time spent.

    These are the tasks to make faster: the others had time to spare.

    A node adds the time from when it started, or from the end of the node before it in
    the chain if that was later, to its own end; so a task that joins counts only what
    it did after the task that it waited for. Services, data and nodes without times
    add nothing.

    Parameters
    ----------
    graph : networkx.DiGraph
        Nodes with ``kind``, ``started_s`` and ``ended_s``.

    Returns
    -------
    list
        Task ids (services and data: their names), first to last.

    Raises
    ------
    CycleError
        The graph has a cycle.

    Examples
    --------
    >>> ssdag.critical_path(engine.graph())
    [0, 7, 12]
    """
    spans: dict[Any, tuple[float, float] | None] = {}
    for node, data in graph.nodes(data=True):
        started, ended = data.get("started_s"), data.get("ended_s")
        timed = data.get("kind", "task") == "task" and started is not None and ended is not None
        spans[node] = (started, ended) if timed else None
    best: dict[Any, float] = {}
    before: dict[Any, Any] = {}
    for node in _in_order(graph):
        span = spans[node]
        longest, via = (span[1] - span[0] if span else 0.0), None
        for parent in graph.pred[node]:
            gain = 0.0
            if span:
                other = spans[parent]
                gain = span[1] - (max(span[0], other[1]) if other else span[0])
            total = best[parent] + max(0.0, gain)
            if total > longest or (via is None and total == longest):
                longest, via = total, parent
        best[node] = longest
        before[node] = via
    path: list[Any] = []
    here = max(best, key=best.__getitem__, default=None)
    while here is not None:
        path.append(here)
        here = before[here]
    return path[::-1]


def _in_order(graph: networkx.DiGraph) -> list[Any]:
    import networkx

    try:
        return list(networkx.topological_sort(graph))
    except networkx.NetworkXUnfeasible as error:
        raise CycleError("the graph has a cycle") from error
