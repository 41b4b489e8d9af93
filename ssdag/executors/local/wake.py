# SPDX-License-Identifier: BSD-3-Clause
"""An event that wakes a poll, from any thread and also too late."""

from __future__ import annotations

import contextlib
import os


class Wake:
    """An eventfd that is closed when nobody can set it any more.

    Closing it by hand would race with a thread that is about to write: the number may
    belong to somebody else's file by then.

    Attributes
    ----------
    fd : int
        Readable while the event is set.
    """

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def set(self) -> None:
        """Wake the poll, now or as soon as it is asked."""
        os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Take the event back."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def __del__(self) -> None:
        os.close(self.fd)
