# SPDX-License-Identifier: BSD-3-Clause
"""Retries without executors: the rule, the delays, the timer thread, the next attempt."""

from __future__ import annotations

import logging
import math
import queue
import threading
from typing import Any

import pytest

import ssdag
from ssdag import Config, ConfigError, RetryPolicy, TaskState
from ssdag.dataflow.retry import as_policy, from_config
from ssdag.dataflow.retrying import Retrying
from ssdag.dataflow.timers import Timers
from ssdag.errors import NestedCallError, SerializationError, UnsupportedError, WorkerLostError
from ssdag.executors import ThreadExecutor
from ssdag.tasks import AppFuture, AppSpec, Options, Outcome, Task
from tests.conftest import wait_until

DEADLINE_S = 30.0


class Nobody:
    """An engine that does nothing."""

    def cancel(self, task: Task) -> bool:
        return False

    def lift(self, future: AppFuture[Any], kind: str, key: Any) -> AppFuture[Any]:
        raise NotImplementedError


def new_task(state: TaskState = TaskState.LAUNCHED, retry: RetryPolicy | None = None) -> Task:
    """Return a task as an executor has it."""
    task = Task(AppSpec(pow, "pow"), (), None, Options(retry=retry), Nobody())
    task.state = state
    return task


# -- the rule ----------------------------------------------------------------------------


def delays(policy: RetryPolicy, error: BaseException | None = None, most: int = 50) -> list[float]:
    """Return the delays that a task is given which always fails."""
    task = new_task()
    found: list[float] = []
    while (delay := policy.delay_s(error or ValueError(), task)) is not None:
        found.append(delay)
        assert len(found) <= most
    return found


def test_a_budget_is_a_number_of_retries() -> None:
    assert delays(RetryPolicy()) == []
    assert delays(RetryPolicy(budget=3)) == [0.0, 0.0, 0.0]
    assert delays(RetryPolicy(budget=0.5)) == []


def test_delays_grow_up_to_a_bound() -> None:
    policy = RetryPolicy(budget=6, backoff_s=1.0, factor=3.0, max_backoff_s=20.0, jitter=0.0)
    assert delays(policy) == [1.0, 3.0, 9.0, 20.0, 20.0, 20.0]


def test_jitter_only_lengthens() -> None:
    policy = RetryPolicy(budget=1, backoff_s=1.0, jitter=0.5)
    found = [delays(policy)[0] for _ in range(200)]
    assert all(1.0 <= delay <= 1.5 for delay in found)
    assert len(set(found)) > 100


@pytest.mark.parametrize("backoff_s", [0.0, 1.0])
def test_free_retries_go_on_beyond_what_a_float_can_double(backoff_s: float) -> None:
    policy = RetryPolicy(backoff_s=backoff_s, jitter=0.0, handler=lambda error, task: 0.0)
    task = new_task()
    found = [policy.delay_s(ValueError(), task) for _ in range(1200)]
    assert found[-1] == min(60 * backoff_s, 60.0)
    assert task.more().tries == 1200


def test_the_handler_prices_each_failure() -> None:
    asked: list[tuple[BaseException, Task]] = []

    def price(error: BaseException, task: Task) -> float:
        asked.append((error, task))
        if isinstance(error, ValueError):
            return math.inf
        return 0.5 if isinstance(error, OSError) else 1

    policy = RetryPolicy(budget=1, handler=price)
    assert delays(policy, OSError()) == [0.0, 0.0]
    assert delays(policy, KeyError()) == [0.0]
    assert delays(policy, ValueError()) == []
    task, error = new_task(), OSError()
    policy.delay_s(error, task)
    assert asked[-1] == (error, task)
    assert delays(RetryPolicy(budget=5, handler=lambda error, task: math.nan)) == []


def test_what_is_hopeless_costs_no_question() -> None:
    def refuse(error: BaseException, task: Task) -> float:
        raise AssertionError("not asked")

    policy = RetryPolicy(budget=9, handler=refuse)
    for error in (SerializationError("x"), NestedCallError("x"), UnsupportedError("x")):
        assert policy.delay_s(error, new_task()) is None


