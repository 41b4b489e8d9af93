# SPDX-License-Identifier: BSD-3-Clause
"""The simulators as systems of the conformance suite."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from ssdag.providers.auto import named
from ssdag.providers.commands import LocalRunner
from ssdag.providers.ssh import SshRunner
from ssdag.providers.ssh_connection import Connection
from tests.conformance.systems import System
from tests.simulators.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ssdag.providers.base import Provider
    from ssdag.providers.commands import Answer

#: Jobs have a host each, and some of the suite's run for long.
NODES = 12


class SimulatorRunner(LocalRunner):
    """Runs commands with those of a simulator first on PATH."""

    def __init__(self, simulator: Simulator) -> None:
        super().__init__()
        self._path = f"PATH={simulator.env()['PATH']}"

    def run(self, argv: Sequence[str], timeout_s: float, stdin: str | None = None) -> Answer:
        """See :meth:`Runner.run`."""
        return super().run(("env", self._path, *argv), timeout_s, stdin)


class LikeSshd(Connection):
    """Gives command lines to a shell, in an environment of its own, as sshd does.

    Parameters
    ----------
    simulator : Simulator
        Whose commands are there.
    """

    def __init__(self, simulator: Simulator) -> None:
        super().__init__("host", (), 10.0)
        self._env = [f"PATH={simulator.env()['PATH']}", f"HOME={simulator.folder}"]

    def open(self) -> str:
        """Return nothing: it is always there."""
        return ""

    def command(self, line: str) -> list[str]:
        """Return what a login shell does with a line."""
        return ["env", "-i", *self._env, "bash", "-c", line]


def _over_ssh(simulator: Simulator, folder: Path) -> SshRunner:
    runner = SshRunner("host", str(folder))
    runner._connection = LikeSshd(simulator)
    return runner


@contextmanager
def _system(
    kind: str, folder: Path, minute_s: float, limit_s: float, arrays: bool, ssh: bool = False
) -> Iterator[System]:
    with Simulator(kind, NODES) as simulator:
        simulator.control("set", name="minute_s", value=minute_s)
        runner = _over_ssh(simulator, folder) if ssh else SimulatorRunner(simulator)

        def make(**options: object) -> Provider:
            return named(kind, **{"runner": runner, **options})

        @contextmanager
        def silent() -> Iterator[None]:
            simulator.fault("*", "hang")
            try:
                yield
            finally:
                simulator.heal()

        def lose_node(hosts: Sequence[str]) -> Callable[[], None]:
            for host in hosts:
                simulator.control("lose", host=host)

            def bring_back() -> None:
                for host in hosts:
                    simulator.control("restore", host=host)

            return bring_back

        yield System(
            make,
            folder,
            limit_s=limit_s,
            limit_deadline_s=10.0,
            two_nodes={"nodes_per_block": 2},
            refused={"queue": "nope"},
            silent=silent,
            lose_node=lose_node,
            # Cobalt forgets such a job, and no log tells how it ended.
            lose_options={"lost_after_s": 1.0},
            lose_deadline_s=10.0,
            arrays=arrays,
        )


def pbs(folder: Path) -> AbstractContextManager[System]:
    """OpenPBS, simulated."""
    return _system("pbs", folder, 60.0, 1.0, True)


def pbs_over_ssh(folder: Path) -> AbstractContextManager[System]:
    """OpenPBS, simulated, reached by command lines for a remote shell."""
    return _system("pbs", folder, 60.0, 1.0, True, ssh=True)


def torque(folder: Path) -> AbstractContextManager[System]:
    """Torque, simulated."""
    return _system("torque", folder, 60.0, 1.0, True)


def lsf(folder: Path) -> AbstractContextManager[System]:
    """LSF, simulated; a minute, its shortest limit, takes two seconds there."""
    return _system("lsf", folder, 2.0, 60.0, True)


def cobalt(folder: Path) -> AbstractContextManager[System]:
    """Cobalt, simulated; a minute, its shortest limit, takes two seconds there."""
    return _system("cobalt", folder, 2.0, 60.0, False)


def flux(folder: Path) -> AbstractContextManager[System]:
    """Flux, simulated after its manual pages."""
    return _system("flux", folder, 60.0, 1.0, False)
