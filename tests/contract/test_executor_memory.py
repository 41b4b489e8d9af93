# SPDX-License-Identifier: BSD-3-Clause
"""What every executor does alike: memo, back-pressure, the end of an engine."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag import TaskState, join_app, python_app
from ssdag.errors import (
    DependencyError,
    EngineClosedError,
)
from ssdag.executors import ThreadExecutor
from tests.conftest import our_children, wait_until
from tests.contract import bodies
from tests.contract.bodies import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.dataflow.engine import Engine

    Path = Callable[[str], str]

inc = python_app(bodies.inc)
hold = python_app(bodies.hold)
same = python_app(bodies.same)


# -- memo --------------------------------------------------------------------------------


def test_results_are_remembered(engine: Engine, path: Path) -> None:
    noted = python_app(cache=True)(bodies.note)
    first = noted(path("log"), "x")
    assert first.result(DEADLINE_S) == "x"
    second = noted(path=path("log"), text="x")
    assert second.result(DEADLINE_S) == "x"
    assert second.state is TaskState.MEMO_DONE
    assert noted(path("log"), same("x")).result(DEADLINE_S) == "x"
    assert noted(path("log"), "y").result(DEADLINE_S) == "y"
    assert bodies.lines(path("log")) == ["x", "y"]


def test_failures_are_not_remembered(engine: Engine, path: Path) -> None:
    app = python_app(cache=True)(bodies.fails_first)
    assert isinstance(app(path("log"), 1).exception(DEADLINE_S), bodies.Trouble)
    assert app(path("log"), 1).result(DEADLINE_S) == 2


def test_identical_calls_in_flight_run_once(engine: Engine, path: Path) -> None:
    app = python_app(cache=True)(bodies.hold)
    futures = [app(path("started"), path("release"), 7) for _ in range(10)]
    bodies.wait_for(path("started"))
    assert futures[3].cancel(), "a follower may go; the others stay"
    children = inc.map(futures[:3])
    bodies.touch(path("release"))
    assert [f.result(DEADLINE_S) for f in (*futures[:3], *futures[4:])] == [7] * 9
    assert [f.result(DEADLINE_S) for f in children] == [8] * 3
    assert futures[0].state is TaskState.DONE
    assert {f.state for f in (*futures[1:3], *futures[4:])} == {TaskState.MEMO_DONE}
    kinds = [kind for *_, kind in engine.graph().edges(data="kind")]
    assert kinds.count("memo") == 9


def test_followers_go_on_when_the_first_is_cancelled(engine: Engine, path: Path) -> None:
    held = bodies.block(hold, path, 2)
    app = python_app(cache=True)(bodies.note)
    first, second, third = (app(path("log"), "x") for _ in range(3))
    assert first.cancel()
    bodies.touch(path("release"))
    assert [second.result(DEADLINE_S), third.result(DEADLINE_S)] == ["x", "x"]
    assert bodies.lines(path("log")) == ["x"]
    assert ssdag.gather(held) == [None, None]


def test_followers_share_a_failure(engine: Engine, path: Path) -> None:
    @python_app(cache=True)
    def fails(release: str) -> None:
        bodies.wait_for(release)
        raise bodies.Trouble(1, "")

    futures = [fails(path("release")) for _ in range(4)]
    child = inc(futures[2])
    bodies.touch(path("release"))
    errors = [future.exception(DEADLINE_S) for future in futures]
    assert all(isinstance(error, bodies.Trouble) for error in errors)
    assert child.exception(DEADLINE_S).root_cause is errors[2]  # type: ignore[union-attr]


def test_a_join_that_failed_can_be_called_again(engine: Engine, path: Path) -> None:
    again = python_app(bodies.fails_first)

    @join_app(cache=True)
    def outer(x: int) -> Any:
        return again(path("log"), 1)

    assert isinstance(outer(1).exception(DEADLINE_S), DependencyError)
    futures = [outer(1) for _ in range(3)]
    assert [future.result(DEADLINE_S) for future in futures] == [2, 2, 2]
    assert outer(1).result(DEADLINE_S) == 2
    assert bodies.lines(path("log")) == ["call"] * 2


def test_a_checkpoint_outlives_the_engine(start: Callable[..., Engine], path: Path) -> None:
    noted = python_app(cache=True)(bodies.note)
    for _ in range(2):
        with start(checkpoint=path("memo.sqlite")):
            assert noted(path("log"), "x").result(DEADLINE_S) == "x"
    assert bodies.lines(path("log")) == ["x"]


# -- back-pressure and the end -----------------------------------------------------------


def test_max_pending_blocks_the_caller_and_only_him(
    start: Callable[..., Engine], path: Path
) -> None:
    engine = start(max_pending=5)
    bodies.block(hold, path, 2)
    submitted: list[int] = []

    def submit() -> None:
        for i in range(20):
            inc(i)
            submitted.append(i)

    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    wait_until(lambda: len(submitted) == 3, what="three find room")
    thread.join(0.2)
    assert len(submitted) == 3
    assert engine.open_tasks == 5
    bodies.touch(path("release"))
    thread.join(DEADLINE_S)
    assert len(submitted) == 20

    # A join body makes tasks although there is no room: nobody else could make some.
    @join_app
    def many() -> Any:
        return [inc(i) for i in range(50)]

    assert many().result(DEADLINE_S) == list(range(1, 51))


def test_close_wakes_who_waits_for_room(start: Callable[..., Engine], path: Path) -> None:
    engine = start(max_pending=2)
    busy = bodies.block(hold, path, 2)
    caught: list[BaseException] = []

    def submit() -> None:
        try:
            inc(1)
        except EngineClosedError as error:
            caught.append(error)

    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    wait_until(lambda: engine._ledger._watchers, what="it waits")
    busy[0].add_done_callback(lambda _: bodies.touch(path("release")))
    engine.close()
    thread.join(DEADLINE_S)
    assert len(caught) == 1


def test_close_leaves_nothing_and_waits_if_asked(
    start: Callable[..., Engine], kind: str, path: Path
) -> None:
    before = our_children()
    engine = start()
    futures = [python_app(bodies.note)(path("log"), str(i)) for i in range(20)]
    engine.close(wait=True)
    assert [future.result(0) for future in futures] == [str(i) for i in range(20)]
    assert not our_children() - before
    assert engine.closed
    assert "closed" in repr(engine)
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.submit(bodies.inc, 1)
    with pytest.raises(EngineClosedError):
        engine.add_listener(ssdag.Utilization())


def test_a_block_that_raises_cancels(start: Callable[..., Engine], path: Path) -> None:
    engine = start()
    waiting = inc(hold(path("started"), path("release")))
    threading.Timer(0.5, bodies.touch, (path("release"),)).start()  # a thread must end itself
    with pytest.raises(ZeroDivisionError), engine:
        raise ZeroDivisionError
    assert engine.closed
    with pytest.raises(EngineClosedError):
        waiting.result(0)


def test_close_in_a_callback_of_a_task(engine: Engine) -> None:
    """The thread that serves all others ends itself."""
    closed = threading.Event()

    def close(_: object) -> None:
        engine.close()
        closed.set()

    inc(1).add_done_callback(close)
    assert closed.wait(DEADLINE_S)
    assert engine.closed


def test_an_executor_serves_one_engine(engine: Engine, kind: str) -> None:
    with pytest.raises(ssdag.ConfigError, match="already belongs to an engine"):
        ssdag.load(ssdag.Config(executors=[ThreadExecutor(1, label="new"), *engine.executors]))
    assert inc(1).result(DEADLINE_S) == 2
