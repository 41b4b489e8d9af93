# SPDX-License-Identifier: BSD-3-Clause
"""The command line of a member inside its job, where hosts are not known yet."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from ssdag.errors import UnsupportedError
from ssdag.executors.allocation.mpi import find_launcher
from ssdag.executors.program import LAUNCH_VARIABLE, in_variable
from ssdag.launchers import SingleLauncher, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssdag.executors.allocation.request import Request
    from ssdag.executors.program import Program
    from ssdag.providers.base import Provider
    from ssdag.providers.options import BlockOptions

#: Launchers that give each of several steps cores of its own.
_KEEPS_ACCOUNT = frozenset({"srun", "jsrun", "flux"})


class Lines:
    """Puts the launcher in front of members that need one.

    Parameters
    ----------
    provider : Provider
        Its launcher is used; on a machine without scheduler the MPI's that is found.
    options : BlockOptions
        Whether jobs have several nodes.
    """

    def __init__(self, provider: Provider, options: BlockOptions) -> None:
        self._several = options.nodes_per_block > 1
        launcher = provider.launcher()
        if isinstance(launcher, SingleLauncher):
            launcher = find_launcher() or launcher
        self.launcher = launcher

    def needed(self, request: Request) -> bool:
        """Say whether members of this kind are started by the launcher."""
        return request.launched or request.ranks > 1 or self._several

    def alone(self, request: Request) -> bool:
        """Say whether only one member may run at a time.

        A launcher that knows nothing of other steps would put all of them on the same
        cores.
        """
        return self.needed(request) and self.launcher.name not in _KEEPS_ACCOUNT

    def program(self, program: Program, request: Request, folder: str) -> Program:
        """Return the program of a member with what stands in front of it in its job.

        Parameters
        ----------
        program : Program
        request : Request
        folder : str
            For files that the launch needs; made if there are any.

        Raises
        ------
        UnsupportedError
            The launcher cannot express it.
        """
        if not (program.launches or request.launches):
            return replace(program, argv=self.argv(program.argv, request))
        line = self.argv(("program",), request, always=True)
        value, files = in_variable(line[:-1], folder)
        for name, text in files.items():
            os.makedirs(folder, 0o700, exist_ok=True)
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        return replace(program, env={**program.env, LAUNCH_VARIABLE: value})

    def argv(
        self,
        argv: tuple[str, ...],
        request: Request,
        env: Mapping[str, str] | None = None,
        *,
        always: bool = False,
    ) -> tuple[str, ...]:
        """Return the command line of a member; with a launcher where it needs one, or always.

        Raises
        ------
        UnsupportedError
            The launcher cannot express it.
        """
        if not (always or self.needed(request)):
            return argv
        if isinstance(self.launcher, SingleLauncher) and request.ranks > 1:
            raise UnsupportedError(
                f"{request.ranks} ranks need an MPI launcher, and neither mpiexec nor mpirun is "
                "here"
            )
        accounts = self.launcher.name in _KEEPS_ACCOUNT
        step = Step(
            argv,
            ranks=request.ranks,
            nodes=request.nodes or (1 if request.ranks == 1 else None),
            ranks_per_node=request.ranks_per_node,
            cores_per_rank=request.cores_per_rank if accounts else None,
            gpus_per_rank=request.gpus_per_rank or None,
            binding="default" if accounts else "none",
            env={} if always else {"SSDAG_LAUNCHER": self.launcher.name, **(env or {})},
            options=("--kill-on-bad-exit=1",)
            if self.launcher.name == "srun" and request.ranks > 1
            else (),
        )
        if isinstance(self.launcher, SingleLauncher):
            step = Step(argv, env=step.env)
        return tuple(self.launcher.command(step))
