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
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any

from ssdag.client.address import Place, read_password
from ssdag.client.checks import Checker
from ssdag.client.conditions import REMOVALS, Condition
from ssdag.client.resp import ReplyError, explain
from ssdag.client.slots import slot_of
from ssdag.client.waiting import Look, Waiting, Watch
from ssdag.client.watch_nodes import Nodes
from ssdag.errors import DataTimeoutError, SsdagError, StoreError
from ssdag.futures import DataFuture

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ssdag.client.address import Address
    from ssdag.client.base import ClientBase
    from ssdag.client.resp import Reply

_log = logging.getLogger("ssdag")

#: How long the thread stays when nobody waits any more.
_LINGER_S = 1.0

#: How long a lost server, or a lost node of a cluster, is tried again.
_PATIENCE_S = 5.0
_CLUSTER_PATIENCE_S = 30.0

#: How often it is seen whether patience is at its end; only while something is amiss.
_CHECK_S = 0.25


class Watcher:
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
        self._place = Place.parse(client.address)
        self._password_file = client.password_file
        self._given_password = client.given_password
        if patience_s is None:
            patience_s = _CLUSTER_PATIENCE_S if self._place.clustered else _PATIENCE_S
        self.patience_s = patience_s
        self._waiting = Waiting()
        #: Questions that have no answer because of some trouble.
        self._troubled: dict[Look, None] = {}
        self._trouble: SsdagError | None = None
        #: Functions that are to be asked again, and when.
        self._again: dict[Watch, float] = {}
        self._checker = Checker(self._checked)
        self._nodes: Nodes
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
            _fail(future, error)
        elif future.done():  # before it was noted
            self._forget(future)
        return future

    def _forget(self, future: DataFuture[Any]) -> None:
        with self._waiting.lock:
            if self._waiting.remove(future):
                self._wake()

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
            _fail(future, error)

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
                    _fail(watch.future, error)

    # -- the thread ------------------------------------------------------------------

    def _wake(self) -> None:
        """Make the thread look at what has changed; the lock is held."""
        if self._thread is None:
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._woken = False
            self._thread = threading.Thread(target=self._main, name="ssdag-watch", daemon=True)
            self._thread.start()
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._wake_fd, 1)

    def _main(self) -> None:
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
        idle_s: float | None = None
        try:
            while self._error is None:
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

    def _password(self) -> str | None:
        path = self._password_file
        return self._given_password if path is None else read_password(path)

    def _sleep_s(self, idle_s: float | None) -> float | None:
        now = time.monotonic()
        times = [t for t in (idle_s, self._waiting.next_s()) if t is not None]
        if self._troubled or self._again:
            times.append(now + _CHECK_S)
        return max(min(times) - now, 0.0) if times else None

    def _take_changes(self) -> None:
        with self._waiting.lock:
            if self._woken:
                self._woken = False
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake_fd)
            new, gone = self._waiting.changes()
        if gone:
            self._nodes.unsubscribe(gone)
        if new:
            self._nodes.subscribe([key for look in new for key in look.keys])
            for look in new:
                self._ask(look)

    def _expire(self) -> None:
        """Fail those whose time is over, and those whose server is lost for too long."""
        now = time.monotonic()
        for watch in self._waiting.due(now):
            text = f"{watch.condition} did not come within {watch.timeout_s:.3g} s"
            _fail(watch.future, DataTimeoutError(text))
        with self._waiting.lock:
            again = [watch for watch, due_s in self._again.items() if due_s <= now]
            for watch in again:
                del self._again[watch]
        for watch in again:
            self._checker.ask(watch)
        for look in list(self._troubled):
            if not look.watches:
                del self._troubled[look]
            elif now - look.since_s <= self.patience_s:
                continue
            elif not look.refused and self._nodes.hopeful(look.keys[0]):
                look.since_s = now
            else:
                why = self._trouble or f"the server at {self._place} does not answer"
                self._fail_look(look, StoreError(f"gave up waiting for data: {why}"))

    # -- looking ---------------------------------------------------------------------

    def _ask(self, look: Look) -> None:
        """Look, now or as soon as it can be done."""
        if look.asked:
            look.again = True
        elif self._nodes.ask(look.keys[0], look.line, look):
            look.node = self._nodes.owner(look.keys[0])
            look.asked, look.again = True, False
        else:
            self._put_off(look)

    def _put_off(self, look: Look) -> None:
        look.node, look.asked = None, False
        if not look.since_s:
            look.since_s = time.monotonic()
        self._troubled[look] = None

    def on_event(self, key: bytes, word: bytes) -> None:
        """Hear of a change of a key."""
        for look in self._waiting.looks_of(key):
            ask = False
            for watch in self._waiting.at(look):
                if watch.condition.check is not None:
                    self._checker.ask(watch)
                elif not watch.condition.appears:
                    ask = True
                elif word not in REMOVALS:
                    self._done(watch)
            if ask:
                self._ask(look)

    def on_answer(self, asked: Any, reply: Reply) -> None:
        """Take the answer to a look."""
        look: Look = asked
        look.asked = look.refused = False
        look.since_s = 0.0
        self._troubled.pop(look, None)
        if isinstance(reply, ReplyError):
            what = self._waiting.at(look)[:1]
            self._fail_look(look, explain(reply, str(self._place), f"wait for {what[0].condition}"))
            return
        for watch in self._waiting.at(look):
            if watch.condition.check is not None:
                self._checker.ask(watch)
            elif watch.condition.holds(reply):
                self._done(watch)
        if look.again and look.watches:
            self._ask(look)

    def on_ready(self, *, moved: bool) -> None:
        """Look at all that could not be looked at, or has another owner now."""
        if moved:
            for look in self._waiting.looks():
                if look.node != self._nodes.owner(look.keys[0]):
                    look.asked = False
                    self._ask(look)
        for look in list(self._troubled):
            if not look.asked and look.watches:
                self._ask(look)

    def on_lost(self, address: Address, error: SsdagError, *, alive: bool) -> None:
        """Note what must be looked at again."""
        self._trouble = error
        _log.debug("watcher: %s", error)
        for look in self._waiting.looks():
            if look.node == address:
                self._put_off(look)
        if alive:
            now = time.monotonic()
            for look in self._troubled:
                look.since_s = now

    def on_put_off(self, asked: Any, error: SsdagError) -> None:
        """Note that one look must be done again."""
        self._trouble = error
        look: Look = asked
        look.refused = True
        self._put_off(look)

    def channels(self) -> Iterable[bytes]:
        """Return the keys to listen to."""
        return self._waiting.keys()

    def _done(self, watch: Watch) -> None:
        self._forget(watch.future)
        with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
            watch.future.set_result(watch.result)

    def _fail_look(self, look: Look, error: SsdagError) -> None:
        self._troubled.pop(look, None)
        for watch in self._waiting.at(look):
            self._forget(watch.future)
            _fail(watch.future, error)

    def _be_patient(self, watch: Watch) -> bool:
        """Let a function be asked again that has lost its server; False if it was for long."""
        now = time.monotonic()
        watch.failing_s = watch.failing_s or now
        if now - watch.failing_s > self.patience_s:
            return False
        with self._waiting.lock:
            if self._error is None:
                self._again[watch] = now + _CHECK_S
                self._wake()
        return True

    def _checked(self, watch: Watch, value: object, error: BaseException | None) -> None:
        """Take what a function of the user said; called in a thread of the checker."""
        if isinstance(error, StoreError) and error.transient and self._be_patient(watch):
            return
        watch.failing_s = 0.0
        if error is not None:
            self._forget(watch.future)
            _fail(watch.future, error)
        elif value:
            watch.result = value
            self._done(watch)


def _fail(future: DataFuture[Any], error: BaseException) -> None:
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)
