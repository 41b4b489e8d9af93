# SPDX-License-Identifier: BSD-3-Clause
"""Folders in shared memory: made, locked, removed, and swept after a double kill."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import ssdag.wire.segment_folder as module
from ssdag.wire import guard
from ssdag.wire.process import Process, spawn
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Holds no process: above the largest that Linux gives.
DEAD = 4194305


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for /dev/shm."""
    monkeypatch.setattr(module, "SHARED_MEMORY", str(tmp_path))
    return tmp_path


@pytest.fixture
def made(shared: Path) -> Iterator[str]:
    """A folder as an engine makes it."""
    path = module.make_folder()
    assert path is not None
    yield path
    module.remove_folder(path)


def fill(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "hub-1").write_bytes(b"x" * 100)
    return path


def test_a_folder_is_private_and_goes_with_its_content(shared: Path) -> None:
    path = module.make_folder()
    assert path is not None
    assert os.path.dirname(path) == str(shared)
    assert os.stat(path).st_mode & 0o777 == 0o700
    with open(os.path.join(path, "hub-1"), "w") as file:
        file.write("x")
    before = len(os.listdir("/proc/self/fd"))
    module.remove_folder(path)
    assert list(shared.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_names_differ(made: str) -> None:
    other = module.make_folder()
    assert other is not None
    assert other != made
    module.remove_folder(other)
    assert os.path.isdir(made)


def test_orphans_are_removed_by_the_next_engine(shared: Path) -> None:
    orphans = [fill(shared / f"ssdag-{DEAD}-{i:08x}") for i in range(3)]
    path = module.make_folder()
    assert path is not None
    assert not any(orphan.exists() for orphan in orphans)
    assert [str(p) for p in shared.iterdir()] == [path]
    module.remove_folder(path)


def test_what_is_not_surely_an_orphan_stays(shared: Path, tmp_path: Path) -> None:
    elsewhere = fill(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    kept = [
        fill(shared / f"ssdag-{os.getpid()}-00000000"),  # its number is that of a live process
        fill(shared / f"ssdag-{os.getppid()}-00000000"),
        fill(shared / f"ssdag-{DEAD}-nothexad"),
        fill(shared / f"ssdag-{DEAD}-000000000"),
        fill(shared / f"ssdag-{DEAD}"),
        fill(shared / "ssdag-0-00000000"),
        fill(shared / "ssdag--00000000"),
        fill(shared / f"my-ssdag-{DEAD}-00000000"),
        fill(shared / f"ssdag-{DEAD}-00000000.old"),
    ]
    link = shared / f"ssdag-{DEAD}-0000000a"
    link.symlink_to(elsewhere)
    file = shared / f"ssdag-{DEAD}-0000000b"
    file.write_bytes(b"somebody's")
    assert module.sweep() == []
    assert all((path / "hub-1").exists() for path in kept)
    assert (elsewhere / "hub-1").exists()
    assert link.is_symlink()
    assert file.read_bytes() == b"somebody's"


def test_another_users_folder_stays(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = fill(shared / f"ssdag-{DEAD}-00000000")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert module.sweep() == []
    assert (orphan / "hub-1").exists()


def test_a_locked_folder_stays_whatever_its_number_says(shared: Path) -> None:
    """A container that shares /dev/shm has processes that cannot be seen here."""
    foreign = fill(shared / f"ssdag-{DEAD}-00000000")
    fd = os.open(foreign, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert module.sweep() == []
    assert (foreign / "hub-1").exists()
    os.close(fd)
    assert module.sweep() == [str(foreign)]
    assert not foreign.exists()


def test_a_folder_of_ours_is_locked(made: str, shared: Path) -> None:
    renamed = shared / f"ssdag-{DEAD}-00000000"
    os.rename(made, renamed)  # so that its number protects it no longer
    assert module.sweep() == []
    assert renamed.is_dir()
    os.rename(renamed, made)


def test_a_folder_that_a_sweeper_takes_away_is_made_anew(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its lock another program may hold it for an orphan."""
    taken: list[str] = []
    lock = module._lock

    def late(path: str) -> int | None:
        if not taken:
            taken.append(path)
            fd = os.open(path, os.O_RDONLY)
            fcntl.flock(fd, fcntl.LOCK_EX)
            assert lock(path) is None
            os.rmdir(path)
            os.close(fd)
        return lock(path)

    monkeypatch.setattr(module, "_lock", late)
    path = module.make_folder()
    assert path is not None
    assert path not in taken
    assert os.path.isdir(path)
    module.remove_folder(path)


def test_a_lock_got_too_late_is_none(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder has removed the folder, and perhaps somebody has made another."""
    folder = shared / "x"
    folder.mkdir()
    flock = fcntl.flock

    def slow(fd: int, how: int) -> None:
        folder.rmdir()
        (shared / "y").mkdir()  # takes the number of the old one where numbers are used again
        (shared / "y").rename(folder)
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    assert module._lock(str(folder)) is None


def test_no_room_for_a_folder(
    shared: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "mkdir", refuse)
    with caplog.at_level(logging.WARNING):
        assert module.make_folder() is None
    assert "large arrays go by socket" in caplog.text
    assert not any(str(shared).encode() in key for key in guard._guard._records)


def refuse(path: str, mode: int = 0o777) -> None:
    raise OSError(28, "No space left on device")


def test_no_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "SHARED_MEMORY", str(tmp_path / "none"))
    assert module.make_folder() is None


DRIVER = """
import os, sys, time
import ssdag.wire.segment_folder as module
from ssdag.wire import guard
module.SHARED_MEMORY = sys.argv[1]
path = module.make_folder()
if sys.argv[2] == "fork":
    ready, begun = os.pipe()
    if os.fork() == 0:
        os.write(begun, b"x")
        time.sleep(600)
    os.read(ready, 1)  # until it has run, it holds what it got from us
print(guard.pid(), path, flush=True)
time.sleep(600)
"""


def drive(folder: Path, how: str) -> tuple[Process, int, str]:
    driver = spawn(
        [sys.executable, "-c", DRIVER, str(folder), how],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert driver.stdout is not None
    with driver.stdout:
        guard_pid, path = driver.stdout.readline().decode().split()
    return driver, int(guard_pid), path


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_driver_and_guard_killed(shared: Path, how: str) -> None:
    """A forked child that lives on does not keep the folder."""
    driver, guard_pid, path = drive(shared, how)
    assert module.sweep() == []
    os.kill(guard_pid, signal.SIGKILL)
    wait_until(lambda: guard_is_dead(guard_pid), 10, "the guard is dead")
    driver.send_signal(signal.SIGKILL)
    driver.wait(10)
    assert os.path.isdir(path)
    assert module.sweep() == [path]
    assert not os.path.exists(path)
    driver.kill_session()


def guard_is_dead(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True
