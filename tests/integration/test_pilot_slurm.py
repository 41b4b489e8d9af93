# SPDX-License-Identifier: BSD-3-Clause
"""The pilot executor on a real Slurm: blocks, nodes, failures, a silent scheduler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from ssdag.errors import BlockError
from ssdag.providers.slurm import SlurmProvider
from ssdag.states import TaskState
from tests.conftest import wait_until
from tests.integration import pilot_bodies as bodies
from tests.integration.pilots import environment, start, wait_for_managers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clusters.cluster import SlurmCluster

DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def empty(slurm: SlurmCluster) -> Iterator[None]:
    """Nothing stays in the scheduler's queue after a test."""
    yield
    wait_until(lambda: not slurm.run("squeue", "-h"), DEADLINE_S, "no job is left")


def provider(**options: Any) -> SlurmProvider:
    return SlurmProvider(walltime_s=600, **options)


def jobs(slurm: SlurmCluster, *states: str) -> list[str]:
    """Return the ids of the jobs in these states, or of all that are not over."""
    wanted = [f"--states={','.join(states)}"] if states else []
    return slurm.run("squeue", "-h", "-o", "%i", *wanted).split()


def test_200_tasks_over_4_blocks_and_scale_in(tmp_path: Path, slurm: SlurmCluster) -> None:
    engine, executor = start(
        tmp_path, 1, provider=provider(max_blocks=4), max_idle_s=0.5, heartbeat_limit_s=15.0
    )
    with engine:
        doors = [str(tmp_path / str(i)) for i in range(4)]
        met = [engine.submit(bodies.meet, door, doors) for door in doors]
        assert len({future.result(DEADLINE_S) for future in met}) == 4
        assert len(jobs(slurm, "RUNNING")) == 4
        futures = [engine.submit(bodies.seen, ["SLURM_JOB_ID"]) for _ in range(200)]
        assert all(future.result(DEADLINE_S)["SLURM_JOB_ID"] for future in futures)
        assert executor._encrypt
        wait_until(lambda: not jobs(slurm, "RUNNING", "PENDING"), DEADLINE_S, "they are gone")


def test_a_block_of_four_nodes(tmp_path: Path, slurm: SlurmCluster) -> None:
    options = {"nodes_per_block": 4, "init_blocks": 1}
    engine, executor = start(tmp_path, 1, provider=provider(**options), heartbeat_limit_s=15.0)
    with engine:
        wait_for_managers(executor, 4)
        assert executor.capacity == 4
        assert len(jobs(slurm)) == 1
        doors = [str(tmp_path / str(i)) for i in range(4)]
        met = [engine.submit(bodies.meet_on_node, door, doors) for door in doors]
        nodes = {future.result(DEADLINE_S) for future in met}
        assert nodes == {"n1", "n2", "n3", "n4"}


def test_a_block_that_somebody_cancels(tmp_path: Path, slurm: SlurmCluster) -> None:
    """Its tasks run again elsewhere, without any retries asked for."""
    engine, _ = start(tmp_path, 1, provider=provider(), heartbeat_limit_s=15.0)
    with engine:
        future = engine.submit(bodies.hold, str(tmp_path / "on"), str(tmp_path / "go"), 5)
        wait_until((tmp_path / "on").exists, DEADLINE_S, "it runs")
        wait_until(lambda: future.state is TaskState.RUNNING, DEADLINE_S, "we know it")
        (tmp_path / "on").unlink()
        slurm.run("scancel", *jobs(slurm))
        wait_until((tmp_path / "on").exists, DEADLINE_S, "it runs again")
        (tmp_path / "go").touch()
        assert future.result(DEADLINE_S) == 5


def test_blocks_that_fail(tmp_path: Path, slurm: SlurmCluster) -> None:
    bad = provider(worker_init="module load chem-42", exclusive=False)
    engine, _ = start(tmp_path, provider=bad)
    with engine:
        error = engine.submit(bodies.same, 1).exception(DEADLINE_S)
        assert isinstance(error, BlockError)
        assert "failed" in str(error)
        assert "chem-42" in error.stderr_tail


def test_a_scheduler_that_refuses(tmp_path: Path, slurm: SlurmCluster) -> None:
    engine, _ = start(tmp_path, provider=provider(partition="nowhere"))
    with engine:
        error = engine.submit(bodies.same, 1).exception(DEADLINE_S)
        assert isinstance(error, BlockError)
        assert "partition" in str(error)


def test_a_scheduler_that_is_silent_for_a_while(tmp_path: Path, slurm: SlurmCluster) -> None:
    """What runs goes on, what is needed is asked for when it is back."""
    engine, _ = start(tmp_path, 1, provider=provider(max_blocks=2), heartbeat_limit_s=15.0)
    with engine:
        assert engine.submit(bodies.same, 1).result(DEADLINE_S) == 1
        doors = [str(tmp_path / str(i)) for i in range(2)]
        with slurm.silent():
            assert engine.submit(bodies.same, 2).result(DEADLINE_S) == 2
            met = [engine.submit(bodies.meet, door, doors) for door in doors]
            with pytest.raises(TimeoutError):
                met[0].result(10.0)
        assert len({future.result(DEADLINE_S) for future in met}) == 2


def test_blocks_wait_their_turn(tmp_path: Path, slurm: SlurmCluster) -> None:
    """Jobs in the queue, held ones too, are not asked for again; they go at the end."""
    other = slurm.run(
        "sbatch", "--parsable", "-N4", "--exclusive", "-o", "/dev/null", "--wrap=sleep 300"
    ).strip()
    wait_until(lambda: jobs(slurm, "RUNNING"), DEADLINE_S, "the cluster is full")
    engine, _ = start(tmp_path, 1, provider=provider(max_blocks=3))
    with engine:
        futures = [engine.submit(bodies.same, i) for i in range(3)]
        wait_until(lambda: len(jobs(slurm, "PENDING")) == 3, DEADLINE_S, "three blocks wait")
        slurm.run("scontrol", "hold", jobs(slurm, "PENDING")[0])
        with pytest.raises(TimeoutError):
            futures[0].result(1.5)
        assert len(jobs(slurm, "PENDING")) == 3
        slurm.run("scancel", other)
        assert [future.result(DEADLINE_S) for future in futures] == [0, 1, 2]


SCRIPT = """
import sys
import ssdag
from ssdag.executors import PilotExecutor
from ssdag.providers.slurm import SlurmProvider
from tests.integration import pilot_bodies as bodies

executor = PilotExecutor(SlurmProvider(walltime_s=600), workers_per_node=1, run_dir=sys.argv[1],
                         heartbeat_s=0.2, heartbeat_limit_s=2.0)
engine = ssdag.load(ssdag.Config(executors=[executor]))
engine.submit(bodies.hold, sys.argv[1] + "/on", sys.argv[1] + "/never").result()
"""


def test_a_driver_that_is_killed(tmp_path: Path, slurm: SlurmCluster) -> None:
    """Its block ends within the limit of its heartbeats."""
    driver = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment(), cwd=tmp_path
    )
    try:
        wait_until((tmp_path / "on").exists, DEADLINE_S, "its task runs")
        assert Counter(jobs(slurm, "RUNNING")).total() == 1
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    wait_until(lambda: not jobs(slurm, "RUNNING", "PENDING"), 15.0, "its block is gone")
