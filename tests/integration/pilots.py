# SPDX-License-Identifier: BSD-3-Clause
"""Engines on a pilot executor of this machine, and what happens to their managers."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import psutil

import ssdag
from ssdag.executors import PilotExecutor
from ssdag.providers.local import LocalProvider
from tests.conftest import is_live, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from ssdag.dataflow.engine import Engine
    from ssdag.providers.base import Provider

DEADLINE_S = 30.0


def start(
    folder: Path,
    workers: int = 2,
    *,
    provider: Provider | None = None,
    retries: int = 0,
    blocks: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Engine, PilotExecutor]:
    """Start an engine on blocks of this machine, quick to notice what happens."""
    executor = PilotExecutor(
        provider or LocalProvider(**(blocks or {})),
        workers_per_node=workers,
        run_dir=folder / "runs",
        **{"cores_per_worker": 0.1, "heartbeat_s": 0.2, "heartbeat_limit_s": 8.0, **options},
    )
    return ssdag.load(ssdag.Config(executors=[executor], retries=retries)), executor


def managers() -> list[psutil.Process]:
    """Return the managers beneath this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any(word.endswith("pilot/manager.py") for word in process.cmdline()[:4]):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def one_manager() -> psutil.Process:
    """Return the manager that runs, once it does."""
    wait_until(managers, DEADLINE_S, "a manager runs")
    return managers()[0]


def wait_for_managers(executor: PilotExecutor, count: int) -> None:
    """Wait until so many managers have come."""
    hub = executor._hub
    assert hub is not None
    wait_until(lambda: len(hub.peers) >= count, DEADLINE_S, f"{count} managers have come")


class Proxy:
    """Passes connections on, and may cut them, hold them up, and listen.

    Attributes
    ----------
    heard : bytearray
        All that went through.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heard = bytearray()
        self._pairs: list[socket.socket] = []
        self._open = threading.Event()
        self._open.set()
        self._refusing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            self._pairs += [near, far]
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                self._open.wait()
                self.heard += data
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            end.close()

    def hold_up(self) -> None:
        """Let nothing through any more, as a network that drops packets."""
        self._open.clear()

    def heal(self) -> None:
        """Let everything through again, also new connections."""
        self._refusing = False
        self._open.set()

    def cut(self) -> None:
        """Reset all connections, and take no new ones; what was on its way is lost."""
        self._refusing = True
        for end in self._pairs:
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._pairs.clear()

    def close(self) -> None:
        """End it."""
        self._open.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


def alive(pids: list[int]) -> list[int]:
    """Return those of the processes that run (zombies do not)."""
    return [pid for pid in pids if is_live(pid)]


def environment() -> dict[str, str]:
    """Return the environment of a script that imports ssdag and the tests."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return {**os.environ, "PYTHONPATH": root}
