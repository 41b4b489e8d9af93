# SPDX-License-Identifier: BSD-3-Clause
"""Messages between clients: order, timeouts, closing, lost connections, coroutines."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from ssdag.client import Client
from ssdag.client.waiting.pubsub import Message
from ssdag.errors import ConfigError, DataFormatError, DataTimeoutError, StoreError
from ssdag.services.orchestrator import Orchestrator
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.client.waiting.pubsub import Subscription


@pytest.fixture(scope="module")
def db() -> Iterator[Orchestrator]:
    with Orchestrator() as service:
        yield service


@pytest.fixture
def client(db: Orchestrator) -> Client:
    return db.client()


def test_in_order(client: Client) -> None:
    with client.subscribe("a", "b", patterns=["c.*"]) as messages:
        for i in range(500):
            assert client.publish("a" if i % 2 else "b", str(i)) == 1
        client.publish("c.x", b"\xff\0")
        client.publish("other", b"")
        client.publish("a", memoryview(b"last"))
        got = [messages.get(5) for _ in range(502)]
    assert [int(m.data) for m in got[:500]] == list(range(500))
    assert got[500:] == [Message("c.x", b"\xff\0", "c.*"), Message("a", b"last")]
    assert client.publish("a", "nobody") == 0


def test_large_message(client: Client) -> None:
    with client.subscribe("large") as messages:
        data = os.urandom(3 << 20)
        client.publish("large", data)
        assert messages.get(10).data == data


def test_timeouts_and_closing(client: Client) -> None:
    messages = client.subscribe("quiet", timeout_s=0.05)
    with pytest.raises(DataTimeoutError):
        next(messages)
    with pytest.raises(DataTimeoutError):
        messages.get(0)
    client.publish("quiet", "x")
    assert next(messages).data == b"x"
    threading.Timer(0.05, messages.close).start()
    with pytest.raises(StoreError, match="no messages"):
        messages.get()
    assert list(messages) == []
    messages.close()
    assert client.publish("quiet", "x") == 0


def test_closing_ends_a_loop(client: Client) -> None:
    messages = client.subscribe("loop")
    got: list[bytes] = []

    def read() -> None:
        got.extend(message.data for message in messages)

    reader = threading.Thread(target=read)
    reader.start()
    client.publish("loop", "1")
    wait_until(lambda: got == [b"1"])
    messages.close()
    reader.join(10)
    assert not reader.is_alive()


def test_bad_arguments(client: Client) -> None:
    with pytest.raises(ConfigError):
        client.subscribe()
    with pytest.raises(DataFormatError):
        client.subscribe("")
    with pytest.raises(DataFormatError):
        client.publish("a", 1)  # type: ignore[arg-type]


def test_coroutines(client: Client) -> None:
    async def read(messages: Subscription, count: int) -> list[bytes]:
        got: list[bytes] = []
        async for message in messages:
            got.append(message.data)
            if len(got) == count:
                break
        return got

    async def work() -> None:
        with client.subscribe("async") as messages:
            reader = asyncio.create_task(read(messages, 10))
            for i in range(10):
                await asyncio.sleep(0)
                client.publish("async", str(i))
            assert await asyncio.wait_for(reader, 10) == [b"%d" % i for i in range(10)]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(read(messages, 1), 0.05)
            client.publish("async", "after")
            assert await asyncio.wait_for(read(messages, 1), 10) == [b"after"]
            ended = asyncio.create_task(read(messages, 1))
            await asyncio.sleep(0)
            messages.close()
            assert await asyncio.wait_for(ended, 10) == []

    asyncio.run(work())


def test_a_lost_connection(db: Orchestrator, client: Client) -> None:
    with client.subscribe("cut") as messages:
        client.publish("cut", "before")
        assert messages.get(5).data == b"before"
        client.call("CLIENT", "KILL", "TYPE", "pubsub")

        def again() -> bool:
            client.publish("cut", "after")
            try:
                return messages.get(0.05).data == b"after"
            except DataTimeoutError:
                return False

        wait_until(again)
        assert messages.gaps == 1


def test_server_gone() -> None:
    with Orchestrator() as db:
        with Client(db.address, password="wrong") as client, pytest.raises(StoreError):
            client.subscribe("a")
        messages = db.client().subscribe("a")
        messages.patience_s = 0.2
        assert db.pid is not None
        os.kill(db.pid, signal.SIGKILL)
        with pytest.raises(StoreError, match="gave up"):
            messages.get(30)
        messages.close()
    with Client("127.0.0.1:1") as client, pytest.raises(StoreError):
        client.subscribe("a")
