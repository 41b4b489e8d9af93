# SPDX-License-Identifier: BSD-3-Clause
"""What a provider remembers: final states stay, missing is not completed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdag.providers.base import JobStatus
from ssdag.providers.records import JobTable, combine, ended
from ssdag.states import JobState

_STATES = st.sampled_from(list(JobState))


class Clock:
    """Seconds that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def table(cancel_is_told: bool = True) -> tuple[JobTable, Clock]:
    """Return a table that loses jobs after ten seconds."""
    clock = Clock()
    return JobTable(10.0, cancel_is_told, clock), clock


@given(st.lists(_STATES, min_size=1))
def test_a_final_state_never_changes(states: list[JobState]) -> None:
    jobs, _ = table()
    final: JobState | None = None
    for state in states:
        jobs.learn("1", JobStatus(state))
        if final is None and state.final:
            final = state
        jobs.miss("1") if final else None
        jobs.mark_cancelled(["1"])
        if final is not None:
            assert jobs.status("1").state is final


def test_missing_is_unknown_and_lost_only_after_the_stated_time() -> None:
    jobs, clock = table()
    jobs.learn("1", JobStatus(JobState.RUNNING, hosts=("n1",)))
    jobs.miss("1")
    assert jobs.status("1").state is JobState.UNKNOWN
    clock.now = 9.9
    jobs.miss("1")
    assert jobs.status("1").state is JobState.UNKNOWN
    jobs.learn("1", JobStatus(JobState.RUNNING))  # it was only away
    clock.now = 19.0
    jobs.miss("1")
    assert jobs.status("1").state is JobState.UNKNOWN
    clock.now = 29.0
    jobs.miss("1")
    status = jobs.status("1")
    assert (status.state, status.exit_code) == (JobState.FAILED, None)
    assert "has not known job 1 for 10 s" in status.reason
    assert status.hosts == ("n1",)


def test_one_that_was_never_seen_stays_pending_before_it_is_lost() -> None:
    jobs, clock = table()
    jobs.miss("1")
    assert jobs.status("1").state is JobState.PENDING
    clock.now = 10.0
    jobs.miss("1")
    assert jobs.status("1").state is JobState.FAILED


def test_what_vanishes_after_we_cancelled_it_is_cancelled() -> None:
    jobs, _ = table()
    jobs.learn("1", JobStatus(JobState.RUNNING))
    jobs.mark_cancelled(["1"])
    jobs.miss("1")
    assert jobs.status("1").state is JobState.CANCELLED


@pytest.mark.parametrize("told", [True, False])
def test_a_scheduler_that_does_not_tell_of_a_cancel_is_put_right(told: bool) -> None:
    jobs, _ = table(told)
    jobs.mark_cancelled(["1"])
    jobs.learn("1", ended(0))
    expected = JobState.COMPLETED if told else JobState.CANCELLED
    assert jobs.status("1").state is expected


def test_an_end_without_signal_and_code_is_the_only_good_one() -> None:
    assert ended(0).state is JobState.COMPLETED
    assert ended(None).state is JobState.COMPLETED
    assert (ended(7).state, ended(7).reason) == (JobState.FAILED, "exit code 7")
    status = ended(0, 9)
    assert (status.state, status.exit_code, status.signal) == (JobState.FAILED, None, 9)


def test_an_array_is_what_its_tasks_are() -> None:
    def of(*states: JobState) -> JobState:
        return combine([JobStatus(state) for state in states]).state

    s = JobState
    assert of(s.PENDING, s.PENDING) is s.PENDING
    assert of(s.PENDING, s.COMPLETED) is s.RUNNING
    assert of(s.HELD, s.PENDING) is s.HELD
    assert of(s.RUNNING, s.FAILED) is s.RUNNING
    assert of(s.UNKNOWN, s.COMPLETED) is s.UNKNOWN
    assert of(s.COMPLETED, s.COMPLETED) is s.COMPLETED
    assert of(s.COMPLETED, s.TIMEOUT, s.CANCELLED) is s.TIMEOUT
    assert of(s.CANCELLED, s.FAILED) is s.FAILED
    for states in itertools.product(list(s), repeat=3):
        whole = of(*states)
        assert whole.final == all(state.final for state in states)
        if whole is s.COMPLETED:
            assert set(states) == {s.COMPLETED}


def test_forgotten_jobs_are_gone() -> None:
    jobs, _ = table()
    jobs.learn("1", ended(0))
    jobs.forget(["1", "2"])
    assert jobs.status("1").state is JobState.PENDING
    assert jobs.spec("1") is None
