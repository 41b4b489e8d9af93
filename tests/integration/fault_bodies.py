# SPDX-License-Identifier: BSD-3-Clause
"""Bodies of tasks that misbehave; importable by workers, cheap to import."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any


def note(path: str, text: str) -> str:
    """Append a line to a file in one write: what was run, and how often."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)
    return text


def pid_of(_: object = None) -> int:
    return os.getpid()


def hold(fifo: str, value: Any = None) -> Any:
    """Block until somebody opens the fifo for writing and closes it.

    A file beside the fifo tells that the task has begun.
    """
    Path(f"{fifo}.begun").touch()
    with open(fifo, "rb") as file:
        file.read()
    return value


def exit_at_once(code: int) -> None:
    os._exit(code)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfault() -> None:
    import faulthandler

    faulthandler.disable()
    ctypes.string_at(0)


def raise_system_exit(argument: object) -> None:
    sys.exit(argument)  # type: ignore[arg-type]


def close_everything(fifo: str) -> None:
    """Close all descriptors, the connection of the worker among them, and go on."""
    os.closerange(3, 256)
    hold(fifo)


class Refuses:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("I stay here")


class RefusesToLoad:
    """Can be pickled, and not loaded."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise OSError("I do not come")


class ExitsWhenPickled:
    def __reduce__(self) -> Any:
        sys.exit(5)


def make(kind: str) -> Any:
    return {"refuses": Refuses, "load": RefusesToLoad, "exit": ExitsWhenPickled}[kind]()


class OddError(Exception):
    """An exception whose ``__init__`` takes other arguments than it hands on."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"code {code} at {where}")
        self.code = code
        self.where = where


class LockedError(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def raise_odd() -> None:
    raise OddError(7, where="there")


def raise_locked() -> None:
    raise LockedError("held")


def raise_chained() -> None:
    try:
        raise_odd()
    except OddError as error:
        error.add_note("a note")
        raise ValueError("outer") from error


def start_children(pids: str, fifo: str) -> None:
    """Start a child and a grandchild in other process groups, and wait."""
    script = "import os, time; os.setpgid(0, 0); print(os.getpid(), flush=True); time.sleep(600)"
    with open(pids, "w") as out:
        child = subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.PIPE)
        assert child.stdout is not None
        out.write(child.stdout.readline().decode())
        shell = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE)
        assert shell.stdout is not None
        out.write(f"{shell.pid}\n{shell.stdout.readline().decode()}")
    hold(fifo)


def fork_child_that_stays(fifo: str) -> int:
    """Fork a child that outlives the task, with all descriptors of the worker."""
    pid = os.fork()
    if not pid:
        hold(fifo)
        os._exit(0)
    return pid


def fork_and_return(path: str) -> int:
    """Fork, and let the child return from the task too."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return os.getpid()
    note(path, "child returned")
    return -1


def use_multiprocessing(method: str) -> list[int]:
    import multiprocessing

    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        return pool.map(abs, [-1, -2, -3])


def leave_thread(path: str) -> None:
    """Leave a thread behind that never ends and is no daemon."""

    def run() -> None:
        note(path, "thread runs")
        while True:
            time.sleep(3600)

    threading.Thread(target=run, daemon=False).start()


def close_stdout() -> None:
    sys.stdout.close()


def print_lines(count: int) -> None:
    for i in range(count):
        print(f"line {i} of a task")  # noqa: T201


def print_and_die() -> None:
    print("last words")  # noqa: T201
    os._exit(9)


def write_stderr(count: int) -> int:
    sys.stderr.write("e" * count + "\n")
    return count


def double(array: Any) -> Any:
    return array * 2


def same(value: Any) -> Any:
    return value


def spoil(array: Any) -> float:
    """Change the argument; return what it was."""
    before = float(array.sum())
    array[:] = -1
    return before


def filled(value: float, size: int) -> Any:
    import numpy as np

    return np.full(size, value)


def first_and_sum(array: Any) -> tuple[float, float]:
    return float(array[0]), float(array.sum())


def die_holding(array: Any) -> None:
    assert array is not None
    os._exit(1)


def pair(first: Any, second: Any) -> Any:
    return second


def folder() -> str:
    return str(Path.cwd())


def pause(seconds: float, value: Any = None) -> Any:
    """A task that takes its time."""
    time.sleep(seconds)
    return value
