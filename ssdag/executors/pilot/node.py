# SPDX-License-Identifier: BSD-3-Clause
"""How many workers a node gets, and what each of them gets of it. Pure."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError
from ssdag.providers.gpus import restrict_to, visible_gpus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AFFINITIES = ("none", "block", "alternating")


@dataclass(frozen=True)
class Wishes:
    """What a user wants of each node.

    Parameters
    ----------
    workers_per_node : int, optional
        Most workers.
    cores_per_worker : float
        Cores that each takes; may be below 1.
    memory_per_worker_bytes : int, optional
        Memory that each takes.
    affinity : str or tuple of tuple of int
        "none", "block" (neighbouring cores), "alternating" (dealt out one by one), or
        the cores of each worker.
    accelerators : tuple of str
        Ids, one for each worker.
    env : mapping
        Added to every worker's environment.
    """

    workers_per_node: int | None = None
    cores_per_worker: float = 1
    memory_per_worker_bytes: int | None = None
    affinity: str | tuple[tuple[int, ...], ...] = "none"
    accelerators: tuple[str, ...] = ()
    env: Mapping[str, str] | None = None

    def count(self, cores: int, memory_bytes: int) -> int:
        """Return the number of workers of a node; 0 if not one fits."""
        limits = [int(cores / self.cores_per_worker + 1e-9)]
        if self.memory_per_worker_bytes:
            limits.append(memory_bytes // self.memory_per_worker_bytes)
        if self.accelerators:
            limits.append(len(self.accelerators))
        if self.workers_per_node is not None:
            limits.append(self.workers_per_node)
        return min(limits)

    def cores_of(self, rank: int, workers: int, cores: Sequence[int]) -> tuple[int, ...]:
        """Return the cores that a worker is bound to; empty for no binding."""
        if isinstance(self.affinity, tuple):
            return self.affinity[rank % len(self.affinity)]
        if self.affinity == "none" or not cores:
            return ()
        if len(cores) < workers:  # they share
            return (cores[rank % len(cores)],)
        each = len(cores) // workers
        if self.affinity == "block":
            return tuple(cores[rank * each : (rank + 1) * each])
        return tuple(cores[rank : workers * each : workers])

    def environment(self, rank: int, cores: Sequence[int]) -> dict[str, str]:
        """Return what a worker's environment gets."""
        env = dict(self.env or {})
        if cores:
            env["OMP_NUM_THREADS"] = str(len(cores))
            env["GOMP_CPU_AFFINITY"] = " ".join(map(str, cores))
            env["KMP_AFFINITY"] = f"explicit,proclist=[{','.join(map(str, cores))}]"
        if self.accelerators:
            mine = self.accelerators[rank % len(self.accelerators)]
            env |= restrict_to(mine)
        return env


def checked(
    *,
    workers_per_node: Any,
    cores_per_worker: Any,
    memory_per_worker_bytes: Any,
    affinity: Any,
    accelerators: Any,
    env: Any,
) -> Wishes:
    """Return a user's wishes.

    Raises
    ------
    ConfigError
        One of them makes no sense.
    """
    for name, value in (
        ("workers_per_node", workers_per_node),
        ("memory_per_worker_bytes", memory_per_worker_bytes),
    ):
        if value is not None and not (type(value) is int and value >= 1):
            raise ConfigError(f"{name}={value!r}: an int of at least 1 is needed")
    if type(cores_per_worker) not in (int, float) or not cores_per_worker > 0:
        raise ConfigError(f"cores_per_worker={cores_per_worker!r}: a number above 0 is needed")
    return Wishes(
        workers_per_node,
        cores_per_worker,
        memory_per_worker_bytes,
        _affinity(affinity),
        _accelerators(accelerators),
        {str(name): str(value) for name, value in (env or {}).items()},
    )


def _affinity(value: Any) -> str | tuple[tuple[int, ...], ...]:
    if value in AFFINITIES:
        return str(value)
    try:
        if isinstance(value, str):
            raise TypeError
        lists = tuple(tuple(int(core) for core in cores) for cores in value)
    except (TypeError, ValueError):
        lists = ()
    if not lists or not all(lists) or min(map(min, lists)) < 0:
        raise ConfigError(
            f"affinity={value!r}: one of {', '.join(AFFINITIES)}, or a list of the cores of "
            "each worker, such as [[0, 1], [2, 3]]"
        )
    return lists


def _accelerators(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if type(value) is int and value >= 0:
        return tuple(map(str, range(value)))
    if isinstance(value, (list, tuple)) and all(isinstance(v, (str, int)) for v in value):
        return tuple(map(str, value))
    raise ConfigError(f'accelerators={value!r}: a number, or a list of ids such as ["0.0", "0.1"]')


def granted(accelerators: Any, env: Mapping[str, str]) -> Any:
    """Return a wish for a number of accelerators as the ids that our job has been granted.

    Raises
    ------
    ConfigError
        It has been granted none.
    """
    visible = visible_gpus(env)
    if type(accelerators) is not int or not accelerators or visible is None:
        return accelerators
    if not visible:
        raise ConfigError(
            f"accelerators={accelerators}, but the job has been granted no GPU; the provider's "
            "gpus_per_node asks for them"
        )
    return list(visible[:accelerators])


def cores_here() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def memory_here() -> int:
    """Return the memory that this process may use, in bytes: what Slurm says, or all."""
    import psutil

    memory = int(psutil.virtual_memory().total)
    granted = os.environ.get("SLURM_MEM_PER_NODE", "")
    if granted.isdigit() and int(granted):
        memory = min(memory, int(granted) << 20)
    return memory
