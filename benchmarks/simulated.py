# SPDX-License-Identifier: BSD-3-Clause
"""Managers that only talk: many connections in one process, against the real hub."""

from __future__ import annotations

import json
import pickle
import secrets
import time
from typing import TYPE_CHECKING, Any

from ssdag.executors.local.messages import PLAIN
from ssdag.executors.pilot.protocol import Channel, ForeignMessageError, Kind, clock, kind_of, plain
from ssdag.executors.pilot.session import versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.executors.pilot.security import Keys


class SimulatedManager:
    """One connection that answers each task at once with its task id.

    Parameters
    ----------
    context : zmq.Context
    endpoint : str
        Of the hub.
    keys : Keys
    block : int
    node : str
    workers : int
        That it says it has.
    about : mapping, optional
        Instead of the versions that it really has.
    """

    def __init__(
        self,
        context: Any,
        endpoint: str,
        keys: Keys,
        block: int,
        node: str,
        workers: int,
        about: dict[str, Any] | None = None,
    ) -> None:
        import zmq

        self._zmq = zmq
        self._keys = keys
        self.socket = context.socket(zmq.DEALER)
        self.socket.identity = secrets.token_hex(8).encode()
        self.socket.linger = 0
        self.socket.sndhwm = self.socket.rcvhwm = 0
        keys.secure_manager(self.socket)
        self.socket.connect(endpoint)
        self.channel = Channel(self._send, keys.manager_token)
        self.welcome: dict[str, Any] | None = None
        self.refused: str | None = None
        #: Tasks that came, as ``(seq, task_id, spec, arguments, count)``, and were not answered.
        self.tasks: list[tuple[Any, ...]] = []
        hello = {
            **versions(), "block": block, "node": node, "rank": "0", "workers": workers,
            "time_ns": time.monotonic_ns(), **(about or {}),
        }  # fmt: skip
        self._send(plain(keys.manager_token, Kind.HELLO, json.dumps(hello).encode()))

    def _send(self, parts: Sequence[Any]) -> None:
        self.socket.send_multipart(parts)

    def receive(self) -> int:
        """Take what is there; returns how many messages that was."""
        count = 0
        while True:
            try:
                parts = self.socket.recv_multipart(self._zmq.NOBLOCK)
            except self._zmq.Again:
                return count
            count += 1
            try:
                kind_of(parts[0], self._keys.hub_token)
            except ForeignMessageError:
                continue
            kind = self.channel.take(parts[0], 0)
            if kind == Kind.WELCOME:
                self.welcome = pickle.loads(parts[1])
            elif kind == Kind.REFUSED:
                self.refused = json.loads(parts[1])["reason"]
            elif kind == Kind.TASKS:
                self.tasks += pickle.loads(parts[1])[2]

    def answer(self, run_s: float = 1.0) -> int:
        """Answer all tasks that have come, each with its id; returns how many."""
        tasks, self.tasks = self.tasks, []
        if tasks:
            now = time.monotonic()
            results = [(task[0], PLAIN, task[1], 0, now, now + run_s) for task in tasks]
            body = pickle.dumps((clock(), [], [], results), 5)
            self.channel.post(Kind.RESULTS, body)
        return len(tasks)

    def beat(self) -> None:
        """Say that it lives."""
        self.channel.beat(clock())

    def close(self) -> None:
        """Vanish without a word."""
        self.socket.close()


class Crowd:
    """Many simulated managers, served by one loop.

    Parameters
    ----------
    endpoint : str
    keys : Keys
    count : int
        Managers.
    workers : int
        That each says it has.
    """

    def __init__(self, endpoint: str, keys: Keys, count: int, workers: int) -> None:
        import zmq

        self._context = zmq.Context(1)
        self._context.set(zmq.MAX_SOCKETS, count + 16)
        self._poller = zmq.Poller()
        self._by_socket: dict[Any, SimulatedManager] = {}
        self.managers = []
        for i in range(count):
            one = SimulatedManager(self._context, endpoint, keys, 1, f"node{i}", workers)
            self.managers.append(one)
            self._by_socket[one.socket] = one
            self._poller.register(one.socket, zmq.POLLIN)

    def turn(self, timeout_s: float = 0.1) -> int:
        """Serve what is readable; returns how many tasks were answered."""
        answered = 0
        for socket, _ in self._poller.poll(int(timeout_s * 1000)):
            one = self._by_socket[socket]
            one.receive()
            answered += one.answer()
        return answered

    def close(self) -> None:
        """Close all."""
        for one in self.managers:
            one.close()
        self._context.destroy(0)
