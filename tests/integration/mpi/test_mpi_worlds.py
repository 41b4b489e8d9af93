# SPDX-License-Identifier: BSD-3-Clause
"""A launcher and a library that do not fit are found out before real work starts."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ssdag.errors import LauncherError
from ssdag.launchers import Launcher, MpiexecLauncher, MpirunLauncher, SingleLauncher, Step
from ssdag.launchers import world as world_module
from ssdag.launchers.world import World, check_world, without_world, world_rank, world_size
from tests.conftest import wait_until
from tests.integration.mpi.found import MPIEXEC, OPENMPI_ENV, needs_mpich, needs_openmpi

MPICH = MpiexecLauncher(executable=MPIEXEC)
OPENMPI = MpirunLauncher(executable="mpirun.openmpi", allow_run_as_root=True, oversubscribe=True)
TWO = Step(argv=("unused",), ranks=2)
BY_OPENMPI = replace(TWO, env=OPENMPI_ENV)


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "_known", {})


@needs_mpich
def test_mpich_fits_its_mpiexec() -> None:
    world = check_world(MPICH, replace(TWO, ranks=3))
    assert world.size == 3
    assert world.library.startswith("MPICH")


@needs_openmpi
def test_open_mpi_fits_its_mpirun() -> None:
    world = check_world(OPENMPI, BY_OPENMPI)
    assert world.size == 2
    assert world.library.startswith("Open MPI")


@needs_mpich
def test_a_good_answer_is_remembered_for_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    first = check_world(MPICH)
    monkeypatch.setattr(world_module, "_run", None)
    assert check_world(MPICH) is first
    with pytest.raises(TypeError):
        check_world(MPICH, replace(TWO, ranks=1))
    with pytest.raises(TypeError):
        check_world(MPICH, python="another")


@needs_mpich
@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_a_program_of_c_is_tried_instead(tmp_path: Path) -> None:
    mpicc = str(Path(MPIEXEC).with_name("mpicc"))
    assert check_world(MPICH, mpicc=mpicc, folder=str(tmp_path)).library.startswith("MPICH")
    assert not list(tmp_path.iterdir())
    with pytest.raises(LauncherError, match="false cannot compile"):
        check_world(MPICH, mpicc="false")


@needs_mpich
@needs_openmpi
def test_n_times_rank_0_of_1_is_an_error_that_names_both() -> None:
    with pytest.raises(LauncherError) as caught:
        check_world(MPICH, BY_OPENMPI)
    error = caught.value
    assert (error.launcher, error.exit_code) == ("mpiexec", 0)
    assert error.library.startswith("Open MPI v")
    assert "launcher mpiexec does not fit the MPI library Open MPI v" in str(error)
    assert "2 processes came up as rank 0 of 1" in str(error)
    assert "use the launcher that belongs to the library" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.library) == (str(error), error.library)


@needs_mpich
def test_singletons_of_the_same_library_are_found_too() -> None:
    cut_off = ("env", "-u", "PMI_FD", "-u", "PMI_RANK", "-u", "PMI_SIZE")
    with pytest.raises(LauncherError, match="came up as rank 0 of 1"):
        check_world(MPICH, replace(TWO, wrapper=cut_off))


@needs_mpich
@needs_openmpi
def test_ranks_that_die_at_once_say_why() -> None:
    with pytest.raises(LauncherError, match=r"cannot start 2 ranks") as caught:
        check_world(OPENMPI, TWO)
    assert caught.value.exit_code != 0
    assert "PMI" in caught.value.stderr_tail


def test_what_cannot_start_says_what(tmp_path: Path) -> None:
    missing = str(tmp_path / "mpiexec")
    with pytest.raises(LauncherError, match=r"launcher mpiexec: .* cannot be started") as caught:
        check_world(MpiexecLauncher(executable=missing))
    assert caught.value.command[0] == missing
    with pytest.raises(LauncherError, match=r"(?s)cannot start 1 ranks .*No module named"):
        check_world(SingleLauncher(), replace(TWO, ranks=1, env={"PYTHONPATH": _hidden(tmp_path)}))


def _hidden(folder: Path) -> str:
    (folder / "mpi4py.py").write_text("raise ImportError(\"No module named 'mpi4py'\")\n")
    return str(folder)


def test_a_launch_that_hangs_is_ended() -> None:
    stuck = replace(TWO, ranks=1, wrapper=("sh", "-c", "sleep 60; true"))
    with pytest.raises(LauncherError, match=r"did not end within 0.2 s") as caught:
        check_world(SingleLauncher(), stuck, timeout_s=0.2)
    assert caught.value.exit_code is None


@needs_mpich
def test_one_rank_without_a_launcher_is_a_world() -> None:
    world = check_world(SingleLauncher(), replace(TWO, ranks=1))
    assert world == World(1, world.library)


@pytest.mark.parametrize(
    ("env", "rank", "size"),
    [
        ({}, None, None),
        ({"PMI_RANK": "1", "PMI_SIZE": "4"}, 1, 4),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "0"}, 0, 2),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"}, 3, 8),
        (
            {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "5", "PMI_SIZE": "6"},
            5,
            6,
        ),
        ({"JSM_NAMESPACE_RANK": "2", "JSM_NAMESPACE_SIZE": "3"}, 2, 3),
        ({"FLUX_TASK_RANK": "2", "FLUX_JOB_SIZE": "3"}, 2, 3),
        ({"ALPS_APP_PE": "7"}, 7, None),
        ({"PMI_RANK": "", "PMI_SIZE": "x"}, None, None),
    ],
)
def test_a_rank_finds_its_place(env: dict[str, str], rank: int | None, size: int | None) -> None:
    assert world_rank(env) == rank
    assert world_size(env) == size


@pytest.mark.parametrize(
    ("launcher", "env"),
    [
        pytest.param(MPICH, {}, marks=needs_mpich, id="mpich"),
        pytest.param(OPENMPI, OPENMPI_ENV, marks=needs_openmpi, id="openmpi"),
    ],
)
def test_a_rank_can_start_a_launch_of_its_own(launcher: Launcher, env: dict[str, str]) -> None:
    code = (
        "from mpi4py import MPI; from ssdag.launchers import *\n"
        "from ssdag.launchers.world import check_world, world_rank, world_size\n"
        f"inner = check_world({launcher!r}).size\n"
        "print('outer', world_rank(), 'of', MPI.COMM_WORLD.size, world_size(), 'inner', inner)"
    )
    argv = (sys.executable, "-c", code)
    line = launcher.command(Step(argv=argv, ranks=1, env={**env, "PYTHONPATH": os.getcwd()}))
    _, stdout, stderr = world_module._run("test", line, 60, without_world())
    assert stdout.strip() == "outer 0 of 1 1 inner 2", stderr


@needs_mpich
def test_no_rank_is_left_by_a_driver_that_is_killed_while_it_looks(tmp_path: Path) -> None:
    mine = (
        "import os, sys, time; from mpi4py import MPI\n"
        "open(f'{sys.argv[1]}.tmp', 'w').write(str(os.getpid()))\n"
        "os.rename(f'{sys.argv[1]}.tmp', sys.argv[1]); time.sleep(60)"
    )
    file = tmp_path / "pid"
    wrapper = (sys.executable, "-c", mine, str(file))
    driver = (
        "from ssdag.launchers import *; from ssdag.launchers.world import check_world\n"
        f"check_world({MPICH!r}, Step(argv=('x',), wrapper={wrapper!r}, ranks=1))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", driver], env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    wait_until(file.exists, 30, "the rank is up")
    rank = psutil.Process(int(file.read_text()))
    process.kill()
    process.wait(10)
    wait_until(lambda: not rank.is_running(), 20, "the rank is gone")
    wait_until(lambda: not list(tmp_path.glob("ssdag-*")), 20, "its folder is gone")


def test_what_an_outer_launch_left_is_taken_away() -> None:
    outer = {
        "PMI_FD": "9",
        "PMIX_NAMESPACE": "x",
        "OMPI_COMM_WORLD_SIZE": "2",
        "HYDI_CONTROL_FD": "1",
    }
    kept = {
        "PATH": "/bin",
        "SLURM_JOB_ID": "1",
        "OMPI_MCA_btl": "tcp",
        "MPI_HOME": "/m",
        "PMIX_MCA_gds": "hash",
    }
    assert without_world(outer | kept) == kept
