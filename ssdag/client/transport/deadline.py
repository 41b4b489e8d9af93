# SPDX-License-Identifier: BSD-3-Clause
"""How long a call waits, and how long each blocking command of it may take."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ssdag.client.base import ClientBase

T = TypeVar("T")

#: Who waits looks again after this, in case that who should have woken it was killed.
_LOOK_AGAIN_S = 2.0

#: So much later than the deadline a server that works may still answer: it was asked to wait
#: until then, and may have more to do.
_GRACE_S = 1.0


class _Here(threading.local):
    """What counts in this thread."""

    inside = False
    until_s: float | None = None


_here = _Here()


def silence_ends() -> float | None:
    """Return when a silent server is given up in this thread, as ``time.monotonic``; or None."""
    return _here.until_s


def within(deadline: Deadline, work: Callable[..., T], *args: Any) -> T:
    """Call a function in this thread, as a part of a call that has this deadline."""
    with deadline:
        return work(*args)


class Deadline:
    """When waiting ends.

    In a block of ``with`` it also limits how long the commands of this thread bear with a
    silent server: they raise DataTimeoutError then. Of several blocks the outermost counts,
    as that is the call which the user has made.

    Parameters
    ----------
    timeout_s : float or None
        From now; None for never.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self._at = None if timeout_s is None else time.monotonic() + timeout_s
        self._outermost = False

    def __enter__(self) -> Deadline:
        self._outermost = not _here.inside
        if self._outermost:
            _here.inside = True
            _here.until_s = None if self._at is None else self._at + _GRACE_S
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._outermost:
            _here.inside, _here.until_s = False, None

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return self._at is not None and time.monotonic() >= self._at

    @property
    def left_s(self) -> float | None:
        """Seconds until then, 0 or more; None for ever."""
        return None if self._at is None else max(self._at - time.monotonic(), 0.0)

    def wait_s(self, client: ClientBase) -> float:
        """Return how long one blocking command may take now: above 0, and not for ever."""
        most_s = _LOOK_AGAIN_S
        if client._timeout_s is not None:
            most_s = min(most_s, client._timeout_s / 2)
        if self._at is not None:
            most_s = min(most_s, self._at - time.monotonic())
        return max(most_s, 0.001)

    def wait_ms(self, client: ClientBase) -> bytes:
        """Return the same in milliseconds, as a word of a command."""
        return b"%d" % max(int(self.wait_s(client) * 1000), 1)
