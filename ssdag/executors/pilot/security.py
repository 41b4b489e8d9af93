# SPDX-License-Identifier: BSD-3-Clause
"""Who may talk to the hub: tokens, keys, and the file that hands them to managers.

Each run makes its own: two tokens, and, unless encryption is off, a CurveZMQ key pair
for the hub and one for its managers. Managers read theirs from a file that only the
user can read, in a folder that only the user can enter; nothing secret is ever an
argument, an environment variable or a line of a log. The hub takes connections of that
one key and of no other.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError
from ssdag.executors.pilot.protocol import TOKEN_BYTES

if TYPE_CHECKING:
    import zmq

_ZAP = "inproc://zeromq.zap.01"


@dataclass(frozen=True, repr=False)
class Keys:
    """The secrets of a run.

    Parameters
    ----------
    hub_token, manager_token : bytes
        Begin what the hub sends, and what managers send.
    server_public, client_public, client_secret : bytes, optional
        Curve keys; None without encryption.
    server_secret : bytes, optional
        The hub's own; never leaves it.
    """

    hub_token: bytes
    manager_token: bytes
    server_public: bytes | None = None
    client_public: bytes | None = None
    client_secret: bytes | None = None
    server_secret: bytes | None = None

    @classmethod
    def make(cls, encrypt: bool) -> Keys:
        """Make the keys of a new run."""
        tokens = secrets.token_bytes(TOKEN_BYTES), secrets.token_bytes(TOKEN_BYTES)
        if not encrypt:
            return cls(*tokens)
        import zmq

        if not zmq.has("curve"):
            raise ConfigError(
                "this pyzmq has no CurveZMQ, so links cannot be encrypted; install one that "
                "has (the wheels do)"
            )
        server_public, server_secret = zmq.curve_keypair()
        client_public, client_secret = zmq.curve_keypair()
        return cls(*tokens, server_public, client_public, client_secret, server_secret)

    def for_managers(self) -> dict[str, str]:
        """Return what managers need, as text."""
        names = ("hub_token", "manager_token", "server_public", "client_public", "client_secret")
        values = {name: getattr(self, name) for name in names}
        return {n: base64.b64encode(v).decode() for n, v in values.items() if v is not None}

    @classmethod
    def of(cls, texts: dict[str, str]) -> Keys:
        """Return the keys that :meth:`for_managers` has given."""
        return cls(**{name: base64.b64decode(text) for name, text in texts.items()})

    def secure_hub(self, socket: zmq.Socket[bytes]) -> None:
        """Have the hub's socket encrypt; before it is bound."""
        if self.server_secret is not None:
            socket.curve_server = True
            socket.curve_secretkey = self.server_secret
            socket.zap_domain = b"ssdag"

    def secure_manager(self, socket: zmq.Socket[bytes]) -> None:
        """Have a manager's socket encrypt; before it is connected."""
        if self.server_public is not None:
            assert self.client_secret is not None
            assert self.client_public is not None
            socket.curve_serverkey = self.server_public
            socket.curve_secretkey = self.client_secret
            socket.curve_publickey = self.client_public


class Gatekeeper:
    """Answers the hub's socket, which asks about each new connection (ZMQ RFC 27).

    Parameters
    ----------
    context : zmq.Context
        The hub's; must exist before its socket is bound.
    keys : Keys
        Whose public client key is let in.
    """

    def __init__(self, context: zmq.Context[Any], keys: Keys) -> None:
        import zmq

        self._keys = keys
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(_ZAP)

    def answer(self) -> None:
        """Answer one request; its socket must be readable."""
        from zmq.utils import z85

        version, request, _, _, _, mechanism, *credentials = self.socket.recv_multipart()
        client = self._keys.client_public
        known = (
            mechanism == b"CURVE"
            and client is not None
            and len(credentials) == 1
            and secrets.compare_digest(z85.encode(credentials[0]), client)
        )
        status = (b"200", b"OK", b"manager") if known else (b"400", b"unknown key", b"")
        self.socket.send_multipart([version, request, *status, b""])


def write_private(path: str, content: Any) -> None:
    """Write JSON into a new file that only the user can read."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(content, file)


def read_private(path: str) -> dict[str, Any]:
    """Read what :func:`write_private` wrote.

    Raises
    ------
    ConfigError
        Others can read it, or it is not such a file.
    OSError
        It is not there.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(fd) as file:
        status = os.fstat(fd)
        if status.st_mode & 0o077 or status.st_uid != os.geteuid():
            raise ConfigError(f"{path}: others than the user may have read or written it")
        try:
            content = json.load(file)
        except ValueError as error:
            raise ConfigError(f"{path}: damaged: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: damaged")
    return content
