# SPDX-License-Identifier: BSD-3-Clause
"""The process tree of a benchmark: its CPU time, its memory, its end.

A process that calls :func:`adopt_orphans` becomes the parent of every descendant whose
own parent ended (``PR_SET_CHILD_SUBREAPER``), so daemons that peers detach are counted,
and can be ended, like any child.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants of this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _alive() -> Iterator[psutil.Process]:
    me = psutil.Process()
    yield me
    yield from me.children(recursive=True)


def cpu_s() -> float:
    """CPU seconds of this process and all its descendants, the ended ones included."""
    total = 0.0
    for process in _alive():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            # What ended and was waited for is in the children_* of whoever waited.
            total += times.user + times.system + times.children_user + times.children_system
    return total


class Foreign:
    """How much of the machine others used while something was measured."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._busy = _machine_busy_s()
        self._ours = cpu_s()

    def share(self) -> float:
        """Share of all cores (0 to 1) that went to processes outside this tree."""
        elapsed = (time.monotonic() - self._begin) * (psutil.cpu_count() or 1)
        others = (_machine_busy_s() - self._busy) - (cpu_s() - self._ours)
        return max(0.0, others / elapsed) if elapsed > 0 else 0.0


def _machine_busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - times.guest)


def pss_bytes() -> int:
    """Proportional resident memory of this process and all its descendants."""
    total = 0
    for process in _alive():
        # A zombie has an empty file; a process of another user cannot be read.
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as lines,
        ):
            total += sum(int(x.split()[1]) for x in lines if x.startswith("Pss:")) * 1024
    return total


def settle(limit_s: float = 5.0, period_s: float = 0.2) -> None:
    """Return when the tree uses less than a fifth of a core, or after `limit_s`."""
    end = time.monotonic() + limit_s
    before = cpu_s()
    while time.monotonic() < end:
        time.sleep(period_s)  # the measurement itself: CPU used over a period
        now = cpu_s()
        if now - before < 0.2 * period_s:
            return
        before = now


def end_descendants(grace_s: float = 1.0, limit_s: float = 10.0) -> None:
    """Kill and reap everything below this process; call :func:`adopt_orphans` first.

    Helpers that clean up after a process that has gone get `grace_s` to do so. Blocks
    until nothing is left or `limit_s` passed.
    """
    psutil.wait_procs(psutil.Process().children(recursive=True), timeout=grace_s)
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        children = psutil.Process().children(recursive=True)
        if not children:
            return
        for process in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        psutil.wait_procs(children, timeout=0.5)
