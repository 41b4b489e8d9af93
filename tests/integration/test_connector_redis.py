# SPDX-License-Identifier: BSD-3-Clause
"""The server as a connector: cut connections, a full or silent server, secrets, other programs."""

from __future__ import annotations

import io
import os
import pickle
import signal
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ssdag.client import Client
from ssdag.connectors import DistributedDict, RedisConnector
from ssdag.connectors import redis as redis_module
from ssdag.errors import (
    ConfigError,
    DataError,
    DataFormatError,
    DataTimeoutError,
    MissingDataError,
    SerializationError,
    StoreError,
)
from ssdag.services.orchestrator import Orchestrator
from tests.integration.test_client_faults import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = 1 << 20

#: What the server answers to the password.
LOGIN = len(b"+OK\r\n")
#: And to a value that is claimed.
CLAIM = len(b"+OK\r\n:1\r\n")


@pytest.fixture(scope="module")
def db() -> Iterator[Orchestrator]:
    with Orchestrator(memory_limit_bytes=64 << 20) as service:
        service.tensor("nobody puts this")  # keeps the thread that waits
        yield service


@pytest.fixture
def proxy(db: Orchestrator) -> Iterator[Proxy]:
    with Proxy(db.address.removeprefix("unix://")) as relay:
        yield relay


@pytest.fixture
def near(db: Orchestrator) -> RedisConnector:
    db.client().redis.flushdb()
    return RedisConnector(db)


@pytest.fixture
def far(proxy: Proxy, near: RedisConnector, db: Orchestrator) -> Iterator[RedisConnector]:
    with Client(proxy.address, password_file=db.password_file) as client:
        yield RedisConnector(client)


def test_a_write_that_is_cut_is_repeated(
    far: RedisConnector, near: RedisConnector, proxy: Proxy
) -> None:
    data = os.urandom(8 * BIG)
    proxy.cuts = [(BIG, None)]
    far.write("x", [data[:100], data[100:]])
    assert bytes(near.read("x")) == data
    proxy.hang_up()
    proxy.cuts = [(BIG, None), (BIG, None)]
    with pytest.raises(StoreError, match="write of 'x'"):
        far.write("x", [bytes(8 * BIG)])
    assert bytes(near.read("x")) == data
    proxy.hang_up()
    proxy.cuts = [(None, BIG)]
    assert bytes(far.read("x")) == data


def test_an_add_is_never_sent_twice(
    far: RedisConnector, near: RedisConnector, proxy: Proxy
) -> None:
    proxy.cuts = [(None, LOGIN + 1)]
    with pytest.raises(StoreError, match="write of"):
        far.add("x", [b"data"])
    assert proxy.connections == 1
    assert bytes(near.read("x")) == b"data", "it was done, and the answer was lost"
    assert not far.add("x", [b"again"])


@pytest.mark.parametrize("passed", [LOGIN, LOGIN + 1, LOGIN + CLAIM - 1, LOGIN + CLAIM + 1000])
def test_a_take_that_is_cut_loses_nothing(
    passed: int, far: RedisConnector, near: RedisConnector, proxy: Proxy
) -> None:
    data = os.urandom(BIG)
    near.write("x", [data])
    proxy.cuts = [(None, passed)]
    try:
        found = far.take("x")
    except StoreError:
        assert passed == LOGIN, "the command was never answered, nor done"
        found = near.take("x")
    assert bytes(found) == data
    assert not near.exists("x")
    assert near._client.redis.dbsize() == 0


def test_a_take_that_cannot_be_read_is_put_back(
    far: RedisConnector, near: RedisConnector, proxy: Proxy
) -> None:
    data = os.urandom(BIG)
    near.write("x", [data])
    proxy.cuts = [(None, LOGIN + CLAIM + 1000), (None, LOGIN + 1000)]
    with pytest.raises(StoreError, match="read of 'x'"):
        far.take("x")
    assert bytes(near.read("x")) == data
    assert near._client.redis.dbsize() == 1


def test_what_a_killed_taker_has_claimed_goes_by_itself(near: RedisConnector) -> None:
    near.write("x", [b"data"])
    assert near._claim("take", near._key("x"), near._key("x") + b":claim")
    assert near.keys() == []
    assert 0 < near._client.call("TTL", near._key("x") + b":claim") <= 3600


def test_a_full_server(near: RedisConnector) -> None:
    near.write("x", [b"old"])
    copies = [("k", f"k{i}") for i in range(100)]

    def fill() -> None:
        for source, target in copies:
            near.write(target, [bytes(4 * BIG)])
            near.copy(target, source)

    with pytest.raises(StoreError, match="memory limit"):
        fill()
    held = near.keys("k*")
    assert len(held) > 5
    assert all(near.size(key) == 4 * BIG for key in held)
    with pytest.raises(StoreError, match=r"'k'.*OOM"):
        near.copy_many(copies)
    assert bytes(near.read("x")) == b"old"
    assert near.delete_many(near.keys("k*")) >= len(held)
    near.copy("x", "copy")


