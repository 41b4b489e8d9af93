# SPDX-License-Identifier: BSD-3-Clause
"""The hub's sockets: all managers on one, and the gate that lets them in."""

from __future__ import annotations

import math
import resource
from typing import TYPE_CHECKING, Any

from ssdag.executors.pilot.security import Gatekeeper

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ssdag.executors.pilot.security import Keys

#: Messages that are taken before tasks are given out again.
_MESSAGES = 256
#: Messages with a part of this size or more are not copied.
_NO_COPY_BYTES = 1 << 16
_LAST_WORDS_MS = 500
#: Files that a driver needs for itself.
_OWN_FILES = 512


class Switchboard:
    """Connections to managers, each known by its identity.

    Parameters
    ----------
    keys : Keys
    wake_fd : int
        A descriptor that ends :meth:`poll` when it is readable.
    """

    def __init__(self, keys: Keys, wake_fd: int) -> None:
        import zmq

        self._zmq = zmq
        self._context = zmq.Context()
        self._gate = Gatekeeper(self._context, keys)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = _LAST_WORDS_MS
        self._socket.sndhwm = self._socket.rcvhwm = 0  # credit bounds what is on its way
        self._socket.router_mandatory = True
        self._socket.router_handover = True
        keys.secure_hub(self._socket)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._gate.socket, zmq.POLLIN)
        self._poller.register(wake_fd, zmq.POLLIN)

    def bind(self, address: str) -> int:
        """Listen on an address, at a free port that is returned.

        Raises
        ------
        OSError
            It is no address of this machine.
        """
        try:
            self._socket.bind(f"tcp://{address}:*")
        except self._zmq.ZMQError as error:
            raise OSError(error.errno, str(error)) from error
        return self.port

    @property
    def port(self) -> int:
        """Where it listens."""
        endpoint = self._socket.getsockopt_string(self._zmq.LAST_ENDPOINT)
        return int(endpoint.rpartition(":")[2])

    def poll(self, timeout_s: float) -> tuple[bool, bool]:
        """Wait; return whether there are messages, and whether the descriptor is readable."""
        messages = woken = False
        for source, _ in self._poller.poll(math.ceil(timeout_s * 1000)):
            if source is self._socket:
                messages = True
            elif source is self._gate.socket:
                self._gate.answer()
            else:
                woken = True
        return messages, woken

    def messages(self) -> Iterator[tuple[bytes, list[Any]]]:
        """Give identities and messages that are here, some hundreds at most."""
        receive, flags = self._socket.recv_multipart, self._zmq.NOBLOCK
        for _ in range(_MESSAGES):
            try:
                frames = receive(flags, copy=False)
            except self._zmq.Again:
                return
            yield frames[0].bytes, [frame.buffer for frame in frames[1:]]

    def send(self, identity: bytes, parts: Sequence[Any]) -> bool:
        """Send a message; False if there is no such connection now."""
        big = any(len(part) >= _NO_COPY_BYTES for part in parts)
        try:
            self._socket.send_multipart([identity, *parts], copy=not big)
        except self._zmq.ZMQError:
            return False
        return True

    def close(self) -> None:
        """Close everything; what was sent gets a moment to leave."""
        self._socket.close()
        self._gate.socket.close()
        self._context.term()


def allow_files(connections: int) -> None:
    """Raise the limit of open files, as far as is allowed, where it is too low for all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY:
            needed = min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
