# SPDX-License-Identifier: BSD-3-Clause
"""A manager's connection to the hub: found, greeted, kept alive, given up."""

from __future__ import annotations

import json
import logging
import os
import pickle
import platform
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ssdag.errors import ProviderError
from ssdag.executors.pilot.protocol import (
    PROTOCOL,
    Channel,
    ForeignMessageError,
    Kind,
    clock,
    kind_of,
    plain,
)
from ssdag.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.executors.pilot.security import Keys

_log = logging.getLogger("ssdag.executors")

_PROBE_S = 3.0
_HELLO_EVERY_S = 0.5
#: The driver waits for its whole limit; we end before it gives our tasks to others.
_SHARE = 0.8
#: A driver that is there and computes may be silent for so many times the limit.
_BUSY_LIMITS = 10


class Session:
    """The connection of a manager.

    Parameters
    ----------
    contact : mapping
        How to reach the hub; what :mod:`ssdag.executors.pilot.contact` wrote.
    keys : Keys
    block : int
    identity : bytes
        Ours; new for each start.

    Attributes
    ----------
    over : str or None
        Why it ended.
    window_s : float
        How long results may wait for others, so that the hub is not flooded.
    """

    def __init__(self, contact: dict[str, Any], keys: Keys, block: int, identity: bytes) -> None:
        import zmq

        self._zmq = zmq
        self._keys = keys
        self._beat_s: float = contact["heartbeat_s"]
        self._limit_s: float = contact["heartbeat_limit_s"] * _SHARE
        self.label = str(contact["label"])
        self.block = block
        self.over: str | None = None
        #: The driver is out of reach, or gone: the job has failed, whatever it had done.
        self.lost = False
        self.window_s = 0.0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.identity = identity
        self._socket.linger = 0
        self._socket.sndhwm = self._socket.rcvhwm = 0  # credit bounds what is on its way
        self._socket.reconnect_ivl = 100
        self._socket.reconnect_ivl_max = 2000
        # ZeroMQ's own thread answers these, also while a long computation holds the
        # interpreter lock of the driver's process.
        self._socket.heartbeat_ivl = max(1, int(self._beat_s * 1000))
        self._socket.heartbeat_timeout = max(1, int(self._limit_s * 1000))
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._connected = False
        keys.secure_manager(self._socket)
        self._socket.connect(f"tcp://{reachable(contact)}:{contact['port']}")
        self.fd = int(self._socket.getsockopt(zmq.FD))
        self.channel = Channel(self._send, keys.manager_token)
        self._heard = self._turned = time.monotonic()
        self._beaten = 0.0
        #: Messages that came before the welcome, which was lost and repeated.
        self._early: deque[tuple[Kind, list[Any]]] = deque()
        self._greeted = False

    def greet(self, about: dict[str, Any]) -> dict[str, Any]:
        """Say who we are, until the hub answers; returns what it says.

        Raises
        ------
        ProviderError
            It refuses, or does not answer.
        """
        end = time.monotonic() + self._limit_s
        while time.monotonic() < end:
            hello = {**about, **versions(), "block": self.block, "time_ns": time.monotonic_ns()}
            self._send(plain(self._keys.manager_token, Kind.HELLO, json.dumps(hello).encode()))
            again = time.monotonic() + _HELLO_EVERY_S
            while (left := again - time.monotonic()) > 0:
                if not self._socket.poll(int(left * 1000) + 1):
                    continue
                message = self.receive()
                if self.over is not None:
                    raise ProviderError(f"the driver refuses this manager: {self.over}")
                if message is not None and message[0] == Kind.WELCOME:
                    welcome: dict[str, Any] = pickle.loads(message[1][0])
                    self.window_s = welcome["window_s"]
                    self._greeted = True
                    return welcome
                if message is not None:
                    self._early.append(message)
        raise ProviderError(f"the driver has not answered for {self._limit_s:g} s")

    def receive(self) -> tuple[Kind, list[Any]] | None:
        """Return the next message of the hub, or None."""
        zmq = self._zmq
        if self._early and self._greeted:
            return self._early.popleft()
        now = time.monotonic()
        if now - self._turned > self._limit_s:
            self.over = self.over or "this process was suspended for too long"
        self._turned = now
        while self._has_input():
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            parts = [frame.buffer for frame in frames]
            try:
                kind = kind_of(parts[0], self._keys.hub_token)
            except ForeignMessageError:
                _log.warning("a message that is not from the driver was dropped")
                continue
            self._heard = now
            taken = self.channel.take(parts[0], sum(map(len, parts)) - len(parts[0]))
            if taken is None or taken == Kind.BEAT:
                if len(parts) > 1 and len(parts[1]) == 8 and kind == Kind.BEAT:
                    self.window_s = int.from_bytes(parts[1], "big") / 1e6
                continue
            if taken == Kind.REFUSED:
                self.over = str(json.loads(bytes(parts[1]))["reason"])
                return None
            return taken, parts[1:]
        return None

    def readable(self) -> bool:
        """Return True if there is something to receive; its descriptor may not tell."""
        return bool(self._early) or self._has_input()

    def _has_input(self) -> bool:
        return bool(int(self._socket.getsockopt(self._zmq.EVENTS)) & self._zmq.POLLIN)

    def tick(self, now: float) -> float:
        """Beat, and see whether the driver lives; return seconds until the next time."""
        silent_s = now - self._heard
        if silent_s > self._limit_s and not (
            self._is_connected() and silent_s < _BUSY_LIMITS * self._limit_s
        ):
            self.over = f"the driver was silent for {self._limit_s:g} s"
            self.lost = True
            return 0.0
        left = self._beaten + self._beat_s - now
        if left <= 0:
            self._beaten = now
            self.channel.beat(clock())
            left = self._beat_s
        return left

    def _is_connected(self) -> bool:
        """Return True if the driver's process is there, though it says nothing."""
        from zmq.utils.monitor import recv_monitor_message

        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._connected = event == self._zmq.EVENT_HANDSHAKE_SUCCEEDED
        return self._connected

    def close(self, wait_s: float) -> None:
        """Close the connection; what was sent gets so long to leave."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=int(wait_s * 1000))
        self._context.term()

    def _send(self, parts: Sequence[Any]) -> None:
        big = any(len(part) > 1 << 16 for part in parts)
        self._socket.send_multipart(parts, copy=not big)


def versions() -> dict[str, Any]:
    """Return what must be the same on both sides."""
    return {
        "protocol": PROTOCOL,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "ssdag": __version__,
    }


def reachable(contact: dict[str, Any]) -> str:
    """Return the first of the hub's addresses that answers.

    Raises
    ------
    ProviderError
        None does.
    """
    tried = []
    for address in contact["addresses"]:
        if _is_loopback(address) and contact["host"] != socket.gethostname():
            continue  # that would be ourselves
        try:
            socket.create_connection((address, contact["port"]), _PROBE_S).close()
        except OSError as error:
            tried.append(f"{address} ({error})")
        else:
            return str(address)
    raise ProviderError(
        f"the driver on {contact['host']} cannot be reached at port {contact['port']} of "
        f"{', '.join(tried) or 'any address'} from {socket.gethostname()}; "
        "PilotExecutor(address=...) says which address to use, and tunnel=True goes by the host "
        "that the provider reaches by ssh"
    )


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "localhost")


def ends_in_s() -> float | None:
    """Return the seconds that the scheduler leaves us, where it says so."""
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(end) - time.time() if end.isdigit() else None
