# SPDX-License-Identifier: BSD-3-Clause
"""Slurm's srun."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ssdag.launchers.base import Launcher
from ssdag.launchers.parse import after, number, numbers, segments, split_options
from ssdag.launchers.placement import named_file
from ssdag.launchers.program import (
    is_plain,
    rank_command,
    read_rank_command,
    split_env,
    with_env,
    without_env,
)
from ssdag.launchers.programs import fits_one_step, programs_text, read_programs
from ssdag.launchers.step import Binding, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

_MIB = 1 << 20

#: Fields of a step that are one number, in the order in which they stand in a line.
_COUNTS = {
    "het_group": "--het-group",
    "nodes": "--nodes",
    "ranks": "--ntasks",
    "ranks_per_node": "--ntasks-per-node",
    "cores_per_rank": "--cpus-per-task",
    "gpus_per_rank": "--gpus-per-task",
}
_TAKES = dict.fromkeys(
    [*_COUNTS.values(), "--mem", "--nodelist", "--chdir", "--cpu-bind", "--time", "--export"], 1
) | {"--exact": 0, "--overlap": 0}

#: Variables that srun or the search for it would heed.
_OF_SRUN = re.compile("PATH$|LD_|SLURM_|SLURMD_")


@dataclass(frozen=True)
class SrunLauncher(Launcher):
    """Starts steps with ``srun``, inside an allocation or beside it.

    Several programs of the same layout become one step by a program file
    (``--multi-prog``), which every MPI library takes as one world. Where they differ in
    layout, hosts or ``het_group`` they become components of a heterogeneous step; whether
    those share a world is up to the MPI library (Cray's does; under "pmi2" MPICH waits
    for ever, so that is refused).

    An exclusive step gets ``--exact``: just the cores that it asks for, so that the next
    one starts beside it and does not wait for its end. ``overlap`` gets ``--overlap``.
    Ranks are numbered through the hosts in Slurm's own order, not that of ``hosts``.

    Parameters
    ----------
    executable : str
        Name or path of srun.
    mpi : str, optional
        The plug-in that starts MPI ranks (``--mpi``); by default the site's.
    jobid : str, optional
        The allocation, where the launch is started outside it.
    options : tuple of str
        More options, for every launch.
    """

    executable: str = "srun"
    mpi: str | None = None
    jobid: str | None = None
    options: tuple[str, ...] = ()

    name = "srun"
    cannot: ClassVar[Mapping[str, str]] = {}

    def _head(self) -> list[str]:
        head = [self.executable]
        if self.jobid is not None:
            head.append(f"--jobid={self.jobid}")
        if self.mpi is not None:
            head.append(f"--mpi={self.mpi}")
        return [*head, *self.options]

    def command(self, *steps: Step, folder: str = "") -> list[str]:
        """Return the launch line; see :meth:`Launcher.command`.

        ``--export`` splits its list at commas and reads quotes, so a value that is not
        plain comes from srun's own environment (``env NAME=VALUE srun ...``). With several
        programs it stands in front of its program, and so does what would change srun
        itself. ALL stands there always, because a job that was submitted with
        ``--export=NONE`` would hand that on to its steps.
        """
        self.check(steps)
        front: dict[str, str] = {}
        line = self._head()
        for name in self.files(*steps):
            whole = replace(steps[0], ranks=sum(step.ranks for step in steps), cwd=None)
            path = f"{folder}/{name}" if folder else name
            line += [*self._flags(whole), "--export=ALL", *whole.options]
            return [*line, "--multi-prog", path]
        if len(steps) > 1 and self.mpi == "pmi2":
            raise self.unsupported(
                "programs of different layout in one MPI world with mpi='pmi2'",
                "give them the same layout, or use mpi='pmix' or 'cray_shasta'",
            )
        for i, step in enumerate(steps):
            plain, other = split_env(step.env)
            inner = {n: v for n, v in other.items() if len(steps) > 1 or _OF_SRUN.match(n)}
            front |= {n: v for n, v in other.items() if n not in inner}
            if i:
                line.append(":")
            line += self._flags(step)
            exported = [f"{name}={value}" for name, value in plain.items()]
            exported += [name for name in front if is_plain(name, "")]
            line.append(",".join(["--export=ALL", *exported]))
            line += [*step.options, *rank_command(step, env=inner)]
        return with_env(front, line)

    def files(self, *steps: Step) -> dict[str, str]:
        """Return the program file of several programs of the same layout."""
        if len(steps) < 2 or not fits_one_step(steps):
            return {}
        return named_file("programs", programs_text(steps, self.unsupported))

    def _flags(self, step: Step) -> list[str]:
        flags = [
            f"{flag}={getattr(step, field)}"
            for field, flag in _COUNTS.items()
            if getattr(step, field) is not None
        ]
        if step.memory_per_node_bytes is not None:
            # Slurm reads 0 as all of the node's memory.
            size = -(-step.memory_per_node_bytes // _MIB)
            flags.append(f"--mem={size}M" if size else "--mem=0")
        if step.hosts:
            flags.append("--nodelist=" + ",".join(step.hosts))
        if step.cwd is not None:
            flags.append(f"--chdir={step.cwd}")
        if step.binding != "default":
            flags.append("--cpu-bind=" + _binding(step))
        if step.walltime_s is not None:
            minutes, seconds = divmod(math.ceil(step.walltime_s), 60)
            flags.append(f"--time={minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}")
        if step.exclusive:
            flags.append("--exact")
        if step.overlap:
            flags.append("--overlap")
        return flags

    def _read(self, line: list[str], files: Mapping[str, str]) -> tuple[Step, ...]:
        front, words = without_env(line)
        if words[-2:-1] == ["--multi-prog"]:
            whole = _step([*after(self._head(), words[:-2]), "program"], front)
            programs = read_programs(files[words[-1].rpartition("/")[2]])
            return tuple(
                replace(whole, argv=p.argv, ranks=p.ranks, env=p.env, cwd=p.cwd) for p in programs
            )
        return tuple(_step(part, front) for part in segments(after(self._head(), words)))


def _binding(step: Step) -> str:
    if step.binding == "core":
        return "cores"
    if isinstance(step.binding, str):
        return step.binding
    if (step.cores_per_rank or 1) == 1:
        return "map_cpu:" + ",".join(map(str, step.binding))
    masks = (sum(1 << core for core in set(cores)) for cores in step.cores_of_ranks)
    return "mask_cpu:" + ",".join(map(hex, masks))


def _read_binding(text: str) -> Binding:
    kind, _, values = text.partition(":")
    if kind == "map_cpu":
        return numbers("--cpu-bind", values)
    if kind == "mask_cpu":
        masks = [int(mask, 16) for mask in values.split(",")]
        return tuple(i for mask in masks for i in range(mask.bit_length()) if mask >> i & 1)
    return "core" if kind == "cores" else "none"


def _step(words: list[str], front: Mapping[str, str]) -> Step:
    known, options, command = split_options(words, _TAKES)
    env, _, _, argv = read_rank_command(command)
    found: dict[str, Any] = {"exclusive": False}
    counts = {flag: field for field, flag in _COUNTS.items()}
    for flag, values in known:
        value = values[0] if values else ""
        if flag in counts:
            found[counts[flag]] = number(flag, value)
        elif flag == "--mem":
            found["memory_per_node_bytes"] = number(flag, value.removesuffix("M")) * _MIB
        elif flag == "--nodelist":
            found["hosts"] = tuple(value.split(","))
        elif flag == "--chdir":
            found["cwd"] = value
        elif flag == "--cpu-bind":
            found["binding"] = _read_binding(value)
        elif flag == "--time":
            hours, minutes, seconds = numbers(flag, value, ":")
            found["walltime_s"] = float((hours * 60 + minutes) * 60 + seconds)
        elif flag == "--export":
            exported = (item.partition("=") for item in value.split(",")[1:])
            env |= {name: text for name, equals, text in exported if equals} | dict(front)
        else:
            found["exclusive" if flag == "--exact" else "overlap"] = True
    return Step(argv=tuple(argv), env=env, options=options, **found)
