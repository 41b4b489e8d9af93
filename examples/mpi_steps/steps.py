# SPDX-License-Identifier: BSD-3-Clause
"""The steps: a Python function on several ranks, and a program."""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ssdag
from ssdag import Resources, mpi_app

from . import poisson

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Solved:
    """What a step has brought.

    Attributes
    ----------
    n : int
        Points along each side.
    ranks : int
    error : float
        Largest difference from the known solution.
    iterations : int
    began_s, ended_s : float
        Seconds since 1970, of the solution alone.
    hosts : tuple of str
        Where the ranks were.
    """

    n: int
    ranks: int
    error: float
    iterations: int
    began_s: float
    ended_s: float
    hosts: tuple[str, ...]


@mpi_app(python=True, executors=["steps"])
def solve(n: int) -> Solved:
    """Solve one grid; runs on every rank, and what rank 0 returns is the result."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    began_s = time.time()
    error, iterations = poisson.solve(comm, n)
    ended_s = time.time()
    name = os.environ.get("SLURMD_NODENAME") or MPI.Get_processor_name()
    hosts = tuple(comm.allgather(name))
    return Solved(n, comm.size, error, iterations, began_s, ended_s, hosts)


@mpi_app(executors=["steps"])
def ring(stdout: str = "") -> list[str]:
    """Pass a message around all ranks: any program will do, here one of mpi4py's own."""
    return [sys.executable, "-m", "mpi4py.bench", "ringtest", "--loop", "10"]


def run(
    sizes: Sequence[int],
    ranks: Sequence[int],
    ring_output: str,
    tell: Callable[[int, Solved], None],
) -> tuple[list[Solved], str]:
    """Solve all sizes on all numbers of ranks; steps share the cores of the allocation.

    Parameters
    ----------
    sizes, ranks : sequence of int
        Grids and numbers of ranks.
    ring_output : str
        A file for the program's output.
    tell : callable
        Gets the number of steps done and the last of them.

    Returns
    -------
    list of Solved
        In the order of their ends.
    str
        What the program has printed.
    """
    around: Any = ring(stdout=ring_output, resources=Resources(ranks=max(ranks)))
    futures = [
        solve(n, resources=Resources(ranks=count), label=f"{n} on {count}")
        for n in sorted(sizes, reverse=True)  # the longest first, the small ones fill up
        for count in ranks
    ]
    found: list[Solved] = []
    for future in ssdag.as_completed(futures):
        found.append(future.result())
        tell(len(found), found[-1])
    around.result()
    with open(ring_output, encoding="utf-8") as file:
        return found, file.read()


def cores_in_use(found: Sequence[Solved]) -> int:
    """Return the most ranks that were busy at one time."""
    changes = [(one.began_s, one.ranks) for one in found]
    changes += [(one.ended_s, -one.ranks) for one in found]
    used = most = 0
    for _, change in sorted(changes):
        used += change
        most = max(most, used)
    return most


def difference(found: Sequence[Solved]) -> float:
    """Return the largest relative difference of a grid's errors between numbers of ranks."""
    largest = 0.0
    for n in {one.n for one in found}:
        errors = [one.error for one in found if one.n == n]
        largest = max(largest, (max(errors) - min(errors)) / min(errors))
    return largest


def order(found: Sequence[Solved]) -> float:
    """Return the order of convergence between the coarsest and the finest grid."""
    coarse, fine = min(found, key=lambda one: one.n), max(found, key=lambda one: one.n)
    if coarse.n == fine.n:
        return math.nan
    return math.log(coarse.error / fine.error) / math.log((fine.n + 1) / (coarse.n + 1))
