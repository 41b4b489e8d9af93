# SPDX-License-Identifier: BSD-3-Clause
"""The driver is killed at many moments: nothing of it stays, and nothing reported is lost.

Everything that a driver starts inherits a mark in its environment, so that whatever is
left can be found without knowing it.
"""

from __future__ import annotations

import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ssdag.wire.process import Process, spawn
from tests.conftest import SHARED_MEMORY, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The issue's promise: after the end of the driver all is gone within this time.
CLEAN_S = 5.0
DEADLINE_S = 60.0
#: Of the start of a driver, at which it is killed.
MOMENTS = 6

# A driver in a certain situation. It prints a line when it is there.
SCRIPT = """
import faulthandler, os, signal, sys, time
faulthandler.register(signal.SIGUSR1)
if sys.argv[1] == "polite":  # a job's SIGTERM as batch scripts often take it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may run in the background
print("up", flush=True)
import numpy as np
import ssdag
from ssdag import Config, Orchestrator, bash_app, python_app
from ssdag.executors import LocalExecutor, ThreadExecutor

@python_app
def same(x):
    return x

@python_app
def pause(path):
    open(path, "w").close()
    time.sleep(600)

@bash_app
def command(path):
    # A grandchild, one in the background, and one in a process group of its own.
    return (f"bash -c 'sleep 600 & sleep 600' & sleep 600 & "
            f"{sys.executable} -S -c 'import os, time; os.setpgid(0, 0); time.sleep(600)' & "
            f"touch {path}; wait")

@python_app
def there_and_back(array, db=None):
    if db is not None:
        db.put_tensor("a", array)
    return array * 2

def wait_for(*paths):
    while not all(map(os.path.exists, paths)):
        time.sleep(0.002)

def busy(engine):
    def more(i):
        yield from (same(j) for j in range(i, i + 1000))
    futures = []
    for i in range(0, 100_000_000, 1000):
        futures = list(more(i))
        ssdag.gather(futures)
        if i == 1000:
            print("there", flush=True)

situation, folder = sys.argv[2:4]
engine = ssdag.load(Config(executors=[
    LocalExecutor(2, threshold_bytes=65536), ThreadExecutor(2, label="threads")]))
if situation == "load":
    same = python_app(executors=["local"])(same.__wrapped__)
    busy(engine)
elif situation == "commands":
    paths = [f"{folder}/{i}" for i in range(2)]
    futures = [bash_app(executors=[label])(command.__wrapped__)(path)
               for label, path in zip(("local", "threads"), paths)]
    wait_for(*paths)
elif situation == "orchestrator":
    db = Orchestrator()
    there_and_back = python_app(executors=["local"])(there_and_back.__wrapped__)
    there_and_back(np.ones(100_000), db).result()
    waiting = there_and_back(db.tensor("never"))
elif situation == "arrays":
    there_and_back = python_app(executors=["local"])(there_and_back.__wrapped__)
    held = [there_and_back(np.ones(200_000)) for _ in range(8)]
    values = [future.result() for future in held[:4]]
    under_way = [there_and_back(np.ones(200_000)) for _ in range(40)]
elif situation == "gather":
    pause = python_app(executors=["local"])(pause.__wrapped__)
    futures = [pause(f"{folder}/{i}") for i in range(2)] + [same(i) for i in range(10)]
    wait_for(f"{folder}/0", f"{folder}/1")
    print("there", flush=True)
    ssdag.gather(futures, progress=True)
print("there", flush=True)
while True:  # Python misses a signal that comes just before a long sleep
    time.sleep(0.1)
"""

SITUATIONS = ["load", "commands", "orchestrator", "arrays", "gather"]


