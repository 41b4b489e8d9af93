# SPDX-License-Identifier: BSD-3-Clause
"""Waits that could never end: in the thread that brings an engine its results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssdag.errors import WouldDeadlockError
from ssdag.futures import WAIT_GUARD
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
