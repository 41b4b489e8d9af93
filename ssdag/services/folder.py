# SPDX-License-Identifier: BSD-3-Clause
"""Private files, sockets and ports of a server on this machine."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from ssdag.client.address import Address
from ssdag.errors import ServiceStartError

if TYPE_CHECKING:
    from pathlib import Path

#: The kernel's limit for the path of a unix socket.
_LONGEST_SOCKET_PATH = 107

_SOCKET_NAME = "server.sock"


def choose_socket(
    folder: Path, wanted: bool | str | os.PathLike[str] | None, *, needed: bool
) -> str | None:
    """Return the path of a server's unix socket, None for none.

    Parameters
    ----------
    folder : Path
        The private folder, where it is by default.
    wanted : bool or path, optional
        As :class:`~ssdag.services.orchestrator.Orchestrator` takes it.
    needed : bool
        Whether there is no other way to reach the server.

    Raises
    ------
    ServiceStartError
        The path is too long or somebody listens there.
    """
    if wanted is False:
        return None
    if wanted is None or wanted is True:
        path = str(folder / _SOCKET_NAME)
    else:
        path = os.path.abspath(os.fspath(wanted))
        check_socket_free(path)
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    if wanted is None and not needed:
        return None
    raise ServiceStartError(
        f"the path of the unix socket is longer than {_LONGEST_SOCKET_PATH} bytes: "
        f"{path}; give a shorter one with unix_socket=, or set TMPDIR"
    )


def check_socket_free(path: str) -> None:
    """Raise ServiceStartError if somebody listens on a socket path: a server would take it."""
    try:
        Address(path=path).connect(0.5).close()
    except OSError:
        return
    raise ServiceStartError(f"unix socket {path} is in use by another program")


def free_port() -> int:
    """Return a TCP port of loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read, from its first byte on."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as out:
        out.write(text)
