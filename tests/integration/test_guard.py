# SPDX-License-Identifier: BSD-3-Clause
"""Whatever ends the driver, nothing of ours stays: real processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ssdag.wire import guard, reaper
from ssdag.wire.process import Process, spawn

if TYPE_CHECKING:
    from pathlib import Path

# A driver: starts a child that ignores SIGTERM, with a grandchild in another process
# group, registers its session, a file and a folder, and prints what there is.
DRIVER = """
import json, os, subprocess, sys, time
from ssdag.wire import guard
from ssdag.wire.process import spawn

STUBBORN = '''
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setpgid(0, 0)
    os.write(1, b"%d" % os.getpid())
    os.close(1)
    time.sleep(600)
LEADER
'''

def start(leader="time.sleep(600)"):
    code = STUBBORN.replace("LEADER", leader)
    child = spawn([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    grandchild = int(child.stdout.read(20))
    return child, grandchild

folder = sys.argv[1]
tree, file, kept = (os.path.join(folder, name) for name in ("tree", "file", "kept"))
os.makedirs(os.path.join(tree, "below"))
for path in (file, kept, os.path.join(tree, "below", "x")):
    open(path, "w").close()
child, grandchild = start()
guard.session(child.pid)
guard.path(tree); guard.path(file); guard.path(kept); guard.release_path(kept)

def tell(*pids):
    print(json.dumps([child.pid, grandchild, *pids, guard.pid()]), flush=True)

exec(sys.argv[2])
"""


class Ends:
    """Pidfds of processes that are not our children, to wait for their end."""

    def __init__(self, pids: list[int]) -> None:
        opened = [(reaper.open_pidfd(pid), pid) for pid in pids]
        self.fds = {fd: pid for fd, pid in opened if fd >= 0}

    def wait(self, seconds: float = 5.0) -> list[int]:
        """Return the numbers of those that still live after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.fds:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select(list(self.fds), [], [], left)
            for fd in ready:
                del self.fds[fd]
                os.close(fd)
            if not ready:
                break
        return list(self.fds.values())


def drive(folder: Path, script: str) -> tuple[Process, list[int]]:
    """Start a driver; return it and the processes that it speaks of, the guard last."""
    driver = spawn(
        [sys.executable, "-W", "ignore", "-c", DRIVER, str(folder), script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert driver.stdout is not None
    with driver.stdout:
        pids: list[int] = json.loads(driver.stdout.readline())
    return driver, pids


def test_killed_driver(tmp_path: Path) -> None:
    driver, pids = drive(tmp_path, "tell(); time.sleep(600)")
    ends = Ends(pids)
    os.kill(driver.pid, signal.SIGKILL)
    assert ends.wait() == []
    assert os.listdir(tmp_path) == ["kept"]
    driver.kill_session()


def test_normal_exit_cleans_what_was_not_released(tmp_path: Path) -> None:
    driver, pids = drive(tmp_path, "tell(); sys.exit(0)")
    ends = Ends(pids)
    assert driver.wait(30) == 0
    assert ends.wait() == []
    assert os.listdir(tmp_path) == ["kept"]


def test_released_session_lives_on(tmp_path: Path) -> None:
    driver, (child, grandchild, guard_pid) = drive(
        tmp_path, "guard.release_session(child.pid); tell(); time.sleep(600)"
    )
    ends = Ends([guard_pid])
    os.kill(driver.pid, signal.SIGKILL)
    assert ends.wait() == []
    assert reaper.is_live(child)
    assert reaper.is_live(grandchild)
    reaper.end([reaper.Session(child)], signal.SIGKILL, 5)
    driver.kill_session()


def test_a_forked_child_that_holds_our_descriptors_does_not_delay(tmp_path: Path) -> None:
    # os.fork runs the after-fork hooks; the fork that a C library does would not, so the
    # child takes a copy of the pipe's end before.
    script = """
os.dup(guard._guard._pipe)
if (fork := os.fork()) == 0:
    time.sleep(600)
tell(); time.sleep(600)
"""
    driver, pids = drive(tmp_path, script)
    ends = Ends(pids)
    os.kill(driver.pid, signal.SIGKILL)
    assert ends.wait() == []
    driver.kill_session()


def test_a_forked_child_gets_a_guard_of_its_own(tmp_path: Path) -> None:
    script = """
if (fork := os.fork()) == 0:
    child, grandchild = start()
    guard.session(child.pid)
    tell(os.getpid())
    time.sleep(600)
time.sleep(600)
"""
    driver, (child, grandchild, forked, guard_pid) = drive(tmp_path, script)
    ends = Ends([child, grandchild, guard_pid])
    os.kill(forked, signal.SIGKILL)
    assert ends.wait() == []
    assert driver.poll() is None
    assert sorted(os.listdir(tmp_path)) == ["file", "kept", "tree"]
    driver.kill_session()


def test_leader_that_ended_before_the_driver(tmp_path: Path) -> None:
    """What a worker left behind is ours, though its leader was reaped long ago."""
    script = """
child, grandchild = start("os._exit(0)")
guard.session(child.pid)
child.wait()
child.pid = grandchild
tell(); time.sleep(600)
"""
    driver, pids = drive(tmp_path, script)
    ends = Ends(pids[1:])
    os.kill(driver.pid, signal.SIGKILL)
    assert ends.wait() == []
    driver.kill_session()


def test_killed_guard_is_replaced(tmp_path: Path) -> None:
    script = """
import signal
first = guard._guard._process
os.kill(first.pid, signal.SIGKILL); first.wait()
guard.path(kept)
assert guard.pid() != first.pid
tell(); time.sleep(600)
"""
    driver, pids = drive(tmp_path, script)
    ends = Ends(pids)
    os.kill(driver.pid, signal.SIGKILL)
    assert ends.wait() == []
    assert os.listdir(tmp_path) == []
    driver.kill_session()


def test_driver_that_becomes_another_program(tmp_path: Path) -> None:
    driver, pids = drive(tmp_path, "tell(); os.execvp('sleep', ['sleep', '600'])")
    ends = Ends(pids)
    assert ends.wait() == []
    assert driver.poll() is None
    driver.kill_session()


def test_signals_to_all_processes_of_a_job_leave_the_guard(tmp_path: Path) -> None:
    # The driver knows that the guard has read everything, and so set its handlers, when
    # the pipe is empty.
    script = """
import array, fcntl, termios
left = array.array("i", [1])
while left[0]:
    fcntl.ioctl(guard._guard._pipe, termios.FIONREAD, left)
tell(); time.sleep(600)
"""
    driver, pids = drive(tmp_path, script)
    ends = Ends(pids)
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(pids[-1], signum)
    os.kill(driver.pid, signal.SIGKILL)
    assert ends.wait() == []
    assert os.listdir(tmp_path) == ["kept"]
    driver.kill_session()


@pytest.mark.parametrize("path", ["", "/", "//", "/tmp/.."])
def test_paths_that_nobody_means(path: str) -> None:
    with pytest.raises(ValueError, match="may be removed"):
        guard.path(path)
