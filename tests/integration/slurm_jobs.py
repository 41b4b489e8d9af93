# SPDX-License-Identifier: BSD-3-Clause
"""An allocation of a test's Slurm, as a script that runs in it would see it."""

from __future__ import annotations

import re
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from tests.clusters.cluster import SlurmCluster

DEADLINE_S = 60.0


@contextmanager
def allocation(
    slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch, nodes: int = 3
) -> Iterator[str]:
    """Be in a job of some nodes with four cores each, n1, n2, ...; gives its id."""
    answer = subprocess.run(
        ["salloc", "--no-shell", f"--nodelist=n[1-{nodes}]", "--exclusive", "--time=10"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found = re.search(r"Granted job allocation (\d+)", answer.stderr)
    assert found is not None
    job = found[1]
    for name, value in {
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NODELIST": f"n[1-{nodes}]",
        "SLURM_JOB_CPUS_PER_NODE": f"4(x{nodes})",
        # What sbatch leaves there and srun would take for options of every step.
        "SLURM_NTASKS": str(nodes),
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_CPUS_PER_TASK": "2",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        yield job
    finally:
        slurm.run("scancel", "--quiet", job)
        wait_until(lambda: not slurm.run("squeue", "-h", "-j", job), DEADLINE_S, "it is given back")


def steps(slurm: SlurmCluster, job: str) -> list[str]:
    """Return ids and nodes of the steps that run, without those of the job itself."""
    lines = slurm.run("squeue", "-h", "--steps", "-o", "%i %N", "-j", job).splitlines()
    return [line for line in lines if line.split()[0].rpartition(".")[2].isdigit()]
