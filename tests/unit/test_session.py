# SPDX-License-Identifier: BSD-3-Clause
"""Which engine a call gets, and how the engines of a process end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ssdag
from ssdag import Config, EngineClosedError, NestedCallError, python_app
from ssdag.dataflow import session
from ssdag.errors import ConfigError
from ssdag.executors import ThreadExecutor
from ssdag.wire import context
from tests.contract import bodies

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0

inc = python_app(bodies.inc)


def threads(label: str = "threads") -> Config:
    """Make a configuration without processes."""
    return Config(executors=[ThreadExecutor(2, label=label)])


@pytest.fixture(autouse=True)
def _no_engine_is_left() -> None:
    assert not [engine for engine in session._engines if not engine.closed]


# -- the current engine ------------------------------------------------------------------


def test_the_innermost_open_engine_is_used() -> None:
    with ssdag.load(threads()) as outer:
        inc(1)
        with ssdag.load(threads()) as inner:
            assert session.current() is inner
            inc(2)
            with ssdag.load(threads()) as deepest:
                inc(3)
            inc(4)
        assert session.current() is outer
        assert inc(5).result(DEADLINE_S) == 6
        assert [len(engine.graph()) for engine in (outer, inner, deepest)] == [2, 2, 1]


def test_engines_may_be_closed_in_any_order() -> None:
    first, second, third = (ssdag.load(threads()) for _ in range(3))
    second.close()
    assert session.current() is third
    third.close()
    assert session.current() is first
    fourth = ssdag.load(threads())
    assert session.current() is fourth
    assert len(session._engines) == 2, "closed ones are forgotten"
    first.close()
    assert session.current() is fourth
    fourth.close()


def test_all_threads_use_the_same_one() -> None:
    with ssdag.load(threads()) as engine:
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(session.current()))
        thread.start()
        thread.join(DEADLINE_S)
        assert found == [engine]


def test_the_default_one_is_made_once_and_again_when_it_was_closed() -> None:
    session.set_default_config(threads("mine"))
    try:
        first = session.current()
        assert [executor.label for executor in first.executors] == ["mine"]
        assert session.current() is first
        first.close()
        with pytest.raises(EngineClosedError):
            first.submit(bodies.inc, 1)
        session.set_default_config(threads("other"))
        second = session.current()
        assert second is not first
        assert inc(1).result(DEADLINE_S) == 2
        second.close()
    finally:
        session.set_default_config(None)


def test_no_engine_lives_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "in_worker", lambda: True)
    with pytest.raises(NestedCallError, match="no engine lives"):
        ssdag.load(threads())
    with pytest.raises(NestedCallError, match="app 'inc' was called inside a worker"):
        inc(1)


def test_an_engine_that_cannot_start_is_not_the_current_one(tmp_path: Path) -> None:
    with ssdag.load(threads()) as engine:
        with pytest.raises(ssdag.CheckpointError):
            ssdag.load(Config(executors=[ThreadExecutor()], checkpoint=tmp_path))
        with pytest.raises(ConfigError, match="already belongs to an engine"):
            ssdag.load(engine.config)
        assert session.current() is engine
        assert inc(1).result(DEADLINE_S) == 2


def test_leaving_the_block_waits_and_an_error_in_it_does_not() -> None:
    release = threading.Event()
    waits = python_app(release.wait)
    with ssdag.load(threads()) as engine:
        threading.Timer(0.05, release.set).start()
        future = waits(DEADLINE_S)
    assert engine.closed
    assert future.result(0) is True
    engine = ssdag.load(threads())
    pending = inc(ssdag.Future())
    with pytest.raises(ZeroDivisionError), engine:
        raise ZeroDivisionError
    assert isinstance(pending.exception(0), EngineClosedError)
    assert f"task {pending.task_id} (inc)" in str(pending.exception())


def test_close_all_is_what_the_end_of_the_program_does(caplog: pytest.LogCaptureFixture) -> None:
    first, second = ssdag.load(threads()), ssdag.load(threads())
    second.submit(bodies.inc, ssdag.Future())
    session.close_all()
    assert first.closed
    assert second.closed
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "1 unfinished tasks are cancelled because the program ends"
    ]
    session.close_all()
    assert len(caplog.records) == 1


# -- scripts -----------------------------------------------------------------------------


def run(script: str, folder: Path, code: int = 0) -> str:
    """Run a script; its output is complete when all that it started has ended, too."""
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


FORGETS = """
import ssdag, time
from ssdag import python_app, Config
from ssdag.executors import LocalExecutor, ThreadExecutor

