# SPDX-License-Identifier: BSD-3-Clause
"""Streams in coroutines: waiting takes no thread, a cancelled read loses nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest

from ssdag.client.async_client import AsyncClient
from ssdag.client.waiting import watch
from ssdag.errors import DataError, DataTimeoutError
from ssdag.services.orchestrator import Orchestrator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")
LARGE = np.arange(4096.0)


@pytest.fixture(scope="module")
def db() -> Iterator[Orchestrator]:
    with Orchestrator() as service:
        yield service


@pytest.fixture(autouse=True)
def no_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that waits for all goes at once when nobody waits any more."""
    monkeypatch.setattr(watch, "_LINGER_S", 0.02)


def run(db: Orchestrator, body: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """Run a coroutine with a client of few threads."""

    async def main() -> T:
        async with AsyncClient(db.address, password_file=db.password_file, threads=2) as client:
            client.client.call("FLUSHDB")
            return await asyncio.wait_for(body(client), 60)

    return asyncio.run(main())


def test_write_and_read(db: Orchestrator) -> None:
    async def body(client: AsyncClient) -> list[int]:
        stream = await client.stream("u", capacity=3)

        async def write() -> None:
            for i in range(30):
                await stream.append({"i": i, "u": LARGE[: 4000 * (i % 2)]})
            await stream.end()

        writing = asyncio.create_task(write())
        found = [record["i"] async for record in stream]
        await writing
        assert (await stream.info()).ended
        assert await stream.newest() is None
        assert await stream.delete()
        return found

    assert run(db, body) == list(range(30))


@pytest.mark.parametrize("evict", [True, False])
def test_more_wait_than_there_are_threads(db: Orchestrator, evict: bool) -> None:
    async def body(client: AsyncClient) -> list[int]:
        full = await client.stream("full", capacity=1, evict=evict)
        await full.append(0)
        waiting = [asyncio.create_task(full.append(i)) for i in range(1, 8)]
        empty = await client.stream("empty")
        readers = [asyncio.create_task(empty.reader().read()) for _ in range(8)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in (*waiting, *readers))
        for _ in range(8):
            await empty.append(1)
        await asyncio.gather(*readers)
        async with full.reader(timeout_s=30) as reader:
            found = [int(await anext(reader)) for _ in range(8)]
        await asyncio.gather(*waiting)
        return sorted(found)

    assert run(db, body) == list(range(8))


def test_cancelled_read_loses_nothing(db: Orchestrator) -> None:
    async def body(client: AsyncClient) -> list[int]:
        stream = await client.stream("u", capacity=100)
        found: list[int] = []
        async with stream.reader() as reader:
            for i in range(20):
                reading = asyncio.create_task(reader.read())
                await asyncio.sleep(0.0005 * (i % 4))
                await stream.append(i)
                await asyncio.sleep(0.0005 * (i % 3))
                if reading.cancel():
                    done: Any = (await asyncio.gather(reading, return_exceptions=True))[0]
                else:
                    done = reading.result()
                if not isinstance(done, asyncio.CancelledError):
                    found.append(int(done.value))
            await stream.end()
            found += [int(value) async for value in reader]
        return found

    assert run(db, body) == list(range(20))


def test_timeouts_and_failures(db: Orchestrator) -> None:
    async def body(client: AsyncClient) -> None:
        stream = await client.stream("u", capacity=1)
        async with stream.reader(timeout_s=0.05) as reader:
            with pytest.raises(DataTimeoutError, match="nothing came"):
                await reader.read()
        await stream.append(1)
        with pytest.raises(DataTimeoutError, match="full"):
            await stream.append(2, timeout_s=0.05)
        await stream.fail("no more")
        async with stream.reader() as reader:
            assert await anext(reader) == 1
            await reader.done()
            with pytest.raises(DataError, match="no more"):
                await anext(reader)
            await reader.close()

    run(db, body)
