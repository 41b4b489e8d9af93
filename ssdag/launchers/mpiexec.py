# SPDX-License-Identifier: BSD-3-Clause
"""Hydra's mpiexec: MPICH, Intel MPI, MVAPICH."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ssdag.launchers.base import Launcher
from ssdag.launchers.parse import after, number, segments, split_options
from ssdag.launchers.placement import host_counts
from ssdag.launchers.program import rank_command, read_rank_command
from ssdag.launchers.step import Binding, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TAKES = {"-hosts": 1, "-ppn": 1, "-bind-to": 1, "-n": 1, "-wdir": 1, "-env": 2}


@dataclass(frozen=True)
class MpiexecLauncher(Launcher):
    """Starts steps with Hydra's ``mpiexec``.

    Hydra knows nothing of other steps: where ranks of several steps meet on one node,
    name the cores, or leave ``cores_per_rank`` out, which binds nothing.

    Parameters
    ----------
    executable : str
        Name or path: "mpiexec", "mpiexec.hydra", "mpirun" of Intel MPI ...
    gpu_variable : str
        The variable that says which GPUs a process may use; ranks share them out by
        their place in the node.
    options : tuple of str
        More options, for every launch, such as ``("-launcher", "ssh")``.
    """

    executable: str = "mpiexec"
    gpu_variable: str = "CUDA_VISIBLE_DEVICES"
    options: tuple[str, ...] = ()

    name = "mpiexec"
    cannot: ClassVar[Mapping[str, str]] = {
        "memory_per_node_bytes": "ask for memory where the job is requested",
        # Its MPIEXEC_TIMEOUT ends ranks, but one launch in five says exit code 0 then.
        "walltime_s": "give the limit to the app or the executor, which ends the launch itself",
        "het_group": "name the hosts of each step",
    }

    def _head(self) -> list[str]:
        return [self.executable, *self.options]

    def command(self, *steps: Step, folder: str = "") -> list[str]:
        """Return the launch line; see :meth:`Launcher.command`."""
        self.check(steps)
        for field in ("binding", "cores_per_rank"):
            if any(getattr(s, field) != getattr(steps[0], field) for s in steps):
                raise self.unsupported(
                    f"{field} that differs between programs", "give them the same, or none"
                )
        line = [*self._head(), *self._shared(steps)]
        for i, step in enumerate(steps):
            if i:
                line.append(":")
            line += ["-n", str(step.ranks)]
            if step.cwd is not None:
                line += ["-wdir", step.cwd]
            # A colon alone would end the program's part of the line.
            inner = {name: value for name, value in step.env.items() if value == ":"}
            for name, value in step.env.items():
                if name not in inner:
                    line += ["-env", name, value]
            line += [*step.options, *rank_command(step, env=inner, gpus=self.gpu_variable)]
        return line

    def _shared(self, steps: Sequence[Step]) -> list[str]:
        """Return what Hydra takes once for all programs of a launch."""
        first, flags = steps[0], []
        if len(steps) == 1 and (first.ranks_per_node or not _uneven(first)):
            if first.hosts:
                flags += ["-hosts", ",".join(first.hosts)]
            if first.per_node is not None:
                flags += ["-ppn", str(first.per_node)]
        elif any(step.hosts for step in steps):
            if not all(step.hosts for step in steps):
                raise self.unsupported("hosts for some programs only", "name those of each step")
            # Ranks are numbered through the list in its order, and so are the programs.
            counts = [item for step in steps for item in host_counts(step)]
            flags += ["-hosts", ",".join(f"{host}:{count}" for host, count in counts)]
        elif any(step.per_node is not None for step in steps):
            raise self.unsupported("nodes of several programs", "name the hosts of each step")
        cores = first.cores_per_rank
        if first.cores_of_ranks:
            ranks = ("+".join(map(str, rank)) for rank in first.cores_of_ranks)
            flags += ["-bind-to", "user:" + ",".join(ranks)]
        elif first.binding == "none":
            flags += ["-bind-to", "none"]
        elif cores is not None:
            flags += ["-bind-to", f"core:{cores}"]
        elif first.binding == "core":
            flags += ["-bind-to", "core"]
        return flags

    def _read(self, line: list[str], files: Mapping[str, str]) -> tuple[Step, ...]:
        shared: dict[str, Any] = {}
        hosts: list[tuple[str, int | None]] = []
        parts = segments(after(self._head(), line))
        steps = []
        for part in parts:
            known, options, command = split_options(part, _TAKES)
            env, _, gpus, argv = read_rank_command(command)
            own: dict[str, Any] = {"gpus_per_rank": gpus, "ranks": 1}
            for flag, values in known:
                if flag == "-env":
                    env[values[0]] = values[1]
                elif flag == "-hosts":
                    hosts = [_read_host(item) for item in values[0].split(",")]
                elif flag == "-ppn":
                    shared["ranks_per_node"] = number(flag, values[0])
                elif flag == "-bind-to":
                    shared |= _read_binding(values[0])
                elif flag == "-n":
                    own["ranks"] = number(flag, values[0])
                else:
                    own["cwd"] = values[0]
            if hosts:
                own |= _take_hosts(hosts, own["ranks"], alone=len(parts) == 1)
            steps.append(Step(argv=tuple(argv), env=env, options=options, **shared | own))
        return tuple(steps)


def _uneven(step: Step) -> bool:
    return len({count for _, count in host_counts(step)}) > 1


def _read_host(text: str) -> tuple[str, int | None]:
    host, colon, count = text.partition(":")
    return host, number("-hosts", count) if colon else None


def _take_hosts(hosts: list[tuple[str, int | None]], ranks: int, *, alone: bool) -> dict[str, Any]:
    """Take the hosts of one program off the list that all programs share."""
    if alone:
        return {"hosts": tuple(host for host, _ in hosts)}
    names: list[str] = []
    counts: list[int] = []
    while hosts and sum(counts) < ranks:
        host, count = hosts.pop(0)
        names.append(host)
        counts.append(count or 0)
    packed = all(count == counts[0] for count in counts[:-1]) and counts[-1] <= counts[0]
    return {"hosts": tuple(names), "ranks_per_node": counts[0] if packed else None}


def _read_binding(text: str) -> dict[str, Any]:
    kind, _, value = text.partition(":")
    if kind == "user":
        ranks = [tuple(number("-bind-to", core) for core in r.split("+")) for r in value.split(",")]
        cores = tuple(core for rank in ranks for core in rank)
        binding: Binding = cores
        return {
            "binding": binding,
            "cores_per_rank": len(ranks[0]) if len(ranks[0]) > 1 else None,
        }
    if kind == "core" and value:
        return {"cores_per_rank": number("-bind-to", value)}
    return {"binding": kind}
