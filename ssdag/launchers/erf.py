# SPDX-License-Identifier: BSD-3-Clause
"""Explicit resource files of jsrun: each rank's host, cores and GPUs.

Format: IBM JSM's documentation of ERF, and OLCF's tutorial on its CPU indexing. Hosts are
numbers from 1 in the order of the allocation.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError
from ssdag.launchers.placement import host_counts
from ssdag.launchers.program import rank_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.errors import UnsupportedError
    from ssdag.launchers.step import Step

_PREAMBLE = "launch_distribution: packed\noverlapping-rs: error\ncpu_index_using: logical\n"
_APP = re.compile(r"app (\d+): (.*)")
_COUNT = re.compile(r"(\d+): \{ host: \*; cpu: \* \}(?:: app (\d+))?")
_RANK = re.compile(
    r"rank: (\d+): \{ host: (\d+); cpu: \{([\d,]+)\}"
    r"(?:; gpu: (?:\{([\d,]+)\}|(none)))? \}(?:: app (\d+))?"
)


def erf_text(
    steps: Sequence[Step],
    hosts: Sequence[str],
    unsupported: Callable[[str, str], UnsupportedError],
) -> str:
    """Return the text of the file.

    Parameters
    ----------
    steps : sequence of Step
        One program stands in the launch line; several stand in the file.
    hosts : sequence of str
        The compute nodes of the allocation, in its order.
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
            words = rank_command(step, env=step.env, cwd=step.cwd)
            if any(c in word for word in words for c in "\n\r"):
                raise unsupported("a line break in one of several programs", "put it into a script")
            lines.append(f"app {i}: {shlex.join(words)}\n")
    used: dict[int, list[int]] = {}
    rank = 0
    for i, step in enumerate(steps):
        app = f": app {i}" if len(steps) > 1 else ""
        if not step.hosts:
            named = ("binding", "cores_per_rank", "gpus_per_rank", "nodes", "ranks_per_node")
            if any(getattr(step, n) not in (None, "default") for n in named):
                raise unsupported("a layout of ranks without hosts", "name the hosts of every step")
            lines.append(f"{step.ranks}: {{ host: *; cpu: * }}{app}\n")
            rank += step.ranks
            continue
        for host, count in host_counts(step):
            index = _index(host, hosts, unsupported)
            free = used.setdefault(index, [0, 0])
            for place in range(count):
                lines.append(f"rank: {rank}: {{ host: {index}{_share(step, place, free)} }}{app}\n")
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


def _share(step: Step, place: int, free: list[int]) -> str:
    """Return a rank's cores and GPUs; those that are not named are the next free ones."""
    cores: Sequence[int]
    if step.cores_of_ranks:
        cores = step.cores_of_ranks[place % len(step.cores_of_ranks)]
    else:
        count = step.cores_per_rank or 1
        cores = range(free[0], free[0] + count)
        free[0] += count
    text = "; cpu: {" + ",".join(map(str, cores)) + "}"
    if step.gpus_per_rank == 0:
        text += "; gpu: none"
    elif step.gpus_per_rank is not None:
        text += "; gpu: {" + ",".join(map(str, range(free[1], free[1] + step.gpus_per_rank))) + "}"
        free[1] += step.gpus_per_rank
    return text


def read_erf(text: str, hosts: Sequence[str]) -> list[tuple[list[str], dict[str, Any]]]:
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
        elif found := _COUNT.fullmatch(line):
            placed[int(found[2] or 0)] = {"ranks": int(found[1])}
        elif found := _RANK.fullmatch(line):
            step = placed.setdefault(int(found[6] or 0), {"ranks": 0, "on": {}})
            step["ranks"] += 1
            cores = [int(core) for core in found[3].split(",")]
            step["on"].setdefault(hosts[int(found[2]) - 1], []).append(cores)
            if found[4] or found[5]:
                step["gpus_per_rank"] = found[4].count(",") + 1 if found[4] else 0
        else:
            raise ConfigError(f"{line}: no line of an explicit resource file of ours")
    return [(apps.get(i, []), _fields(step)) for i, step in sorted(placed.items())]


def _fields(step: dict[str, Any]) -> dict[str, Any]:
    on = step.pop("on", None)
    if on is None:
        return step
    first = next(iter(on.values()))
    step["hosts"] = tuple(on)
    step["ranks_per_node"] = len(first)
    step["binding"] = tuple(core for cores in first for core in cores)
    step["cores_per_rank"] = len(first[0]) if len(first[0]) > 1 else None
    return step
