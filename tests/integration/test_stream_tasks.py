# SPDX-License-Identifier: BSD-3-Clause
"""Streams between tasks of a graph: coupled while they run, ended with their writers."""

from __future__ import annotations

import os
import signal
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ssdag
from ssdag.client.streams.stream import Stream
from ssdag.errors import ConfigError, DataError, DataTimeoutError, StoreError
from ssdag.services.stream_future import StreamFuture

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def engine() -> Iterator[ssdag.Engine]:
    config = ssdag.Config(executors=[ssdag.executors.LocalExecutor(max_workers=2)])
    with ssdag.load(config) as made:
        yield made


@ssdag.python_app
def simulate(out: Any, steps: int, killed_at: int = -1) -> int:
    for step in range(steps):
        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        out.append({"step": step, "u": np.full(10_000, float(step))}, timeout_s=60)
    return steps


@ssdag.python_app
def learn(stream: Any) -> float:
    return float(sum(record["u"][0] for record in stream))


def test_simulation_and_learner_run_side_by_side(engine: ssdag.Engine) -> None:
    """With room for two records neither could end without the other."""
    db = ssdag.Orchestrator()
    stream = db.stream("u", capacity=2)
    written = simulate(stream, 20)
    learned = learn(stream)
    stream.ends_with(written)
    assert written.result(60) == 20
    assert learned.result(60) == sum(range(20))
    kinds = {name: facts["kind"] for name, facts in engine.graph().nodes(data=True)}
    assert kinds["stream u"] == "data"
    assert ("stream u", written.task_id) in engine.graph().edges


def test_the_driver_has_all_methods_of_a_stream(engine: ssdag.Engine) -> None:
    names = {name for name in vars(Stream) if not name.startswith("_")} | {"__iter__", "__len__"}
    assert names <= {name for one in StreamFuture.__mro__[:-1] for name in vars(one)}
    db = ssdag.Orchestrator()
    stream = db.stream("u", capacity=3)
    assert stream  # nothing is asked for that
    assert stream.options.capacity == 3
    stream.add_group("a").begin_step()
    stream.put("u", np.arange(3))
    stream.put("t", 0.5)
    stream.end_step(timeout_s=20)
    assert len(stream) == 1
    assert stream.remove_group("a")
    assert not stream.remove_group("a")
    stream.end()
    (record,) = stream
    assert record["u"].tolist() == [0, 1, 2]
    assert record["t"] == 0.5


def test_killed_writer_ends_its_readers(engine: ssdag.Engine) -> None:
    db = ssdag.Orchestrator()
    stream = db.stream("u")
    written = simulate(stream, 20, killed_at=3)
    learned = learn(stream)
    assert stream.ends_with(written) is stream
    with pytest.raises(DataError, match="gave up: WorkerLost"):
        learned.result(60)
    assert stream.info().appended == 3


def test_ends_with_all_writers(engine: ssdag.Engine) -> None:
    db = ssdag.Orchestrator()
    stream = db.stream("u", writers=5)
    writers = [simulate(stream, 3) for _ in range(5)]
    stream.ends_with(*writers)
    with stream.reader(timeout_s=60) as reader:
        assert sorted(record["step"] for record in reader) == sorted([0, 1, 2] * 5)


def test_ends_with_what_is_cancelled() -> None:
    with ssdag.Orchestrator() as db:
        done: Future[int] = Future()
        cancelled: Future[int] = Future()
        stream = db.stream("u").ends_with(done, cancelled)
        stream.append(1)
        done.set_result(1)
        cancelled.cancel()
        cancelled.set_running_or_notify_cancel()
        with stream.reader(timeout_s=20) as reader:
            assert next(reader) == 1
            with pytest.raises(DataError, match="cancelled"):
                next(reader)


def test_the_driver_uses_it_as_the_stream() -> None:
    with ssdag.Orchestrator() as db:
        stream = db.stream("u", capacity=4)
        stream.append(1)
        with stream.writer() as out:
            out.append(2)
        newest = stream.newest()
        assert newest is not None
        assert newest.value == 2
        assert [int(value) for value in stream] == [1, 2]
        assert isinstance(stream.result(), Stream)
        assert stream.delete()
        stream.fail("no reason")
        assert stream.info().ended
        with pytest.raises(ConfigError):
            db.stream("u", capacity=0)


def test_tasks_that_wait_for_records(engine: ssdag.Engine) -> None:
    db = ssdag.Orchestrator()
    enough, ended = db.stream("u", records=3), db.stream("u", ended=True)
    learned = learn(ended)
    stream = db.stream("u")
    for step in range(3):
        assert not enough.done()
        stream.append({"u": np.full(1, step)})
    assert enough.result(20).info().length == 3
    assert not learned.done()
    stream.end()
    assert learned.result(60) == 3
    late = db.stream("v", records=1, timeout_s=0.05)
    with pytest.raises(DataTimeoutError):
        late.append(1)


def test_server_that_is_stopped() -> None:
    with ssdag.Orchestrator() as db:
        waiting = db.stream("u", ended=True)
        writer: Future[int] = Future()
        db.stream("u").ends_with(writer)
        db.start()
    with pytest.raises(StoreError):
        waiting.result(20)
    writer.set_result(1)  # nobody is there to be told
