# SPDX-License-Identifier: BSD-3-Clause
"""Servers on other nodes: a place for each node, served by the keeper there."""

from __future__ import annotations

import dataclasses
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

from ssdag.errors import ServiceError, ServiceStartError
from ssdag.services.keepers import remote_server
from ssdag.services.keepers.remote_server import RemoteServer
from ssdag.services.servers.network import LOOPBACK
from ssdag.services.servers.node_facts import machine
from ssdag.services.servers.places import Place, ServerRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.services.keepers.launch import KeeperLaunch, Report

_log = logging.getLogger("ssdag")

#: A server that answers on its node is tried from here for so long.
_REACH_S = 5.0
_LOOK_S = 1.0


class RemotePlace(Place):
    """A node with a keeper on it.

    Parameters
    ----------
    launch : KeeperLaunch
        That the keeper came with.
    rank : int
        The keeper's.
    facts : mapping
        What it said of its node.

    Attributes
    ----------
    address : str
        Where servers listen that others shall reach, unless they are told otherwise.
    """

    def __init__(self, launch: KeeperLaunch, rank: int, facts: Mapping[str, Any]) -> None:
        self.launch = launch
        self._rank = rank
        self.facts = facts
        self.hostname: str = facts["node"]
        self.address = LOOPBACK
        self._servers: dict[str, RemoteServer] = {}
        self._lock = threading.Lock()
        self._unseen: list[str] | None = None
        self._looked = threading.Event()
        self._closed = False
        self._silent = False

    def __repr__(self) -> str:
        return f"<RemotePlace {self.hostname} {self.address}>"

    @property
    def is_lost(self) -> bool:
        """Whether its launch is over, and the keeper with it, or it is silent for long."""
        return bool(self.launch.over or self._silent)

    def order(self, **order: Any) -> bool:
        """Send an order; return whether it was sent."""
        try:
            self.launch.send({"to": self._rank, **order})
        except ServiceError as error:
            _log.debug("%s", error)
            return False
        return True

    def abandon(self) -> None:
        """Give the keeper up, which does not obey, and with it its launch if it is its own."""
        self._give_up(f"the keeper on {self.hostname} does not answer")

    def take(self, report: Report | None) -> None:
        """Take a report; None: the launch is over. In the thread that reads them."""
        with self._lock:
            servers = dict(self._servers)
        if report is None:
            for server in servers.values():
                server.lost(self.launch.over)
            self._looked.set()
        elif "silent" in report:
            self._give_up(f"nothing was heard of {self.hostname} for {report['silent']:.0f} s")
        elif "quiet" in report:
            # Of one launch for many nodes nobody tells that a keeper is gone.
            if any(self._refuses(server) for server in servers.values() if server.running()):
                self._give_up(f"neither keeper nor server answer on {self.hostname}")
        elif "looked" in report:
            self._unseen = report["looked"]
            self._looked.set()
        elif "started" in report and report["started"] in servers:
            servers[report["started"]].started(report)
        elif "failed" in report and report["failed"] in servers:
            text = f"on {self.hostname}: {report['error']}"
            servers[report["failed"]].failed(
                ServiceStartError(text, log_tail=report["text"], exit_code=report["code"])
            )
        elif "ended" in report and report["ended"] in servers:
            servers[report["ended"]].ended(report["code"], report["text"])
        elif "log" in report and report["log"] in servers:
            servers[report["log"]].tell(report["text"])
        elif "told" in report and report["told"] in servers:
            servers[report["told"]].answered(report)
        elif "cleared" in report and report["cleared"] in servers:
            servers[report["cleared"]].cleared()

    def _give_up(self, why: str) -> None:
        self._silent = True
        with self._lock:
            servers = list(self._servers.values())
        for server in servers:
            server.lost(why)
        if self.launch.ranks == 1:
            self.launch.kill()

    def _refuses(self, server: RemoteServer) -> bool:
        """Return whether nobody listens any more where a server did, as far as we can see."""
        apart = server.host == LOOPBACK and self.facts["machine"] != machine()
        if not server.port or apart:
            return False
        try:
            socket.create_connection((server.host, server.port), _LOOK_S).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
        return False

    def unseen(self, digests: Mapping[str, str], timeout_s: float) -> list[str]:
        """Return those of some files that the node does not see, or not as we do.

        Parameters
        ----------
        digests : mapping
            SHA-256 of the files by their paths.
        timeout_s : float
            How long the node may look; then it sees none.
        """
        self._looked.clear()
        self._unseen = None
        if self.order(do="look", paths=dict(digests)):
            self._looked.wait(timeout_s)
        return list(digests) if self._unseen is None else self._unseen

    def start(
        self,
        request: ServerRequest,
        *,
        cpus: int | Sequence[int] | None = None,
        folder_name: str | None = None,
        beside: bool = False,
    ) -> RemoteServer:
        """Start a server on the node; see :meth:`Place.start`.

        Parameters
        ----------
        request : ServerRequest
            Without an interface it listens at :attr:`address`.
        cpus : int or sequence of int, optional
            Cores of the node that it is bound to; so many, or these.
        folder_name : str, optional
            Have it work in a folder of this name in the node's temporary folder, together
            with a file ``password``.
        beside : bool
            It is for its own node only: nobody else need reach it.
        """
        name = str(next(remote_server.NUMBERS))
        if not request.interface and self.address != LOOPBACK:
            request = dataclasses.replace(request, interface=self.address)
        server = RemoteServer(self, name, request.outlives)
        with self._lock:
            self._servers[name] = server
        try:
            if request.outlives:
                self.launch.let_go()
            self.launch.send(
                {"to": self._rank, "do": "start", "id": name, "request": request.plain(),
                 "cpus": cpus, "folder": folder_name}
            )  # fmt: skip
            if not server.wait_started(request.start_timeout_s + remote_server.SLACK_S):
                server.end(0.0)
                raise ServiceStartError(
                    f"{request.name}: the keeper on {self.hostname} has not answered for "
                    f"{request.start_timeout_s + remote_server.SLACK_S:g} s"
                )
            if server.failure is not None:
                raise server.failure
            if server.port and not beside:
                self._reach(server, request)
        except BaseException as error:
            with self._lock:
                del self._servers[name]
            if isinstance(error, ServiceError) and not isinstance(error, ServiceStartError):
                raise ServiceStartError(f"{request.name}: {error}") from error
            raise
        return server

    def _reach(self, server: RemoteServer, request: ServerRequest) -> None:
        """See that a server that others shall reach can be reached from here."""
        try:
            if server.host == LOOPBACK and self.facts["machine"] != machine():
                raise ConnectionRefusedError("that is each machine's own")
            socket.create_connection((server.host, server.port), _REACH_S).close()
        except OSError as error:
            server.end(0.0)
            server.clear()
            raise ServiceStartError(
                f"{request.name} answers on {self.hostname}, but not at {server.address} from "
                f"{socket.gethostname()} ({error}): name a network that both are in by "
                f"interface=; {self.hostname} has {', '.join(sorted(self.facts['addresses']))}"
            ) from error

    def close(self) -> None:
        """Let the node go; the launch ends when all of its nodes are let go."""
        if not self._closed:
            self._closed = True
            outlives = any(s.outlives and s.running() for s in self._servers.values())
            self.launch.leave(outlives=outlives)