def test_transient_only() -> None:
    policy = RetryPolicy(budget=1, transient_only=True)
    assert delays(policy, ValueError()) == []
    assert delays(policy, WorkerLostError("gone")) == [0.0]


@pytest.mark.parametrize("name", ["budget", "backoff_s", "factor", "max_backoff_s", "jitter"])
@pytest.mark.parametrize("value", [-1, math.nan, "1", None, True])
def test_wrong_numbers(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"RetryPolicy\({name}="):
        RetryPolicy(**{name: value})


def test_a_wrong_handler() -> None:
    with pytest.raises(ConfigError, match="handler=3"):
        RetryPolicy(handler=3)  # type: ignore[arg-type]


def test_as_policy() -> None:
    policy = RetryPolicy(budget=2)
    assert as_policy(policy) is policy
    assert as_policy(None) is None
    assert as_policy(4) == RetryPolicy(budget=4)
    for wrong in (-1, True, 2.0, "2", RetryPolicy):
        with pytest.raises(ConfigError, match="retries="):
            as_policy(wrong)


def test_the_rule_of_an_engine() -> None:
    def handler(error: BaseException, task: Task) -> float:
        return 1.0

    def other(error: BaseException, task: Task) -> float:
        return 2.0

    assert from_config(Config()) == RetryPolicy()
    assert from_config(Config(retries=3)) == RetryPolicy(budget=3)
    own = RetryPolicy(budget=3, backoff_s=9.0, factor=5.0, handler=handler)
    assert from_config(Config(retries=own)) is own
    whole = from_config(Config(retries=own, retry_backoff_s=1.0))
    assert whole == RetryPolicy(budget=3, backoff_s=1.0, factor=5.0, handler=handler)
    assert from_config(Config(retries=own, retry_handler=other)) == RetryPolicy(
        budget=3, backoff_s=9.0, factor=5.0, handler=other
    )
    assert from_config(Config(retries=1, retry_backoff_s=2.0)) == RetryPolicy(1, backoff_s=2.0)


# -- the timers --------------------------------------------------------------------------


def test_timers_call_in_the_order_of_time() -> None:
    timers = Timers()
    seen: queue.Queue[str] = queue.Queue()
    try:
        # The last one is due first: the thread, asleep for the others, is woken for it.
        timers.after(0.30, lambda: seen.put("third"))
        timers.after(0.15, lambda: seen.put("second"))
        timers.after(0.15, lambda: seen.put("second, later"))
        timers.after(0.0, lambda: seen.put("first"))
        found = [seen.get(timeout=DEADLINE_S) for _ in range(4)]
        assert found == ["first", "second", "second, later", "third"]
    finally:
        timers.close()


def test_a_sleeping_timer_thread_is_woken_for_what_is_due_sooner() -> None:
    timers = Timers()
    rang = threading.Event()
    try:
        timers.after(3600.0, rang.clear)
        wait_until(timers._changed._waiters.__len__, what="it sleeps")  # type: ignore[attr-defined]
        timers.after(0.0, rang.set)
        assert rang.wait(DEADLINE_S)
    finally:
        timers.close()


