# SPDX-License-Identifier: BSD-3-Clause
"""gather, wait and as_completed: structures, errors, time limits, progress, Ctrl-C."""

from __future__ import annotations

import concurrent.futures as cf
import io
import os
import re
import signal
import threading
from collections import namedtuple
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag import Config, SsdagError, python_app
from ssdag.apps.collect import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from ssdag.executors import ThreadExecutor
from ssdag.futures import Future
from ssdag.references import Reference
from tests.contract import bodies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 30.0

Pair = namedtuple("Pair", "left right")


class Seven(Reference):
    """A reference whose value is 7."""

    def resolve(self) -> int:
        return 7

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return ()


def done(value: Any) -> Future[Any]:
    """Return a future with a value."""
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def failed(text: str = "no") -> Future[Any]:
    """Return a future with an error."""
    future: Future[Any] = Future()
    future.set_exception(ValueError(text))
    return future


def cancelled() -> Future[Any]:
    """Return a future that was cancelled."""
    future: Future[Any] = Future()
    future.cancel()
    return future


# -- gather ------------------------------------------------------------------------------


def test_the_structure_is_kept() -> None:
    values = {
        "list": [done(1), 2, [done(3)]],
        done("key"): (done(4), {"deep": done(5)}),
        "set": {done(6)},
        "frozen": frozenset({done(7)}),
        "pair": Pair(done(8), 9),
    }
    found = ssdag.gather(values)
    assert found == {
        "list": [1, 2, [3]],
        "key": (4, {"deep": 5}),
        "set": {6},
        "frozen": frozenset({7}),
        "pair": Pair(8, 9),
    }
    assert isinstance(found["pair"], Pair)
    assert isinstance(found["frozen"], frozenset)


def test_one_future_and_other_iterables() -> None:
    assert ssdag.gather(done(3)) == 3
    assert ssdag.gather(done(i) for i in range(3)) == [0, 1, 2]
    assert ssdag.gather({"a": done(1)}.values()) == [1]
    assert ssdag.gather([]) == []
    assert ssdag.gather({}) == {}
    assert ssdag.gather(iter([])) == []
    assert ssdag.gather([1, "a"]) == [1, "a"]
    same = done(4)
    assert ssdag.gather([same, same]) == [4, 4]


def test_references_come_as_their_value_and_foreign_futures_too() -> None:
    foreign: cf.Future[int] = cf.Future()
    foreign.set_result(3)
    assert ssdag.gather([done(Seven()), foreign]) == [7, 3]


@pytest.mark.parametrize(
    ("wrong", "text"), [(5, "not a int"), (None, "not a NoneType"), ("abc", "no futures in a str")]
)
def test_what_gather_does_not_take(wrong: Any, text: str) -> None:
    with pytest.raises(SsdagError, match=text):
        ssdag.gather(wrong)


def test_the_first_error_in_order_is_raised() -> None:
    with pytest.raises(ValueError, match="early"):
        ssdag.gather([done(1), failed("early"), failed("late")])
    with pytest.raises(cf.CancelledError):
        ssdag.gather([cancelled(), failed()])
    with pytest.raises(ValueError, match="alone"):
        ssdag.gather(failed("alone"))


def test_an_error_is_raised_while_others_still_run() -> None:
    with pytest.raises(ValueError, match="no"):
        ssdag.gather([Future(), failed()], timeout=DEADLINE_S)


def test_errors_in_place_of_results() -> None:
    found = ssdag.gather([done(1), failed("a"), (cancelled(),)], return_exceptions=True)
    assert found[0] == 1
    assert repr(found[1]) == "ValueError('a')"
    assert isinstance(found[2][0], cf.CancelledError)
    # An exception that is a value stays one.
    assert repr(ssdag.gather([done(KeyError())])) == "[KeyError()]"


def test_time_is_limited() -> None:
    with pytest.raises(TimeoutError, match=r"2 of 3 futures are not done in 0\.01 s"):
        ssdag.gather([done(1), Future(), Future()], timeout=0.01)
    with pytest.raises(TimeoutError):
        ssdag.gather([failed(), Future()], timeout=0.01, return_exceptions=True)


# -- wait and as_completed ---------------------------------------------------------------


def test_wait() -> None:
    first, second, third = done(1), failed(), Future[Any]()
    assert ssdag.wait([first, second]) == ({first, second}, set())
    assert ssdag.wait(iter([first, third]), timeout=0.01) == ({first}, {third})
    assert ssdag.wait([first, third], return_when=FIRST_COMPLETED) == ({first}, {third})
    assert ssdag.wait([second, third], return_when=FIRST_EXCEPTION) == ({second}, {third})
    assert ssdag.wait([], return_when=ALL_COMPLETED) == (set(), set())
    with pytest.raises(ValueError, match="Invalid return condition"):
        ssdag.wait([third], return_when="SOON")


def test_as_completed_yields_in_the_order_of_the_ends() -> None:
    futures = [Future[Any]() for _ in range(3)]
    found = ssdag.as_completed(iter(futures), timeout=DEADLINE_S)
    for number in (2, 0, 1):
        futures[number].set_result(number)
        assert next(found) is futures[number]
    assert next(found, None) is None
    assert list(ssdag.as_completed([])) == []


def test_as_completed_is_limited_in_time() -> None:
    found = ssdag.as_completed([done(1), Future()], timeout=0.01)
    assert next(found).result() == 1
    with pytest.raises(TimeoutError):
        next(found)


