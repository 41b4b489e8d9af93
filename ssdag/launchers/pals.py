# SPDX-License-Identifier: BSD-3-Clause
"""HPE Cray PALS's mpiexec, and its older aprun-like kin's successor on Polaris and Aurora."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ssdag.launchers.base import Launcher
from ssdag.launchers.parse import after, number, numbers, segments, split_options
from ssdag.launchers.program import rank_command, read_rank_command
from ssdag.launchers.step import Step

if TYPE_CHECKING:
    from collections.abc import Mapping

_TAKES = dict.fromkeys(["--np", "--ppn", "--hosts", "--depth", "--cpu-bind", "--wdir", "--env"], 1)


@dataclass(frozen=True)
class PalsLauncher(Launcher):
    """Starts steps with the ``mpiexec`` of PALS.

    ``cores_per_rank`` is PALS's depth, and ranks are bound to their depth unless the
    step says otherwise. PALS has no option for GPUs that every version knows: each
    rank takes its share of those of its node, by its place in it.

    Parameters
    ----------
    executable : str
        Name or path of mpiexec.
    gpu_variable : str
        The variable that says which GPUs a process may use: "ZE_AFFINITY_MASK" on
        Intel's GPUs.
    options : tuple of str
        More options, for every launch.
    """

    executable: str = "mpiexec"
    gpu_variable: str = "CUDA_VISIBLE_DEVICES"
    options: tuple[str, ...] = ()

    name = "pals"
    cannot: ClassVar[Mapping[str, str]] = {
        "memory_per_node_bytes": "ask for memory where the job is requested",
        "walltime_s": "give the limit to the app or the executor, which ends the launch itself",
        "het_group": "name the hosts of each step",
    }

    def _head(self) -> list[str]:
        return [self.executable, *self.options]

    def command(self, *steps: Step, folder: str = "") -> list[str]:
        """Return the launch line; see :meth:`Launcher.command`."""
        self.check(steps)
        line = self._head()
        for i, step in enumerate(steps):
            if i:
                line.append(":")
            line += ["--np", str(step.ranks)]
            if step.per_node is not None:
                line += ["--ppn", str(step.per_node)]
            if step.hosts:
                line += ["--hosts", ",".join(step.hosts)]
            line += _binding(step)
            if step.cwd is not None:
                line += ["--wdir", step.cwd]
            for name, value in step.env.items():
                line += ["--env", f"{name}={value}"]
            line += [*step.options, *rank_command(step, gpus=self.gpu_variable)]
        return line

    def _read(self, line: list[str], files: Mapping[str, str]) -> tuple[Step, ...]:
        return tuple(_step(part) for part in segments(after(self._head(), line)))


def _binding(step: Step) -> list[str]:
    flags = [] if step.cores_per_rank is None else ["--depth", str(step.cores_per_rank)]
    if step.cores_of_ranks:
        ranks = (",".join(map(str, cores)) for cores in step.cores_of_ranks)
        return [*flags, "--cpu-bind", "list:" + ":".join(ranks)]
    if step.binding != "default":
        return [*flags, "--cpu-bind", str(step.binding)]
    return [*flags, "--cpu-bind", "depth"] if flags else []


def _step(part: list[str]) -> Step:
    known, options, command = split_options(part, _TAKES)
    env, _, gpus, argv = read_rank_command(command)
    found: dict[str, Any] = {"gpus_per_rank": gpus}
    counts = {"--np": "ranks", "--ppn": "ranks_per_node", "--depth": "cores_per_rank"}
    for flag, (value,) in known:
        if flag in counts:
            found[counts[flag]] = number(flag, value)
        elif flag == "--hosts":
            found["hosts"] = tuple(value.split(","))
        elif flag == "--wdir":
            found["cwd"] = value
        elif flag == "--env":
            name, _, text = value.partition("=")
            env[name] = text
        elif value.startswith("list:"):
            ranks = value.removeprefix("list:").split(":")
            found["binding"] = tuple(c for rank in ranks for c in numbers(flag, rank))
        elif value != "depth":
            found["binding"] = value
    return Step(argv=tuple(argv), env=env, options=options, **found)
