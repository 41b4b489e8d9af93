# SPDX-License-Identifier: BSD-3-Clause
"""Processes: start, wait, and end wholly."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
import time

import pytest

from ssdag.wire import process as process_module
from ssdag.wire import reaper
from ssdag.wire.process import UNKNOWN_EXIT_CODE, Process, spawn

# Prints the pid of a grandchild that ignores SIGTERM in a process group of its own,
# then sleeps, ignoring SIGTERM too.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(600)
if len(sys.argv) > 1:
    os._exit(3)
time.sleep(600)
"""


def start_stubborn(*args: str, own_session: bool = True) -> tuple[Process, int]:
    """Return (process, pid of its grandchild)."""
    process = spawn(
        [sys.executable, "-S", "-c", STUBBORN, *args],
        stdout=subprocess.PIPE,
        own_session=own_session,
    )
    assert process.stdout is not None
    with process.stdout:
        return process, int(process.stdout.readline())


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9)])
def test_wait_returns_the_exit_code(script: str, code: int) -> None:
    process = spawn(["sh", "-c", script])
    assert process.wait(30) == code
    assert process.poll() == code
    assert process.wait() == code
    process.kill_session()


def test_missing_program_and_folder() -> None:
    with pytest.raises(FileNotFoundError):
        spawn(["/no/such/program"])
    with pytest.raises(FileNotFoundError):
        spawn(["true"], cwd="/no/such/folder")


def test_stdin_is_empty_and_session_is_its_own() -> None:
    process = spawn(["cat"])
    assert process.wait(30) == 0
    process = spawn(["sleep", "600"])
    assert os.getsid(process.pid) == process.pid
    process.kill_session()
    assert process.poll() == -signal.SIGKILL


def test_environment_folder_and_descriptors() -> None:
    reading, writing = os.pipe()
    process = spawn(
        ["sh", "-c", f'echo "$A $(pwd)" > /dev/fd/{writing}'],
        env={"A": "b", "PATH": os.environ["PATH"]},
        cwd="/",
        pass_fds=[writing],
    )
    os.close(writing)
    with open(reading) as file:
        assert file.read() == "b /\n"
    assert process.wait(30) == 0


def test_wait_times_out_and_poll_says_running() -> None:
    process = spawn(["sleep", "600"])
    with pytest.raises(TimeoutError, match="still runs"):
        process.wait(0.01)
    assert process.poll() is None
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM
    process.terminate()  # ended: nothing happens


def test_selector_sees_the_end() -> None:
    process = spawn(["sleep", "600"])
    with selectors.DefaultSelector() as selector:
        selector.register(process, selectors.EVENT_READ)
        assert selector.select(0) == []
        process.terminate()
        assert selector.select(30)
        selector.unregister(process)
        assert process.poll() == -signal.SIGTERM
    with pytest.raises(ValueError, match="ended"):
        process.fileno()


def test_no_descriptor_and_no_zombie_stays() -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        spawn(["true"]).wait(30)
    dropped = spawn(["true"])
    pid = dropped.pid
    process_module._wait_readable(dropped.fileno(), 30)
    del dropped
    assert reaper.stat_fields(pid) is None
    assert set(os.listdir("/proc/self/fd")) == before


def test_many_threads_wait_for_one() -> None:
    process = spawn(["sleep", "600"])
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(process.wait(30))) for _ in range(8)]
    for thread in threads:
        thread.start()
    process.terminate()
    for thread in threads:
        thread.join()
    assert codes == [-signal.SIGTERM] * 8


@pytest.mark.parametrize("own_session", [True, False])
def test_kill_reaches_grandchildren_in_other_groups(own_session: bool) -> None:
    process, grandchild = start_stubborn(own_session=own_session)
    assert os.getpgid(grandchild) == grandchild
    assert (os.getsid(grandchild) == process.pid) is own_session
    process.kill_session()
    assert process.poll() == -signal.SIGKILL
    assert not reaper.is_live(grandchild)


def test_kill_after_the_leader_was_reaped() -> None:
    process, grandchild = start_stubborn("leave")
    assert process.wait(30) == 3
    assert reaper.is_live(grandchild)
    process.kill_session()
    assert not reaper.is_live(grandchild)


def test_a_recycled_session_number_is_left_alone() -> None:
    """As if the session had ended, and its number been given to somebody else's."""
    process = spawn(["true"])
    process.wait(30)
    other = spawn(["sleep", "600"])
    process.pid = other.pid
    process._reaped_ticks = reaper.ticks_now() - 1000
    process.kill_session()
    assert other.poll() is None
    other.kill_session()


def test_terminate_session_is_polite_then_firm() -> None:
    script = 'trap "exit 5" TERM; echo; sleep 600 & wait'
    process = spawn(["sh", "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
    process.terminate_session(30)
    assert process.poll() == 5
    stubborn, grandchild = start_stubborn()
    begin = time.monotonic()
    stubborn.terminate_session(0.05)
    assert stubborn.poll() == -signal.SIGKILL
    assert not reaper.is_live(grandchild)
    assert time.monotonic() - begin < 5


def test_exit_code_that_somebody_else_took() -> None:
    process = spawn(["true"])
    os.waitpid(process.pid, 0)
    assert process.wait(30) == UNKNOWN_EXIT_CODE


@pytest.mark.parametrize("own_session", [True, False])
def test_kernel_without_pidfd(own_session: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    assert spawn(["sh", "-c", "exit 4"], own_session=own_session).wait(30) == 4
    process, grandchild = start_stubborn(own_session=own_session)
    process.kill_session()
    assert process.poll() == -signal.SIGKILL
    assert not reaper.is_live(grandchild)


def test_owned_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "_owned", False)
    assert not process_module.is_owned()
    process_module.mark_owned()
    assert process_module.is_owned()
