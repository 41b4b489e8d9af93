# SPDX-License-Identifier: BSD-3-Clause
"""What every adapter must do, as a program of its own: other engines keep global state.

``python adapter_script.py NAME``: exit code 0 if all is well, 77 if the engine is not
installed.
"""

from __future__ import annotations

import concurrent.futures as cf
import faulthandler
import importlib
import multiprocessing
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

import ssdag
from ssdag import TaskState, bash_app, join_app, python_app
from ssdag.errors import DependencyError, NestedCallError, UnsupportedError, WorkerLostError
from ssdag.executors import DaskExecutor, FuturesExecutor, RayExecutor

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.dataflow.engine import Engine
    from ssdag.executors import Executor

DEADLINE_S = 60.0


def spawned() -> cf.Executor:
    """A pool of the standard library."""
    return cf.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


def of_dragon() -> cf.Executor:
    """The same class as Dragon sees it: its processes are Dragon's, on all its nodes."""
    importlib.import_module("dragon")
    multiprocessing.set_start_method("dragon", force=True)
    return cf.ProcessPoolExecutor(2)


def named(module: str, name: str) -> Callable[[], cf.Executor]:
    """A maker of a pool from a package."""
    made = getattr(importlib.import_module(module), name)
    return lambda: made(2)


MAKERS: dict[str, Callable[[], Executor]] = {
    "threads": lambda: FuturesExecutor(lambda: cf.ThreadPoolExecutor(2)),
    "processes": lambda: FuturesExecutor(spawned),
    "loky": lambda: FuturesExecutor(named("loky", "ProcessPoolExecutor")),
    "mpi4py": lambda: FuturesExecutor(named("mpi4py.futures", "MPIPoolExecutor")),
    "dragon": lambda: FuturesExecutor(of_dragon),
    "dask": lambda: DaskExecutor(n_workers=2, host="127.0.0.1", processes=True),
    "ray": lambda: RayExecutor(num_cpus=2, _node_ip_address="127.0.0.1"),
}
#: Those that survive the death of a worker.
HEALING = ("processes", "loky", "dask", "ray")


class Mine(Exception):
    """An exception of ``__main__``."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


@python_app
def square(x: int) -> int:
    return x * x


@python_app
def total(*values: Any) -> Any:
    return sum(values)


@python_app
def fail(code: int) -> None:
    raise Mine(code)


@python_app
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@python_app
def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@python_app
def leave() -> None:
    sys.exit(3)


@python_app
def double(array: Any) -> Any:
    return array * 2


@python_app
def nested() -> Any:
    return square(2).result(1)


@bash_app
def say(word: str, stdout: str) -> str:
    return f"echo {word}"


@join_app
def squares(n: int) -> Any:
    return [square(i) for i in range(n)]


def values(name: str, tmp: str) -> None:
    """Values, functions of all kinds, arrays, files, joins."""
    k = 7
    engine = ssdag.python_app(lambda x: x + k)
    assert engine(1).result(DEADLINE_S) == 8
    assert ssdag.gather(square.map(range(200))) == [i * i for i in range(200)]
    array = np.arange(300_000.0)
    assert np.array_equal(double(double(array)).result(DEADLINE_S), array * 4)
    assert squares(5).result(DEADLINE_S) == [0, 1, 4, 9, 16]
    assert total(square(2), square(3)).result(DEADLINE_S) == 13
    path = os.path.join(tmp, "said")
    say("hello", stdout=path).result(DEADLINE_S)
    with open(path) as file:
        assert file.read() == "hello\n"


def graph(engine: Engine) -> None:
    """A chain as long as it likes, and its times."""
    future = square(1)
    for _ in range(50):
        future = total(future, 1)
    assert future.result(DEADLINE_S) == 51
    node = engine.graph().nodes[future.task_id]
    assert node["submitted_s"] < node["started_s"] <= node["ended_s"]


def errors(name: str) -> None:
    """Errors arrive as themselves, and fail what depends on them."""
    future = fail(4)
    error = future.exception(DEADLINE_S)
    assert isinstance(error, Mine)
    assert error.code == 4
    below = total(future, 1).exception(DEADLINE_S)
    assert isinstance(below, DependencyError)
    assert below.root_cause is error
    assert leave().exception(DEADLINE_S) is not None
    assert square(3).result(DEADLINE_S) == 9
    if name != "threads":
        import threading

        unsendable = total(threading.Lock()).exception(DEADLINE_S)
        assert "argument 0" in str(unsendable)
        assert isinstance(nested().exception(DEADLINE_S), NestedCallError)


def limits(engine: Engine) -> None:
    """What it cannot honour is refused at the call."""
    for options in ({"walltime_s": 1.0}, {"resources": ssdag.Resources(nodes=2)}):
        try:
            python_app(**options)(abs)(1)
        except UnsupportedError:
            continue
        raise AssertionError(options)


def cancel() -> None:
    """Tasks that wait are cancelled and never begin; the others end."""
    futures = [pause(0.3) for _ in range(2)] + [pause(0.0) for _ in range(600)]
    waiting = futures[-1]
    assert waiting.cancel()
    assert waiting.state is TaskState.CANCELLED
    assert futures[0].result(DEADLINE_S) == 0.3
    assert ssdag.gather(futures[:-1]) == [0.3] * 2 + [0.0] * 599


def deaths(name: str) -> None:
    """A worker that dies costs its task; the others go on."""
    if name not in HEALING:
        return
    error = die().exception(DEADLINE_S)
    assert isinstance(error, WorkerLostError), repr(error)
    assert ssdag.gather(python_app(retries=3)(square.func).map(range(20)), progress=False)
    assert square(4).result(DEADLINE_S) == 16


def children() -> list[psutil.Process]:
    """The processes of the other engine; those that end with this program left out."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if not re.search("reaper|resource_tracker", " ".join(cmdline(p)))]


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


def main() -> int:
    """Run all checks on one adapter."""
    name, tmp = sys.argv[1:]
    faulthandler.dump_traceback_later(150.0, exit=True)  # should it hang: where
    # MPICH starts its workers by the mpiexec that it finds first: it must be its own.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    needs = {
        "loky": "loky",
        "mpi4py": "mpi4py",
        "dask": "distributed",
        "ray": "ray",
        "dragon": "dragon",
    }.get(name)
    try:
        if needs is not None:
            importlib.import_module(needs)
    except ImportError:
        return 77
    executor = MAKERS[name]()
    with ssdag.load(ssdag.Config(executors=[executor])) as engine:
        assert executor.capacity == 2
        values(name, tmp)
        graph(engine)
        errors(name)
        limits(engine)
        cancel()
        deaths(name)
        assert executor.outstanding == 0
        if name not in ("threads", "mpi4py"):  # a busy worker does not hold up the end
            pause(600.0)
        workers = children()
        engine.close()
    if name != "mpi4py":  # its workers end with the program
        assert not psutil.wait_procs(workers, timeout=DEADLINE_S)[1]
    sys.stdout.write("all is well\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
