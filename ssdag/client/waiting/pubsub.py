# SPDX-License-Identifier: BSD-3-Clause
"""Messages from others: what ``client.subscribe`` returns."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ssdag.client.transport.link import Answer, Link
from ssdag.client.transport.resp import ConnectionLostError, ReplyError, command, explain
from ssdag.errors import DataTimeoutError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from ssdag.client.base import ClientBase
    from ssdag.client.transport.address import Address

_log = logging.getLogger("ssdag")

#: How long another connection is tried; any node of a cluster will do.
_PATIENCE_S = 5.0

_FIRST_DELAY_S = 0.01
_LONGEST_DELAY_S = 0.5

#: A connection that lasted so long was a good one: the next loss is a new one.
_GOOD_S = 1.0


class Message(NamedTuple):
    """A message.

    Attributes
    ----------
    channel : str
        Where it was published.
    data : bytes
        What was published.
    pattern : str or None
        The pattern that the channel fits, if it came because of one.
    """

    channel: str
    data: bytes
    pattern: str | None = None


class _Ended(Exception):
    """The subscription was closed."""


class Subscription:
    """Messages of some channels, in the order in which the server has them.

    Iterate over it, or call :meth:`get`; ``async for`` works too. Messages that were
    published before it was made, or while its connection was lost, are not received:
    use a stream for what must not be lost. It has a connection of its own; close it, or
    use ``with``. One thread or coroutine reads it; any may close it.

    Parameters
    ----------
    client : Client
        Says where the server is.
    channels, patterns : sequence of bytes
        What to listen to.
    timeout_s : float, optional
        How long iterating waits for the next message; None for ever.

    Raises
    ------
    StoreError
        The server cannot be reached or refuses.
    """

    def __init__(
        self,
        client: ClientBase,
        channels: Sequence[bytes],
        patterns: Sequence[bytes],
        timeout_s: float | None,
    ) -> None:
        self._client = client
        self._channels = tuple(dict.fromkeys(channels))
        self._patterns = tuple(dict.fromkeys(patterns))
        self._timeout_s = timeout_s
        #: How long a lost server is tried again; at first a single one is not.
        self.patience_s = _PATIENCE_S if client.clustered else 0.0
        #: How often the connection was lost, and with it perhaps messages.
        self.gaps = 0
        self._messages: deque[Message] = deque()
        self._link: Link | None = None
        self._missing = 0
        self._turn = 0
        self._began_s = 0.0
        self._lost_s = 0.0
        self._delay_s = _FIRST_DELAY_S
        self._next_s = 0.0
        self._error: StoreError | None = None
        self._pid = os.getpid()
        self._closed = self._cancelled = False
        self._reading = threading.Lock()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            limit_s = client._timeout_s
            if not self._wait(limit_s, confirmed=True):
                raise StoreError(f"the server at {client.address} was silent for {limit_s} s")
            self.patience_s = _PATIENCE_S
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        names = b", ".join(self._channels + self._patterns).decode("utf-8", "replace")
        return f"<Subscription {names}{' closed' if self._closed else ''}>"

    # -- reading ---------------------------------------------------------------------

    def get(self, timeout_s: float | None = None) -> Message:
        """Return the next message; blocks until there is one.

        Parameters
        ----------
        timeout_s : float, optional
            How long to wait at most; None for ever, 0 not at all.

        Raises
        ------
        DataTimeoutError
            None came in time.
        StoreError
            The server was lost, or the subscription is closed.
        """
        try:
            if not self._wait(timeout_s):
                raise DataTimeoutError(f"no message came within {timeout_s} s")
        except _Ended:
            raise StoreError(f"{self!r}: no messages come any more") from None
        return self._messages.popleft()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        try:
            if not self._wait(self._timeout_s):
                raise DataTimeoutError(f"no message came within {self._timeout_s} s")
        except _Ended:
            raise StopIteration from None
        return self._messages.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        if not self._messages:
            self._cancelled = False
            waiting = asyncio.get_running_loop().run_in_executor(None, self._wait, self._timeout_s)
            try:
                found = await asyncio.shield(waiting)
            except asyncio.CancelledError:
                self._cancelled = True
                self._interrupt()  # else the thread would wait for ever
                with contextlib.suppress(Exception):
                    await waiting
                raise
            except _Ended:
                raise StopAsyncIteration from None
            if not found:
                raise DataTimeoutError(f"no message came within {self._timeout_s} s")
        return self._messages.popleft()

    def close(self) -> None:
        """Receive no more; who waits for a message stops. May be called again."""
        self._closed = True
        self._interrupt()
        with self._reading:  # a reader is on its way out
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1
            link, self._link = self._link, None
            if link is not None:
                link.close()

    def _interrupt(self) -> None:
        fd = self._wake_fd
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.eventfd_write(fd, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_wake_fd"):
            self.close()

    # -- inside ----------------------------------------------------------------------

    def _wait(self, timeout_s: float | None, *, confirmed: bool = False) -> bool:
        """Wait until there is a message, or all is subscribed to; False if the time is over."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        if self._pid != os.getpid():
            raise StoreError(f"{self!r} is that of the parent process; subscribe anew")
        with self._reading:
            while True:
                if self._closed:
                    raise _Ended
                if self._messages or (confirmed and self._link is not None and not self._missing):
                    return True
                if self._error is not None:
                    raise self._error
                try:
                    if self._step(until_s) and not self._closed:
                        return bool(self._messages)
                except ConnectionLostError as error:
                    self._lost(StoreError(str(error)))

    def _step(self, until_s: float | None) -> bool:
        """Wait for anything and take it; True if somebody has interrupted or time is over."""
        now = time.monotonic()
        if self._link is None and self._next_s <= now:
            self._connect(now)
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        link = self._link
        times = [t for t in (until_s, self._next_s if link is None else None) if t is not None]
        if link is not None:
            poller.register(link, select.POLLIN | (select.POLLOUT if link.writing else 0))
        limit = max(min(times) - now, 0.0) * 1000 if times else None
        events = poller.poll(None if limit is None else int(limit) + (limit > 0))
        for fd, event in events:
            if fd == self._wake_fd:
                os.eventfd_read(fd)
                return self._closed or self._cancelled
            assert link is not None
            if event & select.POLLOUT:
                link.flush()
            if event & ~select.POLLOUT:
                self._take(link)
        return not events and until_s is not None and time.monotonic() >= until_s

    def _connect(self, now: float) -> None:
        self._began_s = now
        try:
            link = Link(self._address(), self._client._access.password())
        except StoreError as error:
            self._lost(error)
            return
        self._link = link
        self._missing = len(self._channels) + len(self._patterns)
        if self._channels:
            link.tell(command(b"SUBSCRIBE", *self._channels))
        if self._patterns:
            link.tell(command(b"PSUBSCRIBE", *self._patterns))

    def _address(self) -> Address:
        """Return a server; another one of the cluster each time."""
        nodes = self._client.nodes()
        self._turn += 1
        return nodes[(self._turn - 1) % len(nodes)]

    def _take(self, link: Link) -> None:
        for item in link.receive():
            if isinstance(item, Answer):
                if isinstance(item.value, ReplyError):
                    failure = explain(item.value, str(link.address), "subscribe")
                    assert isinstance(failure, StoreError)
                    if not failure.transient:
                        self._error = failure
                    self._lost(failure)
                    return
                continue
            kind, *parts = item.parts
            if kind in (b"subscribe", b"psubscribe"):
                self._missing -= 1
                if not self._missing:
                    self._lost_s = 0.0
            elif kind == b"message":
                self._messages.append(Message(_text(parts[0]), parts[1]))
            elif kind == b"pmessage":
                self._messages.append(Message(_text(parts[1]), parts[2], _text(parts[0])))

    def _lost(self, error: StoreError) -> None:
        now = time.monotonic()
        link, self._link = self._link, None
        if link is not None:
            link.close()
            if not self._missing:
                self.gaps += 1
                _log.warning("%s; messages may be missing until it is back", error)
        if not self._lost_s or now - self._began_s > _GOOD_S:
            self._lost_s, self._delay_s = now, _FIRST_DELAY_S
        if now - self._lost_s >= self.patience_s:
            self._error = StoreError(f"gave up waiting for messages: {error}")
        self._next_s = now + self._delay_s
        self._delay_s = min(2 * self._delay_s, _LONGEST_DELAY_S)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
