# SPDX-License-Identifier: BSD-3-Clause
"""Whether this process is a worker, where no engine may start."""

from __future__ import annotations

from ssdag.wire import process

_in_worker = False
_shares_memory = False


def enter_worker() -> None:
    """Say that this process is a worker, for good; another process owns and ends it."""
    global _in_worker
    _in_worker = True
    process.mark_owned()


def share_memory() -> None:
    """Say that the driver is on this machine and maps what this worker returns."""
    global _shares_memory
    _shares_memory = True


def shares_memory() -> bool:
    """Return True in a worker whose large results stay in memory of this machine."""
    return _shares_memory


def in_worker() -> bool:
    """Return True in a worker process."""
    return _in_worker
