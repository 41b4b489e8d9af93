# SPDX-License-Identifier: BSD-3-Clause
"""Whether a launcher and an MPI library fit: the size of the world that ranks see.

Where they do not fit, nothing fails: N processes come up that each are rank 0 of 1, do
the same work N times, and end well. So a launch is tried once with a tiny MPI program.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ssdag.errors import LauncherError
from ssdag.launchers.step import Step
from ssdag.wire import guard
from ssdag.wire.process import spawn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.launchers.base import Launcher

#: Variables in which launchers tell a rank the size of its launch, the innermost launcher
#: first: mpiexec within a Slurm job sets its own beside those of Slurm.
SIZE_VARIABLES = (
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "JSM_NAMESPACE_SIZE",
    "FLUX_JOB_SIZE",
    "SLURM_STEP_NUM_TASKS",
)

#: The same for its own number.
RANK_VARIABLES = (
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "PALS_RANKID",
    "JSM_NAMESPACE_RANK",
    "FLUX_TASK_RANK",
    "ALPS_APP_PE",
    "SLURM_PROCID",
)

#: What an outer launcher leaves in the environment, and an inner one would trip over.
_OF_A_RANK = re.compile(
    r"(PMI_|PMIX_(?!MCA_)|MPI_LOCAL|HYDI_|PALS_|JSM_NAMESPACE_|PRTE_(?!MCA_)|OMPI_(?!MCA_)"
    r"|OMPI_MCA_(orte_|ess_|ess$|pmix$|initial_wdir|mpi_oversubscribe)).*"
)

#: What srun would take for options of the step: they are the allocation's.
_OF_THE_JOB = re.compile(
    r"SLURM_(NTASKS|NPROCS|TASKS_PER_NODE|NTASKS_PER_.*|CPUS_PER_TASK|TRES_PER_TASK|DISTRIBUTION"
    r"|HOSTFILE|CPU_BIND.*|MEM_PER_.*|MEM_BIND.*|GPUS_PER_.*|EXACT|EXCLUSIVE|OVERLAP|WHOLE)"
)

_SOURCE = """\
#include <mpi.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv)
{
    char library[MPI_MAX_LIBRARY_VERSION_STRING];
    int size, rank, length;
    MPI_Init(&argc, &argv);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Get_library_version(library, &length);
    library[strcspn(library, "\\n")] = 0;
    printf("world of %d, rank %d, by %s\\n", size, rank, library);
    fflush(stdout);
    return MPI_Finalize();
}
"""
_PYTHON = """\
from mpi4py import MPI
world, library = MPI.COMM_WORLD, MPI.Get_library_version().splitlines()[0]
print(f"world of {world.size}, rank {world.rank}, by {library}\\n", end="", flush=True)
"""
_ANSWER = re.compile(r"world of (\d+), rank (\d+), by (.*)")

_ADVICE = (
    "use the launcher that belongs to the library (MpiexecLauncher for MPICH and Intel MPI, "
    "MpirunLauncher for Open MPI), or tell srun how to start its ranks: "
    "SrunLauncher(mpi='pmi2') for MPICH, 'pmix' for Open MPI"
)
_TAIL_BYTES = 4000
_known: dict[tuple[str, ...], World] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class World:
    """The MPI world of a launch.

    Parameters
    ----------
    size : int
        Number of ranks.
    library : str
        The MPI library, as it names itself.
    """

    size: int
    library: str


def world_size(env: Mapping[str, str] | None = None) -> int | None:
    """Return the number of processes of the launch that this one is part of.

    Parameters
    ----------
    env : mapping, optional
        The environment to look into; by default ours.

    Returns
    -------
    int or None
        None outside a launch, and under launchers that do not tell (aprun).
    """
    return _first(SIZE_VARIABLES, env)


def world_rank(env: Mapping[str, str] | None = None) -> int | None:
    """Return the number of this process in its launch, from 0; None outside one."""
    return _first(RANK_VARIABLES, env)


def without_world(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment without what an outer launcher has left there.

    A rank that starts a launch of its own (a worker that runs MPI steps) must pass this,
    or the inner ranks take themselves for ranks of the outer launch. Slurm's own
    variables stay: srun needs them.
    """
    return {
        name: value
        for name, value in (os.environ if env is None else env).items()
        if not _OF_A_RANK.fullmatch(name)
    }


