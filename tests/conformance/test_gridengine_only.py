# SPDX-License-Identifier: BSD-3-Clause
"""What only Grid Engine does: error states, holds of its own, records that come late."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

import pytest

from ssdag.launchers.base import Step
from ssdag.providers import GridEngineProvider, detect
from ssdag.providers.script import exit_path
from ssdag.states import JobState
from tests.conformance.conftest import wait_for
from tests.conftest import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conformance.conftest import Systems
    from tests.conformance.systems import System


@pytest.fixture
def system(systems: Systems) -> System:
    """The real Grid Engine."""
    return systems.get("gridengine")


def make(system: System, **options: object) -> GridEngineProvider:
    """Return a provider of it."""
    provider = system.make(walltime_s=300, **options)
    assert isinstance(provider, GridEngineProvider)
    return provider


def test_a_job_in_an_error_state_has_failed_with_its_reason_and_is_removed(
    system: System, tmp_path: Path
) -> None:
    provider = make(system, directives=["-wd /no/such/folder"])
    job_id = provider.submit(provider.job("error", ["true"], tmp_path))
    status = wait_for(system, provider, job_id, lambda found: found.state.final)
    assert status.state is JobState.FAILED
    assert "/no/such/folder" in status.reason
    runner = provider.runner
    wait_until(
        lambda: runner.run(["qstat", "-j", job_id], 10).exit_code != 0, what="the job is gone"
    )


def test_a_held_job_is_held_and_occupied(system: System, tmp_path: Path) -> None:
    provider = make(system, directives=["-h"])
    job_id = provider.submit(provider.job("held", ["sleep 300"], tmp_path))
    wait_for(system, provider, job_id, lambda found: found.state is JobState.HELD)
    provider.runner.run(["qrls", job_id], 10)
    wait_for(system, provider, job_id, lambda found: found.state is JobState.RUNNING)
    provider.runner.run(["qmod", "-sj", job_id], 10)
    wait_for(system, provider, job_id, lambda found: found.state is JobState.HELD)
    provider.cancel([job_id])
    wait_for(system, provider, job_id, lambda found: found.state is JobState.CANCELLED)


def test_accounting_tells_of_what_no_script_has_written(system: System, tmp_path: Path) -> None:
    provider = make(system)
    job = provider.job("killed", ["kill -9 $$"], tmp_path)
    job_id = provider.submit(job)
    status = wait_for(system, provider, job_id, lambda found: found.state.final)
    assert (status.state, status.signal) == (JobState.FAILED, 9)
    assert provider.runner.read(exit_path(job, job_id), 10) is None


def test_steps_run_on_all_hosts(system: System, tmp_path: Path) -> None:
    bin_folder = os.path.dirname(sys.executable)
    if not os.path.exists(os.path.join(bin_folder, "mpiexec.hydra")):
        pytest.skip("no mpiexec.hydra beside Python: pip install mpich")
    assert system.two_nodes is not None
    provider = make(system, **system.two_nodes)
    step = Step(("hostname",), ranks=2, nodes=2, ranks_per_node=1)
    line = shlex.join(provider.launcher().command(step))
    # Hydra needs qrsh, which a site has on its jobs' PATH.
    path = f"export PATH={shlex.quote(bin_folder)}:$SGE_ROOT/bin/$SGE_ARCH:$PATH"
    job = provider.job("steps", [path, line], tmp_path)
    status = wait_for(system, provider, provider.submit(job), lambda found: found.state.final)
    assert status.state is JobState.COMPLETED, (tmp_path / "steps.err").read_text()
    assert len(set((tmp_path / "steps.out").read_text().split())) == 2


def test_auto_finds_it(system: System) -> None:
    runner = make(system).runner
    found = detect(runner=runner, parallel_environment="mpi")
    assert isinstance(found, GridEngineProvider)
