# SPDX-License-Identifier: BSD-3-Clause
"""What every executor does alike: commands, files and streams; scripts and ``__main__``."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import ssdag
from ssdag import AppDefinitionError, File, TaskState, bash_app, python_app
from ssdag.errors import (
    CommandError,
    ConfigError,
    DependencyError,
    MissingOutputError,
    WalltimeExceededError,
)
from tests.conftest import wait_until
from tests.contract import bodies
from tests.contract.bodies import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.dataflow.engine import Engine

REPOSITORY = Path(__file__).parents[2]
speak = python_app(bodies.speak)
write_files = python_app(bodies.write_files)


@bash_app
def shell(command: str, stdout: Any = None, stderr: Any = None, outputs: Any = ()) -> str:
    """Run what it is given."""
    return command


def read(path: str) -> str:
    """Return a file's text."""
    with open(path) as file:
        return file.read()


# -- commands ----------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("command", ["true", "true && echo $((1+1)) >/dev/null"])
def test_a_command_gives_its_exit_code(command: str) -> None:
    assert shell(command).result(DEADLINE_S) == 0


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("command", "code", "tail"),
    [
        ("ls /no/such/file", 2, "No such file"),
        ("echo first >&2; echo last >&2; exit 7", 7, "first\nlast"),
        ("no-such-program-xyz", 127, ""),
        ("kill -9 $$", -9, ""),
    ],
)
def test_a_command_that_fails_tells_all(command: str, code: int, tail: str) -> None:
    error = shell(command).exception(DEADLINE_S)
    assert isinstance(error, CommandError)
    assert (error.command, error.exit_code) == (command, code)
    assert tail in error.stderr_tail
    assert command in str(error)


@pytest.mark.usefixtures("engine")
def test_what_is_no_command() -> None:
    nothing: Any = lambda: None  # noqa: E731
    error = bash_app(nothing)().exception(DEADLINE_S)
    assert isinstance(error, AppDefinitionError)
    assert "no return?" in str(error)
    assert isinstance(shell("").exception(DEADLINE_S), CommandError)
    assert isinstance(bash_app(bodies.trouble)(2).exception(DEADLINE_S), bodies.Trouble)


def _is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


@pytest.mark.usefixtures("engine")
def test_the_walltime_of_a_command(path: Callable[[str], str]) -> None:
    """Threads can kill commands too."""
    command = "echo $$ > {}; sleep 60; true"
    first = bash_app(walltime_s=0.4)(command.format)(path("pid1"))
    second = shell(command.format(path("pid2")), walltime=0.4)
    for future, file in ((first, "pid1"), (second, "pid2")):
        error = future.exception(DEADLINE_S)
        assert isinstance(error, WalltimeExceededError)
        assert error.walltime_s == 0.4
        pid = int(read(path(file)))
        wait_until(partial(_is_gone, pid), what="the command is gone")


@pytest.mark.usefixtures("engine")
def test_the_streams_of_commands(path: Callable[[str], str]) -> None:
    both = "echo out; echo err >&2"
    future = shell(both, stdout=path("o"), stderr=(path("e"), "w"))
    assert (future.stdout, future.stderr) == (path("o"), (path("e"), "w"))
    assert future.result(DEADLINE_S) == 0
    assert shell(both, stdout=path("o"), stderr=(path("e"), "w")).result(DEADLINE_S) == 0
    assert (read(path("o")), read(path("e"))) == ("out\nout\n", "err\n")
    assert shell(both, stdout=path("new/x"), stderr=path("new/x")).result(DEADLINE_S) == 0
    assert read(path("new/x")) == "out\nerr\n"
    error = shell(both + "; exit 1", stderr=path("e2")).exception(DEADLINE_S)
    assert isinstance(error, CommandError)
    assert error.stderr_tail == "err"


# -- streams of Python bodies ------------------------------------------------------------


@pytest.mark.usefixtures("engine")
def test_the_streams_of_python_bodies(path: Callable[[str], str]) -> None:
    assert speak("a", stdout=path("o"), stderr=path("e")).result(DEADLINE_S) == 1
    assert (read(path("o")), read(path("e"))) == ("out a\n", "err a\n")
    assert speak("b", stdout=path("o")).result(DEADLINE_S) == 1
    assert read(path("o")) == "out a\nout b\n"
    with pytest.raises(ConfigError, match="the mode is"):
        speak("c", stdout=(path("o"), "r"))
    with pytest.raises(ConfigError, match="give a path"):
        speak("c", stderr=5)
    error = speak("c", stdout=path("")).exception(DEADLINE_S)
    assert isinstance(error, OSError)


