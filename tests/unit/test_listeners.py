# SPDX-License-Identifier: BSD-3-Clause
"""Who listens is told everything, in order; who fails is removed; nobody can break a run."""

from __future__ import annotations

import io
import re
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag import Config, Event, Listener, TaskState, Utilization, join_app, python_app
from ssdag.executors import ThreadExecutor
from ssdag.futures import Future
from ssdag.monitoring.listeners import Bus
from ssdag.monitoring.progress import Progress
from tests.contract import bodies

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEADLINE_S = 30.0

inc = python_app(bodies.inc)
add = python_app(bodies.add)
trouble = python_app(bodies.trouble)


class Notes(Listener):
    """Notes everything that it is told, and by which thread."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.threads: set[str] = set()
        self.batches = 0

    def on_start(self, workers: int) -> None:
        self.told.append(workers)

    def on_events(self, events: Sequence[Event]) -> None:
        self.batches += 1
        self.told.extend(events)
        self.threads.add(threading.current_thread().name)

    def on_stop(self) -> None:
        self.told.append("stop")

    def states(self, task_id: int) -> list[TaskState]:
        """Return the states of a task in the order in which they were told."""
        return [e.state for e in self.told if isinstance(e, Event) and e.task_id == task_id]


class Broken(Notes):
    """Raises in one hook."""

    def __init__(self, hook: str, error: BaseException) -> None:
        super().__init__()
        self.hook = hook
        self.error = error

    def _fail(self, hook: str) -> None:
        if hook == self.hook:
            raise self.error

    def on_start(self, workers: int) -> None:
        super().on_start(workers)
        self._fail("on_start")

    def on_events(self, events: Sequence[Event]) -> None:
        super().on_events(events)
        self._fail("on_events")

    def on_stop(self) -> None:
        super().on_stop()
        self._fail("on_stop")


@pytest.fixture
def restless() -> Iterator[None]:
    """Switch threads as often as the interpreter can, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def event(task_id: int, state: TaskState = TaskState.DONE, **more: Any) -> Event:
    """Make an event."""
    return Event(task_id, state, more.pop("time_s", 1.0), more.pop("app", "a"), **more, executor="")


@pytest.fixture
def notes() -> Notes:
    """A listener."""
    return Notes()


@pytest.fixture
def bus(notes: Notes) -> Iterator[Bus]:
    """A bus with a listener."""
    bus = Bus([notes], 3)
    yield bus
    bus.close()


# -- the bus -----------------------------------------------------------------------------


def test_all_hooks_are_called_in_order_from_one_thread(bus: Bus, notes: Notes) -> None:
    events = [event(i) for i in range(5)]
    bus.emit(events[:2])
    bus.emit(events[2:])
    assert bus.flush()
    assert notes.told == [3, *events]
    bus.emit([event(9)])
    bus.close()
    assert notes.told == [3, *events, event(9), "stop"]
    assert notes.threads == {"ssdag-events"}


def test_events_come_in_batches(bus: Bus, notes: Notes) -> None:
    for i in range(10_000):
        bus.emit([event(i)])
    assert bus.flush(DEADLINE_S)
    assert [e.task_id for e in notes.told[1:]] == list(range(10_000))
    assert notes.batches < 1000


def test_nothing_runs_for_nobody() -> None:
    bus = Bus([], 1)
    assert not bus.active
    assert bus._thread is None
    assert bus.flush()
    bus.close()


