# SPDX-License-Identifier: BSD-3-Clause
"""The system that a test runs on, and the order of the tests.

Systems start when the first test asks for one and live until the end of the run. What
takes long there (a time limit, a lost node) is begun at once by :class:`LateCases` and
looked at by tests that run after all others.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from shlex import quote
from typing import TYPE_CHECKING

import pytest

from ssdag.states import JobState
from tests.conformance.systems import FACTORIES, factory
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ssdag.providers.base import JobStatus, Provider
    from tests.conformance.systems import System


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the tests that look at late cases to the end."""
    items.sort(key=lambda item: "late" in getattr(item, "fixturenames", ()))


class LateCases:
    """Jobs of a system that take long, begun when the system starts."""

    def __init__(self, system: System) -> None:
        self.began = time.monotonic()
        self.system = system
        self.provider = system.make(walltime_s=system.limit_s)
        folder = system.folder
        job = self.provider.job("limit", ["sleep 300"], folder)
        self.limit = self.provider.submit(job)
        self.marker = folder / "lost.ran"
        self.losing: Provider | None = None
        if system.lose_node is not None:
            self.losing = system.make(walltime_s=300, **system.lose_options)
            lost = self.losing.job(
                "lost", [f"echo ran >>{quote(str(self.marker))}", "sleep 200"], folder
            )
            self.lost = self.losing.submit(lost)

    def lose(self) -> None:
        """Take the node away as soon as the job runs there."""
        if self.losing is None or self.system.lose_node is None:
            return
        wait_until(self.marker.exists, self.system.deadline_s, "the job runs")
        hosts = self.losing.poll([self.lost])[self.lost].hosts
        self.bring_back = self.system.lose_node(hosts)


class Systems:
    """All systems of the run, started when they are first asked for."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._stack = ExitStack()
        self._made: dict[str, System | str] = {}
        self._late: dict[str, LateCases] = {}

    def get(self, name: str) -> System:
        """Return a system; skips where it cannot be had."""
        if name not in self._made:
            try:
                # A folder's name as users have them.
                folder = self._folders.mktemp(f"jobs of {name}'s")
                system = self._stack.enter_context(factory(name)(folder))
            except pytest.skip.Exception as reason:
                self._made[name] = str(reason)
            else:
                self._made[name] = system
                self._late[name] = LateCases(system)
                self._late[name].lose()
        made = self._made[name]
        if isinstance(made, str):
            pytest.skip(made)
        return made

    def late(self, name: str) -> LateCases:
        """Return what was begun when the system started."""
        self.get(name)
        return self._late[name]

    def close(self) -> None:
        """Stop them all."""
        self._stack.close()


@pytest.fixture(scope="session")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systems]:
    """All systems."""
    made = Systems(tmp_path_factory)
    yield made
    made.close()


@pytest.fixture(params=list(FACTORIES))
def name(request: pytest.FixtureRequest) -> str:
    """The name of a system."""
    return str(request.param)


@pytest.fixture
def system(name: str, systems: Systems) -> System:
    """A system."""
    return systems.get(name)


@pytest.fixture
def late(name: str, systems: Systems) -> LateCases:
    """The slow cases of a system; tests that use this one come last."""
    return systems.late(name)


@pytest.fixture
def provider(system: System) -> Iterator[Provider]:
    """A provider that reaches it."""
    made = system.make(walltime_s=300)
    submitted: list[str] = []
    submit = made.submit
    made.submit = lambda job: submitted.append(submit(job)) or submitted[-1]  # type: ignore[method-assign, func-returns-value]
    yield made
    made.cancel(submitted)


@pytest.fixture
def finish(system: System) -> Callable[..., JobStatus]:
    """Wait for a job's end: ``finish(provider, job_id, deadline_s=...)``."""

    def wait(provider: Provider, job_id: str, deadline_s: float | None = None) -> JobStatus:
        return wait_for(system, provider, job_id, lambda status: status.state.final, deadline_s)

    return wait


def wait_for(
    system: System,
    provider: Provider,
    job_id: str,
    condition: Callable[[JobStatus], bool],
    deadline_s: float | None = None,
) -> JobStatus:
    """Poll a job until its status is as it should be, as often as the system bears."""
    limit_s = system.deadline_s if deadline_s is None else deadline_s
    end = time.monotonic() + limit_s
    while not condition(status := provider.poll([job_id])[job_id]):
        if time.monotonic() > end:
            pytest.fail(f"job {job_id} is {status} after {limit_s} s")
        time.sleep(system.pause_s)
    return status


def is_waiting(status: JobStatus) -> bool:
    """Say whether a job waits: some schedulers call one that waits for another held."""
    return status.state in (JobState.PENDING, JobState.HELD)
