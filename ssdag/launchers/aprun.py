# SPDX-License-Identifier: BSD-3-Clause
"""Cray ALPS's aprun."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ssdag.launchers.base import Launcher
from ssdag.launchers.parse import after, number, numbers, segments, split_options
from ssdag.launchers.program import rank_command, read_rank_command
from ssdag.launchers.step import Step

if TYPE_CHECKING:
    from collections.abc import Mapping

_MB = 1 << 20
_TAKES = dict.fromkeys(["-n", "-N", "-d", "-cc", "-L", "-m", "-e"], 1)


@dataclass(frozen=True)
class AprunLauncher(Launcher):
    """Starts steps with ``aprun``.

    Hosts are node ids: ``nid00023`` or ``23``. aprun writes a line on resources to the
    program's standard output when it ends, unless ``options=("-q",)``.

    Parameters
    ----------
    executable : str
        Name or path of aprun.
    options : tuple of str
        More options, for every launch.
    """

    executable: str = "aprun"
    options: tuple[str, ...] = ()

    name = "aprun"
    cannot: ClassVar[Mapping[str, str]] = {
        "gpus_per_rank": "aprun gives every rank the GPUs of its node; choose in the program",
        "walltime_s": "aprun limits CPU time only; give the limit to the app or the executor",
        "het_group": "name the hosts of each step",
    }

    def _head(self) -> list[str]:
        return [self.executable, *self.options]

    def command(self, *steps: Step, folder: str = "") -> list[str]:
        """Return the launch line; see :meth:`Launcher.command`.

        aprun takes ``-e`` for a whole launch, so the variables of several programs
        stand in front of each of them.
        """
        self.check(steps)
        line = self._head()
        for i, step in enumerate(steps):
            if i:
                line.append(":")
            line += self._flags(step)
            if len(steps) == 1:
                for name, value in step.env.items():
                    line += ["-e", f"{name}={value}"]
            inner = step.env if len(steps) > 1 else None
            line += [*step.options, *rank_command(step, env=inner, cwd=step.cwd)]
        return line

    def _flags(self, step: Step) -> list[str]:
        flags = ["-n", str(step.ranks)]
        if step.per_node is not None:
            flags += ["-N", str(step.per_node)]
        if step.cores_per_rank is not None:
            flags += ["-d", str(step.cores_per_rank)]
        if step.cores_of_ranks:
            flags += ["-cc", ":".join(",".join(map(str, c)) for c in step.cores_of_ranks)]
        elif step.binding != "default":
            flags += ["-cc", "cpu" if step.binding == "core" else "none"]
        elif step.cores_per_rank is not None:
            flags += ["-cc", "depth"]
        if step.memory_per_node_bytes is not None:
            if step.per_node is None:
                raise self.unsupported("memory of a node", "say nodes or ranks_per_node, too")
            flags += ["-m", f"{-(-step.memory_per_node_bytes // (step.per_node * _MB))}M"]
        if step.hosts:
            flags += ["-L", ",".join(map(self._node_id, step.hosts))]
        return flags

    def _node_id(self, host: str) -> str:
        found = re.fullmatch(r"(?:nid)?0*(\d+)", host)
        if not found:
            raise self.unsupported(f"host {host!r}", "aprun takes node ids, such as nid00023")
        return found[1]

    def _read(self, line: list[str], files: Mapping[str, str]) -> tuple[Step, ...]:
        return tuple(_step(part) for part in segments(after(self._head(), line)))


def _step(part: list[str]) -> Step:
    known, options, command = split_options(part, _TAKES)
    env, cwd, _, argv = read_rank_command(command)
    found: dict[str, Any] = {}
    counts = {"-n": "ranks", "-N": "ranks_per_node", "-d": "cores_per_rank"}
    for flag, (value,) in known:
        if flag in counts:
            found[counts[flag]] = number(flag, value)
        elif flag == "-e":
            name, _, text = value.partition("=")
            env[name] = text
        elif flag == "-L":
            found["hosts"] = tuple(f"nid{node:05d}" for node in numbers(flag, value))
        elif flag == "-m":
            each = number(flag, value.removesuffix("M")) * _MB
            found["memory_per_node_bytes"] = each * found["ranks_per_node"]
        elif value[0].isdigit():
            ranks = value.split(":")
            found["binding"] = tuple(c for rank in ranks for c in numbers(flag, rank))
        elif value != "depth":
            found["binding"] = "core" if value == "cpu" else value
    return Step(argv=tuple(argv), env=env, cwd=cwd, options=options, **found)
