# SPDX-License-Identifier: BSD-3-Clause
"""A connection to the driver by which keepers elsewhere learn that a service has ended.

Nothing goes over it but proofs of who is there: both sides show that they know a token,
by HMAC over the other's random number, and then it is silent. Its end is the message.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import threading
from typing import Any

_HANDSHAKE_S = 5.0
_LONGEST_LINE = 4096
#: A network that is cut is noticed after so many seconds of silence, tries and seconds apart.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))


class Lifeline:
    """The driver's end: listens until the service ends.

    Parameters
    ----------
    host : str
        The address of this machine at which keepers reach it.
    """

    def __init__(self, host: str) -> None:
        self._token = secrets.token_hex(32)
        self._socket = socket.create_server((host, 0), backlog=128)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        self._lock = threading.Lock()
        self._held: dict[socket.socket, dict[str, Any]] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="ssdag-lifeline", daemon=True)
        self._thread.start()

    @property
    def plain(self) -> dict[str, Any]:
        """What a keeper needs to know; secret."""
        return {"host": self.host, "port": self.port, "token": self._token}

    def keepers(self) -> list[dict[str, Any]]:
        """Return what the keepers that are there said of themselves: node and pid."""
        with self._lock:
            return list(self._held.values())

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            threading.Thread(
                target=self._hold, args=(connection,), name="ssdag-lifeline-keeper", daemon=True
            ).start()

    def _hold(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(_HANDSHAKE_S)
                nonce = secrets.token_hex(16)
                _say(connection, {"nonce": nonce})
                answer = _hear(connection)
                if not hmac.compare_digest(answer["proof"], _proof(self._token, "k", nonce)):
                    return
                with self._lock:
                    if self._closed:
                        return
                    self._held[connection] = {"node": answer["node"], "pid": answer["pid"]}
                _say(connection, {"proof": _proof(self._token, "d", answer["nonce"])})
                connection.settimeout(None)
                _keep_alive(connection)
                connection.recv(1)
            except (OSError, ValueError, KeyError, TypeError):
                return
            finally:
                with self._lock:
                    self._held.pop(connection, None)

    def close(self) -> None:
        """Let go of all keepers, which end what they keep."""
        with self._lock:
            self._closed = True
            held = list(self._held)
        for connection in [self._socket, *held]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(_HANDSHAKE_S)


def hold_on(lifeline: dict[str, Any], about: dict[str, Any]) -> socket.socket:
    """Return a connection to the driver's end, for a keeper; readable when all is over.

    Parameters
    ----------
    lifeline : mapping
        :attr:`Lifeline.plain`.
    about : mapping
        Our node and pid.

    Raises
    ------
    OSError
        It cannot be reached, or is not who it should be.
    """
    connection = socket.create_connection((lifeline["host"], lifeline["port"]), _HANDSHAKE_S)
    try:
        nonce = secrets.token_hex(16)
        proof = _proof(lifeline["token"], "k", _hear(connection)["nonce"])
        _say(connection, {**about, "nonce": nonce, "proof": proof})
        if not hmac.compare_digest(
            _hear(connection)["proof"], _proof(lifeline["token"], "d", nonce)
        ):
            raise ConnectionRefusedError("somebody else listens there")
    except (ValueError, KeyError, TypeError) as error:
        connection.close()
        raise ConnectionRefusedError("somebody else listens there") from error
    except BaseException:
        connection.close()
        raise
    connection.settimeout(None)
    _keep_alive(connection)
    return connection


def _proof(token: str, who: str, nonce: str) -> str:
    return hmac.new(token.encode(), f"{who}:{nonce}".encode(), "sha256").hexdigest()


def _say(connection: socket.socket, what: dict[str, Any]) -> None:
    connection.sendall(json.dumps(what).encode() + b"\n")


def _hear(connection: socket.socket) -> dict[str, Any]:
    """Return the next line; byte by byte, as what follows it is for others."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(line) > _LONGEST_LINE:
            raise ConnectionResetError("the other side has hung up")
        line += byte
    heard = json.loads(line)
    if not isinstance(heard, dict):
        raise ValueError("no object")
    return heard


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
