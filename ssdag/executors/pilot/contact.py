# SPDX-License-Identifier: BSD-3-Clause
"""The run's folder, and the file in it by which managers find the hub."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import secrets
import shutil
import socket
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError
from ssdag.executors.pilot.security import write_private
from ssdag.wire import guard

if TYPE_CHECKING:
    from ssdag.executors.pilot.security import Keys

_log = logging.getLogger("ssdag.executors")

#: Bind here to be reached by every interface.
EVERYWHERE = "0.0.0.0"


class RunFolder:
    """A private folder for scripts, outputs and the contact file of a run.

    Parameters
    ----------
    parent : path
        Where it is made; all nodes must see it under the same path.
    label : str
        The executor's label.
    """

    def __init__(self, parent: str | os.PathLike[str], label: str) -> None:
        parent = os.path.abspath(parent)
        os.makedirs(parent, exist_ok=True)
        word = re.sub(r"[^A-Za-z0-9_.-]", "_", label)
        self.path = os.path.join(parent, f"pilot-{word}-{secrets.token_hex(4)}")
        os.mkdir(self.path, 0o700)
        self.contact = os.path.join(self.path, "contact.json")

    def write(self, content: dict[str, Any], keys: Keys) -> None:
        """Write the contact file, which is removed whatever becomes of this process."""
        guard.path(self.contact)
        write_private(self.contact, {**content, "keys": keys.for_managers()})

    def remove(self, *, everything: bool) -> None:
        """Remove the contact file; or all of the folder."""
        if everything:
            shutil.rmtree(self.path, ignore_errors=True)
        elif os.path.exists(self.contact):
            os.unlink(self.contact)
        guard.release_path(self.contact)


def where(address: str | None, local: bool) -> tuple[str, list[str]]:
    """Return where to bind, and the addresses at which managers may reach it, best first.

    Parameters
    ----------
    address : str or None
        What the user wants: a name or an address of this machine.
    local : bool
        All blocks run on this machine.

    Raises
    ------
    ConfigError
        The name has no address.
    """
    if address is None and local:
        return "127.0.0.1", ["127.0.0.1"]
    if address is not None and address != EVERYWHERE:
        try:
            found = socket.getaddrinfo(address, None, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            raise ConfigError(f"address={address!r}: {error}") from error
        ip = str(found[0][4][0])
        return ip, [ip]
    return EVERYWHERE, _own_addresses()


def is_loopback(address: str) -> bool:
    """Return True for an address that only this machine can reach."""
    return ipaddress.ip_address(address).is_loopback


def _own_addresses() -> list[str]:
    import psutil

    found: list[str] = []
    try:
        found.append(socket.gethostbyname(socket.gethostname()))
    except OSError:
        _log.debug("this machine's name has no address")
    for addresses in psutil.net_if_addrs().values():
        found += [a.address for a in addresses if a.family == socket.AF_INET]
    unique = list(dict.fromkeys(found))
    # Loopback last: it serves blocks on this machine, where nothing else does.
    return sorted(unique, key=is_loopback)
