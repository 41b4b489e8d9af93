# SPDX-License-Identifier: BSD-3-Clause
"""Waiting for each kind of data: by call, by future, by a function; in tasks and coroutines."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ssdag
from ssdag.client import Client
from ssdag.client.datasets.dataset import Dataset
from ssdag.client.waiting.conditions import existence
from ssdag.client.waiting.watchers import close_watcher, watcher_for
from ssdag.errors import (
    ConfigError,
    DataError,
    DataFormatError,
    DataTimeoutError,
    MissingDataError,
    StoreError,
    WouldDeadlockError,
)
from ssdag.services.orchestrator import Orchestrator
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ssdag.client.streams.stream import Stream
    from ssdag.client.tensors.npy import Array
    from ssdag.futures import Future


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(None, id="packaged"),
        pytest.param(
            "redis-server",
            id="redis",
            marks=pytest.mark.skipif(
                not shutil.which("redis-server"), reason="no redis-server on PATH"
            ),
        ),
    ],
)
def running(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    with Orchestrator(server=request.param) as service:
        yield service


@pytest.fixture
def db(running: Orchestrator) -> Iterator[Orchestrator]:
    running.client().call("FLUSHALL")
    yield running
    close_watcher(running.client(), StoreError("the test is over"))


@pytest.fixture
def client(db: Orchestrator) -> Client:
    return db.client()


def dataset(name: str, value: float = 0.0) -> Dataset:
    made = Dataset(name)
    made.add_tensor("x", np.full(3, value))
    return made


def after_a_moment(call: Callable[..., object], *args: object) -> threading.Thread:
    thread = threading.Thread(target=call, args=args)
    thread.start()
    return thread


# -- blocking --------------------------------------------------------------------------


def test_blocking_calls(client: Client) -> None:
    pairs: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (lambda: client.wait_tensor("t", 20), lambda: client.put_tensor("t", [1])),
        (lambda: client.wait_key("k", 20), lambda: client.call("HSET", "k", "f", "v")),
        (lambda: client.wait_dataset("d", 20), lambda: client.put_dataset(dataset("d"))),
        (lambda: client.wait_list("l", 1, 20), lambda: client.append_to_list("l", "d")),
    ]
    for wait, write in pairs:
        writer = after_a_moment(write)
        wait()
        writer.join()
        wait()  # at once


def test_blocking_calls_give_up(client: Client) -> None:
    for wait in (client.wait_tensor, client.wait_key, client.wait_dataset):
        with pytest.raises(DataTimeoutError, match="'no such'"):
            wait("no such", 0.02)
        with pytest.raises(DataTimeoutError):
            wait("no such", 0)
    with pytest.raises(DataTimeoutError):
        client.wait_list("no such", 1, 0.02)
    assert watcher_for(client).waiting == 0


def test_many_threads_block(client: Client) -> None:
    done: list[int] = []

    def wait(i: int) -> None:
        client.wait_tensor(f"t{i}", 20)
        client.wait_list("all", 20, 20)
        done.append(i)

    threads = [after_a_moment(wait, i) for i in range(20)]
    for i in range(20):
        client.put_tensor(f"t{i}", [i])
        client.append_to_list("all", "d")
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(20))

    def connections() -> int:
        return int(client.call("CLIENT", "LIST").count(b"\n"))

    wait_until(lambda: connections() <= 16)  # those that are kept
    before = connections()
    for _ in range(5):
        with pytest.raises(DataTimeoutError):
            client.wait_tensor("no such", 0.001)
    assert connections() == before
    client.release()
    wait_until(lambda: connections() == 1)


def test_waiting_in_a_callback(db: Orchestrator, client: Client) -> None:
    """The thread that completes futures must not wait for another one."""
    other, errors = db.tensor("b"), []
    called = threading.Event()

    def callback(_: object) -> None:
        try:
            other.result()
        except WouldDeadlockError as error:
            errors.append(error)
        client.wait_tensor("c", 20)  # this needs no other thread
        called.set()

    db.tensor("a").add_done_callback(callback)
    client.put_tensor("a", [1])
    client.put_tensor("c", [1])
    assert called.wait(20)
    assert errors
    client.put_tensor("b", [1])
    assert other.exception(20) is None


def test_lengths_of_lists(client: Client) -> None:
    client.wait_list("l", 0, 5)
    client.wait_list("l", 0, 5, compare="==")
    client.wait_list("l", 3, 5, compare="<=")
    for _ in range(5):
        client.append_to_list("l", "d")
    client.wait_list("l", 3, 5)
    with pytest.raises(DataTimeoutError):
        client.wait_list("l", 3, 0.02, compare="<=")
    writer = after_a_moment(client.call, "LTRIM", "l", 0, 2)
    client.wait_list("l", 3, 20, compare="==")
    writer.join()
    writer = after_a_moment(client.delete_list, "l")
    client.wait_list("l", 0, 20, compare="<=")
    writer.join()
    with pytest.raises(ConfigError):
        client.wait_list("l", -1)
    with pytest.raises(ConfigError):
        client.wait_list("l", 1, compare=">")  # type: ignore[arg-type]


def test_another_kind_of_value(client: Client) -> None:
    client.put_tensor("t", [1])
    with pytest.raises(DataError, match="another kind"):
        client.wait_list("t", 1, 5)
    waiting = client.list_future("late", 1)
    beside = client.list_future("fine", 1)
    client.call("SET", "late", "no list")
    assert isinstance(waiting.exception(20), DataError)
    client.append_to_list("fine", "d")
    assert beside.exception(20) is None


def test_prefixes(db: Orchestrator) -> None:
    with (
        Client(db.address, password_file=db.password_file) as writer,
        Client(db.address, password_file=db.password_file) as reader,
    ):
        writer.prefixes.out = reader.prefixes.source = "member_1"
        futures = [reader.tensor_future("t"), db.tensor("t", prefix="member_1")]
        sets = [reader.dataset_future("d"), db.dataset("d", prefix="member_1")]
        lists = [reader.list_future("l", 1), db.list("l", length=1, prefix="member_1")]
        sums = reader.when(lambda c: c.get_tensor("t").sum(), tensors=["t"])
        writer.put_tensor("t", [5])
        writer.put_dataset(dataset("d", 6))
        writer.append_to_list("l", "d")
        assert [f.result(20)[0] for f in futures] == [5, 5]
        assert [f.result(20).get_tensor("x")[0] for f in sets] == [6, 6]
        assert [f.result(20)[0].get_tensor("x")[0] for f in lists] == [6, 6]
        assert sums.result(20) == 5
        reader.wait_dataset("d", 5)
        assert not db.tensor("t", timeout_s=0.01).done()


# -- futures ---------------------------------------------------------------------------


def test_only_whole_datasets(db: Orchestrator, client: Client) -> None:
    """One that is written as SmartRedis writes it is not there before its last command."""
    future = db.dataset("d")
    client.call("HSET", "{d}.meta", ".tensor_names", b"\x07")
    client.put_tensor("{d}.x", [1])
    assert not client.dataset_exists("d")
    assert isinstance(db.dataset("d", timeout_s=0.05).exception(20), DataTimeoutError)
    assert not future.done()
    client.call("HSET", "{d}.meta", ".COMPLETE", "1")
    assert future.exception(20) is None


def test_datasets_that_are_renamed_or_copied(db: Orchestrator, client: Client) -> None:
    client.put_dataset(dataset("a", 1))
    renamed, copied = db.dataset("b"), db.dataset("c")
    client.rename_dataset("a", "b")
    assert renamed.result(20).get_tensor("x")[0] == 1
    client.copy_dataset("b", "c")
    assert copied.result(20).name == "c"


def test_many_lengths_of_one_list(db: Orchestrator, client: Client) -> None:
    client.put_dataset(dataset("d"))
    futures = [db.list("l", length=n) for n in range(1, 301)]
    for _ in range(300):
        client.append_to_list("l", "d")
    for n, future in enumerate(futures, 1):
        assert future.exception(20) is None
        if n % 100 == 0:
            assert len(future.result()) == n


def test_keys(db: Orchestrator, client: Client) -> None:
    future, other = db.key("k"), db.key("h")
    client.call("SET", "k", b"\0\xff")
    assert future.result(20) == b"\0\xff"
    client.call("HSET", "h", "f", "v")
    with pytest.raises(DataError):
        other.result(20)
    with pytest.raises(MissingDataError):
        client.get_key("no such")


def test_streams(db: Orchestrator, client: Client) -> None:
    handle = db.stream("s", capacity=4)
    two, end = db.stream("s", records=2), db.stream("s", ended=True)
    stream = handle.result(20)
    stream.append([1])
    assert not two.done()
    stream.append([2])
    assert two.result(20).info().capacity == 4
    assert not end.done()
    stream.end()
    assert [a[0] for a in end.result(20)] == [1, 2]
    cases: list[dict[str, Any]] = [{"records": -1}, {"capacity": 0}, {"policy": "odd"}]
    for options in cases:
        with pytest.raises(ConfigError):
            db.stream("s", **options)


def test_time_limits(db: Orchestrator, client: Client) -> None:
    futures = [db.tensor(f"t{i}", timeout_s=0.05 + 0.01 * (i % 3)) for i in range(50)]
    patient = db.tensor("t0", timeout_s=60)
    client.put_tensor("t1", [1])
    for i, future in enumerate(futures):
        error = future.exception(20)
        assert error is None if i == 1 else isinstance(error, DataTimeoutError)
    assert not patient.done()
    client.put_tensor("t0", [1])
    assert patient.exception(20) is None
    for _ in range(200):  # deadlines of those who are gone are forgotten
        db.tensor("t2", timeout_s=60).cancel()
    assert len(watcher_for(client)._waiting._deadlines) < 100


def test_bad_names(db: Orchestrator) -> None:
    for make in (db.tensor, db.dataset, db.key, db.stream, lambda n: db.list(n, length=1)):
        with pytest.raises(DataFormatError):
            make("")
    with pytest.raises(ConfigError):
        db.list("l", length=0)


def test_cancelled(db: Orchestrator, client: Client) -> None:
    futures: list[Future[Any]] = [db.tensor("a"), db.dataset("a"), db.list("a", length=2)]
    futures += [db.key("a"), db.when(lambda c: None, keys=["a"])]
    assert all(future.cancel() for future in futures)
    client.put_tensor("a", [1])
    assert all(future.cancelled() for future in futures)
    assert watcher_for(client).waiting == 0


# -- functions -------------------------------------------------------------------------


def test_functions(db: Orchestrator, client: Client) -> None:
    loss = db.when(lambda c: c.get_tensor("loss")[0] < 1, tensors=["loss"])
    both = db.when(
        lambda c: c.get_tensor("a")[0] + c.get_dataset("d").get_tensor("x")[0],
        tensors=["a"],
        datasets=["d"],
    )
    for value in (5, 3, 1.5):
        client.put_tensor("loss", [value])
    client.put_tensor("a", [1])
    client.put_dataset(dataset("d", 2))
    assert both.result(20) == 3
    assert not loss.done()
    client.put_tensor("loss", [0.5])
    assert loss.result(20)
    assert db.when(lambda c: "at once", keys=["no such"]).result(20) == "at once"


def test_functions_that_fail(db: Orchestrator, client: Client) -> None:
    def fails(_: Client) -> bool:
        raise ZeroDivisionError("by zero")

    assert isinstance(db.when(fails, keys=["k"]).exception(20), ZeroDivisionError)
    never = db.when(lambda c: False, keys=["k"], timeout_s=0.05)
    assert isinstance(never.exception(20), DataTimeoutError)
    with pytest.raises(ConfigError):
        db.when(lambda c: True)
    with pytest.raises(ConfigError):
        client.when(lambda c: True)


def test_slow_functions_hold_up_nobody(db: Orchestrator, client: Client) -> None:
    go = threading.Event()
    calls: list[int] = []

    def slow(_: Client) -> bool:
        calls.append(1)
        return go.wait(20) and len(calls) > 1

    future = db.when(slow, keys=["k"])
    tensor = db.tensor("t")
    client.put_tensor("t", [1])
    assert tensor.exception(20) is None
    for i in range(100):
        client.call("SET", "k", i)
    go.set()
    assert future.result(20)
    assert len(calls) < 10  # once more for all that happened meanwhile


def test_no_change_is_missed_by_a_function(db: Orchestrator, client: Client) -> None:
    for i in range(100):
        name = f"n{i}"
        writer = after_a_moment(client.put_tensor, name, [i])
        future = db.when(lambda c, name=name: c.get_tensor(name)[0] + 1, keys=[name])  # type: ignore[misc]
        assert future.result(20) == i + 1
        writer.join()


# -- in tasks and coroutines -----------------------------------------------------------


@ssdag.python_app
def total(array: Array, data: Dataset, several: list[Dataset], key: bytes) -> float:
    parts = [array.sum(), data.get_tensor("x").sum(), float(key)]
    return float(sum(parts) + sum(d.get_tensor("x").sum() for d in several))


@ssdag.python_app
def produce(stream: Stream) -> None:
    for i in range(20):
        stream.append([i])
    stream.end()


@ssdag.python_app
def consume(stream: Stream) -> int:
    return sum(int(a[0]) for a in stream)


def test_tasks_get_the_data_where_they_run(db: Orchestrator, client: Client) -> None:
    with ssdag.load(ssdag.Config(executors=[ssdag.executors.LocalExecutor(max_workers=2)])):
        task = total(db.tensor("t"), db.dataset("d"), db.list("l", length=2), db.key("k"))
        client.put_tensor("t", [1])
        client.put_dataset(dataset("d", 10))
        client.call("SET", "k", "1000")
        client.append_to_list("l", "d")
        assert not task.done()
        client.append_to_list("l", "d")
        assert task.result(30) == 1 + 30 + 60 + 1000
        reader = consume(db.stream("s", capacity=2))
        produce(db.stream("s", capacity=2))
        assert reader.result(30) == sum(range(20))


def test_coroutines(db: Orchestrator, client: Client) -> None:
    async def work() -> float:
        futures = [client.tensor_future(f"t{i}") for i in range(20)]
        for i in range(20):
            client.put_tensor(f"t{i}", [i])

        async def value(future: ssdag.DataFuture[Array]) -> float:
            return float((await future)[0])

        with pytest.raises(DataTimeoutError):
            await db.tensor("no such", timeout_s=0.01)
        return sum(await asyncio.gather(*map(value, futures)))

    assert asyncio.run(work()) == sum(range(20))


def test_a_condition_of_ones_own(client: Client) -> None:
    """What those use who add kinds of data."""
    condition = existence("thing", "a", b"a")
    assert str(condition) == "thing 'a'"
    future = client.future(condition, "result")
    began = time.monotonic()
    client.call("SET", "a", "x")
    assert future.result(20) == "result"
    client.wait(condition, 0)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("later", ["a wait", "a future"])
def test_what_was_told_before_the_waiting_began_does_not_count(
    db: Orchestrator, later: str
) -> None:
    """Notes of changes that the earlier wait has not read, of a key that is gone by now."""
    client = db.client()
    for _ in range(30):
        writer = threading.Thread(target=_write_often, args=(client, "told"))
        writer.start()
        client.wait_key("told", 30.0)
        writer.join()
        client.call("DEL", "told")
        if later == "a wait":
            with pytest.raises(DataTimeoutError):
                client.wait_key("told", 0.005)
        else:
            future = client.key_future("told", timeout_s=0.02)
            assert isinstance(future.exception(30.0), DataTimeoutError)


def _write_often(client: Client, key: str) -> None:
    for _ in range(20):
        client.call("SET", key, "1")
