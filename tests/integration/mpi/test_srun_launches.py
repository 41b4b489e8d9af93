# SPDX-License-Identifier: BSD-3-Clause
"""srun's launch lines in allocations of a real Slurm, with MPICH's ranks on two nodes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest

from ssdag.errors import LauncherError
from ssdag.launchers import SrunLauncher, Step, Wrapped
from ssdag.launchers import world as world_module
from ssdag.launchers.world import check_world
from tests.conftest import wait_until
from tests.integration.mpi.found import needs_mpich
from tests.integration.mpi.launching import NASTY, WORDS, Launch, Mpi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clusters.cluster import SlurmCluster


@contextmanager
def allocation(slurm: SlurmCluster, *request: str) -> Iterator[str]:
    """Hold an allocation without a shell in it; gives its id."""
    answer = subprocess.run(
        ["salloc", "--no-shell", *request], capture_output=True, text=True, timeout=60, check=True
    )
    found = re.search(r"Granted job allocation (\d+)", answer.stderr)
    assert found, answer.stderr
    try:
        yield found[1]
    finally:
        slurm.run("scancel", found[1])
        wait_until(
            lambda: not slurm.run("squeue", "-h", "-j", found[1], "-o", "%T").strip(),
            30,
            "the allocation is given back",
        )


@pytest.fixture
def two_nodes(slurm: SlurmCluster) -> Iterator[str]:
    """An allocation of nodes n1 and n2."""
    with allocation(slurm, "--nodelist=n1,n2", "--exclusive") as job:
        yield job


@pytest.fixture
def mpi(two_nodes: str) -> Mpi:
    return Mpi(SrunLauncher(mpi="pmi2", jobid=two_nodes), {})


@needs_mpich
def test_ranks_see_words_variables_and_folder_as_they_are(
    mpi: Mpi, launch: Launch, tmp_path: Path
) -> None:
    folder = tmp_path / "a b,c"
    folder.mkdir()
    step = launch.step(mpi, *WORDS, ranks=4, nodes=2, ranks_per_node=2, env=NASTY, cwd=str(folder))
    ranks = launch(mpi.launcher, step)
    assert [rank["node"] for rank in ranks] == ["n1", "n1", "n2", "n2"]
    for rank in ranks:
        assert rank["argv"] == list(WORDS)
        assert rank["env"] == NASTY
        assert rank["cwd"] == str(folder)


@needs_mpich
def test_programs_of_one_layout_are_one_world(mpi: Mpi, launch: Launch, tmp_path: Path) -> None:
    words = (*tuple(word for word in WORDS if "\n" not in word), "%t", "#", "\\", "a'b")
    env = {name: text for name, text in NASTY.items() if "\n" not in text}
    (tmp_path / "air").mkdir()
    ocean = launch.step(mpi, "ocean", ranks=2, env=env)
    air = launch.step(mpi, *words, ranks=3, cwd=str(tmp_path / "air"))
    ranks = launch(mpi.launcher, ocean, air)
    assert [r["argv"] for r in ranks] == [["ocean"]] * 2 + [list(words)] * 3
    assert [r["env"] for r in ranks] == [env] * 2 + [{}] * 3
    assert [r["cwd"] for r in ranks] == [os.getcwd()] * 2 + [str(tmp_path / "air")] * 3


@needs_mpich
def test_a_step_runs_on_the_hosts_and_with_what_it_names(
    mpi: Mpi, launch: Launch, tmp_path: Path
) -> None:
    wrapped = Wrapped(mpi.launcher, ("env", "SSDAG_T_W=1"))
    step = launch.step(
        mpi,
        ranks=2,
        hosts=("n2",),
        cores_per_rank=2,
        gpus_per_rank=0,
        memory_per_node_bytes=0,
        walltime_s=90.5,
    )
    ranks = launch(wrapped, step)
    assert [(rank["node"], rank["env"]) for rank in ranks] == [("n2", {"SSDAG_T_W": "1"})] * 2


@needs_mpich
def test_a_plug_in_that_does_not_fit_is_found_out(
    two_nodes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world_module, "_known", {})
    step = Step(argv=("unused",), ranks=4)
    fits = SrunLauncher(mpi="pmi2", jobid=two_nodes)
    assert check_world(fits, step, folder=str(tmp_path)).size == 4
    with pytest.raises(LauncherError, match="4 processes came up as rank 0 of 1"):
        check_world(SrunLauncher(mpi="none", jobid=two_nodes), step, folder=str(tmp_path))


def _meet(folder: Path, me: str, other: str) -> tuple[str, ...]:
    """A program that ends well as soon as another one runs at the same time."""
    code = (
        "import pathlib, sys, time; here = pathlib.Path(sys.argv[1])\n"
        "(here / sys.argv[2]).touch(); end = time.monotonic() + 30\n"
        "while not (here / sys.argv[3]).exists():\n"
        "    time.sleep(0.01)\n"
        "    if time.monotonic() > end: sys.exit(3)\n"
    )
    return (sys.executable, "-c", code, str(folder), me, other)


def test_exclusive_steps_run_side_by_side_on_one_node(two_nodes: str, tmp_path: Path) -> None:
    launcher = SrunLauncher(jobid=two_nodes)
    steps = [
        Step(argv=_meet(tmp_path, *names), hosts=("n1",), cores_per_rank=2)
        for names in (("a", "b"), ("b", "a"))
    ]
    running = [subprocess.Popen(launcher.command(step)) for step in steps]
    assert [process.wait(60) for process in running] == [0, 0]


def test_tasks_run_beside_a_service_that_overlaps(two_nodes: str, tmp_path: Path) -> None:
    launcher = SrunLauncher(jobid=two_nodes)
    service = Step(
        argv=_meet(tmp_path, "service", "end"), hosts=("n1",), cores_per_rank=4, overlap=True
    )
    task = Step(argv=("true",), ranks=4, hosts=("n1",))
    with subprocess.Popen(launcher.command(service)) as process:
        wait_until((tmp_path / "service").exists, 30, "the service is up")
        subprocess.run(launcher.command(task), timeout=30, check=True)
        assert process.poll() is None
        late = Step(argv=("true",), ranks=1, cores_per_rank=4, hosts=("n1",), overlap=True)
        subprocess.run(launcher.command(late), timeout=30, check=True)
        (tmp_path / "end").touch()
        assert process.wait(30) == 0


def test_components_of_a_heterogeneous_job_run_what_is_theirs(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    show = ("sh", "-c", 'echo "$A" "$SLURMD_NODENAME" "$1" "$PWD"', "sh")
    with allocation(slurm, "-n1", "-w", "n1", ":", "-n2", "-w", "n2") as job:
        steps = [
            Step(argv=(*show, "x y"), het_group=0, env={"A": "1,2"}),
            Step(argv=(*show, "z"), ranks=2, het_group=1, env={"A": "3"}, cwd=str(tmp_path)),
        ]
        line = SrunLauncher(jobid=job, mpi="none").command(*steps)
        answer = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
        here = [f"1,2 n1 x y {os.getcwd()}", *[f"3 n2 z {tmp_path}"] * 2]
        assert sorted(answer.stdout.splitlines()) == sorted(here)
        alone = SrunLauncher(jobid=job, mpi="none").command(steps[1])
        answer = subprocess.run(alone, capture_output=True, text=True, timeout=60, check=True)
        assert answer.stdout.splitlines() == [f"3 n2 z {tmp_path}"] * 2


def test_ranks_have_our_environment_whatever_the_job_was_submitted_with(
    two_nodes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_EXPORT_ENV", "NONE")
    monkeypatch.setenv("SSDAG_T_OURS", "ours")
    step = Step(argv=("sh", "-c", 'echo "$SSDAG_T_OURS" "$A"'), env={"A": "1"})
    line = SrunLauncher(jobid=two_nodes).command(step)
    answer = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout == "ours 1\n"


def test_the_exit_code_of_a_rank_is_that_of_srun(two_nodes: str) -> None:
    launcher = SrunLauncher(jobid=two_nodes)
    step = Step(argv=("sh", "-c", "exit $((SLURM_PROCID * 5))"), ranks=2)
    assert subprocess.run(launcher.command(step), timeout=60, check=False).returncode == 5


def test_no_rank_outlives_a_srun_that_is_told_to_end(two_nodes: str, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    step = Step(
        argv=("sh", "-c", 'echo $$ >"$1.tmp"; mv "$1.tmp" "$1"; exec sleep 60', "sh", str(file))
    )
    line = SrunLauncher(jobid=two_nodes).command(step)
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as process:
        wait_until(file.exists, 30, "the rank is up")
        rank = psutil.Process(int(file.read_text()))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) != 0
        wait_until(lambda: not rank.is_running(), 20, "the rank is gone")
