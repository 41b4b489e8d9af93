# SPDX-License-Identifier: BSD-3-Clause
"""Flux's ``flux run``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ssdag.launchers.base import Launcher
from ssdag.launchers.parse import after, number, numbers, split_options
from ssdag.launchers.program import rank_command, read_rank_command
from ssdag.launchers.step import Step

if TYPE_CHECKING:
    from collections.abc import Mapping

_COUNTS = {
    "nodes": "--nodes",
    "ranks": "--ntasks",
    "cores_per_rank": "--cores-per-task",
    "gpus_per_rank": "--gpus-per-task",
}
_TAKES = dict.fromkeys(
    [*_COUNTS.values(), "--requires", "--cwd", "--time-limit", "--env", "--setopt"], 1
)
_AFFINITY = {"none": "off", "core": "per-task"}


@dataclass(frozen=True)
class FluxLauncher(Launcher):
    """Starts steps with ``flux run`` inside a Flux instance.

    Flux gives every step cores of its own, so nothing is shared.

    Parameters
    ----------
    executable : str
        Name or path of flux.
    options : tuple of str
        More options of ``flux run``, for every launch.
    """

    executable: str = "flux"
    options: tuple[str, ...] = ()

    name = "flux"
    chooses_nodes = True
    cannot: ClassVar[Mapping[str, str]] = {
        "memory_per_node_bytes": "ask for memory where the job is requested",
        "overlap": "Flux shares no cores; give the service cores of its own",
        "het_group": "start one launch for each program",
    }

    def _head(self) -> list[str]:
        return [self.executable, "run", *self.options]

    def command(self, *steps: Step, folder: str = "") -> list[str]:
        """Return the launch line; see :meth:`Launcher.command`."""
        self.check(steps)
        if len(steps) > 1:
            raise self.unsupported(
                f"{len(steps)} programs in one launch", "start one launch for each program"
            )
        step = steps[0]
        nodes = step.node_count
        if nodes is not None and step.ranks_per_node and step.ranks != nodes * step.ranks_per_node:
            raise self.unsupported(
                f"{step.ranks} ranks on {nodes} nodes x {step.ranks_per_node}",
                "Flux spreads ranks evenly: make them a multiple of the nodes",
            )
        line = self._head()
        for field, flag in _COUNTS.items():
            value = nodes if field == "nodes" else getattr(step, field)
            if value is not None:
                line.append(f"{flag}={value}")
        if step.hosts:
            line.append("--requires=host:" + ",".join(step.hosts))
        if step.cwd is not None:
            line.append(f"--cwd={step.cwd}")
        if step.cores_of_ranks:
            ranks = (",".join(map(str, cores)) for cores in step.cores_of_ranks)
            line.append("--setopt=cpu-affinity=map:" + ";".join(ranks))
        elif step.binding != "default":
            line.append("--setopt=cpu-affinity=" + _AFFINITY[str(step.binding)])
        if step.walltime_s is not None:
            line.append(f"--time-limit={math.ceil(step.walltime_s)}s")
        # Flux expands $NAME in values; $$ is one dollar.
        line += [f"--env={name}={value.replace('$', '$$')}" for name, value in step.env.items()]
        return [*line, *step.options, *rank_command(step, separated=False)]

    def _read(self, line: list[str], files: Mapping[str, str]) -> tuple[Step, ...]:
        known, options, command = split_options(after(self._head(), line), _TAKES)
        env, _, _, argv = read_rank_command(command)
        found: dict[str, Any] = {}
        fields = {flag: field for field, flag in _COUNTS.items()}
        for flag, (value,) in known:
            if flag in fields:
                found[fields[flag]] = number(flag, value)
            elif flag == "--requires":
                found["hosts"] = tuple(value.removeprefix("host:").split(","))
            elif flag == "--cwd":
                found["cwd"] = value
            elif flag == "--time-limit":
                found["walltime_s"] = float(number(flag, value.removesuffix("s")))
            elif flag == "--env":
                name, _, text = value.partition("=")
                env[name] = text.replace("$$", "$")
            elif value.startswith("cpu-affinity=map:"):
                ranks = value.removeprefix("cpu-affinity=map:").split(";")
                found["binding"] = tuple(c for rank in ranks for c in numbers(flag, rank))
            else:
                names = {f"cpu-affinity={text}": name for name, text in _AFFINITY.items()}
                found["binding"] = names.get(value, "default")
        return (Step(argv=tuple(argv), env=env, options=options, **found),)
