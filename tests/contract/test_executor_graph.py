# SPDX-License-Identifier: BSD-3-Clause
"""What every executor does alike: dependencies, lifted items, references, joins."""

from __future__ import annotations

import concurrent.futures as cf
import gc
import threading
import weakref
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag import TaskState, join_app, python_app
from ssdag.errors import (
    DependencyError,
    EngineClosedError,
    SsdagError,
)
from tests.conftest import wait_until
from tests.contract import bodies
from tests.contract.bodies import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.dataflow.engine import Engine

Pair = namedtuple("Pair", "left right")
inc = python_app(bodies.inc)
add = python_app(bodies.add)
same = python_app(bodies.same)
show = python_app(bodies.show)
trouble = python_app(bodies.trouble)

pytestmark = pytest.mark.usefixtures("engine")


# -- dependencies ------------------------------------------------------------------------


def test_dependencies_in_every_container() -> None:
    f = inc.map(range(8))
    args = (f[0], [f[1]], (f[2], [{"k": f[3]}]), {f[4]: 0}, {f[5]}, frozenset({f[6]}))
    got, named = show(*args, inputs=[Pair(f[7], "x")]).result(DEADLINE_S)
    assert got == (1, [2], (3, [{"k": 4}]), {5: 0}, {6}, frozenset({7}))
    assert named == {"inputs": [(8, "x")]}


def test_the_same_future_twice() -> None:
    future = inc(1)
    assert add(future, future, *[future] * 10).result(DEADLINE_S) == 24


def test_after_orders_without_a_value(path: Callable[[str], str]) -> None:
    log, release = path("log"), path("release")

    @python_app
    def first() -> None:
        bodies.wait_for(release)
        bodies.note(log, "first")

    blocker = first()

    @python_app(after=[blocker])
    def second(x: int) -> int:
        bodies.note(log, "second")
        return x

    future = second(5)
    assert future.state is TaskState.PENDING
    bodies.touch(release)
    assert future.result(DEADLINE_S) == 5
    with open(log) as file:
        assert file.read().split() == ["first", "second"]


def test_a_failed_after_stops_it(engine: Engine) -> None:
    late = python_app(after=trouble())(bodies.inc)
    error = late(1).exception(DEADLINE_S)
    assert isinstance(error, DependencyError)
    assert isinstance(error.root_cause, bodies.Trouble)


def test_failures_run_down_flat(engine: Engine) -> None:
    first = trouble(3)
    second = inc(first)
    third = inc(second)
    fourth = add(1, third, second)
    for future in (second, third, fourth):
        error = future.exception(DEADLINE_S)
        assert isinstance(error, DependencyError)
        assert error.root_cause is first.exception()
        assert error.__cause__ is first.exception()
        assert future.state is TaskState.DEP_FAILED
        assert error.task_id == future.task_id
        assert error.path[0] == first.task_id
        assert error.path[-1] == future.task_id
    assert third.exception().path == (first.task_id, second.task_id, third.task_id)  # type: ignore[union-attr]
    assert "Trouble in task" in str(fourth.exception())
    # The same for a parent that had failed before the call.
    assert inc(third).exception(DEADLINE_S).path[-2:] == (third.task_id, fourth.task_id + 1)  # type: ignore[union-attr]


def test_foreign_futures_are_parents() -> None:
    given: list[cf.Future[Any]] = [cf.Future() for _ in range(4)]
    done: cf.Future[int] = cf.Future()
    done.set_result(5)
    future = add(given[0], done)
    assert future.state is TaskState.PENDING
    given[0].set_result(1)
    assert future.result(DEADLINE_S) == 6
    failed = inc(given[1])
    given[1].set_exception(bodies.Trouble(1, ""))
    error = failed.exception(DEADLINE_S)
    assert isinstance(error, DependencyError)
    assert error.path == (None, failed.task_id)
    cancelled = inc(given[2])
    given[2].cancel()
    given[2].set_running_or_notify_cancel()
    assert isinstance(cancelled.exception(DEADLINE_S).root_cause, cf.CancelledError)  # type: ignore[union-attr]
    dropped = inc(given[3])
    assert dropped.cancel()
    given[3].set_result(1)  # too late, and nobody minds
    assert dropped.cancelled()


def test_futures_of_another_engine_are_parents(
    engine: Engine, start: Callable[..., Engine], path: Callable[[str], str]
) -> None:
    """The ledgers of two engines number their tasks alike, and must not mix them up."""
    release = path("release")
    slow = engine.submit(bodies.hold, path("started"), release, 4)
    bad = engine.submit(bodies.trouble)
    other = start()
    child = other.submit(bodies.inc, slow)
    grandchild = engine.submit(bodies.add, child, slow)
    broken = other.submit(bodies.inc, bad)
    bodies.touch(release)
    assert grandchild.result(DEADLINE_S) == 9
    error = broken.exception(DEADLINE_S)
    assert isinstance(error, DependencyError)
    assert error.path == (None, broken.task_id)
    assert engine.wait(DEADLINE_S)
    assert other.wait(DEADLINE_S)


def test_futures_of_a_closed_engine(
    start: Callable[..., Engine], path: Callable[[str], str]
) -> None:
    first = start()
    good = first.submit(bodies.inc, 1)
    assert good.result(DEADLINE_S) == 2
    never = first.submit(bodies.hold, path("started"), path("release"))
    waiting = first.submit(bodies.inc, never)
    bodies.wait_for(path("started"))
    # A thread must end itself: once the engine has given the task up.
    never.add_done_callback(lambda _: bodies.touch(path("release")))
    first.close()
    for future in (never, waiting):
        with pytest.raises(EngineClosedError, match="closed before task"):
            future.result(0)
        assert future.done()
        assert not future.cancel() or future.cancelled()
    with pytest.raises(EngineClosedError):
        first.submit(bodies.inc, 1)
    with pytest.raises(EngineClosedError):
        good["x"]
    second = start()
    assert second.submit(bodies.inc, good).result(DEADLINE_S) == 3
    error = second.submit(bodies.inc, never).exception(DEADLINE_S)
    assert isinstance(error, DependencyError)
    assert isinstance(error.root_cause, EngineClosedError)


