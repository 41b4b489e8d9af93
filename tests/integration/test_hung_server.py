# SPDX-License-Identifier: BSD-3-Clause
"""A server that hangs: calls that wait keep their own time, and nothing is lost by that."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ssdag import Config, DistributedDict, Orchestrator, load, python_app
from ssdag.client import Client
from ssdag.connectors import RedisConnector
from ssdag.errors import ConfigError, DataTimeoutError, StoreError
from ssdag.executors import LocalExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: How long the calls wait, and how long they may take on a slow machine.
_WAIT_S = 0.3
_MOST_S = 5.0


@pytest.fixture(scope="module")
def db() -> Iterator[Orchestrator]:
    with Orchestrator() as made:
        yield made


@pytest.fixture
def client(db: Orchestrator) -> Iterator[Client]:
    with Client(db.address, password_file=db.password_file) as made:
        made.flush_db()
        yield made


@contextlib.contextmanager
def hung(*pids: int | None) -> Iterator[None]:
    """Stop servers for a while."""
    for pid in pids:
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            assert pid is not None
            os.kill(pid, signal.SIGCONT)


def _tensor(client: Client) -> Callable[[], Any]:
    return lambda: client.wait_tensor("u", _WAIT_S)


def _key(client: Client) -> Callable[[], Any]:
    return lambda: client.wait_key("u", _WAIT_S)


def _dataset(client: Client) -> Callable[[], Any]:
    return lambda: client.wait_dataset("u", _WAIT_S)


def _list(client: Client) -> Callable[[], Any]:
    return lambda: client.wait_list("u", 1, _WAIT_S)


def _read(client: Client) -> Callable[[], Any]:
    reader = client.stream("u").reader()
    with pytest.raises(DataTimeoutError):
        reader.read(0.01)
    return lambda: reader.read(_WAIT_S)


def _first_read(client: Client) -> Callable[[], Any]:
    reader = client.stream("u").reader(timeout_s=_WAIT_S)
    return reader.read


def _steering(client: Client) -> Callable[[], Any]:
    return lambda: client.steering().wait(_WAIT_S)


def _steps(client: Client) -> Callable[[], Any]:
    return lambda: client.step_counter().wait(0, _WAIT_S)


def _checkpoint(client: Client) -> Callable[[], Any]:
    return lambda: client.checkpoint().wait(timeout_s=_WAIT_S)


def _dictionary(client: Client) -> Callable[[], Any]:
    shared: DistributedDict[int] = DistributedDict(RedisConnector(client))
    return lambda: shared.get("x", timeout_s=_WAIT_S)


_WAITS = [
    *(_tensor, _key, _dataset, _list, _read, _first_read, _steering, _steps, _checkpoint),
    _dictionary,
]


def _times_out(wait: Callable[[], Any]) -> float:
    """Return how long it took to say so."""
    began_s = time.monotonic()
    with pytest.raises(DataTimeoutError):
        wait()
    return time.monotonic() - began_s


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "new"])
def test_who_waits_keeps_his_time(client: Client, db: Orchestrator, connected: bool) -> None:
    waits = [make(client) for make in _WAITS]
    if not connected:
        client.release()
    with ThreadPoolExecutor(len(waits)) as pool:
        with hung(db.pid):
            assert max(pool.map(_times_out, waits)) < _MOST_S
        client.ping()  # what was left half is in nobody's way
        assert min(pool.map(_times_out, waits)) > _WAIT_S / 2


def test_the_default_of_a_dictionary(client: Client, db: Orchestrator) -> None:
    shared: DistributedDict[int] = DistributedDict(RedisConnector(client))
    with hung(db.pid):
        assert shared.get("x", 7, timeout_s=_WAIT_S) == 7


def test_a_reader_goes_on(client: Client, db: Orchestrator) -> None:
    reader = client.stream("u").reader()
    with pytest.raises(DataTimeoutError):
        reader.read(0.01)
    with hung(db.pid), pytest.raises(DataTimeoutError):
        reader.read(_WAIT_S)
    client.stream("u").append(np.arange(3.0))
    client.stream("u").append(np.arange(10_000.0))
    for size in (3, 10_000):
        entry = reader.read(20)
        assert entry is not None
        assert entry.value.size == size
    reader.close()


def test_a_record_that_a_reader_had_not_got_yet(client: Client, db: Orchestrator) -> None:
    """The server gives it to the reader that has gone away: that gets it again."""
    stream = client.stream("u", capacity=4)
    reader = stream.reader()
    with pytest.raises(DataTimeoutError):
        reader.read(0.01)
    for value in range(3):
        stream.append({"value": value, "u": np.full(2_000, value)})
    with hung(db.pid), pytest.raises(DataTimeoutError):
        reader.read(_WAIT_S)
    for value in range(3):
        entry = reader.read(20)
        assert entry is not None
        assert entry.value["value"] == value
    reader.done()
    assert stream.info().groups["default"].in_work == 0
    reader.close()


@pytest.mark.parametrize("size", [3, 10_000])
def test_append(client: Client, db: Orchestrator, size: int) -> None:
    stream = client.stream("u", capacity=4)
    stream.append(np.zeros(size))
    with hung(db.pid):
        began_s = time.monotonic()
        with pytest.raises(StoreError, match="nobody knows"):
            stream.append(np.ones(size), timeout_s=_WAIT_S)
        assert time.monotonic() - began_s < _MOST_S
    stream.append(np.full(size, 2.0), timeout_s=20)
    stream.end()
    values = [int(value[0]) for value in stream]
    assert values in ([0, 1, 2], [0, 2])  # once at most, and nothing half


def test_append_that_was_not_sent(client: Client, db: Orchestrator) -> None:
    stream = client.stream("u", capacity=1)
    stream._core.forget()
    client.release()
    with hung(db.pid), pytest.raises(DataTimeoutError):
        stream.append(0, timeout_s=_WAIT_S)
    assert len(stream) == 0


def test_append_to_a_full_stream(client: Client, db: Orchestrator) -> None:
    stream = client.stream("u", capacity=1)
    stream.append(0)
    with hung(db.pid), pytest.raises(StoreError):
        stream.append(1, timeout_s=_WAIT_S)
    with pytest.raises(DataTimeoutError, match="full"):
        stream.append(2, timeout_s=_WAIT_S)


def test_calls_without_a_time_wait_for_it(client: Client, db: Orchestrator) -> None:
    """A connection that was used with a deadline has none afterwards."""
    client.put_tensor("u", [1.0])
    client.wait_tensor("u", 0.01)
    (connection,) = client._route._pool._idle  # type: ignore[attr-defined]
    assert connection._patience.until_s is not None
    client.ping()
    assert connection._patience.until_s is None
    assert connection._patience.look_s is None


def test_coroutines(db: Orchestrator) -> None:
    async def main() -> None:
        with Client(db.address, password_file=db.password_file) as client:
            client.flush_db()
            stream = await client.aio.stream("u", capacity=2)
            reader = stream.reader()
            with pytest.raises(DataTimeoutError):
                await reader.read(0.01)
            with hung(db.pid), pytest.raises((DataTimeoutError, StoreError)):
                await asyncio.wait_for(stream.append(1, timeout_s=_WAIT_S), 2 * _MOST_S)
            await reader.close()

    asyncio.run(main())


def test_a_cluster_with_a_node_that_hangs() -> None:
    with Orchestrator(nodes=3) as db:
        client = db.client()
        client.put_tensor("u", [1.0])
        pids = [server.pid for server in db._servers()]
        with hung(*pids):
            assert _times_out(lambda: client.wait_tensor("v", _WAIT_S)) < _MOST_S


# -- the clients of an orchestrator ---------------------------------------------------


@python_app
def timeout_of(client: Client, handle: Any) -> tuple[float | None, float | None]:
    return client._timeout_s, handle._core.client._timeout_s


@python_app
def read_in_vain(client: Client) -> str:
    try:
        client.get_tensor("u")
    except StoreError as error:
        return str(error)
    return "it was there"


@pytest.mark.parametrize("options", [{}, {"colocated": True}], ids=["alone", "colocated"])
def test_client_timeout(options: dict[str, Any]) -> None:
    with (
        load(Config(executors=[LocalExecutor(max_workers=1)])),
        Orchestrator(client_timeout_s=0.4, **options) as db,
    ):
        client = db.client()
        assert client._timeout_s == 0.4
        assert client.clone()._timeout_s == 0.4
        stream = client.stream("s")
        assert timeout_of(db, stream).result(30) == (0.4, 0.4)
        client.put_tensor("u", [1.0])
        assert db.tensor("u").result(30)[0] == 1.0
        with hung(*(server.pid for server in db._servers())):
            began_s = time.monotonic()
            with pytest.raises(StoreError, match="silent"):
                client.get_tensor("u")
            assert time.monotonic() - began_s < _MOST_S
            assert "silent" in read_in_vain(db).result(30)


def test_client_timeout_of_an_attached_one(tmp_path: Path) -> None:
    with (
        Orchestrator(folder=tmp_path / "db", client_timeout_s=3) as db,
        Orchestrator.attach(
            db.address, password_file=db.password_file, client_timeout_s=2
        ) as attached,
    ):
        assert db.client()._timeout_s == 3
        assert attached.client()._timeout_s == 2


@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_client_timeout_has_to_be_a_time(value: float) -> None:
    with pytest.raises(ConfigError, match="client_timeout_s"):
        Orchestrator(client_timeout_s=value)
