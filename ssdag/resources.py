# SPDX-License-Identifier: BSD-3-Clause
"""What a task needs, in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ssdag.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Resources:
    """What a task needs. An executor refuses what it cannot honour.

    Parameters
    ----------
    nodes, ranks, ranks_per_node, cores_per_rank, gpus_per_rank : int, optional
        Layout of an MPI step. Local processes and threads accept one node and one
        rank only.
    cores : int, optional
        Cores of a task that is no MPI step.
    gpus : int, optional
        GPUs of a task that is no MPI step.
    memory_bytes : int, optional
        Memory, in bytes.
    walltime_s : float, optional
        Run time after which the task is killed, in seconds.
    priority : int, optional
        Higher runs sooner; the default is 0.

    Raises
    ------
    ConfigError
        A value is negative, zero where one is the least, or of the wrong type.
    """

    nodes: int | None = None
    ranks: int | None = None
    ranks_per_node: int | None = None
    cores_per_rank: int | None = None
    gpus_per_rank: int | None = None
    cores: int | None = None
    gpus: int | None = None
    memory_bytes: int | None = None
    walltime_s: float | None = None
    priority: int | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            if item.name == "walltime_s":
                check_walltime(value)
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"Resources({item.name}={value!r}): an int is needed")
            least = {"priority": None, "gpus": 0, "gpus_per_rank": 0}.get(item.name, 1)
            if least is not None and value < least:
                raise ConfigError(f"Resources({item.name}={value}): must be at least {least}")


def check_walltime(value: object) -> float | None:
    """Return a walltime in seconds, or None; raise ConfigError if it is neither."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigError(f"walltime_s={value!r}: a positive number of seconds is needed")
    return float(value)


def check_seconds(name: str, value: object) -> float:
    """Return an option that is a time of at least 0 s; raise ConfigError if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ConfigError(f"{name}={value!r}: seconds >= 0 are needed")
    return float(value)
