# SPDX-License-Identifier: BSD-3-Clause
"""A server that a keeper keeps."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from typing import TYPE_CHECKING

from ssdag.wire import guard, reaper

if TYPE_CHECKING:
    from ssdag.services.servers.places import PlacedServer, ServerRequest


class Kept:
    """A server that the keeper shall run.

    Parameters
    ----------
    request : ServerRequest
    """

    def __init__(self, request: ServerRequest) -> None:
        self.request = request
        self.server: PlacedServer | None = None
        #: A folder that is removed with it.
        self.folder: str | None = None
        #: The mark of its folder, see :mod:`ssdag.services.keepers.leftovers`.
        self.mark = -1
        self.unwanted = False

    def terminate(self) -> None:
        """Ask it to end in order."""
        self.unwanted = True
        if self.server is None:
            return
        fd = reaper.open_pidfd(self.server.pid)
        try:
            if self.server.running():  # so the number was still its own
                with contextlib.suppress(ProcessLookupError):
                    if fd >= 0:
                        signal.pidfd_send_signal(fd, signal.SIGTERM)
                    else:  # an old kernel
                        os.kill(self.server.pid, signal.SIGTERM)
        finally:
            if fd >= 0:
                os.close(fd)

    def end(self, grace_s: float) -> None:
        """End it, or have it ended as soon as it has started."""
        self.unwanted = True
        if self.server is not None:
            self.server.end(grace_s)

    def clear(self) -> None:
        """Remove its files."""
        if self.server is not None:
            self.server.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            guard.release_path(self.folder)
        mark, self.mark = self.mark, -1
        if mark >= 0:
            os.close(mark)
