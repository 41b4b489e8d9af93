# SPDX-License-Identifier: BSD-3-Clause
"""Clusters of real servers on loopback, for tests: formed, broken and resharded by command."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

from ssdag.client import Client
from ssdag.client.transport.slots import SLOTS
from ssdag.errors import StoreError
from ssdag.services.servers.server import find_server
from ssdag.wire import guard
from ssdag.wire.process import Process, spawn
from tests.conftest import wait_until

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from tests.integration.bridged import BridgedHosts

PASSWORD = "a password of tests"

#: Highest port whose bus port (10000 above) is still one.
_HIGHEST = 55_000


class Server:
    """One server of a cluster.

    Parameters
    ----------
    folder : path
        Where its files are.
    program : str
        The server program.
    host : str
        Its address.
    enter : sequence of str
        What stands in front of the program's command, to start it at that host.
    """

    def __init__(
        self, folder: Path, program: str, host: str = "127.0.0.1", enter: Sequence[str] = ()
    ) -> None:
        self.host = host
        self._enter = list(enter)
        self.port = _free_port()
        self.folder = folder / f"{host}-{self.port}"
        self.folder.mkdir()
        self.program = program
        self.address = f"{host}:{self.port}"
        self.process: Process | None = None
        self.start()

    def start(self) -> None:
        """Start it; nobody waits until it is ready."""
        (self.folder / "server.conf").write_text(
            f'port {self.port}\nbind {self.host}\ndir "{self.folder}"\nsave ""\nlogfile "log"\n'
            f'requirepass "{PASSWORD}"\nmasterauth "{PASSWORD}"\ncluster-enabled yes\n'
            "cluster-node-timeout 800\nrepl-diskless-sync-delay 0\n"
            "cluster-replica-validity-factor 0\ncluster-allow-replica-migration no\n"
            "notify-keyspace-events K$glht\n"
        )
        self.process = spawn(
            [*self._enter, self.program, str(self.folder / "server.conf")], cwd=self.folder
        )
        guard.session(self.process.pid)

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self.process is not None:
            self.process.kill_session()
            guard.release_session(self.process.pid)
            self.process = None

    def call(self, *words: bytes | str | int) -> Any:
        """Send one command to it and return the answer, once it has loaded its data."""
        with Client(self.address, password=PASSWORD, timeout_s=5) as client:
            wait_until(lambda: _has_loaded(client), what="data loaded", deadline_s=20)
            return client.call(*words)

    def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO."""
        text = self.call("INFO", section).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


