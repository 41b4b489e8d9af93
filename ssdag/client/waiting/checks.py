# SPDX-License-Identifier: BSD-3-Clause
"""Threads that ask functions of the user whether what is waited for has come.

Such a function may talk to a server or compute, so it must not hold up the thread that
serves all who wait.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from ssdag.errors import MissingDataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.client.waiting.tables import Watch

#: So many functions are asked at once.
_THREADS = 4

#: How long a thread stays when there is nothing to ask.
_LINGER_S = 0.2


class Checker:
    """Asks functions; each at one time once, and again if it was to be asked meanwhile.

    Parameters
    ----------
    tell : callable
        Gets the watch, what its function returned, and what it raised or None; not
        called for MissingDataError, which means "not yet".
    """

    def __init__(self, tell: Callable[[Watch, Any, BaseException | None], None]) -> None:
        self._tell = tell
        self._condition = threading.Condition()
        self._queue: deque[Watch] = deque()
        #: Those in the queue and those being asked; True: ask once more.
        self._again: dict[Watch, bool] = {}
        self._threads = 0
        self._idle = 0

    def ask(self, watch: Watch) -> None:
        """Ask a watch's function soon, in another thread."""
        with self._condition:
            if watch in self._again:
                self._again[watch] = True
                return
            self._again[watch] = False
            self._queue.append(watch)
            if self._idle >= len(self._queue):
                self._condition.notify()
            elif self._threads < _THREADS:
                self._threads += 1
                threading.Thread(target=self._main, name="ssdag-when", daemon=True).start()

    def close(self) -> None:
        """Ask nothing any more; does not wait for a function that is running."""
        with self._condition:
            self._queue.clear()
            self._condition.notify_all()

    def _next(self) -> Watch | None:
        with self._condition:
            if not self._queue:
                self._idle += 1
                self._condition.wait(_LINGER_S)
                self._idle -= 1
            if self._queue:
                watch = self._queue.popleft()
                self._again[watch] = False
                return watch
            self._threads -= 1
            return None

    def _main(self) -> None:
        while (watch := self._next()) is not None:
            check = watch.condition.check
            assert check is not None
            error: BaseException | None = None
            value: Any = None
            try:
                if not watch.future.done():
                    value = check()
            except MissingDataError:
                pass  # not there yet
            except (Exception, SystemExit) as raised:  # user code
                error = raised
            self._tell(watch, value, error)
            with self._condition:
                if self._again.pop(watch) and not watch.future.done():
                    self._again[watch] = False
                    self._queue.append(watch)
            del watch, check, value, error  # an idle thread keeps nothing alive
