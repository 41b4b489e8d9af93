# SPDX-License-Identifier: BSD-3-Clause
"""Each process of pytest-xdist as a machine of its own, so that they do not meet.

Loopback ports, System V and POSIX shared memory and network namespaces are what tests of
two processes would share; where we are root, each gets its own. Elsewhere all tests run
in one process.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from ssdag.services.servers.node_facts import addresses_here
from tests.integration.namespaces import ip, refusal

if TYPE_CHECKING:
    import psutil
    import pytest

#: Most tests wait more than they compute, but more schedulers at once are slow together.
_MOST = 2
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x00020000, 0x08000000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_SHARED_MEMORY = b"/dev/shm"


def pytest_xdist_auto_num_workers() -> int:
    """What ``-n auto`` means."""
    return 0 if refusal() else min(_MOST, os.cpu_count() or 1)


def pytest_configure(config: pytest.Config) -> None:
    """Go apart, in a worker of pytest-xdist."""
    if hasattr(config, "workerinput") and not refusal():
        _go_apart()


def is_ours(process: psutil.Process) -> bool:
    """Say whether a process is of this worker's tests and not of another's.

    Only the namespace of IPC tells: commands like ``ip netns exec`` change the others.
    """
    try:
        ours = os.stat("/proc/self/ns/ipc")
        return os.path.samestat(os.stat(f"/proc/{process.pid}/ns/ipc"), ours)
    except OSError:  # it has ended
        return False


def _go_apart() -> None:
    known = addresses_here()
    size = os.statvfs(_SHARED_MEMORY)
    options = f"size={size.f_frsize * size.f_blocks}".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    for failed in (
        libc.unshare(_CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWNET),
        libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None),
        libc.mount(b"tmpfs", _SHARED_MEMORY, b"tmpfs", 0, options),
    ):
        if failed:
            raise OSError(ctypes.get_errno(), "no namespaces for a process of the tests")
    # Two ends of a cable: an interface that is up without a way to anybody.
    ip("link", "set", "lo", "up")
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "end0")
    for name in ("eth0", "end0"):
        ip("link", "set", name, "up")
    for address in (each for name, several in known.items() if name != "lo" for each in several):
        ip("addr", "add", address, "dev", "eth0")
