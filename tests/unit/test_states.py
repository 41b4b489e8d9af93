# SPDX-License-Identifier: BSD-3-Clause
"""The table of states is total, and the bit masks say the same."""

from __future__ import annotations

import itertools

import pytest

from ssdag.states import ALLOWED, TASK_TRANSITIONS, ServiceState, TaskState, check
from ssdag.tasks import AppSpec, Options, Task

PAIRS = list(itertools.product(TaskState, TaskState))

P, R, L, X, J = (
    TaskState.PENDING,
    TaskState.READY,
    TaskState.LAUNCHED,
    TaskState.RUNNING,
    TaskState.JOINING,
)
D, F, DF, C, M = (
    TaskState.DONE,
    TaskState.FAILED,
    TaskState.DEP_FAILED,
    TaskState.CANCELLED,
    TaskState.MEMO_DONE,
)

#: Written a second time, by hand, so that the table cannot change unnoticed.
EXPECTED = {
    P: {R, DF, C, F, M},
    R: {L, X, P, M, D, F, C},
    L: {X, R, P, J, D, F, C},
    X: {R, P, J, D, F, C},
    J: {DF, D, F, C},
    D: set(),
    F: set(),
    DF: set(),
    C: set(),
    M: set(),
}


class Nobody:
    """A manager that is never asked."""

    def cancel(self, task: Task) -> bool:
        raise AssertionError

    def lift(self, future: object, kind: str, key: object) -> object:
        raise AssertionError


def make(state: TaskState) -> Task:
    """Return a task in a state."""
    task = Task(AppSpec(print, "print"), (), None, Options(), Nobody())  # type: ignore[arg-type]
    task.state = state
    return task


def test_every_state_has_an_entry() -> None:
    assert set(TASK_TRANSITIONS) == set(TaskState)
    assert len(ALLOWED) == len(TaskState)
    assert {old: set(new) for old, new in TASK_TRANSITIONS.items()} == EXPECTED


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=lambda s: s.name.lower())
def test_every_pair_has_an_answer(old: TaskState, new: TaskState) -> None:
    allowed = new in EXPECTED[old]
    assert check(old, new) is allowed
    task = make(old)
    assert task.move(new) is allowed
    assert task.state == (new if allowed else old)


def test_final_states_are_those_that_nothing_follows() -> None:
    for state in TaskState:
        assert state.final == (not TASK_TRANSITIONS[state])
    assert [s for s in ServiceState if s.final] == [ServiceState.STOPPED, ServiceState.FAILED]


def test_every_state_can_be_reached_and_can_end() -> None:
    seen = {TaskState.PENDING}
    while more := {new for old in seen for new in TASK_TRANSITIONS[old]} - seen:
        seen |= more
    assert seen == set(TaskState)
    for state in TaskState:
        if not state.final:
            assert {TaskState.CANCELLED, TaskState.FAILED} <= TASK_TRANSITIONS[state]
