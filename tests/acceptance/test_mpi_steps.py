# SPDX-License-Identifier: BSD-3-Clause
"""The MPI steps as a user runs them: on this machine, and in a job of a real Slurm."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.clusters.cluster import SlurmCluster

for _package in ("matplotlib", "mpi4py"):
    pytest.importorskip(_package, reason=f"the MPI steps need {_package}")

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "examples.mpi_steps")

pytestmark = pytest.mark.slow


def start(folder: Path, *options: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, *COMMAND, "--out", str(folder / "out"), *options],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def run(
    folder: Path, *options: str, before: tuple[str, ...] = (), code: int = 0
) -> tuple[str, str]:
    with start(folder, *options, before=before) as process:
        output, errors = process.communicate(timeout=150)
    assert process.returncode == code, output + errors
    return output, errors


def check(output: str, steps: int) -> None:
    assert re.search(rf"^steps: {steps} on \d+ host", output, re.M), output
    busy = re.search(r"^most cores busy at a time: (\d+) of (\d+)$", output, re.M)
    assert busy is not None
    assert 0 < int(busy[1]) <= int(busy[2])
    order = re.search(r"^order of convergence: ([\d.]+)$", output, re.M)
    assert order is not None
    assert 1.9 < float(order[1]) < 2.1
    differ = re.search(r"^errors differ between numbers of ranks by: (\S+)$", output, re.M)
    assert differ is not None
    assert float(differ[1]) < 1e-5
    assert re.search(r"^ring: time for 10 loops", output, re.M)


def test_steps_of_mixed_sizes_on_this_machine(tmp_path: Path) -> None:
    output, errors = run(tmp_path, "--sizes", "32,64,128", "--ranks", "1,2")
    assert errors == ""
    check(output, 6)
    assert (tmp_path / "out" / "steps.png").stat().st_size > 15_000
    assert "processes, 1 bytes" in (tmp_path / "out" / "ring.txt").read_text()


def test_a_step_that_can_never_fit(tmp_path: Path) -> None:
    _, errors = run(tmp_path, "--ranks", "1000", code=2)
    assert "1000" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ranks", "one"], "'one' is not a list of numbers"),
        (["--config", "none.toml"], "cannot be read"),
        (["--config", str(ROOT / "examples" / "mpi_steps" / "slurm.toml")], "in no job of slurm"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    _, errors = run(tmp_path, *options, code=2)
    assert said in errors
    assert "Traceback" not in errors


def test_ctrl_c_ends_all_ranks(tmp_path: Path) -> None:
    with start(tmp_path, "--sizes", "32,2000", "--ranks", "1") as process:
        assert process.stdout is not None
        process.stdout.readline()  # the small one is done, the large one runs for minutes
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors


def test_in_a_job_of_a_real_slurm(tmp_path: Path, slurm: SlurmCluster) -> None:
    output, _ = run(
        tmp_path, "--config", str(ROOT / "examples" / "mpi_steps" / "slurm.toml"),
        "--sizes", "32,64", "--ranks", "1,8",
        before=("salloc", "--quiet", "--nodes=2", "--exclusive"),
    )  # fmt: skip
    check(output, 4)
    assert re.search(r"^steps: 4 on 2 hosts$", output, re.M)
    assert re.search(r"^most cores busy at a time: \d of 8$", output, re.M)
