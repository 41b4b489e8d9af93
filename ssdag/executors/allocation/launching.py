# SPDX-License-Identifier: BSD-3-Clause
"""From slots to a launch line: hosts, cores, GPUs and environment of one step."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssdag.errors import UnsupportedError
from ssdag.executors.allocation.slots import Part, Placement
from ssdag.executors.program import LAUNCH_VARIABLE, in_variable
from ssdag.launchers import SingleLauncher, Step, Wrapped
from ssdag.launchers.linked import check_linked
from ssdag.launchers.world import without_job_options, without_world
from ssdag.providers.gpus import restrict_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.executors.allocation.request import Request
    from ssdag.executors.program import Program
    from ssdag.launchers.base import Launcher
    from ssdag.providers.base import Node

#: Launchers that give each step cores of its own; the others are told which to use.
_KEEPS_ACCOUNT = frozenset({"srun", "jsrun", "flux"})


@dataclass(frozen=True)
class Launch:
    """How a step is started.

    Attributes
    ----------
    argv : list of str
        What this machine executes.
    env : dict of str to str
        Its whole environment.
    files : dict of str to str
        Texts that must lie in the step's folder.
    cores : frozenset of int
        Cores of this machine that it is bound to; empty for all.
    """

    argv: list[str]
    env: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    cores: frozenset[int] = frozenset()


class Launching:
    """Makes launches; pure but for the environment of this process.

    Parameters
    ----------
    nodes : sequence of Node
        The allocation.
    launcher : Launcher, optional
        None if this machine has none: then only single processes can be started.
    here : bool
        The allocation is this machine, so single processes need no launcher.
    pin : bool
        Bind steps to their cores.
    """

    def __init__(
        self, nodes: Sequence[Node], launcher: Launcher | None, *, here: bool, pin: bool
    ) -> None:
        self._nodes = nodes
        self.launcher = launcher
        self._here = here
        self._pin = pin
        usable = sorted(os.sched_getaffinity(0))
        fits = here and len(nodes) == 1 and len(usable) >= nodes[0].cores
        self._core_ids = usable if fits and pin else []

    def refusal(self, request: Request) -> str | None:
        """Say why a step cannot be launched, whatever is free; None if it can."""
        if self._is_direct(request):
            return None
        if self.launcher is None:
            return (
                f"{request.ranks} ranks need an MPI launcher, and neither mpiexec nor mpirun is "
                "here: install one (pip install mpich mpi4py), or name it by launcher="
            )
        parts = tuple(
            Part(i, node.host, ranks, tuple(range(ranks * request.cores_per_rank)),
                 node.gpus[: ranks * request.gpus_per_rank], 0)
            for i, (node, ranks) in enumerate(
                zip(self._nodes, next(request.layouts(len(self._nodes)), ()), strict=False)
            )
        )  # fmt: skip
        try:
            self._line(("program",), request, Placement(parts), {}, "")
        except UnsupportedError as error:
            return str(error)
        return None

    def launch(
        self, program: Program, request: Request, placement: Placement, folder: str
    ) -> Launch:
        """Return how a program is started on its slots.

        Parameters
        ----------
        program : Program
        request : Request
        placement : Placement
        folder : str
            Of the step's files; it may not exist yet.

        Raises
        ------
        UnsupportedError
            The launcher cannot express it.
        LauncherError
            The program is linked with the MPI library of another launcher.
        """
        added = dict(program.env)
        if "OMP_NUM_THREADS" not in os.environ:
            added.setdefault("OMP_NUM_THREADS", str(self._threads(request, placement)))
        if program.launches or request.launches:
            return self._self_launching(program, request, placement, added, folder)
        cores = self._affinity(placement)
        if self._is_direct(request):
            added |= _visible(placement.parts[0])
            return Launch(list(program.argv), {**os.environ, **added}, {}, cores)
        assert self.launcher is not None
        added["SSDAG_LAUNCHER"] = self.launcher.name
        argv, env, files = self._line(program.argv, request, placement, added, folder)
        if request.ranks > 1 and not isinstance(self.launcher, Wrapped):  # a container has its own
            check_linked(self.launcher.name, program.argv, {**env, **added})
        return Launch(argv, {**env, **added}, files, cores)

    def _is_direct(self, request: Request) -> bool:
        single = not request.launched or self.launcher is None
        return self._here and request.ranks == 1 and single

    def _threads(self, request: Request, placement: Placement) -> int:
        if request.whole:
            part = placement.parts[0]
            return max(1, len(part.cores) // part.ranks)
        return request.cores_per_rank

    def _affinity(self, placement: Placement) -> frozenset[int]:
        """Return the cores of this machine that the whole step is bound to, by inheritance."""
        if not self._core_ids:
            return frozenset()
        return frozenset(self._core_ids[i] for i in placement.parts[0].cores)

    def _self_launching(
        self,
        program: Program,
        request: Request,
        placement: Placement,
        added: dict[str, str],
        folder: str,
    ) -> Launch:
        launcher = self.launcher or SingleLauncher()
        line, env, files = self._line(("program",), request, placement, {}, folder, launcher)
        value, more = in_variable(line[:-1], folder)
        files |= more
        env |= added | _visible(placement.parts[0])
        env[LAUNCH_VARIABLE] = value
        return Launch(list(program.argv), env, files, self._affinity(placement))

    # -- lines -----------------------------------------------------------------------

    def _line(
        self,
        argv: tuple[str, ...],
        request: Request,
        placement: Placement,
        added: dict[str, str],
        folder: str,
        launcher: Launcher | None = None,
    ) -> tuple[list[str], dict[str, str], dict[str, str]]:
        """Return launch line, environment and files of a step."""
        launcher = launcher or self.launcher
        assert launcher is not None
        env = without_world(os.environ)
        files: dict[str, str] = {}
        if launcher.name in _KEEPS_ACCOUNT:
            env = without_job_options(env)
            steps = [self._accounted(launcher, argv, request, placement, added)]
            counts = [part.ranks for part in placement.parts]
            if launcher.name == "srun" and len(set(counts)) > 1:
                # srun sorts the hosts: which has how many ranks must be said rank by rank.
                lines = [part.host for part in placement.parts for _ in range(part.ranks)]
                files["hosts"] = "\n".join(lines) + "\n"
                env["SLURM_HOSTFILE"] = os.path.join(folder, "hosts")
        else:
            steps = self._told(launcher, argv, request, placement, added)
        files |= launcher.files(*steps)
        return launcher.command(*steps, folder=folder), env, files

    def _accounted(
        self,
        launcher: Launcher,
        argv: tuple[str, ...],
        request: Request,
        placement: Placement,
        added: dict[str, str],
    ) -> Step:
        parts = placement.parts
        counts = [part.ranks for part in parts]
        even = len(set(counts)) == 1
        cores = min(len(part.cores) // part.ranks for part in parts)
        gpus = request.gpus_per_rank or None
        if launcher.chooses_nodes:
            return Step(argv, ranks=request.ranks, cores_per_rank=cores, gpus_per_rank=gpus,
                        nodes=request.nodes, env=added)  # fmt: skip
        options: tuple[str, ...] = () if even else ("--distribution=arbitrary",)
        if request.ranks > 1:
            options = (*options, "--kill-on-bad-exit=1")
        return Step(
            argv,
            ranks=request.ranks,
            nodes=len(parts),
            ranks_per_node=counts[0] if even else None,
            cores_per_rank=cores,
            gpus_per_rank=gpus,
            memory_per_node_bytes=self._memory(placement),
            hosts=placement.hosts if even else (),
            env=added,
            options=options,
        )

    def _memory(self, placement: Placement) -> int | None:
        """Return the step's memory on each node: what was asked, or its share by cores.

        Without a number Slurm gives a step all memory of the job, where it keeps account
        of memory, and the next step waits for it.
        """
        shares = []
        for part in placement.parts:
            node = self._nodes[part.index]
            if node.memory_bytes is None:
                return part.memory_bytes or None
            share = node.memory_bytes * len(part.cores) // max(1, node.cores)
            shares.append(part.memory_bytes or share)
        return min(shares)

    def _told(
        self,
        launcher: Launcher,
        argv: tuple[str, ...],
        request: Request,
        placement: Placement,
        added: dict[str, str],
    ) -> list[Step]:
        """Return the steps for a launcher that knows nothing of other steps."""
        parts = placement.parts
        gpus = request.gpus_per_rank or None
        if isinstance(launcher, SingleLauncher):
            return [Step(argv, env=added, hosts=placement.hosts)]
        if len({part.gpus for part in parts}) > 1:
            # GPUs have other numbers on each node: one program for each, in one world.
            return [
                Step(argv, ranks=part.ranks, gpus_per_rank=gpus, hosts=(part.host,),
                     ranks_per_node=part.ranks, binding="none", env=added | _visible(part))
                for part in parts
            ]  # fmt: skip
        counts = [part.ranks for part in parts]
        packed = all(count == counts[0] for count in counts[:-1]) and counts[-1] <= counts[0]
        names = {part.cores[: counts[0] * request.cores_per_rank] for part in parts}
        pinned = self._pin and not self._here and len(names) == 1 and not request.whole
        return [
            Step(
                argv,
                ranks=request.ranks,
                ranks_per_node=counts[0] if packed else None,
                cores_per_rank=request.cores_per_rank if pinned else None,
                gpus_per_rank=gpus,
                hosts=() if self._here else placement.hosts,
                binding=names.pop() if pinned else "none",
                env=added | _visible(parts[0]),
            )
        ]


def _visible(part: Part) -> dict[str, str]:
    """Return the variables that show a step its GPUs; none if it has none."""
    if not part.gpus:
        return {}
    return restrict_to(",".join(part.gpus))