def test_a_value_that_is_too_large(near: RedisConnector) -> None:
    client = near._client
    (before,) = (client.call("CONFIG", "GET", "proto-max-bulk-len")[1],)
    client.call("CONFIG", "SET", "proto-max-bulk-len", "1mb")
    try:
        with pytest.raises(DataFormatError, match="larger than the server"):
            near.write("x", [bytes(2 * BIG)])
        assert not near.exists("x")
    finally:
        client.call("CONFIG", "SET", "proto-max-bulk-len", before)


def test_a_silent_server() -> None:
    with Orchestrator() as service:
        client = Client(service.address, password_file=service.password_file, timeout_s=0.2)
        connector = RedisConnector(client)
        connector.write("x", [b"data"])
        assert service.pid is not None
        os.kill(service.pid, signal.SIGSTOP)
        try:
            for call in (connector.read, connector.take, connector.exists, connector.delete):
                with pytest.raises(StoreError, match="silent"):
                    call("x")
            with pytest.raises(StoreError, match="silent"):
                connector.keys()
        finally:
            os.kill(service.pid, signal.SIGCONT)
        connector.write("y", [b"awake"])
        assert bytes(connector.read("y")) == b"awake"
        client.close()


def test_a_server_that_ends_while_somebody_waits() -> None:
    errors: list[Exception] = []
    started = threading.Event()
    with Orchestrator() as service:
        connector = RedisConnector(service)
        connector.write("x", [b""])

        def wait() -> None:
            started.set()
            try:
                connector.wait("never")
            except StoreError as error:
                errors.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        started.wait()
    waiting.join(60)
    assert len(errors) == 1


def test_what_was_there_and_is_gone_is_waited_for(near: RedisConnector) -> None:
    def write() -> None:
        for _ in range(20):
            near.write("x", [b""])

    for _ in range(20):
        writer = threading.Thread(target=write)
        writer.start()
        near.wait("x", 60)
        writer.join()
        near.delete("x")
        with pytest.raises(DataTimeoutError):
            near.wait("x", 0.002)


def test_secrets(db: Orchestrator, near: RedisConnector) -> None:
    with open(db.password_file, encoding="utf-8") as file:
        password = file.read().strip()
    pickled = pickle.dumps(near)
    assert password.encode() not in pickled
    assert pickle.loads(pickled).keys() == []
    with Client(db.address, password=password) as client:
        known = RedisConnector(client)
        known.write("x", [b""])
        known.wait("x")
        assert password not in repr(known)
        with pytest.raises(SerializationError, match="password"):
            pickle.dumps(known)
    with pytest.raises(StoreError) as caught:
        RedisConnector(db.tcp_address or "").read("x")
    assert not caught.value.transient


def test_names_keep_connectors_apart(db: Orchestrator, near: RedisConnector) -> None:
    other = RedisConnector(db, "other/store")
    near.write("x", [b"near"])
    other.write("x", [b"other"])
    assert near.keys() == other.keys() == ["x"]
    assert bytes(other.read("x")) == b"other"
    for name in ("", "a b", "a:b", "{", "x" * 65):
        with pytest.raises(ConfigError, match="name="):
            RedisConnector(db, name)
    with pytest.raises(ConfigError, match="a client, an orchestrator or an address"):
        RedisConnector(5)  # type: ignore[arg-type]


def test_prefixes_of_ensembles_do_not_matter(db: Orchestrator, near: RedisConnector) -> None:
    with Client(db.address, password_file=db.password_file) as client:
        client.prefixes.out = client.prefixes.source = "member"
        mine = RedisConnector(client)
        mine.write("x", [b"data"])
        mine.wait("x", 10)
    assert bytes(near.read("x")) == b"data"


def test_scope(db: Orchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert RedisConnector(db).scope == "node"
    assert RedisConnector(db.tcp_address or "", password_file=db.password_file).scope == "node"
    for address in ("10.0.0.1:6379", "node7:1,node8:2", "tcp://node7:1"):
        far = RedisConnector(address)
        assert far.scope == "network"
        assert pickle.loads(pickle.dumps(far)).scope == "network"
    near = pickle.dumps(RedisConnector(db))
    monkeypatch.setattr(redis_module, "machine", lambda: "another")
    with pytest.raises(StoreError, match="another machine") as caught:
        pickle.loads(near)
    assert not caught.value.transient


def test_other_programs(db: Orchestrator, near: RedisConnector) -> None:
    """A plain script with redis-py and numpy reads and writes what tasks do."""
    shared: DistributedDict[Any] = DistributedDict(near)
    shared["u"] = np.arange(6.0).reshape(2, 3)
    server = db.client().redis
    raw = server.get("store:dict:{u}")
    assert isinstance(raw, bytes)
    assert np.load(io.BytesIO(raw)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert db.client().get_tensor("store:dict:{u}").shape == (2, 3)
    out = io.BytesIO()
    np.save(out, np.arange(3))
    server.set("store:dict:{from outside}", out.getvalue())
    assert shared.get("from outside", timeout_s=10).tolist() == [0, 1, 2]
    server.set("store:dict:{text}", "no value")
    with pytest.raises(DataFormatError, match="not a value"):
        shared["text"]
    server.rpush("store:dict:{list}", "x")
    with pytest.raises(DataError, match="another kind of value"):
        shared["list"]
    assert set(shared) == {"u", "from outside", "text"}
    with pytest.raises(MissingDataError):
        near.read("list")