@pytest.mark.parametrize("wrong", [5, [1], [done(1), "x"], "abc", done(1)])
@pytest.mark.parametrize("name", ["wait", "as_completed"])
def test_what_they_do_not_take(name: str, wrong: Any) -> None:
    with pytest.raises(SsdagError, match=rf"{name}\(\) takes .*futures, not"):
        getattr(ssdag, name)(wrong)


# -- progress ----------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A standard error that says it is a terminal, and tells when a text has appeared."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self.changed:
            self.changed.notify_all()
            return super().write(text)

    @property
    def text(self) -> str:
        """What was written, without the codes for colour and movement."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())

    def wait_for(self, text: str) -> bool:
        """Wait until a text was written; False if it never was."""
        with self.changed:
            return self.changed.wait_for(lambda: text in self.text, DEADLINE_S)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return a terminal; a test makes it its standard error, as pytest sets its own late."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An engine of threads, and an event that lets its tasks end."""
    gate = threading.Event()
    with ssdag.load(Config(executors=[ThreadExecutor(2)])):
        yield gate
        gate.set()


def progress_threads() -> list[str]:
    """Names of threads that still show something."""
    return [t.name for t in threading.enumerate() if t.name == "ssdag-progress"]


def test_gather_with_progress_on_a_terminal(screen: Terminal, gate: threading.Event) -> None:
    futures = [*python_app(bodies.inc).map(range(4)), python_app(gate.wait)(DEADLINE_S)]
    seen: list[bool] = []

    def watch() -> None:
        seen.append(screen.wait_for("4/5"))
        gate.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with redirect_stderr(screen):
        values = ssdag.gather(futures, progress=True, description="molecules")
    assert values == [1, 2, 3, 4, True]
    watcher.join(DEADLINE_S)
    assert seen == [True], "it is shown while one waits"
    last = screen.text.rstrip().splitlines()[-1]
    assert last.startswith("molecules ")
    assert "5/5" in last
    assert "failed" not in last
    assert not progress_threads()


def test_as_completed_with_progress_on_a_terminal(screen: Terminal, gate: threading.Event) -> None:
    inc, trouble = python_app(bodies.inc), python_app(bodies.trouble)
    futures: list[ssdag.AppFuture[Any]] = [*inc.map(range(3)), trouble()]
    with redirect_stderr(screen):
        found = {f.task_id for f in ssdag.as_completed(futures, progress=True, description="runs")}
    assert found == {f.task_id for f in futures}
    last = screen.text.rstrip().splitlines()[-1]
    assert "4/4" in last
    assert "1 failed" in last


@pytest.mark.usefixtures("gate")
def test_an_error_ends_the_bar(screen: Terminal) -> None:
    with redirect_stderr(screen), pytest.raises(bodies.Trouble):
        ssdag.gather([python_app(bodies.trouble)(), Future()], progress=True)
    assert not progress_threads()
    assert "1/2" in screen.text
    assert "1 failed" in screen.text
    assert screen.getvalue().endswith("\x1b[?25h"), "the cursor is back"


def test_a_loop_that_is_left_ends_the_bar(screen: Terminal) -> None:
    with redirect_stderr(screen):
        loop = ssdag.as_completed([done(1), Future()], progress=True)
        assert next(loop).result() == 1
        assert progress_threads()
        loop.close()  # type: ignore[attr-defined]
    assert not progress_threads()
    assert screen.getvalue().endswith("\x1b[?25h")


@pytest.mark.usefixtures("gate")
def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert ssdag.gather([], progress=True) == []
    ssdag.gather(python_app(bodies.inc).map(range(3)), progress=True, description="work")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("tasks: 0 of 0 done")
    assert second.startswith("work: 3 of 3 done")
    assert "\x1b" not in second


@pytest.mark.parametrize(
    "collect",
    [lambda futures: ssdag.gather(futures, progress=True),
     lambda futures: list(ssdag.as_completed(futures, progress=True))],
    ids=["gather", "as_completed"],
)  # fmt: skip
def test_ctrl_c(screen: Terminal, gate: threading.Event, collect: Callable[[Any], Any]) -> None:
    """It ends the wait and the bar; the tasks go on."""
    future = python_app(gate.wait)(DEADLINE_S)
    main = threading.main_thread().ident
    assert main is not None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def press() -> None:
        if screen.wait_for("0/1"):
            signal.pthread_kill(main, signal.SIGINT)
        else:
            os._exit(99)

    finger = threading.Thread(target=press)
    finger.start()
    with redirect_stderr(screen), pytest.raises(KeyboardInterrupt):
        collect([future])
    finger.join(DEADLINE_S)
    assert not progress_threads()
    assert screen.getvalue().endswith("\x1b[?25h")
    assert not future.done()
    gate.set()
    assert future.result(DEADLINE_S) is True


def test_waiting_makes_no_conditions() -> None:
    """Ctrl-C while many are held could leave some locked, against who completes them."""
    futures: list[Future[int]] = [Future() for _ in range(3)]
    with pytest.raises(TimeoutError, match="3 of 3"):
        ssdag.gather(futures, timeout=0.0)
    assert ssdag.wait(futures, 0.0) == (set(), set(futures))
    futures[1].set_result(1)
    assert next(ssdag.as_completed(futures)) is futures[1]
    with pytest.raises(TimeoutError, match="2 \\(of 3\\) futures unfinished"):
        list(ssdag.as_completed(futures, timeout=0.0))
    assert ssdag.wait(futures, 0.0, FIRST_COMPLETED) == ({futures[1]}, {futures[0], futures[2]})
    assert all(future._cond is None and not future._sleepers for future in futures)