def without_job_options(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what srun would take for options of a step."""
    return {name: value for name, value in env.items() if not _OF_THE_JOB.fullmatch(name)}


def check_world(
    launcher: Launcher,
    step: Step | None = None,
    *,
    python: str | None = None,
    mpicc: str | None = None,
    folder: str | None = None,
    timeout_s: float = 60.0,
) -> World:
    """Start a tiny MPI program and compare its world with the ranks asked for.

    Blocks until it has ended. A good answer is remembered for the launch line, so that
    only the first call starts something.

    Parameters
    ----------
    launcher : Launcher
    step : Step, optional
        Layout, environment and wrapper of the launch; its command is replaced. Default: 2
        ranks.
    python : str, optional
        An interpreter with mpi4py; by default ours.
    mpicc : str, optional
        A compiler: try a C program instead of mpi4py, for codes that are linked by it.
    folder : str, optional
        An existing folder that the nodes of the launch see, for the files of the launch
        and the program; by default that of temporary files.
    timeout_s : float
        When to give up, in seconds.

    Raises
    ------
    LauncherError
        The world is another one than asked for, or the launch failed; the text names the
        launcher and the MPI library.
    """
    step = step or Step(argv=("probe",), ranks=2)
    key = (launcher.name, mpicc or python or sys.executable, *launcher.command(step))
    with _lock:
        if key in _known:
            return _known[key]
    own = guard.folder(folder or tempfile.gettempdir(), "ssdag-world-")
    try:
        script = [python or sys.executable, "-c", _PYTHON]
        argv = script if mpicc is None else [_compile(mpicc, own)]
        probe = replace(step, argv=tuple(argv))
        for name, text in launcher.files(probe).items():
            Path(own, name).write_text(text)
        world = _try(launcher, launcher.command(probe, folder=own), step.ranks, timeout_s)
    finally:
        shutil.rmtree(own, ignore_errors=True)
        guard.release_path(own)
    with _lock:
        _known[key] = world
    return world


def _first(names: Sequence[str], env: Mapping[str, str] | None) -> int | None:
    env = os.environ if env is None else env
    for name in names:
        if env.get(name, "").isdigit():
            return int(env[name])
    return None


def _compile(mpicc: str, folder: str) -> str:
    source, program = Path(folder, "world.c"), Path(folder, "world")
    source.write_text(_SOURCE)
    line = [mpicc, "-o", str(program), str(source)]
    code, _, stderr = _run("mpicc", line, 60.0, None)
    if code != 0:
        raise LauncherError(
            f"{mpicc} cannot compile a tiny MPI program: {stderr or code}",
            command=tuple(line),
            exit_code=code,
            stderr_tail=stderr,
        )
    return str(program)


def _try(launcher: Launcher, line: list[str], ranks: int, timeout_s: float) -> World:
    code, stdout, stderr = _run(f"launcher {launcher.name}", line, timeout_s, without_world())
    found = [
        (int(size), int(rank), " ".join(library.replace("\0", "").split()))
        for size, rank, library in _ANSWER.findall(stdout)
    ]
    library = found[0][2] if found else ""
    if code == 0 and sorted((size, rank) for size, rank, _ in found) == [
        (ranks, rank) for rank in range(ranks)
    ]:
        return World(ranks, library)
    raise LauncherError(
        _what(f"launcher {launcher.name}", ranks, code, timeout_s, found) + _words(stderr),
        launcher=launcher.name,
        library=library,
        command=tuple(line),
        exit_code=code,
        stderr_tail=stderr,
    )


def _what(
    name: str, ranks: int, code: int | None, timeout_s: float, found: list[tuple[int, int, str]]
) -> str:
    if code is None:
        return f"{name}: {ranks} ranks of a tiny MPI program did not end within {timeout_s:g} s"
    if not found:
        return (
            f"{name} cannot start {ranks} ranks of a tiny MPI program (exit code {code}); "
            f"if the program is not to blame, {_ADVICE}"
        )
    came = ", ".join(sorted({f"rank {rank} of {size}" for size, rank, _ in found}))
    return (
        f"{name} does not fit the MPI library {found[0][2]}: {ranks} ranks were asked "
        f"for, and {len(found)} processes came up as {came} (exit code {code}); {_ADVICE}"
    )


def _words(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip(" -\t")][-12:]
    return "".join(f"\n  {line}" for line in lines)


def _run(
    name: str, line: list[str], timeout_s: float, env: Mapping[str, str] | None
) -> tuple[int | None, str, str]:
    """Return exit code (None: ended after `timeout_s`), stdout and the end of stderr."""
    # Files, not pipes: what a launcher may leave behind cannot hold us up.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            process = spawn(line, env=env, stdout=stdout, stderr=stderr)
        except OSError as error:
            raise LauncherError(
                f"{name}: {line[0]} cannot be started: {error.strerror}",
                launcher=name.removeprefix("launcher "),
                command=tuple(line),
            ) from error
        guard.session(process.pid)
        code: int | None = None
        try:
            code = process.wait(timeout_s)
        except TimeoutError:
            # Launchers pass a SIGTERM on to ranks on other nodes.
            process.terminate_session(2.0)
        finally:
            process.kill_session()
            guard.release_session(process.pid)
        stdout.seek(0)
        stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return code, stdout.read().decode(errors="replace"), stderr.read().decode(errors="replace")
