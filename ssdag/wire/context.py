# SPDX-License-Identifier: BSD-3-Clause
"""Whether this process is a worker, where no engine may start."""

from __future__ import annotations

from ssdag.wire import process

_in_worker = False


def enter_worker() -> None:
    """Say that this process is a worker, for good; another process owns and ends it."""
    global _in_worker
    _in_worker = True
    process.mark_owned()


def in_worker() -> bool:
    """Return True in a worker process."""
    return _in_worker
