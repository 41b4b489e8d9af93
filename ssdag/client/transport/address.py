# SPDX-License-Identifier: BSD-3-Clause
"""Where a server is: ``host:port``, ``tcp://host:port`` or ``unix://path``.

Several of them with commas between are nodes of a cluster.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from dataclasses import dataclass
from typing import NamedTuple

from ssdag.errors import ConfigError, StoreError
from ssdag.wire import routes

#: What SmartSim and this library set for simulations; with ``_identifier`` behind each
#: where there are several databases.
ENV_ADDRESS = "SSDB"
ENV_KIND = "SR_DB_TYPE"
ENV_PASSWORD_FILE = "SSDAG_PASSWORD_FILE"

_FORMS = "'host:port', 'tcp://host:port' or 'unix:///path/of/socket'"

#: Room for a whole small tensor and for the start of a large one. Larger kernel
#: buffers let the two sides of a loopback connection run at the same time.
_SOCKET_BUFFER = 4 << 20

#: So long a tunnel to a server may be away, and how often it is tried; nobody tells.
_PATIENCE_S = 5.0
_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Address:
    """One server; exactly one of `path` and `port` is set."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address that `text` names.

        Raises
        ------
        ConfigError
            It is in none of the accepted forms, or names several servers.
        """
        if not isinstance(text, str) or not text:
            raise ConfigError(f"an address is a text like {_FORMS}, not {text!r}")
        if text.startswith("unix://"):
            if len(text) <= len("unix://"):
                raise ConfigError(f"address {text!r} has no path: give {_FORMS}")
            return cls(path=text[len("unix://") :])
        if "," in text:
            raise ConfigError(f"address {text!r} names several servers; give one: {_FORMS}")
        host, colon, port = text.removeprefix("tcp://").rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigError(f"address {text!r} is not understood: give {_FORMS}")
        return cls(host=host, port=int(port))

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def connect(self, timeout_s: float | None) -> socket.socket:
        """Return a new blocking socket; `timeout_s` limits the connecting only.

        Raises
        ------
        OSError
            Nobody listens there.
        StoreError
            The server is the driver's, elsewhere, and there is no way to it.
        """
        give_up = time.monotonic() + min(timeout_s or _PATIENCE_S, _PATIENCE_S)
        while True:
            failure: OSError | None = None
            ways = self.ways()
            for way in ways:
                try:
                    return way._connect(timeout_s) if way == self else way._answers(timeout_s)
                except OSError as error:
                    failure = failure or error
            assert failure is not None
            if ways == [self] or time.monotonic() > give_up:
                raise failure
            routes.forget_ways_to(str(self))  # a tunnel that was lost is opened again
            time.sleep(_PAUSE_S)

    def ways(self) -> list[Address]:
        """Return the addresses at which the server is reached from here, the likeliest first.

        Raises
        ------
        StoreError
            It is the driver's, elsewhere, and there is no way to it.
        """
        if routes.VARIABLE not in os.environ:
            return [self]
        return [Address.parse(way) for way in routes.ways_to(str(self))]

    def _answers(self, timeout_s: float | None) -> socket.socket:
        """Connect, and see that somebody answers: a tunnel may take us in and lead nowhere."""
        sock = self._connect(timeout_s)
        try:
            sock.settimeout(timeout_s)
            sock.sendall(b"PING\r\n")
            last = b""
            while last != b"\n":  # of whatever it says to somebody who has not logged in
                last = sock.recv(1)
                if not last:
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            sock.settimeout(None)
        except BaseException:
            sock.close()
            raise
        return sock

    def _connect(self, timeout_s: float | None) -> socket.socket:
        if self.path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout_s)
                # Set before connecting: the window of a connection is fixed by then.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
                sock.connect(self.path)
            except BaseException:
                sock.close()
                raise
        else:
            sock = socket.create_connection((self.host, self.port), timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A machine that is gone says nothing: ask after 10 s, give up after 30.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        sock.settimeout(None)
        return sock


class Place(NamedTuple):
    """Where a client's data are: one server, or a cluster that some nodes are known of.

    Attributes
    ----------
    addresses : tuple of Address
        The server, or nodes of the cluster; the rest is learned from them.
    clustered : bool
        Whether it is a cluster.
    """

    addresses: tuple[Address, ...]
    clustered: bool

    @classmethod
    def parse(cls, text: str, clustered: bool | None = None) -> Place:
        """Return the place that `text` names: addresses with commas between.

        Parameters
        ----------
        text : str
            One address, or several, which means a cluster. A comma behind a single one
            means a cluster too.
        clustered : bool, optional
            True: a cluster, even with a single address. False: a single server, even
            with several addresses, of which the first is used.

        Raises
        ------
        ConfigError
            An address is not understood, or a cluster's is a unix socket.
        """
        several = isinstance(text, str) and "," in text and not text.startswith("unix://")
        parts = [part for part in text.split(",") if part] if several else [text]
        if not parts:
            raise ConfigError(f"address {text!r} names no server: give {_FORMS}")
        addresses = tuple(map(Address.parse, parts))
        if clustered is None:
            clustered = several
        if not clustered:
            return cls(addresses[:1], False)
        if any(address.path for address in addresses):
            raise ConfigError(
                f"address {text!r}: a cluster is not reached by a unix socket; give 'host:port' "
                "of some of its nodes, with commas between"
            )
        return cls(tuple(dict.fromkeys(addresses)), True)

    def __str__(self) -> str:
        text = ",".join(map(str, self.addresses))
        return text + "," if self.clustered and len(self.addresses) == 1 else text


def from_environment(identifier: str = "") -> Place:
    """Return the place that ``SSDB`` and ``SR_DB_TYPE`` name.

    Without ``SR_DB_TYPE``, several addresses mean a cluster.

    Parameters
    ----------
    identifier : str
        Of one of several databases: ``_identifier`` is put behind the variables.

    Raises
    ------
    ConfigError
        ``SSDB`` is not set, or one of them is not understood.
    """
    end = f"_{identifier}" if identifier else ""
    text = os.environ.get(ENV_ADDRESS + end)
    if not text:
        raise ConfigError(
            f"no server address: pass one ({_FORMS}) or set {ENV_ADDRESS}{end}; an orchestrator "
            "gives both with db.client() and db.environment()"
        )
    kind = os.environ.get(ENV_KIND + end, "").lower()
    if kind not in ("", "clustered", "standalone", "colocated"):
        raise ConfigError(
            f"{ENV_KIND}{end}={kind!r} is not known: Clustered, Standalone or Colocated"
        )
    return Place.parse(text, None if not kind else kind == "clustered")


def read_password(path: str) -> str:
    """Return the password in a file, without the line end.

    Raises
    ------
    StoreError
        The file cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().rstrip("\r\n")
    except OSError as error:
        if (told := routes.password_in(path)) is not None:
            return told
        raise StoreError(
            f"cannot read the password file {path}: {error.strerror}; the server that wrote it "
            "may have been stopped, or this machine does not see its files"
        ) from error
