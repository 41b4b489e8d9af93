# SPDX-License-Identifier: BSD-3-Clause
"""A compiled program is not started by the launcher of another MPI library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import ssdag
from ssdag.errors import LauncherError
from ssdag.executors import AllocationExecutor
from ssdag.launchers import Launcher, MpiexecLauncher, MpirunLauncher, SrunLauncher
from ssdag.launchers.linked import check_linked, library_of
from tests.integration.mpi.found import MPIEXEC, needs_mpich, needs_openmpi

if TYPE_CHECKING:
    from pathlib import Path

MPICH = MpiexecLauncher(executable=MPIEXEC)
OPENMPI = MpirunLauncher(executable="mpirun.openmpi", allow_run_as_root=True, oversubscribe=True)
DEADLINE_S = 60.0

#: Without headers, so that Open MPI's runtime package is enough.
SOURCE = """\
#include <stdio.h>
int MPI_Init(int *, char ***);
int MPI_Finalize(void);
int main(void) { MPI_Init(0, 0); puts("a rank"); return MPI_Finalize(); }
"""

needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")


def build(folder: Path, *options: str) -> str:
    """Return a program of a rank, linked so."""
    source, program = folder / "rank.c", folder / "rank program"
    source.write_text(SOURCE)
    subprocess.run(
        ["cc", "-o", str(program), str(source), "-Wl,--no-as-needed", *options],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(program)


def with_mpich(folder: Path) -> str:
    libraries = os.path.join(sys.prefix, "lib")
    return build(folder, f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-l:libmpi.so.12")


def with_openmpi(folder: Path) -> str:
    return build(folder, "-l:libmpi.so.40")


@ssdag.mpi_app(resources=ssdag.Resources(ranks=2))
def launch(program: str, stdout: str) -> list[str]:
    return [program]


@ssdag.bash_app(resources=ssdag.Resources(ranks=2))
def launch_by_shell(program: str, stdout: str) -> str:
    return f"A=1 exec '{program}'  # with a shell in front"


@needs_cc
@needs_mpich
@needs_openmpi
@pytest.mark.parametrize("app", [launch, launch_by_shell])
@pytest.mark.parametrize(
    ("fits", "other", "library", "make"),
    [(MPICH, OPENMPI, "MPICH", with_mpich), (OPENMPI, MPICH, "Open MPI", with_openmpi)],
    ids=["mpich", "openmpi"],
)
def test_only_the_launcher_that_fits_starts_it(
    fits: Launcher, other: Launcher, library: str, make: object, app: object, tmp_path: Path
) -> None:
    assert callable(make)
    assert callable(app)
    program = make(tmp_path)
    assert library_of(program) == library
    said = tmp_path / "said"
    with ssdag.load(ssdag.Config(executors=[AllocationExecutor("local", launcher=other)])):
        error = app(program, stdout=str(said)).exception(DEADLINE_S)
    assert isinstance(error, LauncherError)
    assert error.library == library
    assert "rank 0 of 1" in str(error)
    assert not said.exists()
    with ssdag.load(ssdag.Config(executors=[AllocationExecutor("local", launcher=fits)])):
        app(program, stdout=str(said)).result(DEADLINE_S)
    assert said.read_text().count("a rank") == 2


def test_what_is_not_known_is_let_through(tmp_path: Path) -> None:
    for argv in (["sh", "-c", "if"], ["sh"], ["/nowhere"], [sys.executable], ["sh", "-c", "'"]):
        check_linked("mpiexec", argv)
    assert library_of("/nowhere") is None
    text = tmp_path / "text"
    text.write_text("no program\n")
    text.chmod(0o755)
    assert library_of(str(text)) is None


@needs_cc
@needs_openmpi
def test_srun_is_not_judged_by_the_library(tmp_path: Path) -> None:
    check_linked(SrunLauncher().name, [with_openmpi(tmp_path)])


@needs_cc
@needs_openmpi
def test_a_program_that_was_built_again_is_looked_at_again(tmp_path: Path) -> None:
    program = with_openmpi(tmp_path)
    assert library_of(program) == "Open MPI"
    os.utime(build(tmp_path, "-Wl,--unresolved-symbols=ignore-all"), ns=(1, 1))
    assert library_of(program) is None
