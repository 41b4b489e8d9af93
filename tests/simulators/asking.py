# SPDX-License-Identifier: BSD-3-Clause
"""What tests of providers on simulators share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ssdag.providers.auto import named
from ssdag.states import JobState
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ssdag.providers.base import JobSpec, JobStatus
    from ssdag.providers.batch import BatchProvider
    from tests.simulators.simulator import Simulator


def on(*kinds: str) -> pytest.MarkDecorator:
    """Mark a test that runs on these simulators."""
    return pytest.mark.parametrize("simulator", kinds, indirect=True)


def provider_of(simulator: Simulator, **options: object) -> BatchProvider:
    """Return a provider that reaches a simulator."""
    return named(simulator.kind, **options)  # type: ignore[return-value]


def sleeper(provider: BatchProvider, folder: Path, name: str = "job") -> JobSpec:
    """Return a job that waits for the file ``go`` and ends with 4."""
    return provider.job(name, [f"until [ -e '{folder}/go' ]; do sleep 0.05; done; exit 4"], folder)


def reach(
    provider: BatchProvider, job_id: str, condition: Callable[[JobStatus], bool]
) -> JobStatus:
    """Poll a job until its status is as it should be."""
    found: list[JobStatus] = []

    def is_so() -> bool:
        found[:] = [provider.poll([job_id])[job_id]]
        return condition(found[0])

    wait_until(is_so, 15, f"job {job_id}")
    return found[0]


def running(provider: BatchProvider, job_id: str) -> JobStatus:
    """Wait until a job runs."""
    return reach(provider, job_id, lambda status: status.state is JobState.RUNNING)


def ended(provider: BatchProvider, job_id: str) -> JobStatus:
    """Wait until a job is over."""
    return reach(provider, job_id, lambda status: status.state.final)
