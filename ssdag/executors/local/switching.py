# SPDX-License-Identifier: BSD-3-Clause
"""The interpreter's thread switch interval while executors live."""

from __future__ import annotations

import sys
import threading


class SwitchInterval:
    """Shortens the interval for several owners, and restores it after the last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owners = 0
        self._before_s = 0.0

    def shorten(self, interval_s: float) -> None:
        """Make the interval at most so long; call :meth:`restore` once for each call."""
        with self._lock:
            if not self._owners:
                self._before_s = sys.getswitchinterval()
            self._owners += 1
            sys.setswitchinterval(min(sys.getswitchinterval(), interval_s))

    def restore(self) -> None:
        """Let go; the interval becomes what it was once nobody needs it short."""
        with self._lock:
            self._owners -= 1
            if not self._owners:
                sys.setswitchinterval(self._before_s)


#: The one of this process.
SWITCH_INTERVAL = SwitchInterval()
