# SPDX-License-Identifier: BSD-3-Clause
"""Network namespaces of this machine as other machines, with a cable each to ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress


def refusal() -> str | None:
    """Say why namespaces cannot be had here; None if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "no ip command: apt-get install iproute2"
    probe = f"ssdag-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return "this kernel or container gives no network namespaces"
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return None


class Namespace:
    """A machine at the other end of a cable.

    Parameters
    ----------
    number : int
        From 0; says which addresses it gets.

    Attributes
    ----------
    name : str
        Of the namespace, for ``ip netns exec``.
    ours, theirs : str
        Addresses of the two ends.
    """

    def __init__(self, number: int) -> None:
        tag = f"{os.getpid() % 0xFFFF:x}n{number}"
        self.name = f"ssdag-{tag}"
        self._near, self._far = f"sn{tag}", f"sf{tag}"
        self.ours, self.theirs = f"10.213.{number}.1", f"10.213.{number}.2"
        ip("netns", "add", self.name)
        try:
            ip("link", "add", self._near, "type", "veth", "peer", "name", self._far,
                "netns", self.name)  # fmt: skip
            ip("addr", "add", f"{self.ours}/24", "dev", self._near)
            ip("link", "set", self._near, "up")
            ip("-n", self.name, "addr", "add", f"{self.theirs}/24", "dev", self._far)
            ip("-n", self.name, "link", "set", "lo", "up")
            self.plug()
        except BaseException:
            self.remove()
            raise

    def plug(self) -> None:
        """Connect it, as at the start."""
        ip("-n", self.name, "link", "set", self._far, "up")
        ip("-n", self.name, "route", "replace", "default", "via", self.ours)

    def unplug(self) -> None:
        """Pull the cable: nothing goes through, and nobody is told."""
        ip("-n", self.name, "link", "set", self._far, "down")

    def remove(self) -> None:
        """Take it away; its cable goes with it."""
        with suppress(subprocess.CalledProcessError):
            ip("netns", "del", self.name)
        subprocess.run(["ip", "link", "del", self._near], capture_output=True, check=False)


def ip(*words: str) -> None:
    """Run the ip command; raises CalledProcessError."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)
