# SPDX-License-Identifier: BSD-3-Clause
"""How long a call waits, and how long each blocking command of it may take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssdag.client.base import ClientBase

#: Who waits looks again after this, in case that who should have woken it was killed.
_LOOK_AGAIN_S = 2.0


class Deadline:
    """When waiting ends.

    Parameters
    ----------
    timeout_s : float or None
        From now; None for never.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self._at = None if timeout_s is None else time.monotonic() + timeout_s

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
