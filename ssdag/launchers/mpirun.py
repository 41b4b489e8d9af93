# SPDX-License-Identifier: BSD-3-Clause
"""Open MPI's mpirun, orterun and prterun."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ssdag.launchers.base import Launcher
from ssdag.launchers.parse import after, number, segments, split_options
from ssdag.launchers.placement import host_counts, named_file
from ssdag.launchers.program import rank_command, read_rank_command
from ssdag.launchers.step import Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TAKES = {
    "-np": 1,
    "--host": 1,
    "--map-by": 1,
    "--bind-to": 1,
    "--rankfile": 1,
    "--timeout": 1,
    "--wdir": 1,
    "-x": 1,
}


@dataclass(frozen=True)
class MpirunLauncher(Launcher):
    """Starts steps with Open MPI's ``mpirun`` (4 and later).

    Named cores need named hosts: they are written into a rank file. Where ranks of
    several steps meet on one node, name the cores (or ``binding="none"``): mpirun
    itself does not know of other steps and would give all of them the first cores.

    Parameters
    ----------
    executable : str
        Name or path: "mpirun", "orterun", "prterun" ...
    allow_run_as_root : bool
        Open MPI refuses root otherwise.
    oversubscribe : bool
        Allow more ranks than slots.
    version : int
        Major version of Open MPI. From 5 on a rank file is named by ``--map-by``.
    gpu_variable : str
        The variable that says which GPUs a process may use; ranks share them out by
        their place in the node.
    options : tuple of str
        More options, for every launch.
    """

    executable: str = "mpirun"
    allow_run_as_root: bool = False
    oversubscribe: bool = False
    version: int = 4
    gpu_variable: str = "CUDA_VISIBLE_DEVICES"
    options: tuple[str, ...] = ()

    name = "mpirun"
    cannot: ClassVar[Mapping[str, str]] = {
        "memory_per_node_bytes": "ask for memory where the job is requested",
        "het_group": "name the hosts of each step",
    }

    def _head(self) -> list[str]:
        head = [self.executable]
        if self.allow_run_as_root:
            head.append("--allow-run-as-root")
        if self.oversubscribe:
            head.append("--oversubscribe")
        return [*head, *self.options]

    def command(self, *steps: Step, folder: str = "") -> list[str]:
        """Return the launch line; see :meth:`Launcher.command`.

        From version 5 on ``-x`` holds for all programs of a launch, so variables of several
        programs stand in front of each of them.
        """
        self.check(steps)
        line = [*self._head(), *self._placement(steps, folder)]
        slots = self._slots(steps)
        for i, step in enumerate(steps):
            if i:
                line.append(":")
            line += ["-np", str(step.ranks)]
            if step.hosts:
                line += ["--host", ",".join(f"{host}:{slots[host]}" for host in step.hosts)]
            if step.cwd is not None:
                line += ["--wdir", step.cwd]
            inner = step.env if len(steps) > 1 else {}
            for name, value in step.env.items():
                if not inner:
                    line += ["-x", f"{name}={value}"]
            line += [*step.options, *rank_command(step, env=inner, gpus=self.gpu_variable)]
        return line

    def _placement(self, steps: Sequence[Step], folder: str) -> list[str]:
        """Return what Open MPI takes once for all programs of a launch."""
        first, several = steps[0], len(steps) > 1
        for field in ("binding", "cores_per_rank", "walltime_s"):
            if any(getattr(s, field) != getattr(first, field) for s in steps):
                if field == "binding" and all(s.cores_of_ranks for s in steps):
                    continue
                raise self.unsupported(
                    f"{field} that differs between programs", "name the cores of every step"
                )
        flags = []
        if first.walltime_s is not None:
            flags += ["--timeout", str(math.ceil(first.walltime_s))]
        for name in self.files(*steps):
            path = f"{folder}/{name}" if folder else name
            if self.version >= 5:
                return [*flags, "--map-by", f"rankfile:file={path}"]
            return [*flags, "--rankfile", path]
        cores = f":PE={first.cores_per_rank}" if first.cores_per_rank is not None else ""
        if several and any((s.ranks_per_node or s.nodes) and not s.hosts for s in steps):
            raise self.unsupported("nodes of several programs", "name the hosts of each step")
        if first.per_node is not None and not several and (not first.hosts or first.ranks_per_node):
            flags += ["--map-by", f"ppr:{first.per_node}:node{cores}"]
        elif cores:
            flags += ["--map-by", f"slot{cores}"]
        if first.binding != "default":
            flags += ["--bind-to", str(first.binding)]
        return flags

    def _slots(self, steps: Sequence[Step]) -> dict[str, int]:
        """Return the ranks on each host; mpirun fills hosts in the order of their names."""
        slots: dict[str, int] = {}
        if any(s.hosts for s in steps) and not all(s.hosts for s in steps):
            raise self.unsupported("hosts for some programs only", "name the hosts of each step")
        wanted = [host_counts(step) for step in steps]
        for counts in wanted:
            for host, count in counts:
                slots[host] = slots.get(host, 0) + count
        free = dict(slots)
        for step, counts in zip(steps, wanted, strict=True):
            left = step.ranks
            for host, count in counts:
                taken = min(left, free[host])
                if taken != count and not step.cores_of_ranks:
                    raise self.unsupported(
                        f"programs that share host {host}", "name the cores of every step"
                    )
                free[host] -= taken
                left -= taken
        return slots

    def files(self, *steps: Step) -> dict[str, str]:
        """Return the rank file of steps that name their cores."""
        named = [step for step in steps if step.cores_of_ranks]
        if not named:
            return {}
        if len(named) < len(steps) or not all(step.hosts for step in steps):
            raise self.unsupported("binding to cores of unnamed hosts", "name hosts and cores")
        lines, rank = [], 0
        for step in steps:
            for host, count in host_counts(step):
                for cores in step.cores_of_ranks[:count]:
                    lines.append(f"rank {rank}={host} slot={','.join(map(str, cores))}\n")
                    rank += 1
                if count > len(step.cores_of_ranks):
                    raise self.unsupported(
                        f"binding={step.binding!r} for {count} ranks on a node",
                        "name the cores of each rank of a node",
                    )
        text = "".join(lines)
        return named_file("rankfile", text)

    def _read(self, line: list[str], files: Mapping[str, str]) -> tuple[Step, ...]:
        shared: dict[str, Any] = {}
        steps = []
        for part in segments(after(self._head(), line)):
            known, options, command = split_options(part, _TAKES)
            env, _, gpus, argv = read_rank_command(command)
            own: dict[str, Any] = {"gpus_per_rank": gpus}
            for flag, (value,) in known:
                if flag == "-x":
                    name, _, text = value.partition("=")
                    env[name] = text
                elif flag in ("-np", "--host", "--wdir"):
                    own |= _read_own(flag, value)
                else:
                    shared |= _read_shared(flag, value, files)
            steps.append((argv, env, options, own))
        binds = shared.pop("cores", None)
        found, rank = [], 0
        for argv, env, options, own in steps:
            if binds:
                mine = binds[rank : rank + -(-own["ranks"] // len(own["hosts"]))]
                shared |= {"binding": tuple(c for cores in mine for c in cores)}
                shared |= {"cores_per_rank": len(mine[0]) if len(mine[0]) > 1 else None}
                rank += own["ranks"]
            found.append(Step(argv=tuple(argv), env=env, options=options, **shared | own))
        return tuple(found)


def _read_own(flag: str, value: str) -> dict[str, Any]:
    if flag == "-np":
        return {"ranks": number(flag, value)}
    if flag == "--wdir":
        return {"cwd": value}
    return {"hosts": tuple(host.partition(":")[0] for host in value.split(","))}


def _read_shared(flag: str, value: str, files: Mapping[str, str]) -> dict[str, Any]:
    if flag == "--timeout":
        return {"walltime_s": float(number(flag, value))}
    if flag == "--bind-to":
        return {"binding": value}
    if flag == "--rankfile" or value.startswith("rankfile:file="):
        text = files[value.rpartition("/")[2].removeprefix("rankfile:file=")]
        slots = [line.partition("slot=")[2] for line in text.splitlines()]
        return {"cores": [tuple(number(flag, core) for core in s.split(",")) for s in slots]}
    found: dict[str, Any] = {}
    policy, _, cores = value.partition(":PE=")
    if cores:
        found["cores_per_rank"] = number(flag, cores)
    if policy.startswith("ppr:"):
        found["ranks_per_node"] = number(flag, policy.split(":")[1])
    return found
