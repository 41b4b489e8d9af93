# SPDX-License-Identifier: BSD-3-Clause
"""Servers that another process has started: seeing that they end, and ending them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket as sockets
import time
from typing import TYPE_CHECKING

from ssdag.client.transport.address import Address
from ssdag.client.transport.connection import Connection
from ssdag.client.transport.resp import ConnectionLostError, ReplyError, commands
from ssdag.errors import ServiceStartError, StoreError
from ssdag.services.checkpoint import started
from ssdag.services.servers.admin import Login, ask, tell
from ssdag.services.servers.places import Place, PlacedServer, ServerRequest
from ssdag.wire import reaper

if TYPE_CHECKING:
    from ssdag.services.checkpoint import ServerRecord

#: A server elsewhere is asked so often, and may be silent for so long: a machine that is
#: cut off sends no end of its connections.
_BEAT_S = 0.5
_SILENCE_S = 10.0
#: For one look more after a connection broke; that nobody listens is seen at once.
_RECONNECT_S = 5.0


class FoundServer(PlacedServer):
    """A running server that this process did not start; see :class:`PlacedServer`.

    On this machine the kernel tells of its end. Elsewhere a connection does, and the
    lack of an answer.

    Parameters
    ----------
    record : ServerRecord
        Where it is.
    login : Login
        Who may do everything there.
    ours : bool
        Whether it may be ended.
    """

    def __init__(self, record: ServerRecord, login: Login, *, ours: bool) -> None:
        self.pid = record.pid
        self.hostname = record.hostname
        self.host, self.port, self.socket = record.host, record.port, record.socket
        self.folder = record.folder
        self._login = login
        self._ours = ours
        self._here = record.hostname == sockets.gethostname()
        self._fd = -1
        if self._here and record.started and started(record.pid) == record.started:
            self._fd = reaper.open_pidfd(record.pid)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ended = False

    def __repr__(self) -> str:
        return f"<FoundServer {self.pid} {self.address} on {self.hostname}>"

    def __del__(self) -> None:
        for fd in (getattr(self, "_fd", -1), getattr(self, "_wake_fd", -1)):
            if fd >= 0:
                os.close(fd)

    @property
    def address_here(self) -> str:
        """``unix://path`` if it is on this machine and has a socket, else ``host:port``."""
        if self.socket and (self._here or not self.port):
            return f"unix://{self.socket}"
        return self.address

    def wait(self, timeout: float | None = None) -> int | None:
        """Block until it has ended or nobody answers there; None, as nobody knows its code."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._fd >= 0:
            self._sleep(self._fd, deadline)
        else:
            while not self._ended and self._watch_once(deadline):
                pass
        self._ended = True
        return None

    def _sleep(self, fd: int, deadline: float | None) -> bool:
        """Wait until `fd` is readable; False if we are let go.

        Raises
        ------
        TimeoutError
            It is not by the deadline.
        """
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.register(self._wake_fd, select.POLLIN)
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        events = poller.poll(None if left is None else left * 1000)
        if not events:
            raise TimeoutError(f"the server at {self.address} still runs")
        return all(ready != self._wake_fd for ready, _ in events)

    def _watch_once(self, deadline: float | None) -> bool:
        """Hold a connection until it breaks; return whether a new one can be had."""
        try:
            with contextlib.closing(self._connect()) as connection:
                silent_since_s = time.monotonic()
                while True:
                    beat = time.monotonic() + _BEAT_S
                    try:
                        if not self._sleep(connection.fileno(), min(beat, deadline or beat)):
                            return False
                    except TimeoutError:
                        if deadline is not None and time.monotonic() >= deadline:
                            raise
                        if time.monotonic() - silent_since_s > _SILENCE_S:
                            return False
                        if not connection.owed:
                            connection.send(commands([[b"PING"]]))
                        continue
                    connection.reply()
                    silent_since_s = time.monotonic()
        except (ConnectionLostError, ReplyError, StoreError):
            # A connection may be cut for other reasons.
            (answer,) = ask([self._address], [[b"PING"]], self._login, _RECONNECT_S)
            return not isinstance(answer, Exception)

    @property
    def _address(self) -> Address:
        return Address.parse(self.address_here)

    def _connect(self) -> Connection:
        connection = Connection(self._address, None, _SILENCE_S)
        try:
            for line in self._login.lines():
                connection.send(commands([line]))
                connection.reply()
        except BaseException:
            connection.close()
            raise
        return connection

    def running(self) -> bool:
        """Return whether it was not seen to end."""
        if self._fd >= 0:
            poller = select.poll()
            poller.register(self._fd, select.POLLIN)
            return not poller.poll(0)
        return not self._ended

    def let_go(self) -> None:
        """Have :meth:`wait` return."""
        os.eventfd_write(self._wake_fd, 1)

    def log_tail(self) -> str:
        """Return nothing: its log is its starter's."""
        return ""

    def end(self, grace_s: float) -> None:
        """Wait `grace_s` for its end, then kill it, or ask it to end if it is elsewhere."""
        if not self._ours or not self.running():
            return
        if self._fd >= 0:
            with contextlib.suppress(TimeoutError):
                if grace_s and self._sleep(self._fd, time.monotonic() + grace_s):
                    return
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            reaper.end([reaper.Session(self.pid)], signal.SIGKILL, reaper.KILL_PATIENCE_S)
            return
        if not grace_s:
            with contextlib.suppress(StoreError):
                tell(self._address, [b"SHUTDOWN", b"NOSAVE"], self._login, 1.0)
        deadline = time.monotonic() + max(grace_s, _SILENCE_S)
        with contextlib.suppress(TimeoutError):
            self.wait(max(deadline - time.monotonic(), 0.0))

    def clear(self) -> None:
        """Remove its socket, if it was ours."""
        if self._ours and self._here and self.socket:
            with contextlib.suppress(OSError):
                os.unlink(self.socket)


class Elsewhere(Place):
    """The node of a server that was found there; nothing can be started on it."""

    def __init__(self, hostname: str) -> None:
        self.hostname = hostname

    def __repr__(self) -> str:
        return f"Elsewhere({self.hostname!r})"

    def start(self, request: ServerRequest) -> PlacedServer:
        """Refuse."""
        raise ServiceStartError(
            f"{request.name} was started by another process on {self.hostname}: nobody here "
            "can start it again"
        )
