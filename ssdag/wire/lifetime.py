# SPDX-License-Identifier: BSD-3-Clause
"""Who closes what: scopes that own things with an end.

An engine opens a scope and closes it as it ends; whatever is started meanwhile adds its
``close`` to the innermost open scope. The outermost scope belongs to the process and is
closed by ``atexit``, for scripts that forget.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import TYPE_CHECKING

from ssdag.errors import EngineClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("ssdag")


class Scope:
    """A stack of things to close, last first.

    Parameters
    ----------
    name : str
        Shown in log messages and errors.
    """

    def __init__(self, name: str = "scope") -> None:
        self.name = name
        self._lock = threading.Lock()
        self._closers: dict[int, Callable[[], None]] = {}
        self._next = 0
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._closers)} things"
        return f"<Scope {self.name!r} {state}>"

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has begun."""
        return self._closed

    def add(self, close: Callable[[], None]) -> int:
        """Have `close` called when the scope closes.

        Returns
        -------
        int
            A token for :meth:`remove`.

        Raises
        ------
        EngineClosedError
            The scope is closed. `close` has been called then: nothing is left behind by
            a thread that starts something while the engine ends.
        """
        with self._lock:
            if not self._closed:
                self._next += 1
                self._closers[self._next] = close
                return self._next
        self._run(close)
        raise EngineClosedError(f"{self.name} is closed: nothing can be started in it")

    def remove(self, token: int) -> None:
        """Forget one: it was closed by other means. Unknown tokens are ignored."""
        with self._lock:
            self._closers.pop(token, None)

    def close(self) -> None:
        """Close everything, last first; an error is logged and the rest goes on.

        May be called again and from several threads; each thing is closed once.
        """
        while True:
            with self._lock:
                self._closed = True
                if not self._closers:
                    return
                _, close = self._closers.popitem()
            self._run(close)

    def _run(self, close: Callable[[], None]) -> None:
        try:
            close()
        except Exception:  # the boundary to whoever owns the thing
            _log.exception("closing %r of %s failed", close, self.name)


_stack: list[Scope] = [Scope("the process")]
_stack_lock = threading.Lock()


def current() -> Scope:
    """Return the innermost open scope; it is the same in all threads."""
    with _stack_lock:
        return _stack[-1]


def push(scope: Scope) -> None:
    """Make `scope` the innermost one."""
    with _stack_lock:
        _stack.append(scope)


def pop(scope: Scope) -> None:
    """Take `scope` off the stack, wherever it is; does not close it."""
    with _stack_lock:
        for index in range(len(_stack) - 1, 0, -1):
            if _stack[index] is scope:
                del _stack[index]
                return


def _close_all() -> None:
    while True:
        with _stack_lock:
            scope = _stack.pop() if len(_stack) > 1 else _stack[0]
            last = scope is _stack[0]
        scope.close()
        if last:
            return


def _after_fork() -> None:
    # What the parent opened is the parent's to close.
    global _stack_lock
    _stack_lock = threading.Lock()
    _stack[:] = [Scope("the process")]


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork)