@python_app(executors="local")
def busy():
    time.sleep(600)

@python_app(executors="threads")
def held():
    time.sleep(600)

@python_app
def inc(x):
    return x + 1

engine = ssdag.load(Config(executors=[LocalExecutor(1), ThreadExecutor(1)], retries=2,
                           listeners=[ssdag.Utilization()]))
running = busy()
in_thread = held()
pending = inc(running)
futures = inc.map(range(5))
while in_thread.state.name != "RUNNING":
    time.sleep(0.001)
{END}
"""


@pytest.mark.parametrize(
    ("end", "code", "text"),
    [
        ("print('end')", 0, "end\n"),
        ("import sys; sys.exit(3)", 3, ""),
        ("raise ValueError('mine')", 1, "ValueError: mine"),
        ("del engine; import gc; gc.collect(); print('end')", 0, "end\n"),
    ],
    ids=["end", "exit", "error", "dropped"],
)
def test_a_script_that_forgets_everything_ends(
    tmp_path: Path, end: str, code: int, text: str
) -> None:
    """A task runs in a process, one in a thread that cannot be stopped, some wait."""
    told = run(FORGETS.replace("{END}", end), tmp_path, code)
    assert text in told
    assert "unfinished tasks are cancelled because the program ends" in told
    assert "Exception in thread" not in told
    assert "Exception ignored" not in told


def test_a_script_may_use_the_engine_in_its_own_atexit(tmp_path: Path) -> None:
    script = """
import atexit
from ssdag import python_app

@python_app
def inc(x):
    return x + 1

@atexit.register
def last():
    print(inc(2).result(30), flush=True)

print(inc(1).result(30), flush=True)
"""
    assert run(script, tmp_path) == "2\n3\n"


def test_a_script_with_engines_in_each_other(tmp_path: Path) -> None:
    script = """
import ssdag
from ssdag import python_app, Config
from ssdag.executors import ThreadExecutor

@python_app
def where():
    import threading
    return threading.current_thread().name

def load(label):
    return ssdag.load(Config(executors=[ThreadExecutor(1, label=label)]))

load("forgotten")
with load("outer"):
    print(where().result())
    with load("inner"):
        print(where().result())
    print(where().result())
print(where().result())
"""
    names = run(script, tmp_path).split()
    assert names == [f"ssdag-{n}-0" for n in ("outer", "inner", "outer", "forgotten")]


def test_a_forked_child_starts_without_engines(tmp_path: Path) -> None:
    script = """
import os, ssdag
from ssdag import python_app, Config
from ssdag.dataflow import session
from ssdag.executors import ThreadExecutor

@python_app
def inc(x):
    return x + 1

session.set_default_config(Config(executors=[ThreadExecutor(1, label="child")]))
with ssdag.load(Config(executors=[ThreadExecutor(1, label="parent")])) as engine:
    assert inc(1).result(30) == 2
    pid = os.fork()
    if not pid:
        assert engine.closed
        assert session.current() is not engine
        assert inc(2).result(30) == 3
        raise SystemExit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert inc(3).result(30) == 4
    assert session.current() is engine
print("good")
"""
    # Python warns of a fork beside threads, here on purpose.
    assert run("import warnings; warnings.simplefilter('ignore')\n" + script, tmp_path) == "good\n"


def test_ctrl_c_ends_a_script_at_once(tmp_path: Path) -> None:
    script = """
import os, signal, ssdag, time
from ssdag import python_app

@python_app
def busy(path):
    with open(path, "w"):
        pass
    time.sleep(600)

@python_app
def press(pid, path):
    import os, signal, time
    while not os.path.exists(path):
        time.sleep(0.001)
    os.kill(pid, signal.SIGINT)
    time.sleep(600)

if __name__ == "__main__":
    with ssdag.load(ssdag.Config(executors=[ssdag.executors.LocalExecutor(2)])):
        futures = [busy("begun"), press(os.getpid(), "begun")]
        try:
            ssdag.gather(futures)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise
"""
    told = run(script, tmp_path, code=-2)
    assert told.startswith("interrupted\n")
    assert "KeyboardInterrupt" in told
