# SPDX-License-Identifier: BSD-3-Clause
"""What every executor does alike: cancel, walltime, retries, order, memory, end."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag import RetryPolicy, TaskState, join_app, python_app
from ssdag.errors import (
    DependencyError,
    UnknownExecutorError,
    UnsupportedError,
    WalltimeExceededError,
)
from ssdag.executors import ThreadExecutor
from tests.conftest import wait_until
from tests.contract import bodies
from tests.contract.bodies import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.dataflow.engine import Engine
    from ssdag.tasks import Task

    Path = Callable[[str], str]

inc = python_app(bodies.inc)
hold = python_app(bodies.hold)
same = python_app(bodies.same)


# -- cancel ------------------------------------------------------------------------------


def test_cancel_pending_and_queued(engine: Engine, path: Path) -> None:
    held = bodies.block(hold, path, 2)
    queued = python_app(bodies.note)(path("log"), "queued")
    pending = python_app(bodies.note)(path("log"), held[0])
    child = inc(pending)
    assert pending.cancel()
    assert queued.cancel()
    assert queued.cancel(), "again, and still cancelled"
    for future in (queued, pending):
        assert future.cancelled()
        assert future.done()
        assert future.state is TaskState.CANCELLED
        with pytest.raises(ssdag.futures.CancelledError):
            future.result(DEADLINE_S)
    error = child.exception(DEADLINE_S)
    assert isinstance(error, DependencyError)
    assert error.path == (pending.task_id, child.task_id)
    bodies.touch(path("release"))
    assert [future.result(DEADLINE_S) for future in held] == [None, None]
    assert inc(1).result(DEADLINE_S) == 2
    assert not held[0].cancel(), "too late"
    assert held[0].result() is None
    assert bodies.lines(path("log")) == []


def test_cancel_a_running_task(engine: Engine, kind: str, path: Path) -> None:
    future = hold(path("started"), path("release"), 5)
    bodies.wait_for(path("started"))
    wait_until(future.running, what="it is seen to run")
    if kind == "threads":
        assert not future.cancel()
        bodies.touch(path("release"))
        assert future.result(DEADLINE_S) == 5
    else:
        assert future.cancel()
        assert future.cancelled()
    assert [f.result(DEADLINE_S) for f in inc.map(range(4))] == [1, 2, 3, 4]


def test_cancel_a_join_cancels_what_its_body_made(engine: Engine, path: Path) -> None:
    held = bodies.block(hold, path, 2)

    @join_app
    def nest(n: int) -> Any:
        if n:
            return [nest(n - 1)]
        bodies.touch(path("innermost"))
        return python_app(bodies.note)(path("log"), "made")

    outer = nest(400)
    bodies.wait_for(path("innermost"))
    wait_until(lambda: outer.state is TaskState.JOINING, what="it joins")
    wait_until(lambda: len(engine.graph()) == 2 + 401 + 1, what="all are made")
    wait_until(
        lambda: all(f == "joining" for _, f in list(engine.graph().nodes(data="state"))[2:-1]),
        what="all join",
    )
    assert outer.cancel()
    bodies.touch(path("release"))
    assert [future.result(DEADLINE_S) for future in held] == [None, None]
    assert engine.wait(DEADLINE_S)
    assert bodies.lines(path("log")) == []


def test_many_cancels_against_many_ends(engine: Engine) -> None:
    """Each ends once, one way or the other, and nothing is lost."""
    for _ in range(5):
        futures = inc.map(range(200))
        children = inc.map(futures)
        stopper = threading.Thread(target=lambda fs=futures: [f.cancel() for f in fs[::3]])
        stopper.start()
        ends = [0, 0]
        for i, (future, child) in enumerate(zip(futures, children, strict=True)):
            error = child.exception(DEADLINE_S)
            if future.cancelled():
                assert i % 3 == 0
                assert isinstance(error, DependencyError)
                ends[0] += 1
            else:
                assert future.result(DEADLINE_S) == i + 1
                assert child.result() == i + 2
                ends[1] += 1
        stopper.join(DEADLINE_S)
        assert sum(ends) == 200
    assert engine.wait(DEADLINE_S)
    assert inc(1).result(DEADLINE_S) == 2


# -- walltime ----------------------------------------------------------------------------


def test_walltime(engine: Engine, kind: str, path: Path) -> None:
    limited = python_app(walltime_s=0.3)(bodies.hold)
    if kind == "threads":
        with pytest.raises(UnsupportedError, match="cannot kill a Python body"):
            limited("", "")
        with pytest.raises(UnsupportedError, match="cannot kill a Python body"):
            hold("", "", walltime=0.3)
        assert len(engine.graph()) == 0, "nothing was submitted"
        return
    slow = [limited(path("s1"), path("never")), hold(path("s2"), path("never"), walltime=0.3)]
    quick = python_app(walltime_s=20)(bodies.inc).map(range(10))
    for future in slow:
        error = future.exception(DEADLINE_S)
        assert isinstance(error, WalltimeExceededError)
        assert error.walltime_s == 0.3
        assert error.task_id == future.task_id
        assert "walltime of 0.3 s" in str(error)
    assert [future.result(DEADLINE_S) for future in quick] == list(range(1, 11))


def test_a_join_has_no_walltime(engine: Engine) -> None:
    with pytest.raises(ssdag.AppDefinitionError, match="join_app"):
        join_app(bodies.inc)(1, walltime=5)


# -- retries -----------------------------------------------------------------------------


def test_retries_per_app_and_global(start: Callable[..., Engine], path: Path) -> None:
    start(retries=1)
    assert python_app(bodies.fails_first)(path("a"), 1).result(DEADLINE_S) == 2
    assert python_app(retries=3)(bodies.fails_first)(path("b"), 3).result(DEADLINE_S) == 4
    error = python_app(bodies.fails_first)(path("c"), 9).exception(DEADLINE_S)
    assert isinstance(error, bodies.Trouble)
    assert error.code == 2
    assert isinstance(
        python_app(retries=0)(bodies.fails_first)(path("d"), 1).exception(DEADLINE_S),
        bodies.Trouble,
    )
    assert join_app(bodies.fails_first)(path("e"), 1).result(DEADLINE_S) == 2


def test_backoff_and_handler(start: Callable[..., Engine], path: Path) -> None:
    seen: list[tuple[int, str]] = []

    def handler(error: BaseException, task: Task) -> float:
        assert isinstance(error, bodies.Trouble)
        seen.append((error.code, task.app.name))
        if error.hint == "wrong":
            raise LookupError("the handler itself")
        return 0.0 if error.code < 3 else float("inf")

    start(retry_handler=handler, retry_backoff_s=0.05)
    begin = time.monotonic()
    assert python_app(bodies.fails_first)(path("a"), 2).result(DEADLINE_S) == 3
    assert time.monotonic() - begin >= 0.05 + 0.1
    assert isinstance(
        python_app(bodies.fails_first)(path("b"), 9).exception(DEADLINE_S), bodies.Trouble
    )
    assert seen == [(i, "fails_first") for i in (1, 2, 1, 2, 3)]

    def wrong() -> None:
        raise bodies.Trouble(1, "wrong")

    error = python_app(wrong)().exception(DEADLINE_S)
    assert isinstance(error, LookupError)
    assert isinstance(error.__cause__, bodies.Trouble)


def test_cancel_while_a_retry_waits(start: Callable[..., Engine], path: Path) -> None:
    engine = start(retries=RetryPolicy(budget=5, backoff_s=60))
    future = python_app(bodies.fails_first)(path("a"), 9)
    bodies.wait_for(path("a"))
    wait_until(lambda: future.state is TaskState.PENDING, what="it waits")
    assert future.cancel()
    assert engine.wait(DEADLINE_S)


def test_arguments_that_cannot_be_put_together_are_not_retried(
    start: Callable[..., Engine],
) -> None:
    """A retry would run the body with futures in place of their values."""
    start(retries=RetryPolicy(budget=2, backoff_s=0.01))
    first = same([1])
    error = same({first}).exception(DEADLINE_S)
    assert isinstance(error, TypeError)
    assert "unhashable" in str(error)


# -- order -------------------------------------------------------------------------------


def test_priority(start: Callable[..., Engine], path: Path) -> None:
    start(workers=1)
    bodies.block(hold, path, 1)
    order = [0, 5, -1, 5, 0, 9, -7]
    for number, priority in enumerate(order):
        python_app(priority=priority)(bodies.note)(path("log"), f"{priority}#{number}")
    bodies.touch(path("release"))
    wait_until(lambda: len(bodies.lines(path("log"))) == len(order), DEADLINE_S)
    expected = sorted(enumerate(order), key=lambda item: (-item[1], item[0]))
    assert bodies.lines(path("log")) == [f"{priority}#{number}" for number, priority in expected]


def test_all_workers_are_used(start: Callable[..., Engine], path: Path) -> None:
    """Tasks that wait for one another run at the same time, warm pool or not."""
    start(workers=3)
    for turn in range(20):
        begun = [path(f"{turn}-{i}") for i in range(3)]

        def meet(mine: str, begun: list[str] = begun) -> None:
            bodies.touch(mine)
            for other in begun:
                bodies.wait_for(other)

        futures = [python_app(meet)(mine) for mine in begun]
        assert ssdag.gather(futures, timeout=DEADLINE_S) == [None] * 3


def test_executors_are_chosen_by_label(path: Path) -> None:
    config = ssdag.Config(executors=[ThreadExecutor(1, label="a"), ThreadExecutor(1, label="bee")])
    with ssdag.load(config) as engine:
        name = lambda: threading.current_thread().name  # noqa: E731
        first = python_app(executors="bee")(name)()
        second = python_app(executors=["a"])(name)()
        assert first.result(DEADLINE_S).startswith("ssdag-bee-")
        assert second.result(DEADLINE_S).startswith("ssdag-a-")
        with pytest.raises(UnknownExecutorError, match="did you mean 'bee'"):
            python_app(executors="beee")(name)()
        # Without a label: wherever there is room.
        held = [hold(path(f"s{i}"), path("release")) for i in range(2)]
        bodies.wait_for(path("s0"))
        bodies.wait_for(path("s1"))
        bodies.touch(path("release"))
        ssdag.gather(held)
        states = engine.graph().nodes
        assert states[0]["executor"] == "bee"
        assert states[1]["executor"] == "a"
        assert {states[2]["executor"], states[3]["executor"]} == {"a", "bee"}
