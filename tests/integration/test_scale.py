# SPDX-License-Identifier: BSD-3-Clause
"""Graphs of a hundred thousand nodes, a million pending tasks, and everything at once."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import gc
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag import Config, DependencyError, RetryPolicy, TaskState, join_app, python_app
from ssdag.executors import LocalExecutor, ThreadExecutor
from ssdag.tasks import AppFuture, Task
from tests.conftest import wait_until
from tests.contract import bodies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.dataflow.engine import Engine

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0
MANY = 100_000

inc = python_app(bodies.inc)
add = python_app(bodies.add)
same = python_app(bodies.same)
fail = python_app(bodies.fail)


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine of two threads, with which nothing is copied and all is quick."""
    engine = ssdag.load(Config(executors=[ThreadExecutor(2)]))
    yield engine
    engine.close()  # without waiting: a test that fails may leave what never ends


def chain(first: Any, length: int) -> list[AppFuture[int]]:
    """Make a chain of tasks behind a future."""
    futures = [inc(first)]
    for _ in range(length - 1):
        futures.append(inc(futures[-1]))
    return futures


# -- chains ------------------------------------------------------------------------------


def check_failed_chain(futures: list[AppFuture[Any]], cause: BaseException) -> None:
    """See that one error runs through a chain, flat, whose first task ran and failed."""
    for future in (futures[1], futures[len(futures) // 2], futures[-1]):
        error = future.exception(DEADLINE_S)
        assert isinstance(error, DependencyError)
        assert error.root_cause is cause
        assert error.__cause__ is cause
        assert error.task_id == future.task_id
        assert error.path == tuple(range(futures[0].task_id, future.task_id + 1))
    assert {future.state for future in futures[1:]} == {TaskState.DEP_FAILED}


def test_a_chain_behind_a_failure(engine: Engine) -> None:
    gate: cf.Future[int] = cf.Future()
    first = python_app(divmod)(1, gate)
    futures = chain(first, MANY)
    assert engine.open_tasks == MANY + 1
    gate.set_result(0)
    futures[-1].exception(DEADLINE_S)
    cause = first.exception(DEADLINE_S)
    assert isinstance(cause, ZeroDivisionError)
    check_failed_chain([first, *futures], cause)
    error = futures[-1].exception()
    assert isinstance(error, DependencyError)
    assert len(str(error)) < 200
    assert str(MANY) in str(error)
    assert "ZeroDivisionError in task 0 -> 1 -> 2 -> 3 -> ..." in str(error)
    assert len(repr(error)) < 300
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.path, str(copy)) == (error.path, str(error))
    assert isinstance(copy.root_cause, ZeroDivisionError)
    # One more, behind a failure that has happened already.
    check_failed_chain([first, *futures, inc(futures[-1])], cause)
    assert engine.open_tasks == 0


def test_a_chain_behind_a_cancelled_task_and_behind_a_foreign_future(engine: Engine) -> None:
    gate: cf.Future[int] = cf.Future()
    first = inc(gate)
    last = chain(first, 20_000)[-1]
    assert first.cancel()
    error = last.exception(DEADLINE_S)
    assert isinstance(error, DependencyError)
    assert isinstance(error.root_cause, cf.CancelledError)
    assert error.path == tuple(range(20_001))
    other = chain(gate, 20_000)[-1]
    gate.set_exception(ValueError("foreign"))
    error = other.exception(DEADLINE_S)
    assert isinstance(error, DependencyError)
    assert error.path[0] is None
    assert len(error.path) == 20_001
    assert "a foreign future" in str(error)


def test_a_chain_that_ends_well(engine: Engine) -> None:
    gate: cf.Future[int] = cf.Future()
    futures = chain(gate, 30_000)
    gate.set_result(0)
    assert futures[-1].result(DEADLINE_S) == 30_000
    assert engine.wait(DEADLINE_S)
    graph = engine.graph()
    assert graph.number_of_edges() == 29_999
    assert ssdag.critical_path(graph) == list(range(30_000))


# -- fans --------------------------------------------------------------------------------


def test_many_parents_and_many_children(engine: Engine) -> None:
    gate: cf.Future[int] = cf.Future()
    root = same(gate)
    middle = [inc(root) for _ in range(MANY)]
    as_list = same(middle)
    one_by_one = add(*middle)
    assert as_list._task.waiting == one_by_one._task.waiting == MANY
    gate.set_result(1)
    assert one_by_one.result(DEADLINE_S) == 2 * MANY
    assert as_list.result(DEADLINE_S) == [2] * MANY
    assert engine.wait(DEADLINE_S)


def test_one_of_many_parents_fails(engine: Engine) -> None:
    gates: list[cf.Future[int]] = [cf.Future() for _ in range(3)]
    parents = [same(gates[n % 3]) for n in range(20_000)]
    child = add(*parents)
    after = same(5, after=parents)
    gates[1].set_exception(ValueError("one third"))
    for future in (child, after):
        error = future.exception(DEADLINE_S)
        assert isinstance(error, DependencyError)
        assert error.path == (None, 1, future.task_id), "the first that failed, and only once"
    for gate in (gates[0], gates[2]):
        gate.set_result(1)
    assert engine.wait(DEADLINE_S)


# -- joins -------------------------------------------------------------------------------


@join_app
def down(n: int, bottom: Any) -> Any:
    """Join one's own next step, n deep."""
    return down(n - 1, bottom) if n else bottom()


def test_joins_that_nest_a_thousand_deep_fail_flat(engine: Engine) -> None:
    top = down(1000, bodies.trouble)
    error = top.exception(DEADLINE_S)
    assert isinstance(error, DependencyError)
    assert isinstance(error.root_cause, bodies.Trouble)
    assert len(error.path) == 1001
    assert len(str(error)) < 200
    assert engine.open_tasks == 0


def test_joins_that_nest_a_thousand_deep_are_cancelled(engine: Engine) -> None:
    never: cf.Future[int] = cf.Future()
    top = down(1000, lambda: same(never))
    wait_until(lambda: len(engine.graph()) == 1002, DEADLINE_S, "all are made")
    wait_until(
        lambda: [s for _, s in engine.graph().nodes(data="state")].count("joining") == 1001,
        DEADLINE_S,
        "all wait for the next",
    )
    assert top.cancel()
    assert engine.open_tasks == 0
    assert {s for _, s in engine.graph().nodes(data="state")} == {"cancelled"}


# -- how much may wait -------------------------------------------------------------------


def test_max_pending_is_never_exceeded_and_all_gets_done() -> None:
    limit, each, senders = 50, 3000, 4
    seen: list[int] = []
    with ssdag.load(Config(executors=[ThreadExecutor(2)], max_pending=limit)) as engine:

        @python_app
        def count(x: int) -> int:
            seen.append(engine.open_tasks)
            return x

        def send() -> int:
            total = 0
            futures: list[AppFuture[int]] = []
            for x in range(each):
                futures.append(count(futures[-1] if futures and x % 3 == 0 else x))
                if len(futures) == 1000:
                    total += len([f.result(DEADLINE_S) for f in futures])
                    futures.clear()
            return total

        with cf.ThreadPoolExecutor(senders, "sender") as pool:
            totals = [
                call.result(DEADLINE_S) for call in [pool.submit(send) for _ in range(senders)]
            ]
    assert totals == [each] * senders
    assert len(seen) == each * senders
    assert max(seen) <= limit
    assert max(seen) > limit // 2, "it was really tried"


MILLION = """
import concurrent.futures as cf, json, os, sys
import ssdag
from ssdag.executors import ThreadExecutor

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def inc(x):
    return x + 1

number = int(sys.argv[1])
engine = ssdag.load(ssdag.Config(executors=[ThreadExecutor(1)]))
gate = cf.Future()
first = engine.submit(inc, gate)
before = rss()
futures = [engine.submit(inc, first) for _ in range(number)]
pending = rss()
told = {"pending": pending, "each": (pending - before) / number, "open": engine.open_tasks}
print(json.dumps(told), flush=True)
os._exit(0)  # to end a million one by one is for another test
"""


@pytest.mark.slow
def test_a_million_pending_tasks_take_less_than_a_gigabyte() -> None:
    number = 1_000_000
    done = subprocess.run(
        [sys.executable, "-c", MILLION, str(number)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=150,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["pending"] < 1e9
    assert told["each"] <= 1000
    assert told["open"] == number + 1


def test_every_one_of_many_futures_ends_with_its_engine(engine: Engine) -> None:
    never: cf.Future[int] = cf.Future()
    futures = [inc(never) for _ in range(MANY)]
    last = add(*futures)
    engine.close()
    assert engine.open_tasks == 0
    for future in (*futures, last):
        assert type(future.exception(0)) is ssdag.EngineClosedError


# -- everything at once ------------------------------------------------------------------


class Node:
    """A task of the soak test, and what must become of it."""

    def __init__(self, future: AppFuture[Any], kind: str, number: int, parents: list[Node]) -> None:
        self.future = future
        self.kind = kind
        self.number = number
        self.parents = parents
        self.cancelled = False
        self.good = False

    def expected(self) -> int:
        """Return its value, if its parents are good."""
        from_parents: int = sum(parent.future.result(0) for parent in self.parents)
        return {
            "add": from_parents + self.number,
            "fail": 0,
            "cached": self.number % 50 + 1,
            "join": 2 * self.number + 1,
            "async": 2 * self.number,
        }[self.kind]

    def story(self) -> str:
        """Say what it is and what its parents are."""
        mine = f"{self.kind} {self.future!r} is {self.future.state!r}, behind "
        return mine + ", ".join(
            f"{p.kind} {p.future!r}: {p.future.state!r} {p.cancelled}" for p in self.parents
        )

    def check(self) -> None:
        """See that it ended as it had to; its parents were checked before."""
        well = all(parent.good for parent in self.parents)
        if self.future.cancelled():
            assert self.cancelled, f"nobody cancelled {self.future!r}"
            return
        error = self.future.exception(0)
        if isinstance(error, DependencyError):
            assert not well, f"{self.future!r} had all it needs"
            assert error.path[-1] == self.future.task_id, self.story()
            assert error.path[-2] in {p.future.task_id for p in self.parents if not p.good}
        elif error is not None:
            assert isinstance(error, bodies.Trouble), repr(error)
            assert self.kind == "fail"
            assert error.code == sum(parent.future.result(0) for parent in self.parents)
        else:
            assert well, f"{self.future!r} ran without what it needs"
            assert self.kind != "fail"
            assert self.future.result(0) == self.expected()
            self.good = True


cached = python_app(cache=True)(bodies.inc)
double_soon: Any = python_app(bodies.double_soon)
worker_pid = python_app(executors="local")(os.getpid)


@join_app
def spread(x: int) -> Any:
    """Return a future of ``2 x + 1``."""
    return add(x, inc(x))


def make(kind: str, number: int, parents: list[Node]) -> Node:
    """Submit a task of a kind."""
    values = [parent.future for parent in parents]
    future: AppFuture[Any]
    if kind == "add":
        future = add(*values, number)
    elif kind == "fail":
        future = fail(*values)
    elif kind == "cached":
        future = cached(number % 50)
        parents = []
    elif kind == "join":
        future = spread(number, after=values)
    else:
        future = double_soon(number, after=values)
    return Node(future, kind, number, parents)


def watch(futures: list[AppFuture[Any]], way: int) -> int:
    """Wait for futures in one of the ways that there are; returns how many ended."""
    if way == 0:
        return len(list(cf.as_completed(futures, DEADLINE_S)))
    if way == 1:
        return len(ssdag.wait(futures, DEADLINE_S)[0])

    async def all_of_them() -> int:
        wrapped = [asyncio.wrap_future(future) for future in futures]
        done, _ = await asyncio.wait(wrapped, timeout=DEADLINE_S)
        for each in done:
            if not each.cancelled():
                each.exception()
        return len(done)

    return int(asyncio.run(all_of_them()))


def alive(kind: type) -> int:
    """Count the objects of a class."""
    gc.collect()
    return sum(type(thing) is kind for thing in gc.get_objects())


@pytest.mark.slow
def test_soak() -> None:
    """Random graphs with failures, cancels, joins, memo, observers and dying workers."""
    tasks, futures = alive(Task), alive(AppFuture)
    config = Config(
        executors=[LocalExecutor(2), ThreadExecutor(2)],
        retries=RetryPolicy(budget=20, transient_only=True),
        max_pending=2000,
    )
    with ssdag.load(config) as engine:
        for seed in range(4):
            soak(engine, random.Random(seed), 5000)
        assert engine.open_tasks == 0
        # Nothing keeps a task whose future nobody holds.
        wait_until(lambda: alive(Task) <= tasks, what="no task is left")
        assert alive(AppFuture) <= futures


def soak(engine: Engine, rng: random.Random, number: int) -> None:
    """Make `number` tasks and see that each ends as it must."""
    kinds = ["add"] * 14 + ["fail", "cached", "join", "async"]
    nodes: list[Node] = []
    with cf.ThreadPoolExecutor(3, "observer") as pool:
        seen: list[cf.Future[int]] = []
        for n in range(number):
            recent = nodes[-40:]
            parents = rng.sample(recent, min(len(recent), rng.choice((0, 1, 1, 2, 3))))
            if rng.random() < 0.3:
                parents = [parent for parent in parents if parent.kind != "fail"]
            nodes.append(make(rng.choice(kinds), n, parents))
            if rng.random() < 0.02:
                victim = rng.choice(nodes[-100:])
                victim.cancelled = True
                victim.future.cancel()
            if n % 500 == 499:
                batch = [node.future for node in nodes[-500:]]
                seen.append(pool.submit(watch, batch, n // 500 % 3))
            if n % 1000 == 700:
                os.kill(worker_pid().result(DEADLINE_S), signal.SIGKILL)
        assert [each.result(DEADLINE_S) for each in seen] == [500] * (number // 500)
    assert engine.wait(DEADLINE_S)
    for node in nodes:
        node.check()
    assert sum(node.good for node in nodes) > number / 10
    assert sum(not node.good for node in nodes) > number / 100


def test_many_threads_submit_to_many_engines() -> None:
    """Futures of one engine are the parents of tasks of others, from all threads at once."""
    engines = [ssdag.load(Config(executors=[ThreadExecutor(2, label=f"e{i}")])) for i in range(3)]
    start = threading.Barrier(4)

    def work(seed: int) -> int:
        rng = random.Random(seed)
        start.wait(DEADLINE_S)
        future: Any = 0
        for _ in range(500):
            future = rng.choice(engines).submit(bodies.inc, future)
        return int(future.result(DEADLINE_S))

    with cf.ThreadPoolExecutor(4, "user") as pool:
        assert [call.result(DEADLINE_S) for call in [pool.submit(work, s) for s in range(4)]] == [
            500
        ] * 4
    for engine in engines:
        assert engine.wait(DEADLINE_S)
        engine.close()
