# SPDX-License-Identifier: BSD-3-Clause
"""No launcher: one process, where the launch is started."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ssdag.launchers.base import Launcher
from ssdag.launchers.parse import numbers
from ssdag.launchers.program import rank_command, read_rank_command
from ssdag.launchers.step import Step

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class SingleLauncher(Launcher):
    """Starts the command itself, once, on this machine.

    Cores and memory are not limited, unless the step names its cores: then ``taskset``
    stands in front. A host may be named; that it is this machine is the caller's word.

    Parameters
    ----------
    gpu_variable : str
        The variable that says which GPUs a process may use.
    """

    gpu_variable: str = "CUDA_VISIBLE_DEVICES"

    name = "single"
    cannot: ClassVar[Mapping[str, str]] = {
        "memory_per_node_bytes": "ask for memory where the job is requested",
        "walltime_s": "give the limit to the app or the executor, which ends the command itself",
        "options": "there is no launcher to take them",
        "het_group": "use SrunLauncher",
    }

    def command(self, *steps: Step, folder: str = "") -> list[str]:
        """Return the command of the one step, with its environment in front."""
        self.check(steps)
        mpi = "use MpiexecLauncher, MpirunLauncher or SrunLauncher"
        if len(steps) > 1:
            raise self.unsupported(f"{len(steps)} programs in one launch", mpi)
        step = steps[0]
        if step.ranks > 1 or (step.node_count or 1) > 1:
            raise self.unsupported(f"ranks={step.ranks} on {step.node_count or 1} nodes", mpi)
        if step.binding == "core":
            raise self.unsupported("binding='core'", "name the cores")
        line = rank_command(
            step, env=step.env, cwd=step.cwd, gpus=self.gpu_variable, separated=False
        )
        if isinstance(step.binding, tuple):
            line = ["taskset", "-c", ",".join(map(str, step.binding)), *line]
        return line

    def _read(self, line: list[str], files: Mapping[str, str]) -> tuple[Step, ...]:
        words, cores = list(line), None
        if words[:2] == ["taskset", "-c"] and len(words) > 3:
            cores = numbers("taskset -c", words[2])
            del words[:3]
        env, cwd, gpus, argv = read_rank_command(words)
        step = Step(argv=tuple(argv), env=env, cwd=cwd, gpus_per_rank=gpus)
        return (replace(step, binding=cores, cores_per_rank=len(cores)) if cores else step,)
