# SPDX-License-Identifier: BSD-3-Clause
"""What a provider promises: jobs of a scheduler, and the allocation that one runs in.

The life of a job, as its owner sees it: :meth:`Provider.submit` writes the script of a
:class:`JobSpec`, hands it to the scheduler and returns the job's id; from then on
:meth:`Provider.poll` is asked for all jobs at once, until each has a final state;
:meth:`Provider.cancel` may be called at any time, also for jobs that have ended.

What a scheduler does not say is not made up: a job that is missing from its answer keeps
the state it had (until an accounting source knows better), a query that fails changes
nothing, and a state that no table has is :attr:`~ssdag.states.JobState.UNKNOWN`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssdag.providers.script import output_paths

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from ssdag.launchers.base import Launcher
    from ssdag.providers.options import BlockOptions
    from ssdag.providers.ssh_tunnel import Tunnel
    from ssdag.states import JobState


@dataclass(frozen=True)
class JobSpec:
    """What a scheduler is asked for: nodes for a time, and a script that runs on the first.

    Parameters
    ----------
    name : str
        The job's name.
    commands : tuple of str
        Lines of the script's body, shell text; its exit code is that of the last one.
    folder : str
        An existing folder for the script, and for ``NAME.out`` and ``NAME.err``.
    nodes : int
        Whole nodes.
    cores_per_node, gpus_per_node, memory_per_node_bytes : int, optional
        What is needed on each.
    walltime_s : float
        Time limit, in seconds; schedulers that count minutes get the next full one.
    account, queue, qos, constraint, reservation : str, optional
        As the site calls them; ``queue`` is Slurm's partition.
    exclusive : bool
        Nodes are not shared with other jobs.
    directives : tuple of str
        More directive lines, with or without the scheduler's mark in front.
    worker_init : str
        Shell text that runs before the commands (``module load``, ``source``).
    modules : tuple of str
        Modules that are loaded first.
    env : mapping of str to str
        Exported before everything else.
    array : int, optional
        Number of array tasks, from 0; the script sees its own in ``SSDAG_ARRAY_INDEX``.
    after : tuple of str
        Ids of jobs that must end well first.
    rerunnable : bool
        Whether the scheduler may run the job a second time by itself.
    files : tuple of str
        Small text files of this machine that must lie in `folder` before the job begins,
        under their own names and for nobody else to read.
    """

    name: str
    commands: tuple[str, ...]
    folder: str
    nodes: int = 1
    cores_per_node: int | None = None
    gpus_per_node: int | None = None
    memory_per_node_bytes: int | None = None
    walltime_s: float = 3600.0
    account: str | None = None
    queue: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclusive: bool = True
    directives: tuple[str, ...] = ()
    worker_init: str = ""
    modules: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets
    array: int | None = None
    after: tuple[str, ...] = ()
    rerunnable: bool = False
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobStatus:
    """What a scheduler said of a job last.

    Parameters
    ----------
    state : JobState
    exit_code : int, optional
        Of the script, where it ended by itself.
    signal : int, optional
        That ended it.
    reason : str
        Why it pends, or why it failed, in the scheduler's words.
    hosts : tuple of str
        Where it runs or ran.
    """

    state: JobState
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A node of an allocation.

    Parameters
    ----------
    host : str
        Its name, as launchers take it.
    cores : int
        Cores that the allocation may use there.
    gpus : tuple of str
        Ids of the GPUs, as ``CUDA_VISIBLE_DEVICES`` and its kin take them.
    memory_bytes : int, optional
        Memory, where it is known.
    """

    host: str
    cores: int
    gpus: tuple[str, ...] = ()
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Allocation:
    """Nodes that this process may use now.

    Parameters
    ----------
    provider : str
        Name of the provider that knows it.
    job_id : str
        The scheduler's id; empty on a machine without one.
    nodes : tuple of Node
    ends_s : float, optional
        When it ends, in seconds since 1970, where that is known.
    """

    provider: str
    job_id: str
    nodes: tuple[Node, ...]
    ends_s: float | None = None


class Provider(ABC):
    """Talks to a scheduler. Two faces: jobs, and the allocation that we are in."""

    #: What users call it in a configuration.
    name: str
    #: How big its blocks are, how many there may be, and where.
    options: BlockOptions
    #: Seconds between two polls, over the long run, that a scheduler bears without harm.
    least_poll_s: float = 2.0

    # -- jobs ------------------------------------------------------------------------

    def job(self, name: str, commands: Iterable[str], folder: str | os.PathLike[str]) -> JobSpec:
        """Return the specification of a job of one block, from the options; pure.

        Parameters
        ----------
        name : str
            The job's name; unique in its folder, since its files are called after it.
        commands : iterable of str
            Lines of shell text that run on its first node.
        folder : path
            An existing folder that the nodes see too.
        """
        return self.options.job(name, commands, folder)

    @abstractmethod
    def script(self, job: JobSpec) -> str:
        """Return the text of a job's script; pure.

        Raises
        ------
        UnsupportedError
            The scheduler cannot express something that is asked for.
        """

    @abstractmethod
    def submit_command(self, job: JobSpec, path: str) -> list[str]:
        """Return the argument list that submits the script at `path`; pure."""

    @abstractmethod
    def submit(self, job: JobSpec) -> str:
        """Submit a job and return its id; blocks until the scheduler has answered.

        Raises
        ------
        SubmitError
            The scheduler refused it; the text holds its own words.
        """

    @abstractmethod
    def poll(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Return the states of all these jobs, by one query of the scheduler.

        Never raises for a scheduler that does not answer: jobs then keep the state that
        they had. Blocks for the length of the query, at most the provider's time limit.
        """

    @abstractmethod
    def cancel(self, job_ids: Sequence[str]) -> None:
        """End jobs; those that are gone already are no error.

        Raises
        ------
        ProviderError
            The scheduler did not take the request.
        """

    def last_words(self, job: JobSpec, size: int = 2000) -> str:
        """Return the end of what a job wrote to stderr; empty if it cannot be had.

        Parameters
        ----------
        job : JobSpec
            One that was submitted; no array.
        size : int
            Bytes at most.
        """
        try:
            with open(output_paths(job)[1], "rb") as file:
                file.seek(max(0, file.seek(0, 2) - size))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def tidy(self, folder: str | os.PathLike[str], *, everything: bool) -> None:
        """Remove what a provider has made elsewhere for jobs of a folder of this machine.

        Nothing is removed on this machine. Never raises for what cannot be removed.

        Parameters
        ----------
        folder : path
            What :meth:`job` was given.
        everything : bool
            False: only files that :attr:`JobSpec.files` had brought there, which may hold
            secrets; scripts and outputs stay.
        """
        return

    def close(self) -> None:
        """Give back connections to other machines; what needs one again makes it again.

        Jobs are left as they are.
        """
        return

    def tunnel(self, python: str) -> Tunnel | None:
        """Return a way for nodes to a port of this machine, by the host that ssh reaches.

        None where no ssh is in between. It is not open yet.

        Parameters
        ----------
        python : str
            An interpreter on that host, 3.7 or later.
        """
        return None

    # -- where am I ------------------------------------------------------------------

    @abstractmethod
    def allocation(self) -> Allocation | None:
        """Return the allocation that this process is in; None outside one."""

    @abstractmethod
    def launcher(self) -> Launcher:
        """Return the launcher that starts steps in its allocations."""
