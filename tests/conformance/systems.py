# SPDX-License-Identifier: BSD-3-Clause
"""The systems that the conformance suite runs on.

To add one: write a function ``make(folder) -> context manager of a System`` and name it
in :data:`FACTORIES`. It may call ``pytest.skip`` where the system cannot be had. A system
lives until the end of the whole run, since its slow cases ripen while other tests run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ssdag.providers import GridEngineProvider, LocalProvider, SlurmProvider
from ssdag.providers.commands import LocalRunner, Runner
from tests.clusters.cluster import GridEngineCluster, SlurmCluster

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ssdag.providers.base import Provider
    from ssdag.providers.commands import Answer

#: Name of a system: "module:function" of its factory.
FACTORIES: dict[str, str] = {
    "local": "tests.conformance.systems:local",
    "slurm": "tests.conformance.systems:slurm",
    "gridengine": "tests.conformance.systems:gridengine",
    "pbs": "tests.simulators.systems:pbs",
    "pbs over ssh": "tests.simulators.systems:pbs_over_ssh",
    "torque": "tests.simulators.systems:torque",
    "lsf": "tests.simulators.systems:lsf",
    "cobalt": "tests.simulators.systems:cobalt",
    "flux": "tests.simulators.systems:flux",
}


@dataclass
class System:
    """A scheduler to test, and what can be done to it.

    Parameters
    ----------
    make : callable
        Makes a provider that reaches it, from options. Several may be in use.
    folder : Path
        Where jobs live; the nodes see it.
    limit_s : float
        The shortest time limit that the scheduler keeps, in seconds.
    limit_deadline_s : float
        Within so many seconds a job with this limit is told to be over it.
    pause_s : float
        Time between two queries while a test waits.
    deadline_s : float
        Within so many seconds a job that does nothing has begun and ended.
    two_nodes : mapping, optional
        Options that give a job two nodes; None if there is one only.
    refused : mapping, optional
        Options of a job that the scheduler does not take; None if it takes all.
    silent : callable, optional
        A context in which the scheduler answers nobody; None if it cannot be stopped.
    lose_node : callable, optional
        Takes the hosts of a job and kills what serves them there. Its result brings them
        back. Called for a job with ``lose_options``, which keep it from other tests' nodes.
    lose_deadline_s : float
        Within so many seconds a job on a lost node is told to have failed.
    told_on_return : bool
        True if the scheduler knows what became of the job only when the node is back.
    arrays, unknown_is_lost : bool
        Whether it has job arrays; whether an unknown id is known at once to be lost.
    """

    make: Callable[..., Provider]
    folder: Path
    limit_s: float = 2.0
    limit_deadline_s: float = 20.0
    pause_s: float = 0.05
    deadline_s: float = 20.0
    two_nodes: Mapping[str, object] | None = None
    refused: Mapping[str, object] | None = None
    silent: Callable[[], AbstractContextManager[None]] | None = None
    lose_node: Callable[[Sequence[str]], Callable[[], None]] | None = None
    lose_options: Mapping[str, object] = field(default_factory=dict)
    lose_deadline_s: float = 60.0
    told_on_return: bool = False
    arrays: bool = True
    unknown_is_lost: bool = False


Factory = Callable[[Path], AbstractContextManager[System]]


def factory(name: str) -> Factory:
    """Return the factory of a system."""
    module, function = FACTORIES[name].split(":")
    found: Factory = getattr(import_module(module), function)
    return found


class RecordingRunner(LocalRunner):
    """Remembers the commands that it ran, for a look at arguments and at their number."""

    def __init__(self, inner: Runner) -> None:
        super().__init__()
        self.inner = inner
        self.commands: list[tuple[str, ...]] = []

    def run(self, argv: Sequence[str], timeout_s: float, stdin: str | None = None) -> Answer:
        """See :meth:`Runner.run`."""
        self.commands.append(tuple(argv))
        return self.inner.run(argv, timeout_s, stdin)


@contextmanager
def local(folder: Path) -> Iterator[System]:
    """This machine."""
    yield System(LocalProvider, folder, limit_s=0.5, pause_s=0.01, unknown_is_lost=True)


class _WithEnv(LocalRunner):
    """Adds variables to the environment of commands, by ``env``."""

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__()
        self._prefix = ("env", *(f"{name}={value}" for name, value in env.items()))

    def run(self, argv: Sequence[str], timeout_s: float, stdin: str | None = None) -> Answer:
        """See :meth:`Runner.run`."""
        return super().run((*self._prefix, *argv), timeout_s, stdin)


def _lose_nodes(
    cluster: SlurmCluster | GridEngineCluster, hosts: Sequence[str]
) -> Callable[[], None]:
    """Kill the daemons of nodes; returns what brings them back."""
    for host in hosts:
        cluster.kill_node(host)

    def bring_back() -> None:
        for host in hosts:
            cluster.start_node(host)

    return bring_back


@contextmanager
def slurm(folder: Path) -> Iterator[System]:
    """Debian's Slurm with five nodes."""
    cluster = SlurmCluster(5)
    cluster.start()

    def make(**options: object) -> Provider:
        # Not exclusive: else five long jobs would take all nodes. n5 is the one to lose.
        base: dict[str, object] = {
            "exclusive": False,
            "runner": _WithEnv(cluster.env),
            "directives": ("--exclude=n5",),
        }
        return SlurmProvider(**{**base, **options})  # type: ignore[arg-type]

    try:
        yield System(
            make,
            folder,
            limit_s=60.0,
            limit_deadline_s=100.0,
            two_nodes={"nodes_per_block": 2},
            refused={"queue": "nope"},
            silent=cluster.silent,
            lose_node=partial(_lose_nodes, cluster),
            lose_options={"directives": ("--nodelist=n5",)},
        )
    finally:
        cluster.stop()


@contextmanager
def gridengine(folder: Path) -> Iterator[System]:
    """Debian's Grid Engine with three hosts."""
    cluster = GridEngineCluster(3)
    cluster.start()

    def make(**options: object) -> Provider:
        # sge3 is the one to lose.
        base: dict[str, object] = {
            "runner": cluster.runner,
            "parallel_environment": "mpi",
            "queue": "all.q@sge1,all.q@sge2",
        }
        return GridEngineProvider(**{**base, **options})  # type: ignore[arg-type]

    try:
        yield System(
            make,
            folder,
            limit_s=2.0,
            pause_s=0.3,
            deadline_s=40.0,
            two_nodes={"nodes_per_block": 2, "cores_per_node": 1},
            refused={"queue": "nope"},
            silent=cluster.silent,
            lose_node=partial(_lose_nodes, cluster),
            lose_options={"queue": "all.q@sge3"},
            told_on_return=True,
        )
    finally:
        cluster.stop()
