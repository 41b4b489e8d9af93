# SPDX-License-Identifier: BSD-3-Clause
"""What all tests share: a deadline for waiting, and a look at what a test leaves behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest_plugins = ["tests.apart", "tests.clusters.fixtures", "tests.integration.mpich_segments"]

SHARED_MEMORY = Path("/dev/shm")

#: Processes, threads and segments may take this long to go after a test has ended.
LEFTOVER_DEADLINE_S = 5.0


def wait_until(
    condition: Callable[[], object], deadline_s: float = 10.0, what: str = "condition"
) -> None:
    """Wait until `condition` returns something true; fail the test after `deadline_s`.

    For what no event announces, such as a process that somebody else must reap.
    """
    end = time.monotonic() + deadline_s
    pause_s = 0.001
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what}: not true within {deadline_s} s")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.05)


def is_live(pid: int) -> bool:
    """Say whether a process is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pytest_configure() -> None:
    """Take Ctrl-C as usual, also where we were started in the background of a shell.

    Such a shell has its children ignore it, and they hand that on to all programs that
    the tests interrupt.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def our_children() -> set[psutil.Process]:
    """Live processes beneath this one, without the reaper and without zombies."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and not _is_reaper(process):
                found.add(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _is_reaper(process: psutil.Process) -> bool:
    """The process of :mod:`ssdag.wire.guard` lives as long as the driver, by design."""
    return any(word.endswith("/wire/reaper.py") for word in process.cmdline())


def _our_threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("ssdag-")}


def _our_segments() -> set[str]:
    """Folders of segments, ``ssdag-<pid>-*``, except those of other live programs."""
    names = {name for name in os.listdir(SHARED_MEMORY) if name.startswith("ssdag-")}
    return {name for name in names if not _is_foreign(name)}


def _is_foreign(name: str) -> bool:
    pid = name.split("-")[1]
    if not pid.isdigit() or int(pid) == os.getpid() or not psutil.pid_exists(int(pid)):
        return False
    return int(pid) not in {p.pid for p in psutil.Process().children(recursive=True)}


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves processes, ``ssdag-*`` threads or segments behind."""
    children, threads, segments = our_children(), _our_threads(), _our_segments()
    yield
    if not (_our_segments() - segments or _our_threads() - threads or our_children() - children):
        return
    left: list[str] = []

    def clean() -> bool:
        left[:] = [
            *(f"process {p.pid}" for p in our_children() - children),
            *(f"thread {t.name}" for t in _our_threads() - threads),
            *(f"{SHARED_MEMORY / name}" for name in _our_segments() - segments),
        ]
        return not left

    end = time.monotonic() + LEFTOVER_DEADLINE_S
    while not clean() and time.monotonic() < end:
        time.sleep(0.01)
    if left:
        pytest.fail(f"left behind: {', '.join(sorted(left))}")
