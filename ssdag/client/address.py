# SPDX-License-Identifier: BSD-3-Clause
"""Where a server is: ``host:port``, ``tcp://host:port`` or ``unix://path``."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from ssdag.errors import ConfigError, StoreError

#: What SmartSim and this library set for simulations.
ENV_ADDRESS = "SSDB"
ENV_PASSWORD_FILE = "SSDAG_PASSWORD_FILE"

_FORMS = "'host:port', 'tcp://host:port' or 'unix:///path/of/socket'"

#: Room for a whole small tensor and for the start of a large one. Larger kernel
#: buffers let the two sides of a loopback connection run at the same time.
_SOCKET_BUFFER = 4 << 20


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
        """
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
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.settimeout(None)
        return sock


def from_environment() -> str:
    """Return the address in ``SSDB``.

    Raises
    ------
    ConfigError
        The variable is not set.
    """
    text = os.environ.get(ENV_ADDRESS)
    if not text:
        raise ConfigError(
            f"no server address: pass one ({_FORMS}) or set {ENV_ADDRESS}; an orchestrator "
            "gives both with db.client() and db.environment()"
        )
    return text


def read_password(path: str) -> str:
    """Return the password in a file, without the line end.

    Raises
    ------
    StoreError
        The file cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise StoreError(
            f"cannot read the password file {path}: {error.strerror}; the server that wrote it "
            "may have been stopped"
        ) from error
