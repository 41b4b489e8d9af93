# SPDX-License-Identifier: BSD-3-Clause
"""Launch lines started for real: MPICH's mpiexec, Open MPI's mpirun, and PALS's flags.

MPICH is that of the ``mpich`` wheel. mpi4py is told to use Open MPI's library by two
variables of its own. PALS is MPICH's mpiexec behind a script that drops what only PALS
knows and gives every host name to the machine that we are on.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ssdag.launchers import (
    MpiexecLauncher,
    MpirunLauncher,
    PalsLauncher,
    Step,
    Wrapped,
    container,
)
from tests.conftest import wait_until
from tests.integration.mpi.found import MPIEXEC, OPENMPI_ENV, needs_mpich, needs_openmpi
from tests.integration.mpi.launching import NASTY, WORDS, Launch, Mpi

if TYPE_CHECKING:
    from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))


def _pals(folder: Path) -> PalsLauncher:
    script = folder / "mpiexec"
    script.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        "line = []\n"
        "words = iter(sys.argv[1:])\n"
        "for word in words:\n"
        "    if word in ('--depth', '--cpu-bind'):\n"
        "        next(words)\n"
        "    elif not word.startswith('-') and word != ':':\n"
        "        line += [word, *words]\n"
        "    else:\n"
        "        line += [word] + ([next(words)] if word.startswith('--') else [])\n"
        f"os.execv({MPIEXEC!r}, [{MPIEXEC!r}, '-launcher', 'fork', *line])\n"
    )
    script.chmod(0o755)
    return PalsLauncher(executable=str(script))


@pytest.fixture(
    params=[
        pytest.param("mpiexec", marks=needs_mpich),
        pytest.param("mpirun", marks=needs_openmpi),
        pytest.param("pals", marks=needs_mpich),
    ]
)
def mpi(request: pytest.FixtureRequest, tmp_path: Path) -> Mpi:
    if request.param == "mpiexec":
        return Mpi(MpiexecLauncher(executable=MPIEXEC), {})
    if request.param == "pals":
        return Mpi(_pals(tmp_path), {})
    launcher = MpirunLauncher(
        executable="mpirun.openmpi", allow_run_as_root=True, oversubscribe=True
    )
    return Mpi(launcher, OPENMPI_ENV)


def test_ranks_see_words_variables_and_folder_as_they_are(
    mpi: Mpi, launch: Launch, tmp_path: Path
) -> None:
    folder = tmp_path / "a b,c"
    folder.mkdir()
    step = launch.step(mpi, *WORDS, ranks=2, env=NASTY, cwd=str(folder))
    for rank in launch(mpi.launcher, step):
        assert rank["argv"] == list(WORDS)
        assert rank["env"] == NASTY
        assert rank["cwd"] == str(folder)


def test_two_programs_are_one_world_and_keep_what_is_theirs(
    mpi: Mpi, launch: Launch, tmp_path: Path
) -> None:
    (tmp_path / "air").mkdir()
    ocean = launch.step(mpi, "ocean", ranks=1, env={"SSDAG_T_É%%": "1,2"})
    air = launch.step(mpi, "air", ":", ranks=2, env={"SSDAG_T_B": ":"}, cwd=str(tmp_path / "air"))
    ranks = launch(mpi.launcher, ocean, air)
    assert [r["argv"] for r in ranks] == [["ocean"], ["air", ":"], ["air", ":"]]
    assert [r["env"] for r in ranks] == [{"SSDAG_T_É%%": "1,2"}, *[{"SSDAG_T_B": ":"}] * 2]
    assert [r["cwd"] for r in ranks] == [os.getcwd(), *[str(tmp_path / "air")] * 2]


def test_ranks_share_out_the_gpus_of_their_node(mpi: Mpi, launch: Launch) -> None:
    step = launch.step(mpi, ranks=2, gpus_per_rank=2, env={"CUDA_VISIBLE_DEVICES": "3,4,GPU-a,7"})
    assert [r["gpus"] for r in launch(mpi.launcher, step)] == ["3,4", "GPU-a,7"]


def test_a_container_runs_every_rank(mpi: Mpi, launch: Launch, tmp_path: Path) -> None:
    apptainer = tmp_path / "apptainer"
    apptainer.write_text(
        '#!/bin/sh\n[ "$1 $2 $3" = "exec --bind=/a b c.sif" ] || exit 9\nshift 3\n'
        'SSDAG_T_INSIDE=1 exec "$@"\n'
    )
    apptainer.chmod(apptainer.stat().st_mode | stat.S_IXUSR)
    wrapped = Wrapped(mpi.launcher, container("c.sif", program=str(apptainer), binds=["/a b"]))
    step = launch.step(mpi, *WORDS, ranks=2)
    for rank in launch(wrapped, step):
        assert rank["env"] == {"SSDAG_T_INSIDE": "1"}
        assert rank["argv"] == list(WORDS)


def test_an_app_can_put_the_prefix_before_its_own_command(mpi: Mpi, tmp_path: Path) -> None:
    step = Step(argv=("unused",), ranks=2, env=mpi.env | {"SSDAG_T_A": "x y"})
    line = [*mpi.launcher.prefix(step), "sh", "-c", 'echo "$SSDAG_T_A" "$1"', "sh", "two  words"]
    answer = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.splitlines() == ["x y two  words"] * 2


@pytest.mark.parametrize("mpi", ["mpiexec", "pals"], indirect=True)
@needs_mpich
def test_ranks_stand_on_the_hosts_that_are_named(mpi: Mpi, launch: Launch) -> None:
    launcher = mpi.launcher
    if isinstance(launcher, MpiexecLauncher):
        launcher = replace(launcher, options=("-launcher", "fork"))
    step = launch.step(mpi, ranks=4, ranks_per_node=2, hosts=("h2", "h1"))
    assert [r["host"] for r in launch(launcher, step)] == ["h2", "h2", "h1", "h1"]


@needs_mpich
def test_mpiexec_places_uneven_steps_and_several_programs(launch: Launch) -> None:
    mpi = Mpi(MpiexecLauncher(executable=MPIEXEC, options=("-launcher", "fork")), {})
    step = launch.step(mpi, ranks=3, hosts=("h1", "h2"))
    assert [r["host"] for r in launch(mpi.launcher, step)] == ["h1", "h1", "h2"]
    ocean = launch.step(mpi, ranks=2, ranks_per_node=1, hosts=("h3", "h1"))
    air = launch.step(mpi, ranks=2, ranks_per_node=2, hosts=("h2",))
    assert [r["host"] for r in launch(mpi.launcher, ocean, air)] == ["h3", "h1", "h2", "h2"]


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
@pytest.mark.parametrize("mpi", ["mpiexec", "mpirun"], indirect=True)
@pytest.mark.parametrize(
    ("layout", "cores"),
    [
        ({"binding": (CORES[-1], CORES[0])}, [[CORES[-1]], [CORES[0]]]),
        ({"cores_per_rank": 2, "binding": (*CORES[:2], *CORES[:2])}, [CORES[:2], CORES[:2]]),
        ({"binding": "none"}, [CORES, CORES]),
    ],
)
def test_ranks_are_bound_to_the_cores_that_are_named(
    mpi: Mpi, launch: Launch, layout: dict[str, Any], cores: list[list[int]]
) -> None:
    step = launch.step(mpi, ranks=2, hosts=("localhost",), **layout)
    assert [r["cores"] for r in launch(mpi.launcher, step)] == cores


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
@needs_openmpi
def test_mpirun_binds_several_programs_on_one_host(launch: Launch) -> None:
    launcher = MpirunLauncher(executable="mpirun.openmpi", allow_run_as_root=True)
    mpi = Mpi(launcher, OPENMPI_ENV)
    place = {"hosts": ("localhost",), "ranks": 1}
    first = launch.step(mpi, "a", binding=(CORES[1],), **place)
    second = launch.step(mpi, "b", binding=(CORES[0],), **place)
    ranks = launch(launcher, first, second)
    assert [(r["argv"], r["cores"]) for r in ranks] == [(["a"], [CORES[1]]), (["b"], [CORES[0]])]


@needs_openmpi
@pytest.mark.parametrize("mpi", ["mpirun"], indirect=True)
def test_the_launcher_ends_what_outlives_its_walltime(mpi: Mpi) -> None:
    step = Step(argv=("sleep", "60"), ranks=2, walltime_s=0.2, env=mpi.env)
    answer = subprocess.run(
        mpi.launcher.command(step), capture_output=True, text=True, timeout=30, check=False
    )
    assert answer.returncode != 0
    assert "time" in (answer.stderr + answer.stdout).lower()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_no_rank_outlives_its_launcher(mpi: Mpi, tmp_path: Path, signum: int) -> None:
    code = (
        "import os, sys, time; from mpi4py import MPI; r = MPI.COMM_WORLD.rank\n"
        "open(f'{sys.argv[1]}/{r}.tmp', 'w').write(str(os.getpid()))\n"
        "os.rename(f'{sys.argv[1]}/{r}.tmp', f'{sys.argv[1]}/{r}.pid'); time.sleep(60)"
    )
    step = Step(argv=(sys.executable, "-c", code, str(tmp_path)), ranks=2, env=mpi.env)
    with subprocess.Popen(
        mpi.launcher.command(step),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        files = [tmp_path / "0.pid", tmp_path / "1.pid"]
        wait_until(lambda: all(file.exists() for file in files), 30, "both ranks are up")
        ranks = [psutil.Process(int(file.read_text())) for file in files]
        process.send_signal(signum)
        process.wait(20)
        wait_until(lambda: not any(_lives(rank) for rank in ranks), 20, "both ranks are gone")


def _lives(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def test_a_failing_rank_fails_the_launch(mpi: Mpi) -> None:
    code = "import sys; from mpi4py import MPI; sys.exit(7 if MPI.COMM_WORLD.rank else 0)"
    step = Step(argv=(sys.executable, "-c", code), ranks=2, env=mpi.env)
    answer = subprocess.run(
        mpi.launcher.command(step), capture_output=True, timeout=60, check=False
    )
    assert answer.returncode == 7
