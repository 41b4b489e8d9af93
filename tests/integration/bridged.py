# SPDX-License-Identifier: BSD-3-Clause
"""Network namespaces as hosts of one network, and a launcher that starts things there."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssdag.launchers import Launcher
from tests.integration.namespaces import ip

if TYPE_CHECKING:
    from ssdag.launchers import Step


class BridgedHosts:
    """Hosts h1, h2, ... at a switch that this machine is at, too.

    Parameters
    ----------
    count : int
        How many.

    Attributes
    ----------
    names : list of str
        Of the namespaces, for ``ip netns exec``.
    ours : str
        Our address in their network.
    """

    def __init__(self, count: int) -> None:
        tag = f"{os.getpid() % 0xFFFF:x}"
        net = f"10.214.{os.getpid() % 200}"
        self.ours = f"{net}.254"
        self.addresses = [f"{net}.{i + 1}" for i in range(count)]
        self.names = [f"ssdag-b{tag}h{i + 1}" for i in range(count)]
        self._switch = f"sw{tag}"
        self._cables = [f"sc{tag}h{i + 1}" for i in range(count)]
        try:
            ip("link", "add", self._switch, "type", "bridge")
            ip("addr", "add", f"{self.ours}/24", "dev", self._switch)
            ip("link", "set", self._switch, "up")
            for name, cable, address in zip(self.names, self._cables, self.addresses, strict=True):
                ip("netns", "add", name)
                ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
                ip("link", "set", cable, "master", self._switch)
                ip("link", "set", cable, "up")
                ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except BaseException:
            self.remove()
            raise

    def cut(self, number: int) -> None:
        """Pull the cable of a host, from 0."""
        ip("link", "set", self._cables[number], "down")

    def remove(self) -> None:
        """Remove all; processes there must have ended."""
        for name in self.names:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)
        for link in (*self._cables, self._switch):
            with suppress(subprocess.CalledProcessError):
                ip("link", "del", link)


@dataclass(frozen=True)
class NamespaceLauncher(Launcher):
    """Starts one process in the namespace that is the step's host."""

    name = "namespace"

    def command(self, *steps: Step, folder: str = "") -> list[str]:
        """Return the launch line."""
        self.check(steps)
        (step,) = steps
        (host,) = step.hosts
        return ["ip", "netns", "exec", host, "env", f"SSDAG_NODE={host}", *step.program]