# -- lifted items ------------------------------------------------------------------------


def test_items_and_attributes_of_a_result() -> None:
    future = same({"a": [10, 20], "z": 1 + 2j})
    assert inc(future["a"][1]).result(DEADLINE_S) == 21
    assert future["z"].imag.result(DEADLINE_S) == 2.0
    assert isinstance(future["b"].exception(DEADLINE_S), KeyError)
    assert isinstance(future.nothing.exception(DEADLINE_S), AttributeError)
    failed = trouble()["x"].y
    assert isinstance(failed.exception(DEADLINE_S), DependencyError)


def test_a_future_cannot_be_iterated() -> None:
    """``list(future)`` would make lifted items for ever."""
    future = same([1, 2])
    with pytest.raises(TypeError):
        list(future)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        assert 1 in future  # type: ignore[operator]


# -- references --------------------------------------------------------------------------


def test_references_are_resolved_where_the_body_runs() -> None:
    given: cf.Future[Any] = cf.Future()
    future = show(bodies.Word("a"), [bodies.Word("b")], given, k={"x": bodies.Word("c")})
    given.set_result(bodies.Word("d"))
    assert future.result(DEADLINE_S) == (("A", ["B"], "D"), {"k": {"x": "C"}})


def test_a_reference_that_cannot_be_resolved_fails_its_task() -> None:
    assert isinstance(same(bodies.Word("broken")).exception(DEADLINE_S), LookupError)
    assert same(bodies.Word("fine")).result(DEADLINE_S) == "FINE"


def test_a_future_of_data_is_awaited_and_fetched() -> None:
    data: ssdag.DataFuture[Any] = ssdag.DataFuture("u.3", "tensor")
    future = same(data)
    assert future.state is TaskState.PENDING
    data.set_result(bodies.Word("u"))
    assert future.result(DEADLINE_S) == "U"


# -- what is freed -----------------------------------------------------------------------


def test_arguments_are_freed_when_the_task_ends() -> None:
    class Big:
        pass

    big = Big()
    ref = weakref.ref(big)
    future = python_app(lambda _: None)([big])
    del big
    future.result(DEADLINE_S)
    gc.collect()
    wait_until(lambda: ref() is None, what="the argument is freed")

    big = Big()
    ref = weakref.ref(big)
    blocked: cf.Future[int] = cf.Future()
    cancelled = same([big, blocked])
    del big
    assert cancelled.cancel()
    wait_until(lambda: ref() is None, what="the argument of a cancelled task is freed")


def test_a_finalizer_of_an_argument_may_use_futures() -> None:
    """It runs where the last reference goes, which must not be under the engine's lock."""
    other: cf.Future[int] = cf.Future()
    seen: list[bool] = []

    class Fussy:
        def __del__(self) -> None:
            done = threading.Event()

            def look() -> None:
                inc(1)
                waiting.cancel()
                done.set()

            threading.Thread(target=look, daemon=True).start()
            seen.append(done.wait(DEADLINE_S))

    waiting = inc(other)
    future = same([Fussy(), blocker := cf.Future[int]()])
    assert future.cancel()
    del blocker
    gc.collect()
    wait_until(lambda: seen, what="the finalizer ran")
    assert seen == [True]


# -- joins -------------------------------------------------------------------------------


def test_joins_return_futures_deeply() -> None:
    @join_app
    def tree(n: int) -> Any:
        return {"left": [inc(n)], "right": (inc(n + 1), {"deep": inc(inc(n))}), "plain": n}

    assert tree(1).result(DEADLINE_S) == {
        "left": [2], "right": (3, {"deep": 3}), "plain": 1,
    }  # fmt: skip


def test_a_join_may_return_a_plain_value_and_fail() -> None:
    assert join_app(bodies.inc)(1).result(DEADLINE_S) == 2
    assert isinstance(join_app(bodies.trouble)(1).exception(DEADLINE_S), bodies.Trouble)
    error = join_app(lambda: [inc(1), trouble(2)])().exception(DEADLINE_S)
    assert isinstance(error, DependencyError)
    assert isinstance(error.root_cause, bodies.Trouble)


@join_app
def count_down(n: int) -> Any:
    """Join one's own next step, n deep."""
    return count_down(n - 1) if n else inc(0)


def test_joins_nest_a_thousand_deep() -> None:
    """All of them end at once, when the innermost does; no recursion, no thread is held."""
    assert count_down(1500).result(DEADLINE_S) == 1


def test_joins_hold_no_worker(start: Callable[..., Engine]) -> None:
    start(workers=1)

    @join_app
    def fibonacci(n: int) -> Any:
        return same(n) if n < 2 else add(fibonacci(n - 1), fibonacci(n - 2))

    assert fibonacci(9).result(DEADLINE_S) == 34


def test_what_a_join_cannot_return() -> None:
    def loop() -> list[Any]:
        value: list[Any] = []
        value.append(value)
        return value

    error = join_app(loop)().exception(DEADLINE_S)
    assert isinstance(error, SsdagError)
    assert "contains itself" in str(error)
    assert isinstance(join_app(lambda: {same([1])})().exception(DEADLINE_S), TypeError)
    assert inc(1).result(DEADLINE_S) == 2
