# SPDX-License-Identifier: BSD-3-Clause
"""Which MPI is here: the mpich wheel beside this interpreter, Debian's Open MPI."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest


def _mpiexec() -> str:
    ours = Path(sys.prefix, "bin", "mpiexec")
    return str(ours) if ours.exists() else shutil.which("mpiexec.hydra") or ""


HAS_MPI4PY = importlib.util.find_spec("mpi4py") is not None
MPIEXEC = _mpiexec()

#: mpi4py loads the library that these name.
OPENMPI_ENV = {"MPI4PY_MPIABI": "openmpi", "MPI4PY_LIBMPI": "libmpi.so.40"}

needs_mpich = pytest.mark.skipif(
    not (MPIEXEC and HAS_MPI4PY), reason="no MPICH: pip install mpich mpi4py"
)
needs_openmpi = pytest.mark.skipif(
    not (shutil.which("mpirun.openmpi") and HAS_MPI4PY),
    reason="no Open MPI: apt-get install openmpi-bin; pip install mpi4py",
)
