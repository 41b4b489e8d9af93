# SPDX-License-Identifier: BSD-3-Clause
"""Waiting for data by notification: one thread, and one connection per node, for all.

For each awaited key the watcher subscribes to the server's keyspace notifications of
that one key (a pattern over all keys would send it every write of a busy server), and
only then looks whether what is waited for is there already: so a write is seen either
by the look or by the notification. After a lost connection it subscribes and looks
again.

The thread sleeps in ``poll`` and costs nothing while nothing happens.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from ssdag.client.transport.slots import slot_of
from ssdag.client.waiting.looking import Looking, fail
from ssdag.client.waiting.tables import Waiting
from ssdag.client.waiting.watch_nodes import Nodes
from ssdag.errors import SsdagError, StoreError, WouldDeadlockError
from ssdag.futures import WAIT_GUARD, DataFuture

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.client.base import ClientBase
    from ssdag.client.waiting.conditions import Condition
    from ssdag.futures import Future

_log = logging.getLogger("ssdag")

#: How long the thread stays when nobody waits any more.
_LINGER_S = 0.2


class Watcher(Looking):
    """Completes futures of data as their conditions become true on one server or cluster.

    Parameters
    ----------
    client : Client
        Says where the server is; the watcher uses connections of its own.
    patience_s : float, optional
        How long a lost server is tried again before all futures fail; by default 5 s,
        for a node of a cluster 30 s, in which its replica takes over.
    """

    def __init__(self, client: ClientBase, *, patience_s: float | None = None) -> None:
        super().__init__(client, patience_s=patience_s)
        self._error: SsdagError | None = None
        self._thread: threading.Thread | None = None
        self._wake_fd = -1
        self._woken = False

    def __repr__(self) -> str:
        return f"<Watcher {self._place} {len(self._waiting)} futures>"

    @property
    def closed(self) -> bool:
        """Whether it has ended: closed, or the server is lost for good."""
        return self._error is not None

    @property
    def waiting(self) -> int:
        """Number of keys that are listened to."""
        return len(self._waiting.keys())

    def watch(
        self,
        condition: Condition,
        result: object = None,
        *,
        future: DataFuture[Any] | None = None,
        timeout_s: float | None = None,
    ) -> DataFuture[Any]:
        """Return a future that is done once a condition holds; does not block.

        Parameters
        ----------
        condition : Condition
            It may hold already.
        result : object
            What the future shall hold, normally a Reference.
        future : DataFuture, optional
            Complete this one instead of a new one.
        timeout_s : float, optional
            The future fails with DataTimeoutError after this time.
        """
        if future is None:
            future = DataFuture(condition.name, condition.kind)
        future._on_cancel = self._forget
        with self._waiting.lock:
            error = self._error
            if error is None:
                self._waiting.add(condition, future, result, timeout_s, time.monotonic())
                self._wake()
        if error is not None:
            fail(future, error)
        elif future.done():  # before it was noted
            self._forget(future)
        return future

    def close(self, error: SsdagError | None = None) -> None:
        """End the thread; futures that still wait fail with `error`."""
        if error is None:
            error = StoreError(f"waiting on {self._place} was closed")
        with self._waiting.lock:
            if self._error is not None:
                return
            self._error = error
            futures = self._waiting.clear()
            if self._thread is not None:
                self._wake()
        self._checker.close()
        for future in futures:
            fail(future, error)

    def give_up(self, first: int, last: int, error: SsdagError) -> None:
        """Fail those who wait for keys in some slots of a cluster, as these are lost.

        Parameters
        ----------
        first, last : int
            The slots, both included.
        error : SsdagError
            What they get.
        """
        for look in self._waiting.looks():
            if first <= slot_of(look.keys[0]) <= last:
                for watch in self._waiting.at(look):
                    self._forget(watch.future)
                    fail(watch.future, error)

    def disown(self) -> None:
        """In a forked child: leave threads, locks and connections to the parent."""
        self._waiting = Waiting()
        self._thread = None
        self._error = StoreError("this future is that of the parent process")

    # -- the thread ------------------------------------------------------------------

    def _wake(self) -> None:
        """Make the thread look at what has changed; the lock is held."""
        if self._thread is None:
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._woken = False
            thread = threading.Thread(target=self._main, name="ssdag-watch", daemon=True)
            thread.start()
            self._thread = thread
        if not self._woken and threading.current_thread() is not self._thread:
            self._woken = True
            os.eventfd_write(self._wake_fd, 1)

    def _rest(self) -> None:
        """Note that the thread is awake."""
        with self._waiting.lock:
            if self._woken:
                self._woken = False
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake_fd)

    def _main(self) -> None:
        WAIT_GUARD.before_wait = self._before_wait
        try:
            while True:
                self._serve()
                if self._leave():
                    return
        except SsdagError as error:
            failure = error
        except Exception as error:  # the top of a thread
            _log.exception("the watcher of %s failed", self._place)
            failure = StoreError(f"waiting on {self._place} failed: {error!r}")
        self.close(failure)
        self._leave()

    def _before_wait(self, future: Future[Any]) -> Callable[[], None]:
        """Refuse a wait of this thread, in a callback of a user, for what it brings."""
        if isinstance(future, DataFuture) and future in self._waiting:
            raise WouldDeadlockError(
                f"result() of {future!r} in a done callback would wait for ever: the thread that "
                "calls it brings the data. Pass the future to an app, or wait in another thread"
            )
        return lambda: None

    def _leave(self) -> bool:
        """End the thread if it is closed or nobody waits; the next one to wait starts anew."""
        with self._waiting.lock:
            if self._waiting and self._error is None:
                return False
            os.close(self._wake_fd)
            self._wake_fd = -1
            self._thread = None
            return True

    def _serve(self) -> None:
        """Listen until closed, or until nobody has waited for a while."""
        self._nodes = nodes = Nodes(self._place, self._password, self._wake_fd, self)
        self._waiting.begin()
        self._troubled.clear()
        self._gone.clear()
        idle_s: float | None = None
        try:
            while self._error is None:
                self._rest()
                self._take_changes()
                if self._waiting:
                    idle_s = None
                elif idle_s is None:
                    idle_s = time.monotonic() + _LINGER_S
                elif time.monotonic() > idle_s:
                    return
                nodes.poll(self._sleep_s(idle_s))
                self._expire()
        finally:
            nodes.close()
