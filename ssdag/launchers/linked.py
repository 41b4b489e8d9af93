# SPDX-License-Identifier: BSD-3-Clause
"""Which MPI library a program is linked with, and whether a launcher can start it.

The ranks of a launcher of another library do not find one another: each is rank 0 of 1,
all do the same work, and all end well. ``ldd`` says beforehand which library a program
will load; :func:`ssdag.launchers.world.check_world` tries a launcher where that is not
enough (srun with its plug-ins, interpreters, statically linked programs).
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

from ssdag.errors import LauncherError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Names of shared libraries, and whose they are. ``libmpi.so.12`` is the one of MPICH and
#: of all that keep to its binary interface (Intel MPI, Cray MPICH, MVAPICH).
_LIBRARIES = (
    ("Open MPI", re.compile(r"libmpi\.so\.(1|20|40|80)$|libopen-rte\.so|liboshmem\.so")),
    ("MPICH", re.compile(r"libmpi\.so\.12$|libmpich\.so|libmpi_(cray|intel|gnu)\w*\.so")),
)

#: Launchers that understand one library only.
_UNDERSTANDS = {"mpirun": "Open MPI", "mpiexec": "MPICH"}
_ADVICE = {
    "Open MPI": "MpirunLauncher starts programs of Open MPI",
    "MPICH": "MpiexecLauncher starts programs of MPICH and Intel MPI",
}
_SHELLS = frozenset({"sh", "bash", "dash"})
_LDD_S = 10.0


def library_of(program: str, env: Mapping[str, str] | None = None) -> str | None:
    """Return the MPI library that a program is linked with.

    Parameters
    ----------
    program : str
        A path, or a command on PATH.
    env : mapping of str to str, optional
        Its environment, for PATH and LD_LIBRARY_PATH; by default ours.

    Returns
    -------
    str or None
        "Open MPI", "MPICH", or None: it is linked with neither, is no program of this
        machine, or loads its library later, as interpreters do.
    """
    env = os.environ if env is None else env
    path = shutil.which(program, path=env.get("PATH"))
    if path is None:
        return None
    try:
        changed_ns = os.stat(path).st_mtime_ns
    except OSError:
        return None
    return _linked(os.path.realpath(path), changed_ns, env.get("LD_LIBRARY_PATH", ""))


def check_linked(launcher: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Refuse to start a program by the launcher of another MPI library.

    Parameters
    ----------
    launcher : str
        The launcher's name; only "mpirun" and "mpiexec" belong to one library.
    argv : sequence of str
        The program and its arguments, or a shell with ``-c`` and a command.
    env : mapping of str to str, optional
        Its environment; by default ours.

    Raises
    ------
    LauncherError
        They do not fit.
    """
    understood = _UNDERSTANDS.get(launcher)
    if understood is None:
        return
    program = _program(argv)
    library = library_of(program, env) if program else None
    if library is None or library == understood:
        return
    raise LauncherError(
        f"{program} is linked with {library}, and launcher {launcher} is that of {understood}: "
        f"each of its ranks would be rank 0 of 1; {_ADVICE[library]}",
        launcher=launcher,
        library=library,
        command=tuple(argv),
    )


def _program(argv: Sequence[str]) -> str | None:
    """Return the program of a command, looking behind a shell; None if it is not plain."""
    if os.path.basename(argv[0]) not in _SHELLS:
        return argv[0]
    if len(argv) < 3 or not re.fullmatch(r"-\w*c", argv[1]):
        return None
    try:
        words = shlex.split(argv[2], comments=True)
    except ValueError:
        return None
    for word in words:
        if word != "exec" and not re.match(r"\w+=", word):
            return word
    return None


@functools.lru_cache(maxsize=256)
def _linked(path: str, _changed_ns: int, library_path: str) -> str | None:
    env = {**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": library_path}
    try:
        answer = subprocess.run(
            ["ldd", path], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_LDD_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):  # no ldd here: it is not known
        return None
    names = [line.split()[0] for line in answer.stdout.splitlines() if line.split()]
    for library, pattern in _LIBRARIES:
        if any(pattern.match(os.path.basename(name)) for name in names):
            return library
    return None