class Driver:
    """A driver process in its own folders, and all that it has started."""

    def __init__(self, script: str, folder: Path, *args: str) -> None:
        self.mark = f"SSDAG_TEST_MARK={secrets.token_hex(8)}"
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        name, _, value = self.mark.partition("=")
        paths = [str(Path(__file__).parents[2]), *sys.path]
        with (folder / "stderr").open("ab") as stderr:
            self.process: Process = spawn(
                [sys.executable, "-W", "ignore", "-c", script, *args],
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={
                    **os.environ,
                    name: value,
                    "TMPDIR": str(self.temporary),
                    "PYTHONPATH": os.pathsep.join(paths),
                },
            )
        self.stderr = folder / "stderr"
        assert self.process.stdout is not None
        self.stdout = self.process.stdout

    def wait_for(self, word: str) -> None:
        """Read what it prints until a line is `word`."""
        while line := self.stdout.readline():
            if line.decode().strip() == word:
                return
        pytest.fail(f"the driver ended before {word!r}: {self.stderr.read_text()[-2000:]}")

    def marked(self) -> list[str]:
        """Return the command lines of live processes that it or its children started."""
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                environment = Path("/proc", name, "environ").read_bytes()
                if self.mark.encode() not in environment.split(b"\0"):
                    continue
                words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has just ended, or is another user's
                continue
            found.append(f"{name}: {b' '.join(words).decode(errors='replace')[:300]}")
        return found

    def left(self) -> list[str]:
        """Return all that there still is of it."""
        prefix = f"ssdag-{self.process.pid}-"
        return [
            *self.marked(),
            *(name for name in os.listdir(SHARED_MEMORY) if name.startswith(prefix)),
            *(str(path) for path in self.temporary.iterdir()),
        ]

    def end(self, signum: int) -> int:
        """Signal it, wait for its end, and check that nothing of it stays."""
        self.process.send_signal(signum)
        if signum == signal.SIGINT:
            self._insist()
        return self.ended()

    def _insist(self) -> None:
        """Press Ctrl-C again if it came in a finalizer, where Python says so and drops it."""
        told = 0
        end = time.monotonic() + DEADLINE_S
        while self.process.poll() is None and time.monotonic() < end:
            if (dropped := self.stderr.read_text().count("Exception ignored in")) > told:
                told = dropped
                self.process.send_signal(signal.SIGINT)
            time.sleep(0.01)

    def ended(self) -> int:
        """Wait for its end, and check that nothing of it stays."""
        try:
            code = self.process.wait(DEADLINE_S)
        except TimeoutError:
            self.process.send_signal(signal.SIGUSR1)  # it says where it is
            wait_until(lambda: "Current thread" in self.stderr.read_text(), what="it tells")
            pytest.fail(f"it still runs: {self.stderr.read_text()[-5000:]}")
        end = time.monotonic() + CLEAN_S
        while (left := self.left()) and time.monotonic() < end:
            time.sleep(0.01)
        assert left == [], self.stderr.read_text()[-2000:]
        return code

    def close(self) -> None:
        """Leave nothing, whatever the test found."""
        self.stdout.close()
        self.process.kill_session()
        for line in self.marked():
            os.kill(int(line.partition(":")[0]), signal.SIGKILL)


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    """Drivers to be closed after the test."""
    made: list[Driver] = []
    yield made
    for driver in made:
        driver.close()


KILLS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("signum", KILLS, ids=lambda signum: signum.name)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_nothing_stays(
    situation: str, signum: signal.Signals, drivers: list[Driver], tmp_path: Path
) -> None:
    drivers.append(driver := Driver(SCRIPT, tmp_path, "rude", situation, str(tmp_path)))
    driver.wait_for("there")
    assert len(driver.marked()) >= {"commands": 8, "orchestrator": 4}.get(situation, 3)
    if situation != "gather":
        assert driver.left() != driver.marked(), "a folder of segments, at the least"
    code = driver.end(signum)
    if signum == signal.SIGINT:
        assert code in (-2, 1, 130)
        assert "KeyboardInterrupt" in driver.stderr.read_text()
    else:
        assert code == -signum


@pytest.mark.parametrize("situation", ["load", "commands", "orchestrator"])
def test_an_exit_in_a_signal_handler(situation: str, drivers: list[Driver], tmp_path: Path) -> None:
    drivers.append(driver := Driver(SCRIPT, tmp_path, "polite", situation, str(tmp_path)))
    driver.wait_for("there")
    assert driver.end(signal.SIGTERM) == 143


@pytest.mark.parametrize("situation", ["load", "orchestrator"])
def test_an_impatient_user(situation: str, drivers: list[Driver], tmp_path: Path) -> None:
    """Ctrl-C again and again, also while the engine is being closed."""
    drivers.append(driver := Driver(SCRIPT, tmp_path, "rude", situation, str(tmp_path)))
    driver.wait_for("there")
    end = time.monotonic() + DEADLINE_S
    while driver.process.poll() is None and time.monotonic() < end:
        driver.process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    driver.ended()


