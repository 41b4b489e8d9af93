# SPDX-License-Identifier: BSD-3-Clause
"""Clusters of tests leave nothing behind, even if the tests are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.clusters.cluster import SlurmCluster
from tests.conftest import wait_until

CODE = """
import sys
from tests.clusters.cluster import SlurmCluster
cluster = SlurmCluster(2)
cluster.start()
cluster.run("sbatch", "-o", "/dev/null", "--wrap", "sleep 300")
print(cluster.folder, flush=True)
sys.stdin.readline()
"""


def test_a_cluster_ends_with_its_owner_however_that_ends() -> None:
    SlurmCluster(1)  # skips where there can be none
    root = Path(__file__).parents[2]
    owner = subprocess.Popen(
        [sys.executable, "-c", CODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    with owner:
        assert owner.stdout is not None
        folder = owner.stdout.readline().strip()
        assert Path(folder, "slurm.conf").exists()
        owner.kill()
    wait_until(lambda: not Path(folder).exists(), 30, "the folder is removed")
    left = [p for p in psutil.process_iter(["cmdline"]) if folder in str(p.info["cmdline"])]
    assert [p for p in left if p.status() != psutil.STATUS_ZOMBIE] == []


def test_steps_end_with_the_cluster_also_without_a_controller(tmp_path: Path) -> None:
    cluster = SlurmCluster(1)
    cluster.start()
    try:
        began = tmp_path / "began"
        cluster.run("sbatch", "-o", "/dev/null", "--wrap", f"srun sh -c 'touch {began}; sleep 301'")
        wait_until(began.exists, 30, "the step runs")
        cluster.kill_controller()
        steps = [p for p in psutil.process_iter() if _is_of(p, cluster.folder)]
        steps += [child for step in steps for child in step.children(recursive=True)]
    finally:
        cluster.stop()
    assert len(steps) >= 4  # daemons of the job and its step, the script, and the step's program
    assert psutil.wait_procs(steps, timeout=20)[1] == []


def _is_of(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.name() == "slurmstepd" and process.cwd().startswith(f"{folder}/")
    except psutil.Error:
        return False


def test_a_node_whose_daemon_crashed_is_brought_back(slurm: SlurmCluster) -> None:
    daemon = psutil.Process(slurm._pid("slurmd-n3"))
    slurm.kill_node("n3")
    psutil.wait_procs([daemon], timeout=20)
    slurm.revive()
    assert slurm.run("srun", "-w", "n3", "-N1", "printenv", "SLURMD_NODENAME") == "n3\n"


_turns: list[int] = []


def test_a_test_is_run_again_under_which_slurmd_crashed(slurm: SlurmCluster) -> None:
    daemon = psutil.Process(slurm._pid("slurmd-n2"))
    _turns.append(daemon.pid)
    if len(_turns) == 1:
        assert slurm.crashed() == []
        daemon.send_signal(signal.SIGSEGV)
        psutil.wait_procs([daemon], timeout=20)
        assert slurm.crashed() == ["n2"]
        pytest.fail("the first time")
    assert slurm.crashed() == []
    assert _turns[0] != daemon.pid
    slurm.kill_node("n2")
    psutil.wait_procs([daemon], timeout=20)
    assert slurm.crashed() == [], "that was us"
