# SPDX-License-Identifier: BSD-3-Clause
"""A real Slurm where things go wrong: no controller, lost memory, holds, vanished jobs."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ssdag.errors import SubmitError
from ssdag.providers import SlurmProvider, Watcher, detect
from ssdag.states import JobState
from tests.clusters.cluster import SlurmCluster
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ssdag.providers.base import JobStatus


def state(provider: SlurmProvider, job_id: str) -> JobState:
    """Return the state of a job."""
    return provider.poll([job_id])[job_id].state


def reach(
    provider: SlurmProvider, job_id: str, *states: JobState, deadline_s: float = 20.0
) -> JobStatus:
    """Wait until a job is in one of these states."""
    wait_until(lambda: state(provider, job_id) in states, deadline_s, f"job {job_id} in {states}")
    return provider.poll([job_id])[job_id]


@pytest.fixture
def own_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """A cluster of its own for tests that take its controller away."""
    cluster = SlurmCluster(2)
    cluster.start()
    monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
    yield cluster
    cluster.stop()


def test_held_and_suspended_jobs_are_held_and_occupied(slurm: SlurmCluster, tmp_path: Path) -> None:
    provider = SlurmProvider(directives=["--hold"], exclusive=False)
    job_id = provider.submit(provider.job("held", ["sleep 300"], tmp_path))
    assert reach(provider, job_id, JobState.HELD).reason == "JobHeldUser"
    slurm.run("scontrol", "release", job_id)
    reach(provider, job_id, JobState.RUNNING)
    slurm.run("scontrol", "suspend", job_id)
    assert reach(provider, job_id, JobState.HELD).hosts
    slurm.run("scontrol", "resume", job_id)
    reach(provider, job_id, JobState.RUNNING)
    provider.cancel([job_id])
    reach(provider, job_id, JobState.CANCELLED)


def test_auto_finds_it(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSDAG_JOB_ID", raising=False)
    found = detect(partition="batch")
    assert isinstance(found, SlurmProvider)
    assert found.allocation() is None


def test_the_end_of_an_allocation_is_known_in_it(slurm: SlurmCluster, tmp_path: Path) -> None:
    provider = SlurmProvider(walltime_s=600, exclusive=False)
    commands = ["env | grep ^SLURM_ >env", "sleep 300"]
    job_id = provider.submit(provider.job("env", commands, tmp_path))
    wait_until(lambda: (tmp_path / "env").exists() and "NODELIST" in (tmp_path / "env").read_text())
    rows = (tmp_path / "env").read_text().splitlines()
    env = dict(row.split("=", 1) for row in rows if "=" in row)
    found = provider.allocation(env)
    assert found is not None
    assert found.ends_s is not None
    assert 500 < found.ends_s - time.time() < 660
    provider.cancel([job_id])


def test_jobs_of_a_job_do_not_inherit_its_shape(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    provider = SlurmProvider(exclusive=False)
    job_id = provider.submit(
        provider.job("inner", ["echo ${SLURM_CPUS_PER_TASK-none} >seen"], tmp_path)
    )
    assert reach(provider, job_id, JobState.COMPLETED, JobState.FAILED).exit_code == 0
    assert (tmp_path / "seen").read_text() == "none\n"


def test_a_watcher_follows_many_jobs_of_an_array_and_of_sweeps(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    provider = SlurmProvider(exclusive=False)
    seen: dict[str, JobStatus] = {}
    watcher = Watcher(provider, seen.__setitem__)
    jobs = [provider.job(f"j{n}", [f"exit {n % 2}"], tmp_path) for n in range(10)]
    ids = [provider.submit(job) for job in jobs]
    array = provider.submit(replace(provider.job("array", ["exit 0"], tmp_path), array=20))
    for job_id in (*ids, array):
        watcher.add(job_id)
    everything = (*ids, array)
    wait_until(
        lambda: all(one in seen and seen[one].state.final for one in everything), 60, "all ends"
    )
    watcher.close()
    assert [seen[one].exit_code for one in ids] == [n % 2 for n in range(10)]
    assert seen[array].state is JobState.COMPLETED


def test_a_job_over_its_memory_has_failed_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = SlurmCluster(1, MEMORY="1")
    cluster.start()
    try:
        monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
        provider = SlurmProvider(memory_per_node_bytes=50 << 20, exclusive=False)
        code = "x = bytearray(300 << 20); import time; time.sleep(60)"
        job_id = provider.submit(provider.job("hungry", [f"python3 -c '{code}'"], tmp_path))
        status = reach(provider, job_id, JobState.FAILED, JobState.COMPLETED, JobState.CANCELLED)
        assert status.state is JobState.FAILED
        # Without control groups Slurm calls it so; the job's own words tell the rest.
        assert status.signal == 9 or "OUT_OF_MEMORY" in status.reason
        assert "exceeded memory limit" in (tmp_path / "hungry.err").read_text()
    finally:
        cluster.stop()


def test_a_job_sees_the_gpus_it_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = SlurmCluster(2, GPUS="1")
    cluster.start()
    try:
        monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
        found = {}
        for count in (0, 1, 2):
            provider = SlurmProvider(nodes_per_block=2, gpus_per_node=count, exclusive=False)
            folder = tmp_path / str(count)
            folder.mkdir()
            job_id = provider.submit(provider.job("gpus", ["env >env"], folder))
            reach(provider, job_id, JobState.COMPLETED, JobState.FAILED)
            rows = (folder / "env").read_text().splitlines()
            env = dict(row.split("=", 1) for row in rows if "=" in row)
            allocation = provider.allocation(env)
            assert allocation is not None
            found[count] = [node.gpus for node in allocation.nodes]
        assert found == {0: [(), ()], 1: [("0",), ("0",)], 2: [("0", "1"), ("0", "1")]}
        provider = SlurmProvider(gpus_per_node=3)
        with pytest.raises(SubmitError, match="node configuration is not available"):
            provider.submit(provider.job("many", ["true"], tmp_path))
    finally:
        cluster.stop()


def test_a_controller_that_is_gone_for_a_while_changes_nothing(
    own_cluster: SlurmCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider = SlurmProvider(exclusive=False)
    commands = ["echo ran >>ran", "until [ -e go ]; do sleep 0.05; done", "exit 6"]
    job_id = provider.submit(provider.job("job", commands, tmp_path))
    running = reach(provider, job_id, JobState.RUNNING)
    own_cluster.stop_controller()
    with ThreadPoolExecutor(1) as threads:  # its commands give up after nine seconds
        other = threads.submit(provider.submit, provider.job("other", ["true"], tmp_path))
        assert provider.poll([job_id])[job_id] == running
        assert "ended with exit code 1" in provider.trouble
        with pytest.raises(SubmitError, match="Unable to contact slurm controller") as caught:
            other.result()
    assert caught.value.transient
    (tmp_path / "go").touch()
    own_cluster.start_controller()
    status = reach(provider, job_id, JobState.FAILED, JobState.COMPLETED, deadline_s=60)
    assert (status.state, status.exit_code) == (JobState.FAILED, 6)
    assert (tmp_path / "ran").read_text() == "ran\n"
    assert any("answers again" in text for text in caplog.messages)


def test_a_controller_that_crashes_runs_nothing_twice(
    own_cluster: SlurmCluster, tmp_path: Path
) -> None:
    provider = SlurmProvider(exclusive=False)
    job_id = provider.submit(provider.job("job", ["echo ran >>ran", "sleep 300"], tmp_path))
    wait_until(lambda: (tmp_path / "ran").exists())
    # What it saved last is older than the job's start: it finds the job pending.
    own_cluster.kill_controller()
    own_cluster.start_controller()
    wait_until(lambda: not provider.trouble and provider.poll([job_id]) and not provider.trouble)
    end = time.monotonic() + 6
    while time.monotonic() < end and not (status := provider.poll([job_id])[job_id]).state.final:
        time.sleep(0.1)
    assert status.state is not JobState.COMPLETED
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_jobs_that_slurm_has_forgotten_are_not_completed_by_that(
    own_cluster: SlurmCluster, tmp_path: Path
) -> None:
    provider = SlurmProvider(exclusive=False, lost_after_s=1.0)
    ended = provider.submit(provider.job("ended", ["exit 3"], tmp_path))
    good = provider.submit(provider.job("good", ["true"], tmp_path))
    lost = provider.submit(provider.job("lost", ["touch began; sleep 300"], tmp_path))
    wait_until(lambda: (tmp_path / "began").exists())
    wait_until(lambda: len(list(tmp_path.glob("*.exit"))) == 2)
    own_cluster.kill_controller()
    own_cluster.run("slurmctld", "-c", "-f", own_cluster.env["SLURM_CONF"])  # remembers nothing
    reach(provider, ended, JobState.FAILED, JobState.COMPLETED, deadline_s=30)
    found = provider.poll([ended, good])
    assert (found[ended].state, found[ended].exit_code) == (JobState.FAILED, 3)
    assert found[good].state is JobState.COMPLETED
    status = reach(provider, lost, JobState.FAILED, JobState.COMPLETED, deadline_s=30)
    assert status.state is JobState.FAILED
    assert "told nowhere" in status.reason


def test_a_job_that_slurm_starts_again_does_not_run_twice(
    own_cluster: SlurmCluster, tmp_path: Path
) -> None:
    # A user's own --requeue, or a controller that has lost the last seconds.
    provider = SlurmProvider(exclusive=False, directives=["--requeue"])
    job_id = provider.submit(provider.job("job", ["echo ran >>ran", "sleep 300"], tmp_path))
    wait_until(lambda: (tmp_path / "ran").exists())
    own_cluster.run("scontrol", "requeue", job_id)
    status = reach(provider, job_id, JobState.FAILED, JobState.COMPLETED, deadline_s=40)
    assert (status.state, status.exit_code) == (JobState.FAILED, 75)
    assert (tmp_path / "ran").read_text() == "ran\n"
    assert "must not run twice" in (tmp_path / "job.err").read_text()


@pytest.mark.slow
def test_accounting_tells_of_jobs_that_the_controller_has_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("slurmdbd", "mariadbd"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt-get install slurmdbd mariadb-server")
    cluster = SlurmCluster(1, ACCOUNTING="1")
    cluster.start()
    try:
        monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
        provider = SlurmProvider(exclusive=False)
        bad = provider.submit(provider.job("bad", ["kill -9 $$"], tmp_path))
        other = SlurmProvider(exclusive=False)
        reach(other, bad, JobState.FAILED)
        sacct = ["sacct", "-n", "-X", "-P", "-o", "State", "-j", bad]
        wait_until(lambda: "FAILED" in cluster.run(*sacct), 20, "accounting knows it")
        cluster.kill_controller()
        cluster.run("slurmctld", "-c", "-f", os.environ["SLURM_CONF"])
        status = reach(provider, bad, JobState.FAILED, JobState.COMPLETED, deadline_s=30)
        assert (status.state, status.signal) == (JobState.FAILED, 9)
    finally:
        cluster.stop()
