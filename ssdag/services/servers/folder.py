# SPDX-License-Identifier: BSD-3-Clause
"""Private files, sockets and ports of a server on this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from pathlib import Path

import psutil

from ssdag.client.transport.address import Address
from ssdag.errors import ConfigError, ServiceStartError
from ssdag.wire import guard

#: The kernel's limit for the path of a unix socket.
_LONGEST_SOCKET_PATH = 107

_PREFIX = "ssdag-"

_SOCKET_NAME = "server.sock"

#: A shard talks to the other shards on the port so far above its own.
BUS = 10000

#: Where free ports are looked for. Those of the bus come after all of them, still below
#: 32768, where the ports of outgoing connections begin.
_FIRST_PORT = 10240
_PORTS = BUS
_PORT_PROBES = 1000


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


def free_port(host: str = "127.0.0.1", *, bus: bool = False) -> int:
    """Return a TCP port that is free at this moment.

    It lies below those that the kernel gives to outgoing connections, so that a server
    that has died finds its port free when it comes back.

    Parameters
    ----------
    host : str
        The address of this machine at which it is to be free.
    bus : bool
        Whether the port 10000 above it must be free too, for the shards of a cluster.

    Raises
    ------
    ServiceStartError
        There is none.
    """
    for _ in range(_PORT_PROBES):
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        if _is_free(host, port) and not (bus and not _is_free(host, port + BUS)):
            return port
    raise ServiceStartError(
        f"no free TCP port at {host} among {_FIRST_PORT} to {_FIRST_PORT + _PORTS}"
    )


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read, from its first byte on."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as out:
        out.write(text)


def private_folder(path: Path) -> None:
    """Make a folder that nobody else may look into, or accept one that is ours.

    Raises
    ------
    ServiceStartError
        It cannot be made, or others may write in it.
    """
    try:
        path.mkdir(0o700, parents=True, exist_ok=True)
        facts = path.stat()
    except OSError as error:
        raise ServiceStartError(f"folder {path} cannot be made: {error.strerror}") from error
    if facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise ServiceStartError(
            f"folder {path} belongs to somebody else, or others may write in it: give one "
            "that is yours alone (chmod 700)"
        )


def temporary_folder(*, outlives: bool) -> Path:
    """Make a private folder among the temporary ones; see :func:`remove_folder`.

    Parameters
    ----------
    outlives : bool
        Whether it stays when this process ends.
    """
    if outlives:
        return Path(tempfile.mkdtemp(prefix=_PREFIX))
    return Path(guard.folder(tempfile.gettempdir(), _PREFIX))


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    guard.release_path(folder)


def interface_address(interface: str) -> str:
    """Return the IPv4 address at which a server shall listen.

    Parameters
    ----------
    interface : str
        Name of a network interface of this machine, or one of its addresses; empty for
        loopback.

    Raises
    ------
    ConfigError
        This machine has no such interface, or it has no IPv4 address.
    """
    if not interface:
        return "127.0.0.1"
    found = psutil.net_if_addrs()
    for name, addresses in found.items():
        for address in addresses:
            if address.family == socket.AF_INET and interface in (name, address.address):
                return str(address.address)
    raise ConfigError(
        f"interface={interface!r}: this machine has no such interface or IPv4 address; it has "
        f"{', '.join(sorted(found))}"
    )
