# SPDX-License-Identifier: BSD-3-Clause
"""Waits around the thread of a hub: those that it must refuse, and those for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ssdag.errors import WouldDeadlockError
from ssdag.futures import WAIT_GUARD, owns_lock
from ssdag.tasks import AppFuture

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.executors.base import Sink
    from ssdag.futures import Future


def refuse_waits(sink: Sink) -> None:
    """Have waits of this thread for tasks of `sink` raise instead of blocking.

    For the thread of a hub, which runs the users' done callbacks.
    """

    def before_wait(future: Future[Any]) -> Callable[[], None]:
        if isinstance(future, AppFuture) and id(future._task.engine) == id(sink):
            raise WouldDeadlockError(
                f"result() of task {future.task_id} in a done callback would wait for ever: the "
                "thread that calls it brings the results. Pass the future to another app instead"
            )
        return lambda: None

    WAIT_GUARD.before_wait = before_wait


def call_and_wait(
    hub: threading.Thread,
    call: Callable[[Callable[[], None]], object],
    function: Callable[[], None],
    limit_s: float,
) -> None:
    """Have a function called by a hub's thread, and wait for that if it is safe.

    Parameters
    ----------
    hub : Thread
    call : callable
        Has the thread call what it is given.
    function : callable
    limit_s : float
        Seconds to wait at most.
    """
    if threading.current_thread() is hub:
        function()
        return
    done = threading.Event()

    def both() -> None:
        function()
        done.set()

    call(both)
    # A finalizer may run while its thread holds the lock that the hub needs.
    if not owns_lock():
        done.wait(limit_s)
