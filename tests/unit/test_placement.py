# SPDX-License-Identifier: BSD-3-Clause
"""Which executor gets a task: those that are allowed and can, the least loaded first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag import Config, Resources, UnknownExecutorError, UnsupportedError, bash_app, python_app
from ssdag.dataflow.placement import Placement, least_loaded
from ssdag.errors import ConfigError
from ssdag.executors import ThreadExecutor
from ssdag.executors.base import Capabilities, Executor
from ssdag.tasks import AppFuture, Options, Outcome, Task
from tests.contract import bodies

if TYPE_CHECKING:
    from ssdag.executors.base import Sink

DEADLINE_S = 30.0


class Fake(Executor):
    """An executor that keeps what it gets until it is told to end it."""

    def __init__(self, label: str, capacity: int = 1, *, kills: bool = True) -> None:
        super().__init__(label)
        self._capacity = capacity
        self.capabilities = Capabilities(walltime=kills)
        self.got: list[Task] = []
        self.asked = 0
        self.sink: Sink | None = None

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def outstanding(self) -> int:
        return len(self.got)

    def start(self, sink: Sink) -> None:
        self.sink = sink

    def submit(self, task: Task) -> AppFuture[Any] | None:
        self.got.append(task)
        return task.future

    def cancel(self, task: Task) -> bool:
        self.got.remove(task)
        return True

    def shutdown(self) -> None:
        self.got.clear()

    def check(self, options: Options, kind: str) -> str | None:
        self.asked += 1
        return super().check(options, kind)

    def end(self, error: BaseException | None = None) -> None:
        """End the first task."""
        task = self.got.pop(0)
        task.move(ssdag.TaskState.LAUNCHED)
        assert self.sink is not None
        self.sink.finished([Outcome(task, None if error else 5, error, 1.0, 2.0)])


# -- the choice --------------------------------------------------------------------------


def test_candidates() -> None:
    killer, other = Fake("killer"), Fake("other", kills=False)
    placement = Placement([killer, other])
    assert placement.candidates(Options(), "python") == (killer, other)
    assert placement.candidates(Options(executors=("other",)), "python") == (other,)
    assert placement.candidates(Options(walltime_s=1.0), "python") == (killer,)
    # A command is killed by who runs it, so its walltime asks nothing of an executor.
    assert placement.candidates(Options(walltime_s=1.0), "bash") == (killer, other)


def test_the_answer_is_remembered_for_options_and_kind() -> None:
    executor = Fake("only", kills=False)
    placement = Placement([executor])
    options = Options(walltime_s=1.0)
    for _ in range(5):
        assert placement.candidates(options, "bash") == (executor,)
    assert executor.asked == 1
    with pytest.raises(UnsupportedError):
        placement.candidates(options, "python")


def test_options_made_anew_for_each_call_do_not_pile_up() -> None:
    placement = Placement([Fake("only")])
    for _ in range(25_000):
        placement.candidates(Options(), "python")
    assert len(placement._known) <= 10_001


def test_a_label_that_nobody_has() -> None:
    placement = Placement([Fake("simulation"), Fake("light")])
    with pytest.raises(UnknownExecutorError) as caught:
        placement.candidates(Options(executors=("light", "simulations")), "python")
    assert str(caught.value) == (
        "no executor is called 'simulations' (there is 'simulation', 'light'); "
        "did you mean 'simulation'?"
    )
    assert isinstance(caught.value, ConfigError)


def test_nobody_can_and_each_says_why() -> None:
    placement = Placement([Fake("one", 2), Fake("two", 3, kills=False)])
    needs = Options(resources=Resources(cores=4))
    with pytest.raises(UnsupportedError, match=r"'one' has 2 cores .*; .*'two' has 3 cores"):
        placement.candidates(needs, "python")
    with pytest.raises(UnsupportedError, match="'two' cannot kill") as caught:
        placement.candidates(Options(executors=("two",), walltime_s=1.0), "python")
    assert "'one'" not in str(caught.value), "it was not asked for"


def test_the_least_loaded_counts_by_what_it_can_run() -> None:
    small, large = Fake("small", 1), Fake("large", 4)
    filler: Any = None
    assert least_loaded([small, large]) is small
    small.got = [filler]
    assert least_loaded([small, large]) is large
    large.got = [filler] * 3
    assert least_loaded([small, large]) is large
    large.got = [filler] * 5
    assert least_loaded([small, large]) is small


@pytest.mark.parametrize("label", ["", None, 3])
def test_an_executor_needs_a_name(label: Any) -> None:
    with pytest.raises(ConfigError, match="needs a non-empty name"):
        ThreadExecutor(1, label=label)


# -- in an engine ------------------------------------------------------------------------


def test_tasks_are_spread_by_load() -> None:
    first, second = Fake("first", 1), Fake("second", 3)
    inc = python_app(bodies.inc)
    with ssdag.load(Config(executors=[first, second])) as engine:
        futures = inc.map(range(8))
        assert (len(first.got), len(second.got)) == (2, 6)
        last = python_app(executors=["first"])(bodies.inc)(1)
        assert len(first.got) == 3
        while second.got:
            second.end()
        child = inc(last)
        for _ in range(3):
            first.end()
        assert first.got + second.got == [child._task], "a ready child is placed by the load then"
        first.end()
        ssdag.gather([*futures, child], timeout=DEADLINE_S)
        places = [place for _, place in engine.graph().nodes(data="executor")]
        assert (places.count("first"), places.count("second")) == (4, 6)


def test_a_retry_may_go_elsewhere() -> None:
    first, second = Fake("first"), Fake("second")
    with ssdag.load(Config(executors=[first, second])):
        free = python_app(retries=1)(bodies.inc)(1)
        first.got.append(free._task)  # it is busy when the first attempt fails
        first.end(OSError("lost"))
        assert free._task in second.got, "the least loaded one is chosen anew"
        first.got.clear()
        second.end()
        assert free.result(DEADLINE_S) == 5
        bound = python_app(retries=1, executors="second")(bodies.inc)(1)
        second.got.append(bound._task)
        second.end(OSError("lost"))
        assert not first.got
        second.got.pop()
        second.end()
        assert bound.result(DEADLINE_S) == 5


def test_what_cannot_be_placed_is_no_task() -> None:
    fake = Fake("only", kills=False)
    with ssdag.load(Config(executors=[fake])) as engine:
        for app, error in (
            (python_app(executors="onyl")(bodies.inc), UnknownExecutorError),
            (python_app(walltime_s=3)(bodies.inc), UnsupportedError),
            (python_app(resources=Resources(gpus=1))(bodies.inc), UnsupportedError),
        ):
            for _ in range(2):
                with pytest.raises(error):
                    app(1)
        assert engine.open_tasks == 0
        assert len(engine.graph()) == 0
        command = bash_app(walltime_s=3)(lambda: "true")()
        fake.end()
        assert command.result(DEADLINE_S) == 5
