# SPDX-License-Identifier: BSD-3-Clause
"""Streams for coroutines. What waits takes no thread: it is told by the server's events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ssdag.client.steering.handle import Program
from ssdag.client.streams import scripts
from ssdag.client.transport.deadline import Deadline, within
from ssdag.client.waiting.conditions import Condition
from ssdag.errors import DataTimeoutError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Self

    from ssdag.client.async_client import AsyncClient
    from ssdag.client.streams.core import StreamInfo
    from ssdag.client.streams.reader import StreamReader
    from ssdag.client.streams.steps import Entry
    from ssdag.client.streams.stream import Stream
    from ssdag.client.transport.resp import Reply

_IS_FULL = Program(scripts.IS_FULL)

#: A reader that waits looks after this time for what others left behind.
_LOOK_S = 2.0


class AsyncStream:
    """A stream whose calls are awaited; made by :meth:`AsyncClient.stream`.

    ``async for value in stream`` reads it as one of the readers of the group ``"default"``.

    Attributes
    ----------
    stream : Stream
        The same stream with calls that block.
    """

    def __init__(self, client: AsyncClient, stream: Stream) -> None:
        self._client = client
        self.stream = stream

    def __repr__(self) -> str:
        return f"<AsyncStream {self.stream.name!r}>"

    async def append(self, value: Any, *, timeout_s: float | None = None) -> None:
        """Append a record; waits for room as :meth:`Stream.append` does.

        A coroutine that is cancelled while it waits for room has appended nothing; one that
        is cancelled while the record travels may have.
        """
        deadline = Deadline(timeout_s)
        keys = self.stream._core.write_keys
        look = _IS_FULL.line(keys).whole
        room = Condition("room in stream", self.stream.name, (keys.stream, keys.room), look, _is_0)
        while True:
            try:
                await self._client._in_thread(within, deadline, self._append_now, value)
                return
            except DataTimeoutError:
                if deadline.passed:
                    raise
            await self._wait(room, deadline)

    def _append_now(self, value: Any) -> None:
        self.stream.append(value, timeout_s=0)

    async def _wait(self, condition: Condition, deadline: Deadline) -> None:
        """Wait for a condition, or for a while."""
        wait_s = _LOOK_S if deadline.left_s is None else min(_LOOK_S, deadline.left_s)
        try:
            await self._client.wait(condition, wait_s)
        except DataTimeoutError:
            return

    async def end(self) -> None:
        """Say that nothing more comes; see :meth:`Stream.end`."""
        await self._client._in_thread(self.stream.end)

    async def fail(self, reason: str) -> None:
        """Say that the writer gave up; see :meth:`Stream.fail`."""
        await self._client._in_thread(self.stream.fail, reason)

    async def newest(self) -> Entry | None:
        """Return the newest record and leave it; see :meth:`Stream.newest`."""
        found: Entry | None = await self._client._in_thread(self.stream.newest)
        return found

    async def info(self) -> StreamInfo:
        """Return what it holds; see :meth:`Stream.info`."""
        found: StreamInfo = await self._client._in_thread(self.stream.info)
        return found

    async def delete(self) -> bool:
        """Delete all of it; see :meth:`Stream.delete`."""
        return bool(await self._client._in_thread(self.stream.delete))

    def reader(self, group: str = "default", **options: Any) -> AsyncStreamReader:
        """Return a reader; see :meth:`Stream.reader`."""
        return AsyncStreamReader(self, self.stream.reader(group, **options))

    async def __aiter__(self) -> AsyncIterator[Any]:
        async with self.reader() as reader:
            async for value in reader:
                yield value


class AsyncStreamReader:
    """A reader whose calls are awaited, by one coroutine at a time; see :class:`StreamReader`."""

    def __init__(self, stream: AsyncStream, reader: StreamReader) -> None:
        self._stream = stream
        self._client = stream._client
        self._reader = reader

    def __repr__(self) -> str:
        return f"<AsyncStreamReader of {self._stream.stream.name!r}>"

    async def read(self, timeout_s: float | None = None) -> Entry | None:
        """Return the next record, None at the end; see :meth:`StreamReader.read`.

        If the coroutine is cancelled no record is lost: the next call returns it.
        """
        if timeout_s is None:
            timeout_s = self._reader.timeout_s
        deadline = Deadline(timeout_s)
        key = self._stream.stream._core.read_keys.stream
        look = (b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1")
        last = await self._client.call(*look, idempotent=True)

        def is_new(reply: Reply) -> bool:
            return isinstance(reply, list) and reply != last

        new = Condition("record in stream", self._stream.stream.name, (key,), look, is_new)
        while True:
            try:
                return await self._try(deadline)
            except DataTimeoutError:
                if deadline.passed:
                    raise DataTimeoutError(
                        f"nothing came in stream {self._stream.stream.name!r} within {timeout_s} s"
                    ) from None
            await self._stream._wait(new, deadline)
            last = await self._client.call(*look, idempotent=True)

    async def _try(self, deadline: Deadline) -> Entry | None:
        reading = asyncio.ensure_future(
            self._client._in_thread(within, deadline, self._reader.read, 0)
        )
        try:
            found: Entry | None = await asyncio.shield(reading)
        except asyncio.CancelledError:
            await asyncio.wait([reading])  # it does not wait for anything
            self._reader._not_taken()
            raise
        return found

    async def done(self) -> None:
        """Say that the last record is done with."""
        await self._client._in_thread(self._reader.done)

    async def close(self) -> None:
        """Leave; a record that is not done with goes to another reader of the group."""
        await self._client._in_thread(self._reader.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client._in_thread(self._reader.__exit__, kind, error, trace)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        entry = await self.read()
        if entry is None:
            raise StopAsyncIteration
        return entry.value


def _is_0(reply: Reply) -> bool:
    return reply == 0
