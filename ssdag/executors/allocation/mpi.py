# SPDX-License-Identifier: BSD-3-Clause
"""Which MPI launcher a machine without a scheduler has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from ssdag.wire.process import spawn

if TYPE_CHECKING:
    from ssdag.launchers.base import Launcher

_PATIENCE_S = 10.0


@lru_cache(maxsize=1)
def find_launcher() -> Launcher | None:
    """Return the launcher of the ``mpiexec`` that is here; None if there is none.

    The one beside our interpreter comes first: with an MPI library from PyPI it is the
    one that mpi4py talks to.
    """
    from ssdag.launchers import MpiexecLauncher, MpirunLauncher, PalsLauncher

    beside = os.path.dirname(sys.executable)
    path = os.pathsep.join([beside, os.environ.get("PATH", os.defpath)])
    for name in ("mpiexec", "mpirun"):
        found = shutil.which(name, path=path)
        if found is None:
            continue
        version = _version(found)
        if "PALS" in version:
            return PalsLauncher(executable=found)
        if "HYDRA" in version or "Intel" in version:
            return MpiexecLauncher(executable=found)
        if "Open MPI" in version or "OpenRTE" in version or "PRRTE" in version:
            return MpirunLauncher(
                executable=found, allow_run_as_root=os.geteuid() == 0, oversubscribe=True
            )
    return None


def _version(path: str) -> str:
    """Return what a program says of itself; empty if it does not."""
    try:
        process = spawn([path, "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return ""
    assert process.stdout is not None
    try:
        process.wait(_PATIENCE_S)
        return process.stdout.read(65536).decode("utf-8", "replace")
    except TimeoutError:
        return ""
    finally:
        process.kill_session()
        process.stdout.close()