def test_threads_may_emit_at_the_same_time(bus: Bus, notes: Notes) -> None:
    def emit(sender: int) -> None:
        for i in range(500):
            bus.emit([event(i, app=str(sender))])

    threads = [threading.Thread(target=emit, args=(sender,)) for sender in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert bus.flush(DEADLINE_S)
    for sender in range(4):
        mine = [e.task_id for e in notes.told[1:] if e.app == str(sender)]
        assert mine == list(range(500))


def test_late_and_early(bus: Bus, notes: Notes) -> None:
    bus.emit([event(0)])
    assert bus.flush()
    late = Notes()
    bus.add(late)
    bus.emit([event(1)])
    bus.remove(notes)  # gets first what has happened so far
    bus.emit([event(2)])
    assert bus.flush()
    assert notes.told == [3, event(0), event(1)]
    assert late.told == [3, event(1), event(2)]
    assert bus.active
    bus.remove(late)
    assert not bus.active
    bus.remove(late)


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3)], ids=["error", "exit"])
@pytest.mark.parametrize("hook", ["on_start", "on_events", "on_stop"])
def test_a_listener_that_raises_is_logged_and_removed(
    hook: str, error: BaseException, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken(hook, error)
    bus = Bus([broken, notes], 2)
    try:
        for i in range(3):
            bus.emit([event(i)])
            assert bus.flush()
    finally:
        bus.close()
    assert notes.told == [2, event(0), event(1), event(2), "stop"]
    expected = {"on_start": [2], "on_events": [2, event(0)], "on_stop": notes.told}[hook]
    assert broken.told == expected
    (record,) = caplog.records
    assert record.getMessage() == f"listener Broken failed in {hook} and is removed"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_flush_waits_for_what_a_listener_is_told_now_but_not_for_ever() -> None:
    told, go_on = threading.Event(), threading.Event()

    class Slow(Listener):
        def on_events(self, events: Sequence[Event]) -> None:
            told.set()
            go_on.wait(DEADLINE_S)

    bus = Bus([Slow()], 1)
    try:
        bus.emit([event(0)])
        assert told.wait(DEADLINE_S)
        assert not bus.flush(0.01)
        go_on.set()
        assert bus.flush(DEADLINE_S)
    finally:
        go_on.set()
        bus.close()


def test_flush_inside_a_hook_does_not_wait_for_itself() -> None:
    found: list[bool] = []

    class Asks(Listener):
        def on_events(self, events: Sequence[Event]) -> None:
            found.append(mine.flush(DEADLINE_S))

    mine = Bus([Asks()], 1)
    try:
        mine.emit([event(0)])
        assert mine.flush(DEADLINE_S)
    finally:
        mine.close()
    assert found == [True]


def test_what_happens_while_the_last_batch_is_told_is_told_too() -> None:
    told: list[Event] = []

    class Echo(Listener):
        def on_events(self, events: Sequence[Event]) -> None:
            told.extend(events)
            if len(told) == 1:
                own._stop.wait(DEADLINE_S)
                own.emit([event(1)])

    own = Bus([Echo()], 1)
    own.emit([event(0)])
    own.close()
    assert told == [event(0), event(1)]


# -- an engine and its listeners ---------------------------------------------------------


def test_a_listener_of_an_engine_learns_of_every_task(notes: Notes) -> None:
    @join_app
    def both() -> Any:
        return [inc(10), inc(20)]

    release = threading.Event()
    config = Config(executors=[ThreadExecutor(3, label="three")], listeners=[notes])
    with ssdag.load(config):
        gate = ssdag.python_app(release.wait)(DEADLINE_S)
        child = inc(gate)
        failed = trouble()
        orphan = inc(failed)
        joined = both()
        victim = inc(gate)
        assert victim.cancel()
        again = python_app(retries=1)(bodies.trouble)()
        release.set()
        joined.result(DEADLINE_S)
    s = TaskState
    assert notes.told[0] == 3
    assert notes.told[-1] == "stop"
    assert notes.states(gate.task_id) == [s.READY, s.RUNNING, s.DONE]
    assert notes.states(child.task_id) == [s.PENDING, s.RUNNING, s.DONE]
    assert notes.states(failed.task_id) == [s.READY, s.RUNNING, s.FAILED]
    assert notes.states(orphan.task_id)[-1] == s.DEP_FAILED
    assert notes.states(joined.task_id) == [s.READY, s.RUNNING, s.JOINING, s.DONE]
    assert notes.states(victim.task_id) == [s.PENDING, s.CANCELLED]
    assert notes.states(again.task_id) == [s.READY, s.RUNNING, s.RUNNING, s.FAILED]
    events: list[Event] = notes.told[1:-1]
    ends = {e.task_id: e for e in events if e.state.final}
    assert ends[child.task_id].app == "inc"
    assert ends[child.task_id].executor == "three"
    assert 0 < ends[gate.task_id].started_s <= ends[gate.task_id].time_s
    assert ends[gate.task_id].time_s <= ends[child.task_id].started_s
    assert ends[orphan.task_id].started_s == 0.0
    assert len(ends) == len({e.task_id for e in events}) == 9, "each ends once"


@pytest.mark.usefixtures("restless")
def test_joins_are_told_before_their_end(notes: Notes) -> None:
    """The parts of a join may end at the moment when it begins to wait for them."""
    join = join_app(lambda i: inc(i))
    with ssdag.load(Config(executors=[ThreadExecutor(2)], listeners=[notes])):
        futures = join.map(range(300))
        ssdag.gather(futures)
    ends = [TaskState.JOINING, TaskState.DONE]
    assert {tuple(notes.states(f.task_id)[-2:]) for f in futures} == {tuple(ends)}


def test_a_listener_can_come_and_go_while_tasks_run(notes: Notes) -> None:
    with ssdag.load(Config(executors=[ThreadExecutor(1)])) as engine:
        inc(0).result(DEADLINE_S)
        engine.add_listener(notes)
        inc(1).result(DEADLINE_S)
        engine.wait()
        engine.remove_listener(notes)
        inc(2).result(DEADLINE_S)
    assert notes.told[0] == 1
    assert {e.task_id for e in notes.told[1:] if isinstance(e, Event)} == {1}


def test_a_broken_listener_does_not_break_a_run(caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken("on_events", RuntimeError("mine"))
    with ssdag.load(Config(executors=[ThreadExecutor(2)], listeners=[broken])):
        assert ssdag.gather(inc.map(range(100))) == list(range(1, 101))
    assert broken.batches == 1
    assert "listener Broken failed in on_events and is removed" in caplog.text


# -- utilisation -------------------------------------------------------------------------


def test_utilization_adds_up() -> None:
    use = Utilization()
    assert (use.elapsed_s, use.fraction, use.tasks_per_s) == (0.0, 0.0, 0.0)
    use.on_start(2)
    s = TaskState
    use.on_events([event(0, s.READY, time_s=10.0), event(0, s.RUNNING, time_s=10.5)])
    assert use.elapsed_s == 0.0
    use.on_events(
        [
            Event(0, s.DONE, 14.0, "a", "local", 10.0),
            Event(1, s.FAILED, 12.0, "a", "local", 11.0),
            Event(2, s.DONE, 20.0, "b", "local", 15.0),
            Event(3, s.DONE, 20.0, "join", "internal", 10.0),
            Event(4, s.MEMO_DONE, 20.0, "a", "", 0.0),
            Event(5, s.DEP_FAILED, 20.0, "a", "", 0.0),
            Event(6, s.CANCELLED, 19.0, "a", "", 0.0),
        ]
    )
    assert (use.done, use.failed, use.remembered) == (3, 3, 1)
    assert use.busy_s == 4.0 + 1.0 + 5.0
    assert use.by_app == {"a": (2, 5.0), "b": (1, 5.0)}
    assert use.elapsed_s == 10.0
    assert use.fraction == 0.5
    assert use.tasks_per_s == 0.4


def test_utilization_never_exceeds_one_and_starts_anew() -> None:
    use = Utilization()
    use.on_start(2)
    use.on_events([event(0, TaskState.READY, time_s=1.0)])
    use.on_events([Event(i, TaskState.DONE, 2.0, "a", "local", 1.0) for i in range(3)])
    assert use.fraction == 1.0
    use.restart()
    assert (use.done, use.busy_s, use.by_app, use.elapsed_s) == (0, 0.0, {}, 0.0)
    begin = use._first_s
    assert begin is not None
    use.on_events([Event(9, TaskState.DONE, begin + 4.0, "a", "local", begin)])
    assert use.elapsed_s == 4.0
    assert use.fraction == 0.5, "the number of workers is kept"


def test_utilization_of_a_run() -> None:
    use = Utilization()
    with ssdag.load(Config(executors=[ThreadExecutor(2)], listeners=[use])):
        futures = [*inc.map(range(20)), trouble(), inc(trouble())]
        ssdag.gather(futures, return_exceptions=True)
    assert (use.done, use.failed, use.remembered) == (20, 3, 0)
    assert use.by_app["inc"][0] == 20
    assert use.by_app["trouble"][0] == 2
    assert 0 < use.fraction <= 1
    assert use.tasks_per_s > 0


# -- progress ----------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """What was written, without the codes for colour and movement."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


def ended(good: int, bad: int = 0) -> list[Future[int]]:
    """Return futures that are done: some well, some with an error, the last cancelled."""
    futures: list[Future[int]] = [Future() for _ in range(good + bad)]
    for future in futures[:good]:
        future.set_result(1)
    for future in futures[good:-1]:
        future.set_exception(ValueError())
    if bad:
        futures[-1].cancel()
    return futures


def watch(futures: Sequence[Future[Any]], description: str = "tasks") -> Progress:
    """Begin to show the progress of futures."""
    progress = Progress(futures, description)
    progress.start()
    return progress


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    watch(ended(3), "molecules").close()
    watch([*ended(3, 2), Future()]).close()
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"molecules: 3 of 3 done, \d+\.\d s", first)
    assert re.fullmatch(r"tasks: 5 of 6 done, 2 failed, \d+\.\d s", second)


def test_lines_come_while_one_waits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssdag.monitoring.progress._LINE_S", 0.01)
    progress = watch([Future()])
    text = ""
    while text.count("tasks: 0 of 1 done") < 3:
        progress._thread.join(0.01)
        text += capsys.readouterr().err
    progress.close()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_last_state_is_shown_although_callbacks_are_late(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a future is woken before its callbacks run."""
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    go_on = threading.Event()
    future: Future[int] = Future()
    future.add_done_callback(lambda _: go_on.wait(DEADLINE_S))
    progress = watch([future, *ended(1, 1)])
    thread = threading.Thread(target=future.set_result, args=(1,))
    thread.start()
    try:
        assert future.result(DEADLINE_S) == 1
        progress.close()
    finally:
        go_on.set()
        thread.join(DEADLINE_S)
    shown = screen.getvalue()
    assert ("3/3" if terminal else "3 of 3 done, 1 failed") in shown
    assert progress._done == 3, "nothing is counted twice"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = watch([*ended(3, 2), Future()], "molecules")
    progress.close()
    last = screen.text.rstrip().splitlines()[-1]
    assert last.startswith("molecules ")
    assert "5/6" in last
    assert "2 failed" in last
    assert "\x1b[?25h" in screen.getvalue(), "the cursor is back"
    assert not progress._thread.is_alive()
    Progress([Future()], "never started").close()
