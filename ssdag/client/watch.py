# SPDX-License-Identifier: BSD-3-Clause
"""Waiting for data by notification: one connection and one thread for all that is awaited.

For each awaited name the watcher subscribes to the server's keyspace notifications of
that one key (a pattern over all keys would send it every write of a busy server). Only
when the server has confirmed the subscription does it look whether the key is there
already: so a write is seen either by the look or by the notification. After a lost
connection it subscribes and looks again.

The thread sleeps in ``poll`` and costs nothing while nothing happens.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any

from ssdag.client.resp import ConnectionLostError, ReplyError, command, key_bytes
from ssdag.client.shared import TensorReference
from ssdag.errors import SsdagError, StoreError
from ssdag.futures import DataFuture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.client.base import ClientBase
    from ssdag.client.connection import Connection
    from ssdag.client.npy import Array

_log = logging.getLogger("ssdag")

_CHANNEL = b"__keyspace@0__:"

#: Events after which a key is not there.
_REMOVALS = frozenset({b"del", b"expired", b"evicted", b"rename_from", b"move_from"})

#: How long the thread stays when nobody waits any more.
_LINGER_S = 1.0

#: Names in one command or one look.
_BATCH = 500

_FIRST_DELAY_S = 0.01
_LONGEST_DELAY_S = 0.5


class TensorWatcher:
    """Completes futures of data as their tensors appear on one server.

    Parameters
    ----------
    client : Client
        Says where the server is; the watcher uses connections of its own.
    reconnect_s : float
        How long a lost server is tried again before all futures fail.
    """

    def __init__(self, client: ClientBase, *, reconnect_s: float = 5.0) -> None:
        self._client = client.clone()
        self._reconnect_s = reconnect_s
        self._lock = threading.Lock()
        self._futures: dict[bytes, list[DataFuture[Any]]] = {}
        self._added: list[bytes] = []
        self._dropped: list[bytes] = []
        self._error: SsdagError | None = None
        self._thread: threading.Thread | None = None
        self._wake_fd = -1
        self._checked_server = False

    def __repr__(self) -> str:
        return f"<TensorWatcher {self._client.address} {len(self._futures)} names>"

    @property
    def closed(self) -> bool:
        """Whether it has ended: closed, or the server is lost for good."""
        return self._error is not None

    @property
    def waiting(self) -> int:
        """Number of names that are awaited."""
        return len(self._futures)

    def watch(self, name: str, future: DataFuture[Array] | None = None) -> DataFuture[Array]:
        """Return a future that is done once the tensor is stored; does not block.

        Parameters
        ----------
        name : str
            The tensor; it may be there already.
        future : DataFuture, optional
            Complete this one instead of a new one.

        Raises
        ------
        DataFormatError
            The name cannot be one.
        """
        key = key_bytes(name)
        if future is None:
            future = DataFuture(name, "tensor")
        future._on_cancel = self._forget
        with self._lock:
            error = self._error
            if error is None:
                self._futures.setdefault(key, []).append(future)
                self._added.append(key)
                self._wake()
        if error is not None:
            _finish(future, error)
        elif future.cancelled():  # before the hook was set
            self._forget(future)
        return future

    def _forget(self, future: DataFuture[Any]) -> None:
        key = key_bytes(future.name)
        with self._lock:
            waiting = self._futures.get(key)
            if waiting is None:
                return
            with contextlib.suppress(ValueError):
                waiting.remove(future)
            if not waiting:
                del self._futures[key]
                self._dropped.append(key)
                self._wake()

    def close(self, error: SsdagError | None = None) -> None:
        """End the thread; futures that still wait fail with `error`."""
        if error is None:
            error = StoreError(f"waiting on {self._client.address} was closed")
        with self._lock:
            if self._error is not None:
                return
            self._error = error
            waiting, self._futures = self._futures, {}
            if self._thread is not None:
                os.eventfd_write(self._wake_fd, 1)
        for futures in waiting.values():
            for future in futures:
                _finish(future, error)

    # -- the thread ------------------------------------------------------------------

    def _wake(self) -> None:
        """Make the thread look at the lists; the lock is held."""
        if self._thread is None:
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._thread = threading.Thread(target=self._main, name="ssdag-watch", daemon=True)
            self._thread.start()
        os.eventfd_write(self._wake_fd, 1)

    def _main(self) -> None:
        try:
            while not self._leave():
                self._stay_connected()
        except SsdagError as error:
            self.close(error)
            self._leave()
        except Exception as error:  # the top of a thread
            _log.exception("the watcher of %s failed", self._client.address)
            self.close(StoreError(f"waiting on {self._client.address} failed: {error!r}"))
            self._leave()

    def _leave(self) -> bool:
        """End the thread if it is closed or nobody waits; the next one to wait starts anew."""
        with self._lock:
            if self._futures and self._error is None:
                return False
            os.close(self._wake_fd)
            self._wake_fd = -1
            self._thread = None
        self._client.release()
        return True

    def _stay_connected(self) -> None:
        """Watch until closed, or until nobody waits any more."""
        lost_s = 0.0
        delay = _FIRST_DELAY_S
        while self._error is None and self._futures:
            began_s = time.monotonic()
            try:
                connection = self._client.connect()
                try:
                    self._serve(connection)
                finally:
                    connection.close()
            except (ConnectionLostError, StoreError) as error:
                if self._error is not None:
                    return
                if not getattr(error, "transient", True):
                    raise
                now = time.monotonic()
                # One that lasted makes a new account; a server that accepts and hangs
                # up at once does not.
                if lost_s == 0.0 or now - began_s > 2 * _LONGEST_DELAY_S:
                    lost_s, delay = now, _FIRST_DELAY_S
                if now - lost_s > self._reconnect_s:
                    raise StoreError(f"gave up waiting for data: {error}") from error
                _log.debug("watcher: %s", error)
                self._wait(None, delay)
                delay = min(2 * delay, _LONGEST_DELAY_S)

    def _wait(self, connection: Connection | None, seconds: float | None) -> bool:
        """Sleep until woken or the connection has something; return True for the latter."""
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        if connection is not None:
            poller.register(connection, select.POLLIN)
        events = poller.poll(None if seconds is None else seconds * 1000)
        woken = any(fd == self._wake_fd for fd, _ in events)
        if woken:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
        return len(events) > woken

    def _serve(self, connection: Connection) -> None:
        self._check_server()
        with self._lock:
            self._added = list(self._futures)
            self._dropped = []
        while self._error is None:
            self._send_changes(connection)
            waiting = bool(self._futures)
            if self._wait(connection, None if waiting else _LINGER_S):
                self._receive(connection)
            elif not (waiting or self._futures):
                return

    def _check_server(self) -> None:
        """Raise StoreError if the server sends no notifications."""
        if self._checked_server:
            return
        (answer,) = self._client.call_many([(b"CONFIG", b"GET", b"notify-keyspace-events")])
        # A server that hides its configuration from us is taken to be set up.
        if isinstance(answer, list) and len(answer) == 2:
            flags = answer[1]
            if b"K" not in flags or not (b"A" in flags or b"$" in flags):
                failure = StoreError(
                    f"the server at {self._client.address} sends no notifications, so nobody can "
                    "wait for data: start it with 'notify-keyspace-events K$g', or send it "
                    "'CONFIG SET notify-keyspace-events K$g'"
                )
                failure.transient = False
                raise failure
        self._checked_server = True

    def _send_changes(self, connection: Connection) -> None:
        with self._lock:
            added = [key for key in dict.fromkeys(self._added) if key in self._futures]
            dropped = [key for key in dict.fromkeys(self._dropped) if key not in self._futures]
            self._added, self._dropped = [], []
        for word, keys in ((b"UNSUBSCRIBE", dropped), (b"SUBSCRIBE", added)):
            for i in range(0, len(keys), _BATCH):
                channels = [_CHANNEL + key for key in keys[i : i + _BATCH]]
                connection.send(command(word, *channels))

    def _receive(self, connection: Connection) -> None:
        """Read all messages that are here, complete futures, look at new names."""
        confirmed: list[bytes] = []
        while True:
            message: Any = connection.reply()
            kind, channel, what = message
            key = channel[len(_CHANNEL) :] if channel else b""
            if kind == b"message":
                if what not in _REMOVALS:
                    self._fire(key)
            elif kind == b"subscribe":
                confirmed.append(key)
            if not connection.buffered:
                break
        for i in range(0, len(confirmed), _BATCH):
            self._look(confirmed[i : i + _BATCH])

    def _look(self, keys: Sequence[bytes]) -> None:
        answers = self._client.call_many([(b"EXISTS", key) for key in keys])
        for key, answer in zip(keys, answers, strict=True):
            if isinstance(answer, ReplyError):
                raise StoreError(f"cannot look for {key!r} at {self._client.address}: {answer}")
            if answer:
                self._fire(key)

    def _fire(self, key: bytes) -> None:
        with self._lock:
            futures = self._futures.pop(key, ())
            if futures:
                self._dropped.append(key)
        for future in futures:
            reference = TensorReference(
                self._client.address, self._client.password_file, future.name
            )
            with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
                future.set_result(reference)


def _finish(future: DataFuture[Any], error: SsdagError) -> None:
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)


_registry_lock = threading.Lock()
_registry: dict[tuple[str, str | None, str | None], TensorWatcher] = {}


def watcher_for(client: ClientBase) -> TensorWatcher:
    """Return this process's watcher of a client's server; made at the first call."""
    key = (client.address, client.password_file, client.given_password)
    with _registry_lock:
        watcher = _registry.get(key)
        if watcher is None or watcher.closed:
            watcher = _registry[key] = TensorWatcher(client)
        return watcher


def close_watcher(client: ClientBase, error: SsdagError) -> None:
    """End the watcher of a server that is gone; its futures fail with `error`."""
    with _registry_lock:
        watcher = _registry.pop((client.address, client.password_file, client.given_password), None)
    if watcher is not None:
        watcher.close(error)


def _after_fork() -> None:
    # The threads are the parent's; the child starts its own.
    global _registry_lock
    _registry_lock = threading.Lock()
    _registry.clear()


os.register_at_fork(after_in_child=_after_fork)
