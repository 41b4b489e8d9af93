# SPDX-License-Identifier: BSD-3-Clause
"""One thread that calls functions later; it sleeps until the next one is due."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("ssdag")


class Timers:
    """Calls functions after a delay, from a thread that starts with the first one."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(self, delay_s: float, function: Callable[[], None]) -> None:
        """Call `function` in `delay_s` seconds."""
        with self._changed:
            due = time.monotonic() + delay_s
            heapq.heappush(self._heap, (due, next(self._count), function))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ssdag-timer", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Forget what is not due and end the thread."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed:
                    left = self._heap[0][0] - time.monotonic() if self._heap else None
                    if left is not None and left <= 0:
                        break
                    self._changed.wait(left)
                if self._closed:
                    return
                function = heapq.heappop(self._heap)[2]
            try:
                function()
            except Exception:  # thread top
                _log.exception("a timer failed")
