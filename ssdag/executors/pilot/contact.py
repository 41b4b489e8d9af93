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
import threading
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError
from ssdag.executors.pilot.security import write_private
from ssdag.wire import guard, routes

if TYPE_CHECKING:
    from ssdag.executors.pilot.security import Keys
    from ssdag.providers.base import Provider
    from ssdag.providers.ssh_tunnel import Tunnel

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
    keys : Keys
        Of the run's links.
    """

    def __init__(self, parent: str | os.PathLike[str], label: str, keys: Keys) -> None:
        parent = os.path.abspath(parent)
        os.makedirs(parent, exist_ok=True)
        word = re.sub(r"[^A-Za-z0-9_.-]", "_", label)
        self.path = os.path.join(parent, f"pilot-{word}-{secrets.token_hex(4)}")
        os.mkdir(self.path, 0o700)
        self.contact = os.path.join(self.path, "contact.json")
        self._keys = keys

    def write(self, content: dict[str, Any]) -> None:
        """Write the contact file, which is removed whatever becomes of this process."""
        guard.path(self.contact)
        aside = f"{self.contact}.{secrets.token_hex(4)}"
        write_private(aside, {**content, "keys": self._keys.for_managers()})
        os.replace(aside, self.contact)

    def remove(self, *, everything: bool) -> None:
        """Remove the contact file; or all of the folder."""
        if everything:
            shutil.rmtree(self.path, ignore_errors=True)
        elif os.path.exists(self.contact):
            os.unlink(self.contact)
        guard.release_path(self.contact)


class Entrance:
    """Where the hub listens, and how the nodes get there.

    Parameters
    ----------
    provider : Provider
        Grants the nodes.
    address : str or None
        What the user wants: a name or an address of this machine.
    tunnel : bool
        Nodes come by the host that the provider reaches by ssh.
    python : str
        An interpreter on that host.

    Attributes
    ----------
    bind : str
        The address at which the hub listens.
    exposed : bool
        Others than this machine's users can send to it.
    direct : bool
        There is no tunnel.
    elsewhere : bool
        Nodes may be other machines than this one.

    Raises
    ------
    ConfigError
        The name has no address, or the provider reaches nothing by ssh.
    """

    def __init__(
        self, provider: Provider, address: str | None, *, tunnel: bool, python: str
    ) -> None:
        self._tunnel = provider.tunnel(python) if tunnel else None
        if tunnel and self._tunnel is None:
            raise ConfigError(
                f"tunnel=True: provider {provider.name} reaches no host by ssh, so there is "
                "nothing to go through; leave it out"
            )
        if tunnel and address is not None:
            raise ConfigError(
                f"address={address!r}: nodes come by a tunnel, so leave it out, or tunnel=True"
            )
        self.bind, self._addresses = where(address, tunnel or provider.name == "local")
        self.direct = not tunnel
        self.exposed = tunnel or not is_loopback(self.bind)
        self._provider, self._python = provider, python
        self.elsewhere = provider.name != "local"
        self._lock = threading.Lock()
        #: To servers of ours, by their addresses.
        self._tunnels: dict[str, Tunnel] = {}
        self._closed = False
        self._port = 0
        self._silence_s = 0.0
        self._told: dict[str, Any] = {}

    def listens(self, port: int, silence_s: float) -> None:
        """Note where the hub listens, and for how long a tunnel may be silent."""
        self._port, self._silence_s = port, silence_s

    def news(self) -> dict[str, Any] | None:
        """Return what managers have to know, if that has changed; None if not.

        Opens the tunnel if there is one, which blocks for some seconds.

        Raises
        ------
        ProviderError
            It cannot be opened.
        """
        tunnel = self._tunnel
        if tunnel is None:
            here = socket.gethostname()
            now = {"host": here, "port": self._port, "addresses": self._addresses}
        else:
            now = (
                tunnel.entry or tunnel.open(f"127.0.0.1:{self._port}", self._silence_s)
            )._asdict()
        if now == self._told:
            return None
        self._told = now
        return now

    def answer(self, what: str, name: str) -> Any:
        """Tell a worker how a server of ours is reached; None: as it is named.

        Parameters
        ----------
        what : {"address", "password"}
        name : str
            The server's address, or the path of its password file.

        Raises
        ------
        SsdagError
            There is no way, or the password cannot be read.
        """
        if what == "password":
            if not routes.is_password_file(name):
                raise ConfigError(f"{name} is no password file of a server of this run")
            from ssdag.client.transport.address import read_password  # most runs need no client

            return read_password(name)
        if not routes.is_served(name):
            return None
        if self.direct:
            if not name.startswith("unix://"):
                return None
            raise ConfigError(
                f"the server at {name} is only to be reached on {socket.gethostname()}: "
                "Orchestrator(interface=...) opens it to a network, PilotExecutor(tunnel=True) "
                "brings workers there by ssh"
            )
        return self._way_to(name)

    def _way_to(self, address: str) -> list[str]:
        with self._lock:
            if self._closed:
                raise ConfigError("the executor was shut down")
            tunnel = self._tunnels.get(address)
            if tunnel is None:
                tunnel = self._provider.tunnel(self._python)
                assert tunnel is not None
                self._tunnels[address] = tunnel
            entry = tunnel.entry
            if entry is None:
                entry = tunnel.open(address.removeprefix("unix://"), self._silence_s)
        entry = tunnel.reopened(self._silence_s) or entry
        return [f"{one}:{entry.port}" for one in entry.addresses]

    def close(self) -> None:
        """Close the tunnels."""
        self._closed = True
        if self._tunnel is not None:
            self._tunnel.close()
        for tunnel in tuple(self._tunnels.values()):
            tunnel.close()


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
