# SPDX-License-Identifier: BSD-3-Clause
"""Launching keepers: the step that starts them, and waiting until they have said hello."""

from __future__ import annotations

import os
import shlex
import threading
import time
from typing import TYPE_CHECKING

from ssdag.errors import ServiceStartError, UnsupportedError
from ssdag.launchers import SingleLauncher, Step
from ssdag.launchers.world import without_job_options, without_world
from ssdag.services.keepers import keeper
from ssdag.services.keepers.launch import KeeperLaunch
from ssdag.services.keepers.remote import RemotePlace
from ssdag.services.servers.node_facts import NODE_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.launchers import Launcher
    from ssdag.services.keepers.launch import Report

#: Launchers that hand their input to all ranks; the others do to rank 0 only.
TO_ALL = frozenset({"srun"})
#: Options of a service: a step without MPI, which shares cores with others.
_OF_A_SERVICE = {"srun": ("--mpi=none",)}
#: Further ones of a launch for several nodes: the end of one keeper is none of the others'.
_OF_MANY = {"srun": ("--no-kill", "--kill-on-bad-exit=0", "--wait=0")}


def launch_keepers(
    groups: Sequence[tuple[str, ...]],
    launcher: Launcher,
    cores: int | None,
    timeout_s: float,
    python: str,
) -> list[RemotePlace]:
    """Launch keepers and return their places, in the order of the hosts.

    Parameters
    ----------
    groups : sequence of tuple of str
        Hosts, by launches.
    launcher : Launcher
    cores : int or None
        That are asked for on each host.
    timeout_s : float
        How long they may take to be there.
    python : str
        The interpreter on the nodes.

    Raises
    ------
    ServiceStartError, UnsupportedError
        Not all came, or the launcher cannot do it. None is left behind.
    """
    opening = _Opening(sum(map(len, groups)))
    try:
        for group in groups:
            opening.launch(launcher, group, cores, python)
        return opening.wait(timeout_s)
    except BaseException:
        opening.close()
        raise


class _Opening:
    """Launches on their way."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._changed = threading.Condition()
        self._places: list[dict[int, RemotePlace]] = []
        self._launches: list[KeeperLaunch] = []
        self._over: KeeperLaunch | None = None

    def launch(
        self, launcher: Launcher, hosts: Sequence[str], cores: int | None, python: str
    ) -> None:
        """Start keepers on hosts by one launch."""
        step = service_step(launcher, hosts, (python, "-P", keeper.__file__), cores)
        places: dict[int, RemotePlace] = {}
        made = threading.Event()

        def take(report: Report | None) -> None:
            made.wait()
            if report is None:
                with self._changed:
                    self._over = launch
                    self._changed.notify_all()
                for place in places.values():
                    place.take(None)
            elif "hello" in report:
                with self._changed:
                    places[report["from"]] = RemotePlace(launch, report["from"], report["hello"])
                    self._changed.notify_all()
            elif report["from"] in places:
                places[report["from"]].take(report)

        launch = KeeperLaunch(
            launcher.command(step), launch_environment(launcher), ", ".join(hosts), len(hosts), take
        )
        self._launches.append(launch)
        self._places.append(places)
        made.set()

    def wait(self, timeout_s: float) -> list[RemotePlace]:
        """Return all places when they are there."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._changed.wait_for(
                lambda: self._over is not None or self._arrived() == self._count, timeout_s
            )
            if self._over is not None:
                raise ServiceStartError(self._over.over, log_tail=self._over.words())
            if self._arrived() < self._count:
                late = next(
                    launch
                    for launch, places in zip(self._launches, self._places, strict=True)
                    if len(places) < launch.ranks
                )
                waited_s = timeout_s + time.monotonic() - deadline
                raise ServiceStartError(
                    f"after {waited_s:.0f} s {self._arrived()} of {self._count} keepers are there; "
                    f"not all of {late.where}; the launch line: {shlex.join(late.argv)}\n"
                    f"{late.words()}",
                    log_tail=late.words(),
                )
            return [group[rank] for group in self._places for rank in sorted(group)]

    def _arrived(self) -> int:
        return sum(map(len, self._places))

    def close(self) -> None:
        """End all launches."""
        for launch in self._launches:
            launch.close()


def service_step(
    launcher: Launcher, hosts: Sequence[str], argv: Sequence[str], cores: int | None
) -> Step:
    """Return the step that starts a service on hosts, beside all other steps; pure.

    Raises
    ------
    UnsupportedError
        The launcher starts nothing on other nodes, or has its input go to one rank only.
    """
    if isinstance(launcher, SingleLauncher):
        raise UnsupportedError(
            "launcher single starts nothing on other nodes: name one that does by launcher="
        )
    if len(hosts) > 1 and launcher.name not in TO_ALL:
        raise UnsupportedError(
            f"launcher {launcher.name} hands its input to one rank only: use single_cmd=False, "
            "a launch for each node"
        )
    return Step(
        tuple(argv),
        ranks=len(hosts),
        nodes=len(hosts),
        ranks_per_node=1,
        hosts=() if launcher.chooses_nodes else tuple(hosts),
        cores_per_rank=cores if launcher.name == "srun" else None,
        binding="none",
        overlap=launcher.name == "srun",  # the others share cores anyway, or never
        options=(
            *_OF_A_SERVICE.get(launcher.name, ()),
            *(_OF_MANY.get(launcher.name, ()) if len(hosts) > 1 else ()),
        ),
    )


def launch_environment(launcher: Launcher) -> dict[str, str]:
    """Return the environment of a launch: ours, but for what is the job's or a rank's."""
    env = without_world(os.environ)
    if launcher.name == "srun":
        return without_job_options(env)
    # Others would hand the name of our node on to all.
    return {name: value for name, value in env.items() if name not in NODE_VARIABLES}
