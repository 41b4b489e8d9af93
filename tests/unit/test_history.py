# SPDX-License-Identifier: BSD-3-Clause
"""What engine.graph() tells of tasks, services, data and files, while they live and after."""

from __future__ import annotations

import concurrent.futures as cf
import threading
import time
from typing import TYPE_CHECKING, Any

import networkx
import pytest

import ssdag
from ssdag import Config, DataFuture, ServiceState, bash_app, join_app, python_app
from ssdag.executors import ThreadExecutor
from ssdag.references import Reference
from ssdag.services.node import ServiceNode
from tests.conftest import wait_until
from tests.contract import bodies

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ssdag.dataflow.engine import Engine
    from ssdag.errors import SsdagError

DEADLINE_S = 30.0

inc = python_app(bodies.inc)
add = python_app(bodies.add)
same = python_app(bodies.same)
trouble = python_app(bodies.trouble)
write_files = python_app(bodies.write_files)


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine of two threads."""
    engine = ssdag.load(Config(executors=[ThreadExecutor(2, label="pair")]))
    yield engine
    engine.close()  # without waiting: a test that fails may leave what never ends


def kinds(graph: networkx.DiGraph) -> dict[tuple[Any, Any], str]:
    """Return the edges and their kinds."""
    return {(u, v): kind for u, v, kind in graph.edges(data="kind")}


# -- tasks -------------------------------------------------------------------------------


def test_every_kind_of_edge_between_tasks(engine: Engine) -> None:
    @join_app
    def both() -> list[Any]:
        return [inc(10), inc(20)]

    first = inc(1)
    child = python_app(bodies.total)(first, [first, {"k": first}])
    later = same(3, after=[child])
    joined = both()
    cached = python_app(cache=True)(bodies.same)
    original = cached(1)
    original.result(DEADLINE_S)
    remembered = cached(1)
    whole = same({"a": 5})
    item = whole["a"]
    ssdag.gather([later, joined, remembered, item], timeout=DEADLINE_S)
    graph = engine.graph()
    edges = kinds(graph)
    assert networkx.is_directed_acyclic_graph(graph)
    assert edges[first.task_id, child.task_id] == "data"
    assert edges[child.task_id, later.task_id] == "after"
    parts = [u for (u, v), kind in edges.items() if v == joined.task_id and kind == "join"]
    assert len(parts) == 2
    assert {graph.nodes[part]["app"] for part in parts} == {"inc"}
    assert graph.nodes[original.task_id]["state"] == "done"
    assert graph.nodes[remembered.task_id]["state"] == "memo_done"
    assert graph.nodes[item.task_id]["app"] == "item"
    assert list(graph.pred[item.task_id]) == [whole.task_id]


def test_states_and_places_of_live_tasks(engine: Engine) -> None:
    gate, release = threading.Event(), threading.Event()

    @join_app
    def waits() -> Any:
        return never

    def runs() -> None:
        gate.set()
        release.wait(DEADLINE_S)

    never: cf.Future[int] = cf.Future()
    pending = inc(never)
    joining = waits()
    running = python_app(runs)()
    assert gate.wait(DEADLINE_S)
    blocker = python_app(release.wait)(DEADLINE_S)
    wait_until(lambda: blocker.running(), DEADLINE_S)
    ready = inc(1)
    wait_until(lambda: joining.state == ssdag.TaskState.JOINING, DEADLINE_S)
    nodes = engine.graph().nodes
    states = [nodes[f.task_id]["state"] for f in (pending, joining, running, ready)]
    assert states == ["pending", "joining", "running", "ready"]
    assert nodes[running.task_id]["executor"] == "pair"
    assert nodes[running.task_id]["ended_s"] is None
    assert nodes[running.task_id]["submitted_s"] <= time.perf_counter()
    before = engine.graph()
    never.set_result(1)
    release.set()
    engine.wait(DEADLINE_S)
    nodes = engine.graph().nodes
    states = [nodes[f.task_id]["state"] for f in (pending, joining, running, ready)]
    assert states == ["done"] * 4
    assert before.nodes[running.task_id]["state"] == "running", "a graph does not change later"


def test_times_and_places_of_tasks_that_have_ended(engine: Engine) -> None:
    begin = time.perf_counter()
    good = inc(1)
    failed = trouble()
    orphan = inc(failed)
    gate: cf.Future[int] = cf.Future()
    cancelled = inc(gate)
    cancelled.cancel()
    ssdag.wait([good, failed, orphan, cancelled])
    nodes = engine.graph().nodes
    for future, state in ((good, "done"), (failed, "failed")):
        data = nodes[future.task_id]
        assert data["state"] == state
        assert data["executor"] == "pair"
        times = [begin, data["submitted_s"], data["started_s"], data["ended_s"]]
        assert times == sorted(times)
    for future, state in ((orphan, "dep_failed"), (cancelled, "cancelled")):
        data = nodes[future.task_id]
        assert data["state"] == state
        assert data["started_s"] is None
        assert data["executor"] is None, "it ran nowhere"
        assert data["ended_s"] >= data["submitted_s"]


def test_the_graph_outlives_its_engine() -> None:
    with ssdag.load(Config(executors=[ThreadExecutor(1)])) as engine:
        inc(inc(1))
    graph = engine.graph()
    assert kinds(graph) == {(0, 1): "data"}
    assert {state for _, state in graph.nodes(data="state")} == {"done"}


def test_a_graph_can_be_asked_for_while_tasks_come_and_go(engine: Engine) -> None:
    stop = threading.Event()

    def submit() -> None:
        while not stop.is_set():
            inc(inc(1)).result(DEADLINE_S)

    threads = [threading.Thread(target=submit) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        sizes = []
        for _ in range(50):
            graph = engine.graph()
            sizes.append(len(graph))
            assert networkx.is_directed_acyclic_graph(graph)
            assert all(u < v for u, v in graph.edges)
            assert all("state" in data for _, data in graph.nodes(data=True))
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert sizes == sorted(sizes)


# -- services ----------------------------------------------------------------------------


class Lamp(ServiceNode):
    """A service without a process."""

    def _start(self) -> str:
        return "light"

    def _stop(self, error: SsdagError) -> None: ...

    def _probe(self) -> dict[str, Any]:
        return {}


def test_services_and_their_states(engine: Engine) -> None:
    lamp, other = Lamp("lamp"), Lamp("other")
    # One that nobody has started counts as pending; passing it to an app starts it.
    users = [same(lamp), same([lamp]), same({"a": other})]
    assert ssdag.gather(users, timeout=DEADLINE_S) == ["light", ["light"], {"a": "light"}]
    graph = engine.graph()
    assert kinds(graph) == {("lamp", 0): "service", ("lamp", 1): "service", ("other", 2): "service"}
    assert graph.nodes["lamp"]["kind"] == "service"
    assert graph.nodes["lamp"]["app"] == "Lamp"
    assert graph.nodes["lamp"]["state"] == str(ServiceState.READY)
    lamp.stop()
    assert engine.graph().nodes["lamp"]["state"] == str(ServiceState.STOPPED)
    assert engine.graph().nodes["other"]["state"] == str(ServiceState.READY)


def test_services_of_the_same_name_are_two_nodes(engine: Engine) -> None:
    first, second = Lamp("lamp"), Lamp("lamp")
    ssdag.gather([same(first), same(second), same(first)], timeout=DEADLINE_S)
    first.stop()
    graph = engine.graph()
    assert set(kinds(graph)) == {("lamp", 0), ("lamp (2)", 1), ("lamp", 2)}
    assert graph.nodes["lamp"]["state"] == str(ServiceState.STOPPED)
    assert graph.nodes["lamp (2)"]["state"] == str(ServiceState.READY)


# -- data and files ----------------------------------------------------------------------


class Three(Reference):
    """A reference whose value is 3."""

    def resolve(self) -> int:
        return 3

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return ()


def test_futures_of_data(engine: Engine) -> None:
    good: DataFuture[int] = DataFuture("u.1", "tensor")
    bad: DataFuture[int] = DataFuture("u.2", "tensor")
    dropped: DataFuture[int] = DataFuture("u.3", "tensor")
    foreign: cf.Future[int] = cf.Future()
    futures = [inc(good), inc(good), inc(bad), inc(dropped), inc(foreign)]
    graph = engine.graph()
    names = ["tensor u.1", "tensor u.2", "tensor u.3"]
    assert [graph.nodes[name]["state"] for name in names] == ["pending"] * 3
    assert graph.nodes["tensor u.1"]["kind"] == "data"
    assert graph.nodes["tensor u.1"]["app"] == "tensor"
    assert set(kinds(graph)) == {(names[0], 0), (names[0], 1), (names[1], 2), (names[2], 3)}
    good.set_result(Three())  # type: ignore[arg-type]
    bad.set_exception(ValueError("lost"))
    dropped.cancel()
    foreign.set_result(1)
    ssdag.wait(futures)
    graph = engine.graph()
    assert [graph.nodes[name]["state"] for name in names] == ["done", "failed", "cancelled"]
    assert [graph.nodes[i]["state"] for i in range(5)] == [
        "done",
        "done",
        *["dep_failed"] * 2,
        "done",
    ]
    assert all(graph.nodes[name]["ended_s"] for name in names)


def test_output_files(engine: Engine, tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in "ab"]
    maker = write_files(names, outputs=names)
    reader = same(maker.outputs[1])
    none = write_files([], outputs=[str(tmp_path / "c")])
    ssdag.wait([reader, none])
    graph = engine.graph()
    a, b, c = (f"file {tmp_path / name}" for name in "abc")
    assert kinds(graph) == {
        (maker.task_id, a): "data",
        (maker.task_id, b): "data",
        (b, reader.task_id): "data",
        (none.task_id, c): "data",
    }
    assert [graph.nodes[name]["state"] for name in (a, b, c)] == ["done", "done", "failed"]
    assert graph.nodes[a]["app"] == "file"


def test_outputs_wait_fail_and_are_cancelled_with_their_task(
    engine: Engine, tmp_path: Path
) -> None:
    gate: cf.Future[list[str]] = cf.Future()
    waiting = write_files(gate, outputs=[str(tmp_path / "w")])
    orphan = write_files(trouble(), outputs=[str(tmp_path / "o")])
    ssdag.wait([orphan])
    name, other = f"file {tmp_path / 'w'}", f"file {tmp_path / 'o'}"
    assert engine.graph().nodes[name]["state"] == "pending"
    assert engine.graph().nodes[other]["state"] == "dep_failed"
    waiting.cancel()
    assert engine.graph().nodes[name]["state"] == "cancelled"


def test_a_file_that_is_rewritten_makes_no_circle(engine: Engine, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    step = bash_app(lambda inputs=(), outputs=(): f"echo x >> {outputs[0]}")
    first = step(outputs=[state])
    second = step(inputs=[first.outputs[0]], outputs=[state])
    third = step(inputs=[second.outputs[0], first.outputs[0]], outputs=[state])
    assert third.result(DEADLINE_S) == 0
    graph = engine.graph()
    one, two, three = (f"file {state}{more}" for more in ("", " (2)", " (3)"))
    assert set(graph.edges) == {
        (0, one), (one, 1), (1, two), (two, 2), (one, 2), (2, three),
    }  # fmt: skip
    assert ssdag.critical_path(graph)[0] == 0
    assert {graph.nodes[name]["state"] for name in (one, two, three)} == {"done"}


# -- the critical path -------------------------------------------------------------------


def test_the_critical_path_of_a_run(engine: Engine) -> None:
    """The longest chain by time, though another has more nodes."""
    hold = threading.Event()

    @python_app
    def slow(x: int) -> int:
        hold.wait(DEADLINE_S)
        return x

    head = slow(1)
    quick: Any = inc(1)
    for _ in range(20):
        quick = inc(quick)
    quick.result(DEADLINE_S)
    threading.Timer(0.2, hold.set).start()
    tail = add(head, quick)
    tail.result(DEADLINE_S)
    assert ssdag.critical_path(engine.graph()) == [head.task_id, tail.task_id]


def test_the_critical_path_goes_through_a_join_into_what_it_made(engine: Engine) -> None:
    made: list[int] = []
    began, ended = threading.Event(), threading.Event()

    @python_app
    def slow() -> int:
        began.set()
        ended.wait(DEADLINE_S)
        return 1

    @join_app
    def inner() -> Any:
        around = slow()
        began.wait(DEADLINE_S)
        within = inc(0)  # begins after the other one, which ends after it
        within.add_done_callback(lambda _: ended.set())
        made.extend([within.task_id, around.task_id])
        return [within, around]

    joined = inner()
    last = same(joined)
    last.result(DEADLINE_S)
    assert ssdag.critical_path(engine.graph()) == [made[1], joined.task_id, last.task_id]


def test_a_join_counts_only_what_it_did_after_its_parts() -> None:
    graph = networkx.DiGraph([("part", "join"), ("join", "end"), ("a", "b"), ("b", "end")])
    spans = {"part": (1, 9), "join": (0, 10), "a": (0, 6), "b": (6, 11), "end": (11, 12)}
    for node, (started, ended) in spans.items():
        graph.add_node(node, kind="task", started_s=started, ended_s=ended)
    assert ssdag.critical_path(graph) == ["a", "b", "end"]


def test_the_critical_path_while_tasks_run(engine: Engine) -> None:
    gate: cf.Future[int] = cf.Future()
    done = inc(1)
    done.result(DEADLINE_S)
    inc(add(done, gate))
    path = ssdag.critical_path(engine.graph())
    assert path[0] == done.task_id
    gate.set_result(1)
