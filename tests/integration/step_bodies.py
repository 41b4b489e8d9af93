# SPDX-License-Identifier: BSD-3-Clause
"""What tasks of the step tests do. Interpreters of steps import this."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any


def world(value: int) -> tuple[int, int, int, str]:
    """Return rank, size, the sum of a value over all ranks, and the ranks of our node."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    local = os.environ.get("MPI_LOCALNRANKS", os.environ.get("SLURMD_NODENAME", ""))
    return comm.rank, comm.size, comm.allreduce(value), local


def rank_raises(which: int) -> None:
    """Raise on one rank while the others wait for it."""
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == which:
        raise ValueError(f"rank {which} has enough")
    MPI.COMM_WORLD.barrier()


def rank_dies(which: int) -> None:
    """Kill one rank while the others wait for it."""
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == which:
        os.kill(os.getpid(), signal.SIGKILL)
    MPI.COMM_WORLD.barrier()


def rank_exits(which: int) -> None:
    """Leave on one rank, as by sys.exit."""
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == which:
        sys.exit("no more")
    MPI.COMM_WORLD.barrier()


def rank_prints() -> None:
    """Print on every rank."""
    from mpi4py import MPI

    os.write(1, b"rank %d\n" % MPI.COMM_WORLD.rank)


def locked() -> Any:
    """Return what cannot be sent."""
    return threading.Lock()


def double(value: Any) -> Any:
    """Return twice the value."""
    return 2 * value


def dies() -> None:
    """End without a word."""
    os._exit(7)