def test_automatic_names_and_labels(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    futures = [speak("x", stdout="auto", label="my run/1") for _ in range(3)]
    names = [str(future.stdout) for future in futures]
    assert len(set(names)) == 3
    for future, name in zip(futures, names, strict=True):
        assert future.result(DEADLINE_S) == 1
        assert name.startswith(str(tmp_path / "ssdag-runs" / "my_run_1-"))
        assert read(name) == "out x\n"


@pytest.mark.usefixtures("engine")
def test_a_label_that_is_no_text_is_the_bodys_own() -> None:
    import numpy as np

    @python_app
    def train(x: Any, label: Any) -> int:
        return int((x == label).sum())

    assert train(np.ones(3), label=np.ones(3)).result(DEADLINE_S) == 3


# -- output files ------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
def test_outputs_are_futures_of_files(path: Callable[[str], str]) -> None:
    names = [path("a"), path("b")]
    future = write_files(names, outputs=[names[0], File(names[1])])
    assert [output.name for output in future.outputs] == names

    @python_app
    def sizes(inputs: Any) -> list[int]:
        return [os.path.getsize(file) for file in inputs]

    read_back = sizes(inputs=list(future.outputs))
    assert read_back.result(DEADLINE_S) == [len(name) for name in names]
    assert future.result(DEADLINE_S) == 2
    assert future.outputs[0].result(DEADLINE_S) == File(names[0])


@pytest.mark.usefixtures("engine")
def test_outputs_that_are_missing(path: Callable[[str], str]) -> None:
    for future in (
        write_files([path("a")], outputs=[path("a"), path("b")]),
        shell("true", outputs=[path("b")]),
    ):
        child = python_app(bodies.same)(future.outputs[-1])
        error = future.exception(DEADLINE_S)
        assert isinstance(error, MissingOutputError)
        assert error.missing == (path("b"),)
        assert future.outputs[-1].exception(DEADLINE_S) is error
        wrapped = child.exception(DEADLINE_S)
        assert isinstance(wrapped, DependencyError)
        assert wrapped.root_cause is error


@pytest.mark.usefixtures("engine")
def test_outputs_of_tasks_that_do_not_run(path: Callable[[str], str]) -> None:
    failed = write_files(python_app(bodies.trouble)(), outputs=[path("a")])
    child = python_app(bodies.same)(failed.outputs[0])
    error = child.exception(DEADLINE_S)
    assert isinstance(error, DependencyError)
    assert isinstance(error.root_cause, bodies.Trouble), "flat, also through a file"
    never = python_app(bodies.hold)(path("x"), path("never"))
    cancelled = write_files(never, outputs=[path("a")])
    assert cancelled.cancel()
    assert cancelled.outputs[0].cancelled()
    bodies.touch(path("never"))


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("outputs", ["name.txt", 5, [5], {"a": 1}, File("x")])
def test_outputs_of_a_wrong_type(outputs: Any) -> None:
    with pytest.raises(AppDefinitionError, match="outputs"):
        write_files([], outputs=outputs)


def test_a_future_as_outputs(engine: Engine) -> None:
    with pytest.raises(AppDefinitionError, match="outputs"):
        write_files([], outputs=engine.submit(bodies.inc, 1))


# -- scripts -----------------------------------------------------------------------------

SCRIPT = """
import dataclasses, sys
import ssdag
from ssdag import python_app, join_app
from ssdag.executors import LocalExecutor, PilotExecutor, ThreadExecutor
from ssdag.providers.local import LocalProvider

class Boom(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.b = b

@dataclasses.dataclass
class Point:
    x: int
    def moved(self):
        return Point(self.x + STEP)

STEP = 5

@python_app
def move(point):
    assert type(point) is Point
    return point.moved()

@python_app
def boom():
    raise Boom(1, Point(2))

@python_app
def helper(x):
    return plain(x)

def plain(x):
    return x * STEP

@join_app
def both(x):
    return [move(Point(x)), helper(x)]

executor = {EXECUTOR}
with ssdag.load(ssdag.Config(executors=[executor])):
    point = move(move(Point(1))).result(30)
    assert type(point) is Point and point == Point(11), point
    error = boom().exception(30)
    assert type(error) is Boom, error
    assert (error.args, error.b) == ((1,), Point(2))
    assert both(3).result(30) == [Point(8), 15]
print("good")
"""


def run(script: str, folder: Path, *, code: int = 0) -> str:
    """Run a script as ``__main__`` in a folder of its own; return what it wrote."""
    file = folder / "script.py"
    file.write_text(script)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_classes_and_functions_of_a_script(kind: str, tmp_path: Path) -> None:
    executor = {
        "threads": "ThreadExecutor(2)",
        "local": "LocalExecutor(2)",
        "pilot": "PilotExecutor(LocalProvider(), workers_per_node=2)",
    }[kind]
    assert run(SCRIPT.replace("{EXECUTOR}", executor), tmp_path) == "good\n"


def test_the_default_engine_starts_and_ends_by_itself(tmp_path: Path) -> None:
    script = """
import os, threading
from ssdag import python_app
from ssdag.dataflow import session

@python_app
def pid():
    return os.getpid()

engines = set()
def first():
    barrier.wait(10)
    engines.add(id(session.current()))
barrier = threading.Barrier(8)
threads = [threading.Thread(target=first) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
assert len(engines) == 1, "threads that begin at the same time share one"
assert pid().result(30) != os.getpid()
print("good")
"""
    assert run(script, tmp_path) == "good\n"


def test_unfinished_tasks_are_told_of_at_the_end(tmp_path: Path) -> None:
    script = """
import time
from ssdag import python_app

@python_app
def slow():
    time.sleep(600)

slow(), slow(), slow()
print("end")
"""
    told = run(script, tmp_path)
    assert told.startswith("end\n")
    assert "3 unfinished tasks are cancelled because the program ends" in told


def test_a_new_engine_after_the_old_one(start: Callable[..., Engine]) -> None:
    first = start()
    second = start()
    app = python_app(bodies.inc)
    assert app(1).result(DEADLINE_S) == 2
    assert len(second.graph()) == 1
    second.close()
    future = app(2)
    assert future.result(DEADLINE_S) == 3
    assert len(first.graph()) == 1
    assert future.state is TaskState.DONE
    assert ssdag.gather(app.map(range(3))) == [1, 2, 3]
