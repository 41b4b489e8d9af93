# SPDX-License-Identifier: BSD-3-Clause
"""Waiting in the thread that wants to know: a call that blocks needs no other thread.

Being told by another thread would cost as much again as being told by the server.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from ssdag.client.waiting.looking import Looking
from ssdag.client.waiting.watch_nodes import Nodes
from ssdag.errors import DataTimeoutError
from ssdag.futures import WAIT_GUARD, DataFuture

if TYPE_CHECKING:
    from ssdag.client.base import ClientBase
    from ssdag.client.transport.deadline import Deadline
    from ssdag.client.waiting.conditions import Condition

#: Idle ones beyond this are closed.
_KEEP = 8


class Waiter(Looking):
    """A watcher without a thread, for one thread at a time.

    Parameters
    ----------
    client : Client
        Says where the server is.
    """

    def __init__(self, client: ClientBase) -> None:
        super().__init__(client)
        self._nodes = Nodes(self._place, self._password, -1, self)

    def wait(self, condition: Condition, deadline: Deadline) -> None:
        """Block until a condition without a function holds.

        Raises
        ------
        DataTimeoutError
            It did not come in time.
        StoreError
            The server was lost, refuses, or sends no notifications. This waiter is of
            no use then.
        """
        timeout_s = deadline.timeout_s
        future: DataFuture[None] = DataFuture(condition.name, condition.kind)
        release = None
        if timeout_s is None and WAIT_GUARD.before_wait is not None:
            release = WAIT_GUARD.before_wait(future)
        self._waiting.add(condition, future, None, None, time.monotonic())
        try:
            while not future.done():
                self._take_changes()
                left_s = self._sleep_s(None)
                rest_s = deadline.left_s
                if rest_s is not None:
                    if rest_s <= 0:
                        raise DataTimeoutError(f"{condition} did not come within {timeout_s} s")
                    left_s = rest_s if left_s is None else min(left_s, rest_s)
                self._nodes.poll(left_s)
                self._expire()
            if (error := future.exception()) is not None:
                raise error
        finally:
            if release is not None:
                release()
            self._waiting.remove(future)
            self._take_changes(at_once=True)  # nobody listens until the next wait

    def end(self) -> None:
        """Close the connections."""
        self._nodes.close()


class Waiters:
    """Those of one client: as many as threads were waiting at once."""

    def __init__(self) -> None:
        self._idle: list[Waiter] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def wait(self, client: ClientBase, condition: Condition, deadline: Deadline) -> None:
        """Block until a condition holds; see :meth:`Waiter.wait`."""
        waiter = self._take() or Waiter(client)
        try:
            waiter.wait(condition, deadline)
        except DataTimeoutError:
            self._give(waiter)
            raise
        except BaseException:
            waiter.end()
            raise
        self._give(waiter)

    def _take(self) -> Waiter | None:
        if self._pid != os.getpid():  # the connections are the parent's
            self._pid, self._lock = os.getpid(), threading.Lock()
            self.close()
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give(self, waiter: Waiter) -> None:
        with self._lock:
            if len(self._idle) < _KEEP:
                self._idle.append(waiter)
                return
        waiter.end()

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for waiter in idle:
            waiter.end()
