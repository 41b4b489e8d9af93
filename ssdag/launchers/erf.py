# SPDX-License-Identifier: BSD-3-Clause
"""Explicit resource files of jsrun: each rank's host, cores and GPUs.

Format: IBM JSM's documentation of ERF, and OLCF's tutorial on its CPU indexing. Hosts are
numbers from 1 in the order of the allocation.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError
from ssdag.launchers.placement import host_counts
from ssdag.launchers.program import rank_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.errors import UnsupportedError
    from ssdag.launchers.step import Step

_PREAMBLE = "cpu_index_using: logical\n"
_APP = re.compile(r"app (\d+): (.*)")
_RANK = re.compile(
    r"rank: \d+: \{ host: (\d+); cpu: \{([\d,]+)\}(?:; gpu: \{([\d,]+)\})? \}(?: : app (\d+))?"
)


@dataclass(frozen=True)
class Nodes:
    """What jsrun's numbers stand for.

    Parameters
    ----------
    hosts : tuple of str
        The compute nodes of the allocation, in its order.
    threads_per_core : int
        Logical CPUs of a core.
    """

    hosts: tuple[str, ...]
    threads_per_core: int = 1

    def cpus(self, cores: Sequence[int]) -> str:
        """Return the logical CPUs of cores, as a list."""
        threads = range(self.threads_per_core)
        return ",".join(str(c * self.threads_per_core + t) for c in cores for t in threads)

    def cores(self, cpus: str) -> list[int]:
        """Return the cores of a list of logical CPUs."""
        return [int(cpu) // self.threads_per_core for cpu in cpus.split(",")][
            :: self.threads_per_core
        ]


def erf_text(
    steps: Sequence[Step],
    nodes: Nodes,
    unsupported: Callable[[str, str], UnsupportedError],
) -> str:
    """Return the text of the file.

    Parameters
    ----------
    steps : sequence of Step
        One program stands in the launch line; several stand in the file.
    nodes : Nodes
    unsupported : callable
        Makes the launcher's error.

    Raises
    ------
    UnsupportedError
        Ranks are not placed where they must be, or a program holds a line break.
    """
    lines = [_PREAMBLE]
    if len(steps) > 1:
        for i, step in enumerate(steps):
            words = rank_command(step, env=step.env, cwd=step.cwd, separated=False)
            if any(c in word for word in words for c in "\n\r"):
                raise unsupported("a line break in one of several programs", "put it into a script")
            lines.append(f"app {i}: {shlex.join(words)}\n")
    used: dict[int, list[int]] = {}
    rank = 0
    for i, step in enumerate(steps):
        app = f" : app {i}" if len(steps) > 1 else ""
        if not step.hosts:
            raise unsupported("programs or cores without hosts", "name the hosts of every step")
        for host, count in host_counts(step):
            index = _index(host, nodes.hosts, unsupported)
            free = used.setdefault(index, [0, 0])
            for place in range(count):
                share = _share(step, place, free, nodes)
                lines.append(f"rank: {rank}: {{ host: {index}{share} }}{app}\n")
                rank += 1
    return "".join(lines)


def _index(
    host: str, hosts: Sequence[str], unsupported: Callable[[str, str], UnsupportedError]
) -> int:
    if host not in hosts:
        raise unsupported(
            f"host {host}", "give JsrunLauncher(hosts=...) the nodes of the allocation in its order"
        )
    return list(hosts).index(host) + 1


def _share(step: Step, place: int, free: list[int], nodes: Nodes) -> str:
    """Return a rank's cores and GPUs; those that are not named are the next free ones."""
    cores: Sequence[int]
    if step.cores_of_ranks:
        cores = step.cores_of_ranks[place % len(step.cores_of_ranks)]
    else:
        count = step.cores_per_rank or 1
        cores = range(free[0], free[0] + count)
        free[0] += count
    text = "; cpu: {" + nodes.cpus(cores) + "}"
    if step.gpus_per_rank:
        text += "; gpu: {" + ",".join(map(str, range(free[1], free[1] + step.gpus_per_rank))) + "}"
        free[1] += step.gpus_per_rank
    return text


def read_erf(text: str, nodes: Nodes) -> list[tuple[list[str], dict[str, Any]]]:
    """Return the programs of a file (empty: it stands in the line) with fields of their steps.

    Raises
    ------
    ConfigError
        A line is none that :func:`erf_text` writes.
    """
    apps: dict[int, list[str]] = {}
    placed: dict[int, dict[str, Any]] = {}
    for line in text.removeprefix(_PREAMBLE).splitlines():
        if found := _APP.fullmatch(line):
            apps[int(found[1])] = shlex.split(found[2])
        elif found := _RANK.fullmatch(line):
            step = placed.setdefault(int(found[4] or 0), {"ranks": 0, "on": {}})
            step["ranks"] += 1
            step["on"].setdefault(nodes.hosts[int(found[1]) - 1], []).append(nodes.cores(found[2]))
            if found[3]:
                step["gpus_per_rank"] = found[3].count(",") + 1
        else:
            raise ConfigError(f"{line}: no line of an explicit resource file of ours")
    return [(apps.get(i, []), _fields(step)) for i, step in sorted(placed.items())]


def _fields(step: dict[str, Any]) -> dict[str, Any]:
    on = step.pop("on")
    first = next(iter(on.values()))
    step["hosts"] = tuple(on)
    step["ranks_per_node"] = len(first)
    step["binding"] = tuple(core for cores in first for core in cores)
    step["cores_per_rank"] = len(first[0]) if len(first[0]) > 1 else None
    return step
