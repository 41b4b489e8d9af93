# SPDX-License-Identifier: BSD-3-Clause
"""What a launcher promises: from steps to an argument list, and nothing else.

A launcher starts nothing and reads no environment: it is a pure function, so that every
launch line can be seen, tested and parsed back without the machine that it is for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

#: How ranks are bound to cores. "default" leaves it to the launcher; a tuple names the
#: cores of the ranks of a node, in their order.
Binding = Literal["default", "none", "core"] | tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One program of a launch: what runs, how often, and where.

    Parameters
    ----------
    argv : tuple of str
        Executable and arguments, as the program shall see them.
    ranks : int
        Processes.
    nodes : int, optional
        Nodes that they are spread over.
    ranks_per_node : int, optional
        Processes on each node.
    cores_per_rank, gpus_per_rank : int, optional
        What each process gets.
    memory_per_node_bytes : int, optional
        Memory on each node, in bytes.
    hosts : tuple of str
        Where to run; empty leaves it to the launcher.
    env : mapping of str to str
        Added to the environment of every rank, whatever the launcher forwards anyway.
    cwd : str, optional
        Working directory of every rank.
    binding : Binding
        How ranks are bound to cores.
    exclusive : bool
        True if the step shares its cores with no other step of the allocation.
    overlap : bool
        True if the step may share its cores with others: a service beside tasks.
    walltime_s : float, optional
        The launcher's own limit, in seconds.
    options : tuple of str
        More arguments for the launcher itself, as they are.
    wrapper : tuple of str
        Stands in front of the executable: a container's ``exec`` line, for example.
    """

    argv: tuple[str, ...]
    ranks: int = 1
    nodes: int | None = None
    ranks_per_node: int | None = None
    cores_per_rank: int | None = None
    gpus_per_rank: int | None = None
    memory_per_node_bytes: int | None = None
    hosts: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    binding: Binding = "default"
    exclusive: bool = True
    overlap: bool = False
    walltime_s: float | None = None
    options: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()


class Launcher(ABC):
    """Turns steps into the argument list that starts them inside an allocation."""

    #: What users call it in a configuration.
    name: str

    @abstractmethod
    def command(self, *steps: Step) -> list[str]:
        """Return the argument list of a launch.

        Parameters
        ----------
        *steps : Step
            One, or several that share one MPI world (MPMD).

        Raises
        ------
        UnsupportedError
            The launcher cannot express something that a step asks for; the text names
            the option and says what can be done.
        """

    def prefix(self, step: Step) -> list[str]:
        """Return the launch line without executable and arguments.

        This is what ``$SSDAG_LAUNCH`` holds for apps that compose their own command.
        """
        line = self.command(step)
        return line[: len(line) - len(step.argv)]
