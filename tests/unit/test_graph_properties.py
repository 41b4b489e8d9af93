# SPDX-License-Identifier: BSD-3-Clause
"""Random graphs, with failures, cancels, nested containers and joins.

Each is evaluated twice, by an engine and by a plain loop, and both must agree on every
node: its state, its value, what its failure is blamed on and along which path.
"""

from __future__ import annotations

import concurrent.futures as cf
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ssdag
from ssdag import TaskState, join_app, python_app
from ssdag.errors import DependencyError
from ssdag.executors import LocalExecutor, ThreadExecutor
from tests.contract import bodies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.apps.app import App
    from ssdag.dataflow.engine import Engine

DEADLINE_S = 60.0

total = python_app(bodies.total)
urgent = python_app(priority=3, retries=1)(bodies.total)
remembered = python_app(cache=True)(bodies.total)
fail = python_app(bodies.fail)


@join_app
def split(*values: Any) -> Any:
    """Return futures, deep: of all values, of one more, and a failure where asked."""
    whole = bodies.total(*values)
    return [total(whole), {"more": (total(total(whole), 1), 5)}]


@join_app
def split_badly(*values: Any) -> Any:
    """Return futures of which one fails."""
    return [total(*values), fail(*values)]


APPS: dict[str, App[Any]] = {
    "total": total, "urgent": urgent, "remembered": remembered, "fail": fail, "split": split,
    "split_badly": split_badly,
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One task: what it runs, on what, and whether it is cancelled before it can run."""

    app: str
    #: A shape with the places of parents in it: ("list", [("node", 3), ("int", 4)]), ...
    shape: Any
    after: tuple[int, ...]
    cancelled: bool


def shapes(before: int) -> st.SearchStrategy[Any]:
    """Nested containers of numbers and earlier nodes."""
    leaf = st.tuples(st.just("int"), st.integers(-9, 9))
    if before:
        node = st.tuples(st.just("node"), st.integers(0, before - 1))
        leaf = st.one_of(leaf, node, node)
    return st.recursive(
        leaf,
        lambda inner: st.tuples(
            st.sampled_from(["list", "tuple", "dict"]), st.lists(inner, max_size=3)
        ),
        max_leaves=5,
    )


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """A list of nodes, each after its parents."""
    nodes: list[Node] = []
    names = ["total"] * 6 + ["urgent", "remembered", "remembered", "split", "split"]
    for number in range(draw(st.integers(1, 14))):
        rare = draw(st.integers(0, 11))
        name = draw(st.sampled_from(names)) if rare else draw(st.sampled_from(list(APPS)))
        after = st.lists(st.integers(0, number - 1), max_size=1) if number else st.just([])
        nodes.append(
            Node(name, draw(shapes(number)), tuple(draw(after)), draw(st.integers(0, 15)) == 0)
        )
    return nodes


def build(shape: Any, values: list[Any]) -> Any:
    """Return the arguments that a shape stands for."""
    kind, inside = shape
    if kind == "int":
        return inside
    if kind == "node":
        return values[inside]
    items = [build(item, values) for item in inside]
    return dict(enumerate(items)) if kind == "dict" else items if kind == "list" else tuple(items)


def parents(shape: Any) -> set[int]:
    """Return the places of all nodes in a shape."""
    kind, inside = shape
    if kind in ("int", "node"):
        return {inside} if kind == "node" else set()
    return set().union(*(parents(item) for item in inside))


@dataclass
class Expected:
    """How a node ends: a value, or the places of the nodes that may be blamed."""

    value: Any = None
    blame: frozenset[int] = frozenset()
    cancelled: bool = False


def evaluate(nodes: list[Node]) -> list[Expected]:
    """Evaluate the graph with a plain loop."""
    ends: list[Expected] = []
    for place, node in enumerate(nodes):
        blame = [ends[p].blame for p in (*parents(node.shape), *node.after)]
        if node.cancelled:
            ends.append(Expected(blame=frozenset({place}), cancelled=True))
        elif any(blame):
            ends.append(Expected(blame=frozenset().union(*blame)))
        elif node.app in ("fail", "split_badly"):
            ends.append(Expected(blame=frozenset({place})))
        else:
            value = bodies.total(build(node.shape, [end.value for end in ends]))
            ends.append(
                Expected([value, {"more": (value + 1, 5)}] if node.app == "split" else value)
            )
    return ends


def check(engine: Engine, nodes: list[Node]) -> None:
    """Run the graph on an engine and compare."""
    gate: cf.Future[int] = cf.Future()
    futures: list[ssdag.AppFuture[Any]] = []
    for node in nodes:
        after = [gate, *(futures[p] for p in node.after)]
        futures.append(APPS[node.app](build(node.shape, futures), after=after))
    assert all(future.state is TaskState.PENDING for future in futures)
    for node, future in zip(nodes, futures, strict=True):
        if node.cancelled:
            future.cancel()  # False if a parent was cancelled just before
    gate.set_result(0)
    expected = evaluate(nodes)
    graph = None
    for place, (node, future, end) in enumerate(zip(nodes, futures, expected, strict=True)):
        if not end.blame:
            assert future.result(DEADLINE_S) == end.value
            assert future.state in (TaskState.DONE, TaskState.MEMO_DONE)
            continue
        if end.cancelled and future.cancelled():
            assert future.state is TaskState.CANCELLED
            continue
        error = future.exception(DEADLINE_S)
        if node.app == "fail" and place in end.blame and not end.cancelled:
            assert isinstance(error, bodies.Trouble)
            continue
        assert isinstance(error, DependencyError)
        assert future.state is TaskState.DEP_FAILED
        assert isinstance(error.root_cause, (bodies.Trouble, cf.CancelledError))
        assert error.__cause__ is error.root_cause
        path = error.path
        assert path[-1] == future.task_id
        if graph is None:
            assert engine.wait(DEADLINE_S)
            graph = engine.graph()
        assert all(graph.has_edge(above, below) for above, below in itertools.pairwise(path))
        assert graph.nodes[path[0]]["state"] in ("failed", "cancelled")
    assert engine.wait(DEADLINE_S)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_threads_agree_with_a_plain_loop(nodes: list[Node]) -> None:
    with ssdag.load(ssdag.Config(executors=[ThreadExecutor(3)])) as engine:
        check(engine, nodes)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(graphs(), min_size=1, max_size=3))
def test_processes_agree_with_a_plain_loop(engine: Engine, several: list[list[Node]]) -> None:
    for nodes in several:
        check(engine, nodes)


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One engine for all examples: that its memory of old graphs is right is tested too."""
    with ssdag.load(ssdag.Config(executors=[LocalExecutor(2)])) as engine:
        yield engine