def test_a_timer_that_raises_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    timers = Timers()
    rang = threading.Event()
    try:
        timers.after(0.0, lambda: 1 // 0)  # type: ignore[arg-type]
        timers.after(0.0, rang.set)
        assert rang.wait(DEADLINE_S)
    finally:
        timers.close()
    assert [record.getMessage() for record in caplog.records] == ["a timer failed"]
    assert caplog.records[0].exc_info is not None


def test_closed_timers_call_nothing_and_leave_no_thread() -> None:
    timers = Timers()
    rang = threading.Event()
    timers.after(3600.0, rang.set)
    assert timers._thread is not None
    timers.close()
    assert not timers._thread.is_alive()
    assert not rang.is_set()
    timers.close()
    Timers().close()  # never used: there is no thread


def test_timers_may_be_closed_by_what_they_call() -> None:
    timers = Timers()
    closed = threading.Event()

    def close() -> None:
        timers.close()
        closed.set()

    timers.after(0.0, close)
    assert closed.wait(DEADLINE_S)
    assert timers._thread is not None
    timers._thread.join(DEADLINE_S)
    assert not timers._thread.is_alive()


# -- the next attempt --------------------------------------------------------------------


class Attempts:
    """A Retrying whose hand-overs are noted."""

    def __init__(self, **config: Any) -> None:
        self.handed: queue.Queue[Task] = queue.Queue()
        self.retrying = Retrying(Config(**config), self.handed.put)

    def fail(self, task: Task, error: BaseException | None = None) -> bool:
        """Say that an attempt failed."""
        return self.retrying.takes(Outcome(task, error=error or ValueError("no")))


@pytest.mark.parametrize("state", [TaskState.LAUNCHED, TaskState.RUNNING])
def test_at_once(state: TaskState, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ssdag")
    attempts = Attempts(retries=1)
    task = new_task(state)
    assert attempts.fail(task)
    assert task.state is TaskState.READY
    assert attempts.handed.get_nowait() is task
    task.state = state
    assert not attempts.fail(task)
    assert task.state is state
    assert attempts.handed.empty()
    assert "(pow) is tried again" in caplog.text


def test_after_a_delay() -> None:
    attempts = Attempts(retries=1, retry_backoff_s=0.01)
    task = new_task()
    assert attempts.fail(task)
    assert attempts.handed.get(timeout=DEADLINE_S) is task
    assert task.state is TaskState.READY
    attempts.retrying.close()


def test_the_apps_own_rule_counts() -> None:
    attempts = Attempts(retries=5)
    assert not attempts.fail(new_task(retry=RetryPolicy()))
    assert attempts.fail(new_task())
    assert Attempts().fail(new_task(retry=RetryPolicy(budget=1)))


@pytest.mark.parametrize("state", [TaskState.READY, TaskState.PENDING, TaskState.JOINING])
def test_what_no_executor_ran_is_not_tried_again(state: TaskState) -> None:
    attempts = Attempts(retries=5)
    task = new_task(state)
    assert not attempts.fail(task)
    assert task.state is state
    assert attempts.handed.empty()


def test_a_handler_that_raises_ends_the_task_with_its_error() -> None:
    def handler(error: BaseException, task: Task) -> float:
        raise LookupError("mine")

    attempts = Attempts(retries=5, retry_handler=handler)
    error = ValueError("the body's")
    outcome = Outcome(new_task(), error=error)
    assert not attempts.retrying.takes(outcome)
    assert isinstance(outcome.error, LookupError)
    assert outcome.error.__cause__ is error


def test_cancelled_while_it_waits() -> None:
    attempts = Attempts(retries=5, retry_backoff_s=0.02)
    cancelled, other = new_task(), new_task()
    assert attempts.fail(cancelled)
    assert cancelled.state is TaskState.PENDING
    cancelled.state = TaskState.CANCELLED
    assert attempts.fail(other)
    assert attempts.handed.get(timeout=DEADLINE_S) is other
    attempts.retrying.close()
    assert attempts.handed.empty()
    assert cancelled.state is TaskState.CANCELLED


def test_nothing_is_tried_again_once_it_is_closed() -> None:
    attempts = Attempts(retries=5, retry_backoff_s=3600.0)
    task = new_task()
    assert attempts.fail(task)
    attempts.retrying.close()
    assert not attempts.fail(new_task())
    assert attempts.handed.empty()
    wait_until(
        lambda: not any(t.name == "ssdag-timer" for t in threading.enumerate()), what="no thread"
    )


def test_a_rule_of_the_users_own() -> None:
    class Twice:
        """Tries again at once, twice, whatever happened."""

        def __init__(self) -> None:
            self.asked = 0

        def delay_s(self, error: BaseException, task: Task) -> float | None:
            self.asked += 1
            return 0.0 if self.asked <= 2 else None

    rule = Twice()
    config = ssdag.Config(executors=[ThreadExecutor(1)], retries=rule)
    with ssdag.load(config) as engine:
        assert isinstance(engine.submit(divmod, 1, 0).exception(30.0), ZeroDivisionError)
    assert rule.asked == 3
    with pytest.raises(ConfigError, match="decides alone"):
        from_config(ssdag.Config(retries=rule, retry_backoff_s=1.0))
