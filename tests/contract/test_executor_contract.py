# SPDX-License-Identifier: BSD-3-Clause
"""What every executor does alike: values, errors, dependencies, data."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import os
import traceback
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ssdag
from ssdag import TaskState, python_app
from ssdag.errors import (
    NestedCallError,
    RemoteError,
    SerializationError,
)
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


# -- values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [None, True, -1, 2**100, 1.5, 1j, "ü\0", b"\0\xff", (), [], {}, set(), ..., int, range(3)],
    ids=repr,
)
def test_values_come_back_equal_and_of_their_type(value: Any) -> None:
    back = same(value).result(DEADLINE_S)
    assert back == value
    assert type(back) is type(value)


def test_arguments_by_place_and_by_name() -> None:
    assert show(1, "a", x=2, y=None).result(DEADLINE_S) == ((1, "a"), {"x": 2, "y": None})
    assert show().result(DEADLINE_S) == ((), {})
    assert show(self=1, task=2, func=3, args=4, kwargs=5).result(DEADLINE_S)[1]["func"] == 3


@pytest.mark.parametrize("size", [1, 1 << 10, 1 << 14, 1 << 17, 1 << 21], ids=lambda n: f"{n}B")
def test_arrays_of_every_size(size: int) -> None:
    """Inside the frame, beside it, and through shared memory."""
    array = np.arange(size, dtype=np.uint8)
    nested = {"a": [array, array[::2]], "b": array.reshape(1, -1)}
    back = same(same(nested)).result(DEADLINE_S)
    assert np.array_equal(back["a"][0], array)
    assert np.array_equal(back["a"][1], array[::2])
    assert back["b"].shape == (1, size)
    assert np.array_equal(array, np.arange(size, dtype=np.uint8)), "the caller's is untouched"


def test_a_result_may_be_changed_by_who_gets_it() -> None:
    array = same(np.zeros(1 << 20)).result(DEADLINE_S)
    array[0] = 1
    assert array[0] == 1


def test_long_strings_and_bytes() -> None:
    text, data = "é" * 300_000, os.urandom(300_000)
    assert show(text, data, k=text).result(DEADLINE_S) == ((text, data), {"k": text})


def test_functions_of_every_kind(engine: Engine) -> None:
    offset = 5

    def closure(x: int) -> int:
        return x + offset

    class Adder:
        def __init__(self, n: int) -> None:
            self.n = n

        def __call__(self, x: int) -> int:
            return x + self.n

        def method(self, x: int) -> int:
            return x - self.n

        __hash__ = None  # type: ignore[assignment]

    import functools

    calls: list[Callable[..., Any]] = [
        closure, lambda x: x * 2, Adder(7), Adder(1).method, abs, functools.partial(pow, 2), int,
    ]  # fmt: skip
    found = [engine.submit(call, 3).result(DEADLINE_S) for call in calls]
    assert found == [8, 6, 10, 2, 3, 8, 3]
    # Made anew each time, as in a loop: each is its own function.
    many = [engine.submit(lambda x, i=i: x + i, 1) for i in range(50)]
    assert [future.result(DEADLINE_S) for future in many] == list(range(1, 51))


def test_coroutine_functions_run() -> None:
    double = python_app(bodies.double_soon)
    assert add(double(2), double(double(3))).result(DEADLINE_S) == 16


def test_map_and_the_ways_to_wait() -> None:
    futures = inc.map(range(50))
    assert ssdag.gather(futures) == list(range(1, 51))
    done, left = ssdag.wait(futures, timeout=DEADLINE_S)
    assert (len(done), left) == (50, set())
    assert {f.result() for f in ssdag.as_completed(futures, timeout=DEADLINE_S)} == set(
        range(1, 51)
    )
    assert [f.result(DEADLINE_S) for f in add.map([1, 2], [10, 20, 30])] == [11, 22]


def test_map_of_long_lists_and_of_futures(engine: Engine) -> None:
    # Longer than a batch; and futures here and there, which no batch can hold.
    before = engine.graph().number_of_nodes()
    many = inc.map(range(1000))
    mixed = inc.map([f if i % 300 == 7 else i for i, f in enumerate(many)])
    assert [f.result(DEADLINE_S) for f in many] == list(range(1, 1001))
    expected = [i + 2 if i % 300 == 7 else i + 1 for i in range(1000)]
    assert [f.result(DEADLINE_S) for f in mixed] == expected
    assert [f.task_id for f in many] == list(range(many[0].task_id, many[0].task_id + 1000))
    graph = engine.graph()
    assert graph.number_of_nodes() == before + 2000
    assert graph.number_of_edges() == 4
    assert inc.map([]) == []


def test_map_keeps_priorities_and_after(engine: Engine) -> None:
    first = python_app(priority=2)(bodies.inc)
    assert [f.result(DEADLINE_S) for f in first.map(range(600))] == list(range(1, 601))
    gate: cf.Future[None] = cf.Future()
    held = python_app(after=[gate])(bodies.inc).map(range(300))
    assert {f.state for f in held} == {TaskState.PENDING}
    gate.set_result(None)
    assert [f.result(DEADLINE_S) for f in held] == list(range(1, 301))
    engine.close()
    with pytest.raises(ssdag.EngineClosedError):
        engine.call_many(inc._spec, [(1,)])


def test_asyncio_waits_for_tasks() -> None:
    async def work() -> list[int]:
        return await asyncio.gather(*(asyncio.wrap_future(inc(i)) for i in range(20)))

    assert asyncio.run(asyncio.wait_for(work(), DEADLINE_S)) == list(range(1, 21))


# -- errors ------------------------------------------------------------------------------


def test_an_error_arrives_whole() -> None:
    future = trouble(7)
    error = future.exception(DEADLINE_S)
    assert type(error) is bodies.Trouble
    assert (str(error), error.code, error.hint) == ("trouble 7", 7, "try again")
    assert type(error.__cause__) is KeyError
    assert error.__notes__ == ["a note"]
    frames = traceback.extract_tb(error.__traceback__)
    assert frames[-1].name == "trouble"
    assert frames[-1].filename == bodies.__file__
    assert "raise error from KeyError" in str(frames[-1].line)
    assert not any(frame.filename.endswith(("worker.py", "threads.py")) for frame in frames)
    assert future.state is TaskState.FAILED
    with pytest.raises(bodies.Trouble, match="trouble 7"):
        future.result()


def test_sys_exit_in_a_body_is_an_error_and_the_worker_lives() -> None:
    error = python_app(bodies.exits)().exception(DEADLINE_S)
    assert error is not None
    assert "3" in str(error)
    assert inc(1).result(DEADLINE_S) == 2


def test_wrong_arguments_are_the_tasks_error() -> None:
    error = inc("x").exception(DEADLINE_S)
    assert isinstance(error, TypeError)
    assert isinstance(inc().exception(DEADLINE_S), TypeError)


def test_what_cannot_be_sent(kind: str) -> None:
    """Threads copy nothing; processes say which value it is, and go on."""
    argument = same([bodies.Prickly()])
    result = python_app(bodies.make_prickly)()
    error = python_app(bodies.prickly_error)().exception(DEADLINE_S)
    if kind == "threads":
        assert isinstance(argument.result(DEADLINE_S)[0], bodies.Prickly)
        assert isinstance(result.result(DEADLINE_S), bodies.Prickly)
        assert isinstance(error, bodies.PricklyError)
    else:
        with pytest.raises(SerializationError, match=r"argument 0 \(a list\).*does not travel"):
            argument.result(DEADLINE_S)
        with pytest.raises(SerializationError, match=r"result.*does not travel"):
            result.result(DEADLINE_S)
        assert isinstance(error, RemoteError)
        assert error.type_name.endswith("PricklyError")
        assert "it stings" in str(error)
        assert "raise PricklyError" in error.traceback_text
    assert ssdag.gather(inc.map(range(5))) == [1, 2, 3, 4, 5]


def test_what_cannot_be_loaded(kind: str) -> None:
    if kind == "threads":
        pytest.skip("threads load nothing")
    with pytest.raises(ValueError, match="cannot be loaded"):
        same(bodies.OneWay()).result(DEADLINE_S)
    with pytest.raises(SerializationError, match="cannot be loaded here"):
        python_app(bodies.make_one_way)().result(DEADLINE_S)
    assert inc(1).result(DEADLINE_S) == 2


def test_bad_arguments_among_good_ones_fail_alone(kind: str) -> None:
    futures = [same(bodies.Prickly() if i % 5 == 0 else i) for i in range(40)]
    bad = [i for i, future in enumerate(futures) if future.exception(DEADLINE_S)]
    assert bad == ([] if kind == "threads" else list(range(0, 40, 5)))
    assert [f.result() for i, f in enumerate(futures) if i % 5] == [i for i in range(40) if i % 5]


# -- names, nested calls -----------------------------------------------------------------


def test_odd_names(engine: Engine) -> None:
    for name in ("", "a/b\n\"'<&>", "ö" * 300, "\0"):
        body = lambda x: x  # noqa: E731
        body.__name__ = name
        assert python_app(body)(1, label=name or "x").result(DEADLINE_S) == 1
    assert len(engine.graph()) == 4


def test_an_app_called_in_a_worker_process(kind: str) -> None:
    def nested() -> Any:
        return inc(1).result(DEADLINE_S)

    future = python_app(nested)()
    if kind == "threads":
        assert future.result(DEADLINE_S) == 2
    else:
        with pytest.raises(NestedCallError, match="inside a worker process"):
            future.result(DEADLINE_S)

    def loads() -> str:
        with ssdag.load() as inner:
            return repr(inner)

    if kind != "threads":
        assert isinstance(python_app(loads)().exception(DEADLINE_S), NestedCallError)


def test_where_bodies_run(kind: str) -> None:
    pid, folder = python_app(bodies.where)().result(DEADLINE_S)
    assert (pid == os.getpid()) == (kind == "threads")
    assert folder == os.getcwd()