@pytest.mark.parametrize("signum", KILLS, ids=lambda signum: signum.name)
def test_killed_while_it_starts(
    signum: signal.Signals, drivers: list[Driver], tmp_path: Path
) -> None:
    """At moments spread over the start, of which each may lie between two steps."""
    drivers.append(first := Driver(SCRIPT, tmp_path / "first", "rude", "arrays", str(tmp_path)))
    first.wait_for("up")
    begin = time.monotonic()
    first.wait_for("there")
    length_s = time.monotonic() - begin
    first.end(signal.SIGKILL)
    for i in range(MOMENTS):
        folder = tmp_path / str(i)
        drivers.append(driver := Driver(SCRIPT, folder, "rude", "arrays", str(folder)))
        driver.wait_for("up")
        time.sleep(length_s * (i + 0.5) / MOMENTS)
        driver.end(signum)


def test_driver_and_guard_killed(drivers: list[Driver], tmp_path: Path) -> None:
    """Workers see the end of their connection; the next engine removes the segments."""
    drivers.append(driver := Driver(SCRIPT, tmp_path / "1", "rude", "arrays", str(tmp_path)))
    driver.wait_for("there")
    (reaper,) = (line for line in driver.marked() if "/wire/reaper.py" in line)
    os.kill(int(reaper.partition(":")[0]), signal.SIGKILL)
    driver.process.send_signal(signal.SIGKILL)
    driver.process.wait(DEADLINE_S)
    wait_until(lambda: not driver.marked(), DEADLINE_S, "the workers have ended")
    drivers.append(second := Driver(SCRIPT, tmp_path / "2", "rude", "arrays", str(tmp_path)))
    second.wait_for("there")
    assert driver.left() == []
    second.end(signal.SIGKILL)


# -- the checkpoint -----------------------------------------------------------------------

COUNTING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import ssdag
from ssdag import Config, python_app
from ssdag.executors import LocalExecutor

@python_app(cache=True)
def number(i, path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"%d\\n" % i)
    os.close(fd)
    return {"i": i, "text": str(i) * 50}

path, notes, count = sys.argv[1:]
with ssdag.load(Config(executors=[LocalExecutor(2)], checkpoint=path)) as engine:
    futures = [number(i, notes) for i in range(int(count))]
    for future in ssdag.as_completed(futures):
        value = future.result()
        assert value["text"] == str(value["i"]) * 50
        os.write(1, b"%d\\n" % value["i"])
print("there", flush=True)
"""
NUMBERS = 3000


def rows(path: Path) -> int:
    """Return how many results are in a checkpoint file, as any program may read it."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM results").fetchone()[0])
    except sqlite3.OperationalError:  # not made yet
        return 0


def read_numbers(path: Path) -> list[int]:
    """Return what the tasks noted; the last line may be half."""
    if not path.exists():
        return []
    return [int(line) for line in path.read_text().split("\n")[:-1]]


@pytest.mark.parametrize("signum", KILLS, ids=lambda signum: signum.name)
def test_a_second_run_goes_on_where_the_first_was_killed(
    signum: signal.Signals, drivers: list[Driver], tmp_path: Path
) -> None:
    path, notes = tmp_path / "memo.sqlite", tmp_path / "notes"
    words = [str(path), str(notes), str(NUMBERS)]
    drivers.append(driver := Driver(COUNTING, tmp_path, *words))
    seen = 0
    while rows(path) < NUMBERS // 10:
        assert driver.stdout.readline(), driver.stderr.read_text()[-2000:]
        seen += 1
    sure = rows(path)
    driver.end(signum)
    reported = seen + driver.stdout.read().count(b"\n")
    stored = rows(path)
    assert stored >= sure, "what was on the disk stays there"
    if signum == signal.SIGINT:  # it could close the file
        assert stored >= reported, "what was reported is on the disk"
    first = read_numbers(notes)
    assert len(set(first)) == len(first)

    os.unlink(notes)
    drivers.append(second := Driver(COUNTING, tmp_path, *words))
    second.wait_for("there")
    assert second.ended() == 0, second.stderr.read_text()[-2000:]
    again = read_numbers(notes)
    assert len(again) == NUMBERS - stored, "only what is not in the file runs again"
    assert set(first) | set(again) == set(range(NUMBERS))
    assert rows(path) == NUMBERS
