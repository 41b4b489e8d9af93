# SPDX-License-Identifier: BSD-3-Clause
"""Facts about the node that a process runs on: its name, its addresses, its cores."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


#: Where a pilot's manager and Slurm say which node a process is on.
NODE_VARIABLES = ("SSDAG_NODE", "SLURMD_NODENAME")


def is_here(node: str) -> bool:
    """Say whether a node of this name is ours: names may be given with their domain or not."""
    return node.partition(".")[0] == node_name().partition(".")[0]


def node_name() -> str:
    """Return the name that the scheduler has for this node, else that of the machine.

    It tells virtual nodes on one machine apart.
    """
    names = (os.environ.get(name) for name in NODE_VARIABLES)
    return next(filter(None, names), None) or socket.gethostname()


def machine() -> str:
    """Return a text that is the same for processes that can talk by loopback, and no others."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        return f"{boot}:{os.stat('/proc/self/ns/net').st_ino}"
    except OSError:
        return socket.gethostname()


def addresses_here() -> dict[str, list[str]]:
    """Return the IPv4 addresses of this node as ``address/netmask``, by interface."""
    import psutil

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = {
        name: [f"{a.address}/{a.netmask or 32}" for a in addresses if a.family == socket.AF_INET]
        for name, addresses in psutil.net_if_addrs().items()
    }
    return {name: texts for name, texts in found.items() if texts and name in up}


def choose_cores(cpus: int | Sequence[int] | None, allowed: Collection[int]) -> set[int]:
    """Return the cores that a server is bound to, of those that we may use.

    Parameters
    ----------
    cpus : int or sequence of int, optional
        So many, the last ones, since tasks fill a node from its first core; or these; None
        for all.
    allowed : collection of int
        What this process may use: the allocation's part of the node.

    Raises
    ------
    ValueError
        They are not ours to use.
    """
    if cpus is None:
        return set(allowed)
    shown = ",".join(map(str, sorted(allowed)))
    if isinstance(cpus, int):
        if cpus > len(allowed):
            raise ValueError(f"cpus={cpus}, but only {len(allowed)} cores may be used ({shown})")
        return set(sorted(allowed)[-cpus:])
    if not set(cpus) <= set(allowed):
        raise ValueError(f"cpus={list(cpus)}: only cores {shown} may be used on {node_name()}")
    return set(cpus)
