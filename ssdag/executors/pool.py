# SPDX-License-Identifier: BSD-3-Clause
"""Threads that prepare, start and finish programs, so that a hub never waits for user code."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from ssdag.errors import WouldDeadlockError
from ssdag.futures import WAIT_GUARD

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.futures import Future

_log = logging.getLogger("ssdag.executors")

#: A body that does not return is waited for so long at the end.
_PATIENCE_S = 5.0


class Pool:
    """Some threads with one queue; they start as work comes.

    Parameters
    ----------
    label : str
        For the names of the threads.
    size : int
        Threads at most.
    """

    def __init__(self, label: str, size: int) -> None:
        self._label = label
        self._size = size
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        #: Jobs that were put and are not done.
        self._open = 0
        self._lock = threading.Lock()

    def put(self, job: Callable[[], None]) -> None:
        """Have something done; returns at once. What it raises is logged."""
        with self._lock:
            self._open += 1
            if len(self._threads) < min(self._open, self._size):
                thread = threading.Thread(
                    target=self._serve, name=f"ssdag-{self._label}-{len(self._threads)}",
                    daemon=True,
                )  # fmt: skip
                self._threads.append(thread)
                thread.start()
        self._jobs.put(job)

    def here(self) -> bool:
        """Return True in one of its threads."""
        return threading.current_thread() in self._threads

    def close(self) -> None:
        """End the threads after what is queued; one that is stuck is not waited for long."""
        for _ in self._threads:
            self._jobs.put(None)
        give_up = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, give_up - time.monotonic()))

    def _serve(self) -> None:
        WAIT_GUARD.before_wait = _refuse
        while True:
            job = self._jobs.get()
            if job is None:
                return
            try:
                job()
            except BaseException:  # thread top: every job reports what may go wrong in it
                _log.exception("a program could not be handled")
            del job
            with self._lock:
                self._open -= 1


def _refuse(future: Future[Any]) -> Callable[[], None]:
    """Refuse to wait: the body of a command holds slots, and a thread of few."""
    raise WouldDeadlockError(
        f"result() of {future!r} in a body that makes a command: it would hold up other tasks "
        "while it waits. Pass the future as an argument"
    )
