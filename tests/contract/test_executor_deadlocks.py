# SPDX-License-Identifier: BSD-3-Clause
"""Waits that could never end are errors, on every executor."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag import join_app, python_app
from ssdag.errors import (
    CycleError,
    DependencyError,
    WouldDeadlockError,
)
from ssdag.executors import ThreadExecutor
from tests.contract import bodies
from tests.contract.bodies import DEADLINE_S

if TYPE_CHECKING:
    from ssdag.dataflow.engine import Engine


inc = python_app(bodies.inc)
same = python_app(bodies.same)


# -- what could never end ----------------------------------------------------------------


def test_a_join_that_returns_a_future_that_waits_for_it(engine: Engine) -> None:
    box: list[Any] = []
    ready = threading.Event()

    @join_app
    def circle() -> Any:
        assert ready.wait(DEADLINE_S)
        return [1, {"x": box[0]}]

    first = circle()
    box.append(inc(inc(first["x"])))
    ready.set()
    error = first.exception(DEADLINE_S)
    assert isinstance(error, CycleError)
    assert error.path[0] == first.task_id
    assert error.path[-1] == box[0].task_id
    assert len(error.path) == 4
    assert isinstance(box[0].exception(DEADLINE_S), DependencyError)


def test_a_join_that_returns_itself(engine: Engine) -> None:
    box: list[Any] = []
    ready = threading.Event()

    @join_app
    def circle() -> Any:
        assert ready.wait(DEADLINE_S)
        return box[0]

    box.append(circle())
    ready.set()
    error = box[0].exception(DEADLINE_S)
    assert isinstance(error, CycleError)
    assert error.path == (0,)


class Opaque:
    """A container that nobody looks into."""

    def __init__(self, inside: Any) -> None:
        self.inside = inside


def test_joins_that_return_each_other(engine: Engine) -> None:
    """Whichever is second sees it, also when both bodies end at the same time."""
    for _ in range(20):
        box: list[Any] = []
        ready = threading.Event()

        @join_app
        def circle(i: int, opaque: Opaque, ready: Any) -> Any:
            assert ready.wait(DEADLINE_S)
            return opaque.inside[1 - i]

        opaque = Opaque(box)
        box += [circle(0, opaque, ready), circle(1, opaque, ready)]
        ready.set()
        errors = [future.exception(DEADLINE_S) for future in box]
        causes = [e.root_cause if isinstance(e, DependencyError) else e for e in errors]
        assert all(isinstance(cause, CycleError) for cause in causes)


def test_a_cycle_through_after(engine: Engine) -> None:
    box: list[Any] = []
    ready = threading.Event()

    @join_app
    def circle() -> Any:
        assert ready.wait(DEADLINE_S)
        return python_app(after=box)(bodies.inc)(1)

    box.append(circle())
    ready.set()
    assert isinstance(box[0].exception(DEADLINE_S), CycleError)


@pytest.mark.parametrize("workers", [1, 3])
def test_waits_inside_threads_that_could_never_end(workers: int) -> None:
    with ssdag.load(ssdag.Config(executors=[ThreadExecutor(workers)])):
        box: list[Any] = []
        ready = threading.Event()

        @python_app
        def waits(which: int) -> Any:
            assert ready.wait(DEADLINE_S)
            return box[which].result()

        def refused(future: Any, match: str) -> None:
            with pytest.raises(WouldDeadlockError, match=match):
                future.result(DEADLINE_S)

        # For itself, and for its own child.
        box.append(waits(0))
        ready.set()
        refused(box[0], "would wait for ever")
        ready.clear()
        box.append(waits(2))
        box.append(inc(inc(box[1])))
        ready.set()
        refused(box[1], "would wait for ever")

        # Each for the next one, until no thread is left.
        @python_app
        def chain(n: int) -> int:
            return 1 + chain(n - 1).result() if n else 0

        assert chain(workers - 1).result(DEADLINE_S) == workers - 1
        refused(chain(workers), "threads would be waiting")
        # A wait with an end is nobody's business, and waiting elsewhere neither.
        assert inc(1).result(DEADLINE_S) == 2


def test_threads_that_wait_for_each_other() -> None:
    with ssdag.load(ssdag.Config(executors=[ThreadExecutor(4)])):
        box: list[Any] = []
        ready = threading.Barrier(2)

        @python_app
        def waits(which: int) -> Any:
            ready.wait(DEADLINE_S)
            return box[which].result()

        box.append(waits(1))
        box.append(waits(0))
        errors = [future.exception(DEADLINE_S) for future in box]
        assert all(isinstance(error, WouldDeadlockError) for error in errors)


def test_a_join_body_that_waits_for_its_own_child(engine: Engine) -> None:
    box: list[Any] = []
    ready = threading.Event()

    @join_app
    def waits() -> Any:
        assert ready.wait(DEADLINE_S)
        return box[0].result()

    first = waits()
    box.append(inc(first))
    ready.set()
    assert isinstance(first.exception(DEADLINE_S), WouldDeadlockError)
