# SPDX-License-Identifier: BSD-3-Clause
"""Steps in an allocation of a real Slurm: side by side, refilled, failing, ended, lost."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag import (
    CommandError,
    Config,
    Resources,
    UnsupportedError,
    WalltimeExceededError,
    bash_app,
    mpi_app,
    python_app,
)
from ssdag.errors import LauncherError
from ssdag.executors import AllocationExecutor
from ssdag.launchers import SrunLauncher
from ssdag.wire.process import spawn
from tests.conftest import wait_until
from tests.integration import step_bodies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ssdag.dataflow.engine import Engine
    from ssdag.tasks import AppFuture
    from tests.clusters.cluster import SlurmCluster

pytestmark = pytest.mark.usefixtures("no_old_segments")

DEADLINE_S = 60.0
needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None, reason="no MPI: pip install mpich mpi4py"
)


@pytest.fixture
def job(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An allocation of four nodes with four cores each, as its script would see it."""
    answer = subprocess.run(
        ["salloc", "--no-shell", "--nodes=4", "--exclusive", "--time=10"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found = re.search(r"Granted job allocation (\d+)", answer.stderr)
    assert found is not None
    job = found[1]
    for name, value in {
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NODELIST": "n[1-4]",
        "SLURM_JOB_CPUS_PER_NODE": "4(x4)",
        # What sbatch leaves there and srun would take for options of every step.
        "SLURM_NTASKS": "4",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_CPUS_PER_TASK": "2",
    }.items():
        monkeypatch.setenv(name, value)
    yield job
    slurm.run("scancel", "--quiet", job)
    wait_until(lambda: not slurm.run("squeue", "-h", "-u", "root"), DEADLINE_S, "it is given back")


@pytest.fixture
def start(job: str) -> Iterator[Callable[..., Engine]]:
    """Start engines inside the allocation; closed after the test."""
    engines: list[Engine] = []

    def make(**options: Any) -> Engine:
        engines.append(ssdag.load(Config(executors=[AllocationExecutor(**options)])))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@bash_app
def run(command: str, **_: Any) -> str:
    return command


def steps(slurm: SlurmCluster, job: str) -> list[str]:
    """Return the ids of the steps that run, without the one that stands for the job itself."""
    said = slurm.run("squeue", "-h", "--steps", "-o", "%i", "-j", job).split()
    return [step for step in said if step.rpartition(".")[2].isdigit()]


def test_steps_side_by_side_and_refilled(
    start: Callable[..., Engine], slurm: SlurmCluster, job: str, tmp_path: Path
) -> None:
    """Eight at once, each with two cores; eight more as these end."""
    start()
    text = "echo $SLURMD_NODENAME; touch {0}/on{1}; until [ -e {0}/go ]; do sleep 0.05; done"

    def task(i: int) -> AppFuture[int]:
        return run(
            text.format(tmp_path, i), stdout=f"{tmp_path}/out{i}", resources=Resources(cores=2)
        )

    futures = [task(i) for i in range(16)]
    wait_until(lambda: len(list(tmp_path.glob("on*"))) == 8, DEADLINE_S, "eight run")
    assert len(steps(slurm, job)) == 8
    (tmp_path / "go").touch()
    assert ssdag.gather(futures, timeout=DEADLINE_S) == [0] * 16
    where = Counter((tmp_path / f"out{i}").read_text().strip() for i in range(8))
    assert where == Counter({f"n{i}": 2 for i in range(1, 5)})


def test_sizes_are_mixed_and_never_overlap(start: Callable[..., Engine], tmp_path: Path) -> None:
    start()
    sizes = [
        Resources(ranks=1), Resources(ranks=6), Resources(cores=4), Resources(ranks=4, nodes=4),
        Resources(ranks=5, nodes=3), Resources(ranks=2, cores_per_rank=2), Resources(ranks=16),
        Resources(nodes=2, ranks=2, cores_per_rank=4),
    ]  # fmt: skip
    log = tmp_path / "log"
    text = (
        f'echo "+ $SLURMD_NODENAME $SLURM_CPUS_PER_TASK" >> {log}; sleep 0.05; '
        f'echo "- $SLURMD_NODENAME $SLURM_CPUS_PER_TASK" >> {log}'
    )
    futures = [run(text, resources=sizes[i % len(sizes)]) for i in range(24)]
    assert ssdag.gather(futures, timeout=DEADLINE_S) == [0] * 24
    used: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        sign, node, cores = line.split()
        used[node] += int(cores) if sign == "+" else -int(cores)
        assert used[node] <= 4
    assert set(used.values()) == {0}
    with pytest.raises(UnsupportedError, match=r"17 ranks.*4 nodes with 4 cores"):
        run("true", resources=Resources(ranks=17))


def test_failing_timed_out_and_cancelled_steps(
    start: Callable[..., Engine], slurm: SlurmCluster, job: str, tmp_path: Path
) -> None:
    start()
    error = run("echo oops >&2; exit 3").exception(DEADLINE_S)
    assert isinstance(error, CommandError)
    assert error.exit_code == 3
    assert "oops" in error.stderr_tail
    assert isinstance(run("no-such-program-xyz").exception(DEADLINE_S), CommandError)
    late = run(
        "trap '' TERM; sleep 602 & wait; sleep 602", walltime=1, resources=Resources(ranks=2)
    )
    assert isinstance(late.exception(DEADLINE_S), WalltimeExceededError)
    held = run(f"touch {tmp_path}/on; sleep 602", resources=Resources(ranks=16))
    wait_until((tmp_path / "on").exists, DEADLINE_S, "it runs")
    assert held.cancel()
    # All sixteen cores came back, and Slurm agrees.
    assert run("true", resources=Resources(ranks=16)).result(DEADLINE_S) == 0
    wait_until(lambda: steps(slurm, job) == [], DEADLINE_S, "no step is left")


@needs_mpi
def test_ranks_of_a_real_mpi(start: Callable[..., Engine]) -> None:
    start()
    world = mpi_app(python=True, returns="all")(step_bodies.world)
    four = world(1, resources=Resources(ranks=4, ranks_per_node=2))
    ends = four.result(DEADLINE_S)
    assert [end[:3] for end in ends] == [(rank, 4, 4) for rank in range(4)]
    assert len({end[3] for end in ends}) == 2
    raises = mpi_app(python=True, resources=Resources(ranks=3))(step_bodies.rank_raises)
    error = raises(2).exception(DEADLINE_S)
    assert isinstance(error, ValueError)
    assert error.__notes__ == ["raised on rank 2 of 3"]
    dies = mpi_app(python=True, resources=Resources(ranks=3))(step_bodies.rank_dies)
    assert isinstance(dies(1).exception(DEADLINE_S), ssdag.WorkerLostError)
    assert python_app(step_bodies.double)(4).result(DEADLINE_S) == 8


@needs_mpi
def test_an_srun_that_the_mpi_does_not_understand(start: Callable[..., Engine]) -> None:
    start(launcher=SrunLauncher(mpi="none"))
    world = mpi_app(python=True, resources=Resources(ranks=2))(step_bodies.world)
    with pytest.raises(LauncherError, match=r"2 ranks were launched by srun.*pmi2"):
        world(1).result(DEADLINE_S)


def test_a_command_may_launch_its_ranks_itself(
    start: Callable[..., Engine], tmp_path: Path
) -> None:
    start()
    out = tmp_path / "out"
    text = "$SSDAG_LAUNCH sh -c 'echo $SLURMD_NODENAME' | sort; echo end"
    futures = [
        run(text, stdout=f"{out}{i}", resources=Resources(nodes=2, cores=2)) for i in range(4)
    ]
    ssdag.gather(futures, timeout=DEADLINE_S)
    for i in range(4):
        first, second, end = Path(f"{out}{i}").read_text().split()
        assert first < second
        assert end == "end"


DRIVER = """
import sys, time
import ssdag
from ssdag import Config, Resources, bash_app
from ssdag.executors import AllocationExecutor

@bash_app(resources=Resources(ranks=2, nodes=2))
def run(command):
    return command

ssdag.load(Config(executors=[AllocationExecutor()]))
run(f"touch {sys.argv[1]}/on; sleep 603.1")
time.sleep(600)
"""


def test_the_driver_is_killed(job: str, slurm: SlurmCluster, tmp_path: Path) -> None:
    """srun alone, killed with it, would leave the step running on its nodes."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = spawn([sys.executable, "-c", DRIVER, str(tmp_path)], env=env, cwd=tmp_path)
    try:
        wait_until((tmp_path / "on").exists, DEADLINE_S, "the step runs")
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: steps(slurm, job) == [], 20.0, "the step is gone")
        wait_until(lambda: list(tmp_path.glob(".ssdag-*")) == [], 20.0, "its folder is gone")
    finally:
        process.kill_session()


def test_a_node_is_lost(start: Callable[..., Engine], slurm: SlurmCluster, tmp_path: Path) -> None:
    """A step that cannot be started on a node fails; the others go on."""
    start()
    assert run("true", resources=Resources(ranks=16)).result(DEADLINE_S) == 0
    slurm.kill_node("n4")
    try:
        lost = run("true", resources=Resources(ranks=4, nodes=4)).exception(DEADLINE_S)
        assert isinstance(lost, CommandError)
        assert "n4" in lost.stderr_tail
        assert run("true").result(DEADLINE_S) == 0
    finally:
        slurm.start_node("n4")
        wait_until(
            lambda: (
                "idle" in slurm.run("sinfo", "-h", "-n", "n4", "-o", "%T")
                or "alloc" in slurm.run("sinfo", "-h", "-n", "n4", "-o", "%T")
            ),
            DEADLINE_S,
            "the node is back",
        )