class RedisCluster:
    """Primaries with equal shares of the slots, and replicas of each.

    Parameters
    ----------
    folder : path
        Where the servers keep their files.
    primaries : int
        How many.
    replicas : int
        Of each primary.
    program : path, optional
        The server program.
    hosts : BridgedHosts, optional
        Where they are, one on each, the primaries first; by default on loopback.
    """

    def __init__(
        self,
        folder: Path,
        primaries: int = 3,
        replicas: int = 0,
        program: str | os.PathLike[str] | None = None,
        hosts: BridgedHosts | None = None,
    ) -> None:
        path = find_server(program)
        self.password_file = folder / "password"
        self.password_file.write_text(PASSWORD)
        count = primaries * (1 + replicas)
        if hosts is None:
            self.servers = [Server(folder, path) for _ in range(count)]
        else:
            self.servers = [
                Server(folder, path, hosts.addresses[i], ["ip", "netns", "exec", hosts.names[i]])
                for i in range(count)
            ]
        self.primaries = self.servers[:primaries]
        self.replicas = self.servers[primaries:]

    @property
    def address(self) -> str:
        """What clients are given."""
        return ",".join(server.address for server in self.servers)

    def client(self, **options: Any) -> Client:
        """Return a new client."""
        return Client(self.address, password_file=self.password_file, **options)

    def __enter__(self) -> Self:
        try:
            self._form()
        except BaseException:
            self.close()
            raise
        return self

    def _form(self) -> None:
        for server in self.servers:
            wait_until(lambda s=server: answers(s), what=f"ping {server.address}")  # type: ignore[misc]
        shares = [SLOTS * i // len(self.primaries) for i in range(len(self.primaries) + 1)]
        for i, server in enumerate(self.primaries):
            server.call("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            server.call("CLUSTER", "ADDSLOTS", *range(shares[i], shares[i + 1]))
        for server in self.servers[1:]:
            self.servers[0].call("CLUSTER", "MEET", server.host, server.port)
        with ThreadPoolExecutor(len(self.servers)) as pool:
            list(pool.map(self._wait_known, self.servers))
        for i, replica in enumerate(self.replicas):
            name = self.primaries[i % len(self.primaries)].call("CLUSTER", "MYID").decode()
            replica.call("CLUSTER", "REPLICATE", name)
        for replica in self.replicas:
            wait_until(
                lambda r=replica: r.info("replication").get("master_link_status") == "up",  # type: ignore[misc]
                what="replica in step",
                deadline_s=20,
            )
        for server in self.servers:
            wait_until(lambda s=server: well(s), what="cluster ok", deadline_s=20)  # type: ignore[misc]

    def _wait_known(self, server: Server) -> None:
        wait_until(
            lambda: (
                f"cluster_known_nodes:{len(self.servers)}".encode()
                in server.call("CLUSTER", "INFO")
            ),
            what="nodes know each other",
            deadline_s=20,
        )

    def owner(self, slot: int) -> Server:
        """Return the live server that says that it has a slot."""
        for server in self.servers:
            if server.process is not None:
                for line in server.call("CLUSTER", "NODES").decode().splitlines():
                    if "myself" in line and "master" in line:
                        for part in line.split()[8:]:
                            first, _, last = part.partition("-")
                            if first.isdigit() and int(first) <= slot <= int(last or first):
                                return server
        raise AssertionError(f"nobody has slot {slot}")

    def begin_move(self, slot: int, source: Server, target: Server) -> None:
        """Begin to move a slot, as resharding tools do."""
        ids = {s: s.call("CLUSTER", "MYID").decode() for s in (source, target)}
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])

    def move_keys(self, slot: int, source: Server, target: Server, count: int = 1000) -> int:
        """Move up to so many keys of a slot; return how many."""
        keys = source.call("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            source.call(
                "MIGRATE", target.host, target.port, "", 0, 5000, "REPLACE", "AUTH", PASSWORD,
                "KEYS", *keys,
            )  # fmt: skip
        return len(keys)

    def end_move(
        self, slot: int, target: Server, primaries: Sequence[Server] | None = None
    ) -> None:
        """Tell the primaries that the slot has moved, the new owner first.

        That one must know of all claims before, to outdo them: a message that is still under
        way with an old owner's newer claim takes the slot back, and its keys are dropped.
        """
        primaries = primaries or self.primaries
        newest = max(_epoch(server, "my") for server in primaries)
        wait_until(lambda: _epoch(target, "current") >= newest, 30, "the new owner knows")
        name = target.call("CLUSTER", "MYID").decode()
        for server in sorted(primaries, key=lambda s: s is not target):
            server.call("CLUSTER", "SETSLOT", slot, "NODE", name)

    def move(self, slot: int, source: Server, target: Server) -> None:
        """Move a slot with its keys."""
        self.begin_move(slot, source, target)
        while self.move_keys(slot, source, target):
            pass
        self.end_move(slot, target)

    def close(self) -> None:
        """End all servers."""
        for server in self.servers:
            server.kill()

    def __exit__(self, *_: object) -> None:
        self.close()


def _has_loaded(client: Client) -> bool:
    try:
        client.ping()
    except StoreError as error:
        if "LOADING" in str(error):
            return False
        raise
    return True


def answers(server: Server) -> bool:
    """Return whether a server answers."""
    try:
        return bool(server.call("PING") == "PONG")
    except StoreError:
        return False


def well(server: Server) -> bool:
    """Return whether a server says that its cluster is well."""
    return b"cluster_state:ok" in server.call("CLUSTER", "INFO")


def _epoch(server: Server, which: str) -> int:
    """Return the number of a server's claim ("my"), or the newest that it knows ("current")."""
    said = server.call("CLUSTER", "INFO").decode()
    return int(said.partition(f"cluster_{which}_epoch:")[2].splitlines()[0])


_lock = threading.Lock()
_given: set[int] = set()


def _free_port() -> int:
    """Return a free port whose bus port is free too, each one once."""
    with _lock:
        while True:
            with socket.socket() as probe, socket.socket() as bus:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
                if port > _HIGHEST or {port, port + 10_000} & _given:
                    continue
                try:
                    bus.bind(("127.0.0.1", port + 10_000))
                except OSError:
                    continue
                _given.update((port, port + 10_000))
                return port
