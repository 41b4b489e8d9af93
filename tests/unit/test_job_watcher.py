# SPDX-License-Identifier: BSD-3-Clause
"""The watcher: one query for all, soon after a change, seldom while nothing happens."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

from ssdag.providers.base import JobStatus
from ssdag.providers.watch import Watcher
from ssdag.states import JobState
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest


class Script:
    """A provider that says what a test tells it."""

    name = "script"
    least_poll_s = 0.0

    def __init__(self) -> None:
        self.states: dict[str, JobState] = {}
        self.asked: list[tuple[float, list[str]]] = []
        self.broken = False

    def poll(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        self.asked.append((time.monotonic(), list(job_ids)))
        if self.broken:
            self.broken = False
            raise RuntimeError("a provider that breaks its promise")
        return {one: JobStatus(self.states.get(one, JobState.PENDING)) for one in job_ids}


def watcher(script: Any, seen: list[tuple[str, JobState]], **delays: float) -> Watcher:
    return Watcher(script, lambda job_id, status: seen.append((job_id, status.state)), **delays)


def test_changes_are_told_once_and_what_is_over_is_not_asked_for() -> None:
    script, seen = Script(), list[tuple[str, JobState]]()
    watch = watcher(script, seen, first_delay_s=0.005, longest_delay_s=0.02)
    watch.add("a")
    watch.add("b")
    watch.add("a")
    script.states["a"] = JobState.RUNNING
    wait_until(lambda: ("a", JobState.RUNNING) in seen)
    script.states.update(a=JobState.COMPLETED, b=JobState.FAILED)
    wait_until(lambda: len(seen) == 3)
    assert sorted(seen) == sorted(
        [("a", JobState.RUNNING), ("a", JobState.COMPLETED), ("b", JobState.FAILED)]
    )
    count = len(script.asked)
    watch.add("c")
    wait_until(lambda: len(script.asked) > count)
    assert script.asked[-1][1] == ["c"]
    watch.close()


def test_queries_become_rarer_until_something_happens() -> None:
    script, seen = Script(), list[tuple[str, JobState]]()
    watch = watcher(script, seen, first_delay_s=0.01, longest_delay_s=5.0)
    watch.add("a")
    wait_until(lambda: len(script.asked) >= 7)
    times = [when for when, _ in script.asked]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert max(gaps[-2:]) > 2 * min(gaps[:3])
    count = len(script.asked)
    began = time.monotonic()
    watch.nudge()
    wait_until(lambda: len(script.asked) > count)
    assert time.monotonic() - began < 4
    watch.close()


def test_a_long_run_of_changes_does_not_make_it_ask_all_the_time() -> None:
    script, seen = Script(), list[tuple[str, JobState]]()
    script.least_poll_s = 0.2
    watch = watcher(script, seen, first_delay_s=0.001)
    watch.add("a")
    began = time.monotonic()
    while time.monotonic() < began + 0.8:  # always something new
        script.states["a"] = JobState.RUNNING if len(script.asked) % 2 else JobState.HELD
        time.sleep(0.001)
    watch.close()
    # Twenty at once, then five in a second.
    assert 15 < len(script.asked) < 20 + 5 * (time.monotonic() - began) + 2


def test_broken_providers_and_callbacks_do_not_end_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Script()
    script.broken = True
    script.states.update(a=JobState.FAILED, b=JobState.FAILED)
    called: list[str] = []

    def break_down(job_id: str, status: JobStatus) -> None:
        called.append(job_id)
        raise ValueError("user code")

    watch = Watcher(script, break_down, first_delay_s=0.005, longest_delay_s=0.02)  # type: ignore[arg-type]
    watch.add("a")
    watch.add("b")
    wait_until(lambda: len(called) == 2)
    watch.close()
    assert "polling script failed" in caplog.messages
    assert sum("what was to be done" in text for text in caplog.messages) == 2


def test_close_is_safe_from_its_own_thread_and_twice() -> None:
    script = Script()
    script.states["a"] = JobState.FAILED
    over = threading.Event()

    def close(job_id: str, status: JobStatus) -> None:
        watch.close()
        over.set()

    watch = Watcher(script, close, first_delay_s=0.005)  # type: ignore[arg-type]
    watch.add("a")
    assert over.wait(5)
    watch.close()
    watch.add("b")
    assert all("b" not in ids for _, ids in script.asked)


def test_a_removed_job_is_told_of_no_more() -> None:
    script, seen = Script(), list[tuple[str, JobState]]()
    watch = watcher(script, seen, first_delay_s=0.005, longest_delay_s=0.02)
    watch.add("a")
    wait_until(lambda: script.asked)
    watch.remove("a")
    watch.remove("unknown")
    watch.close()
    assert seen == []
