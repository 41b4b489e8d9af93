# SPDX-License-Identifier: BSD-3-Clause
"""The record of tasks, and the graph made from it."""

from __future__ import annotations

import math
import time
from typing import Any

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdag.dataflow.paths import critical_path
from ssdag.dataflow.record import EdgeKind, Record
from ssdag.errors import CycleError
from ssdag.states import TaskState


def test_graph_of_tasks_services_and_data() -> None:
    record = Record()
    for app in (0, 1, 1, 0):
        record.add(app, 10.0 + len(record))
    db = record.node("orchestrator", "service", "Orchestrator", 9.0)
    assert record.node("orchestrator", "service", "Orchestrator", 9.5) == db
    data = record.node("tensor u.3", "data", "tensor", 9.0)
    record.node_state(db, "ready", started=9.5)
    record.node_state(db, "stopped", ended=19.0)
    record.edge(0, 1, EdgeKind.DATA)
    record.edge(1, 2, EdgeKind.AFTER)
    record.edge(db, 1, EdgeKind.SERVICE)
    record.edge(data, 3, EdgeKind.DATA)
    record.edge(0, 3, EdgeKind.MEMO)
    record.executor(0, 1)
    record.ended(0, TaskState.DONE, 11.0, 12.0)
    record.ended(1, TaskState.FAILED, 12.0, 15.0)
    record.ended(3, TaskState.DEP_FAILED, 0.0, 16.0)
    graph = record.to_networkx(
        ["simulate", "train"], executors=["threads", "local"], live={2: TaskState.RUNNING}
    )
    assert list(graph) == [0, 1, 2, 3, "orchestrator", "tensor u.3"]
    assert graph.nodes[0] == {
        "kind": "task", "app": "simulate", "state": "done", "executor": "local",
        "submitted_s": 10.0, "started_s": 11.0, "ended_s": 12.0,
    }  # fmt: skip
    assert graph.nodes[2]["state"] == "running"
    assert graph.nodes[2]["executor"] is None
    assert graph.nodes[3]["state"] == "dep_failed"
    assert graph.nodes[3]["started_s"] is None
    assert graph.nodes["orchestrator"]["started_s"] == 9.5
    assert graph.nodes["orchestrator"]["ended_s"] == 19.0
    assert graph.nodes["tensor u.3"] == {
        "kind": "data", "app": "tensor", "state": "pending", "executor": None,
        "submitted_s": 9.0, "started_s": None, "ended_s": None,
    }  # fmt: skip
    assert {(u, v): d["kind"] for u, v, d in graph.edges(data=True)} == {
        (0, 1): "data", (1, 2): "after", ("orchestrator", 1): "service",
        ("tensor u.3", 3): "data", (0, 3): "memo",
    }  # fmt: skip
    assert graph.graph["wall_offset_s"] + time.perf_counter() == pytest.approx(time.time(), abs=5)


def test_memory_and_the_empty_record() -> None:
    record = Record()
    assert record.to_networkx([]).number_of_nodes() == 0
    assert critical_path(record.to_networkx([])) == []
    for n in range(100_000):
        record.add(0, 1.0)
        record.ended(n, TaskState.DONE, 1.0, 2.0)
    assert record.nbytes / 100_000 <= 45
    before = record.nbytes
    for n in range(1000):
        record.edge(n, n + 1, 0)
    assert record.nbytes - before == 9000
    assert record.edges == 1000


def test_a_copy_does_not_change() -> None:
    record = Record()
    record.add(0, 1.0)
    node = record.node("db", "service", "Orchestrator", 1.0)
    copy = record.copy()
    record.add(0, 2.0)
    record.ended(0, TaskState.DONE, 1.0, 2.0)
    record.edge(0, 1, 0)
    record.node("other", "service", "Orchestrator", 1.0)
    record.node_state(node, "ready")
    graph = copy.to_networkx(["a"])
    assert dict(graph.nodes(data="state")) == {0: "pending", "db": "pending"}
    assert graph.number_of_edges() == 0
    assert record.to_networkx(["a"]).nodes["db"]["state"] == "ready"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.sampled_from([5, 6, 8])), max_size=20))
def test_any_order_of_ends(ends: list[tuple[int, int]]) -> None:
    record = Record()
    for _ in range(5001):
        record.add(0, 1.0)
    last: dict[int, int] = {}
    for task, state in ends:
        record.ended(task, state, math.nan, 2.0)
        last[task] = state
    graph = record.to_networkx(["a"])
    ended = {n: d["state"] for n, d in graph.nodes(data=True) if d["ended_s"]}
    assert ended == {task: TaskState(state).name.lower() for task, state in last.items()}


def timed(edges: list[tuple[Any, Any]], spans: dict[Any, tuple[float, float]]) -> networkx.DiGraph:
    graph = networkx.DiGraph(edges)
    for node, (started, ended) in spans.items():
        graph.add_node(node, kind="task", started_s=started, ended_s=ended)
    return graph


def test_critical_path() -> None:
    # a -> b -> d is longer than a -> c -> d, though it has no more nodes.
    edges = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
    spans = {"a": (0.0, 1.0), "b": (1.0, 5.0), "c": (1.0, 2.0), "d": (5.0, 6.0), "x": (0.0, 5.5)}
    assert critical_path(timed(edges, spans)) == ["a", "b", "d"]
    # A service that lives all the time is no work; a joining task counts once.
    graph = timed([("inner", "join"), ("db", "join")], {"join": (0.0, 10.0), "inner": (1.0, 9.0)})
    graph.add_node("db", kind="service", started_s=0.0, ended_s=100.0)
    assert critical_path(graph) == ["db", "join"] or critical_path(graph) == ["inner", "join"]
    with pytest.raises(CycleError):
        critical_path(networkx.DiGraph([(1, 2), (2, 1)]))


def test_critical_path_of_a_long_chain() -> None:
    n = 50_000
    spans: dict[Any, tuple[float, float]] = {i: (float(i), i + 1.0) for i in range(n)}
    assert critical_path(timed([(i, i + 1) for i in range(n - 1)], spans)) == list(range(n))
