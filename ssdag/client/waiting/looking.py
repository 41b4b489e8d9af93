# SPDX-License-Identifier: BSD-3-Clause
"""Looking whether what is waited for has come: the part of a watcher without its thread."""

from __future__ import annotations

import contextlib
import logging
import time
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any

from ssdag.client.transport.address import Place, read_password
from ssdag.client.transport.resp import ReplyError, explain
from ssdag.client.waiting.checks import Checker
from ssdag.client.waiting.conditions import REMOVALS
from ssdag.client.waiting.tables import Look, Waiting, Watch
from ssdag.errors import DataTimeoutError, SsdagError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ssdag.client.base import ClientBase
    from ssdag.client.transport.address import Address
    from ssdag.client.transport.resp import Reply
    from ssdag.client.waiting.watch_nodes import Nodes
    from ssdag.futures import DataFuture

_log = logging.getLogger("ssdag")

#: How long a lost server, or a lost node of a cluster, is tried again.
_PATIENCE_S = 5.0
_CLUSTER_PATIENCE_S = 30.0

#: How often it is seen whether patience is at its end; only while something is amiss.
_CHECK_S = 0.25

#: How many keys that nobody waits for stay subscribed, and how long.
_GONE = 500
_GONE_S = 0.1


class Looking:
    """Completes the futures of those who wait; driven by one thread.

    Parameters
    ----------
    client : Client
        Says where the server is; other connections are used than the client's.
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
        #: Keys that nobody waits for any more, and until when they stay subscribed.
        self._gone: dict[bytes, None] = {}
        self._gone_s = 0.0
        self._nodes: Nodes

    def _wake(self) -> None:
        """Make the thread look at what has changed; the lock is held."""

    def _forget(self, future: DataFuture[Any]) -> None:
        with self._waiting.lock:
            if self._waiting.remove(future):
                self._wake()

    def _password(self) -> str | None:
        path = self._password_file
        return self._given_password if path is None else read_password(path)

    def _sleep_s(self, idle_s: float | None) -> float | None:
        now = time.monotonic()
        times = [t for t in (idle_s, self._waiting.next_s()) if t is not None]
        if self._troubled or self._again:
            times.append(now + _CHECK_S)
        if self._gone:
            times.append(self._gone_s)
        return max(min(times) - now, 0.0) if times else None

    def _take_changes(self, *, at_once: bool = False) -> None:
        """Listen and look as those ask who came, or went, since the last time."""
        new, gone = self._waiting.changes()
        if gone or self._gone:
            self._stop_listening(gone, at_once=at_once)
        if new:
            self._nodes.subscribe([key for look in new for key in look.keys])
            for look in new:
                self._ask(look)

    def _stop_listening(self, keys: Sequence[bytes], *, at_once: bool) -> None:
        """Unsubscribe, from many keys together: one by one it would cost as much as waking."""
        now = time.monotonic()
        if not self._gone:
            self._gone_s = now + _GONE_S
        self._gone.update(dict.fromkeys(keys))
        if at_once or len(self._gone) >= _GONE or now >= self._gone_s:
            self._nodes.unsubscribe([k for k in self._gone if not self._waiting.awaits(k)])
            self._gone.clear()

    def _expire(self) -> None:
        """Fail those whose time is over, and those whose server is lost for too long."""
        now = time.monotonic()
        for watch in self._waiting.due(now):
            text = f"{watch.condition} did not come within {watch.timeout_s:.3g} s"
            fail(watch.future, DataTimeoutError(text))
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
            look.asked, look.again, look.joined = True, False, False
        else:
            self._put_off(look)

    def _put_off(self, look: Look) -> None:
        look.node, look.asked = None, False
        if not look.since_s:
            look.since_s = time.monotonic()
        self._troubled[look] = None

    def on_event(self, key: bytes, word: bytes) -> None:
        """Hear of a change of a key.

        What comes before the answer to a question may be from before somebody waited, and
        be undone by now: then it is asked again. Else something that appears is there.
        """
        for look in self._waiting.looks_of(key):
            ask = False
            for watch in self._waiting.at(look):
                if watch.condition.check is not None:
                    self._checker.ask(watch)
                elif not watch.condition.appears or look.asked or look.joined:
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
        watches = self._waiting.at(look)
        if isinstance(reply, ReplyError):
            what = "".join(f"wait for {watch.condition}" for watch in watches[:1])
            self._fail_look(look, explain(reply, str(self._place), what))
            return
        for watch in watches:
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
            fail(watch.future, error)

    def _be_patient(self, watch: Watch) -> bool:
        """Let a function be asked again that has lost its server; False if it was for long."""
        now = time.monotonic()
        watch.failing_s = watch.failing_s or now
        if now - watch.failing_s > self.patience_s:
            return False
        with self._waiting.lock:
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
            fail(watch.future, error)
        elif value:
            watch.result = value
            self._done(watch)


def fail(future: DataFuture[Any], error: BaseException) -> None:
    """Complete a future with an error, unless it is done already."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)
