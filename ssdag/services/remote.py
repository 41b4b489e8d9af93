# SPDX-License-Identifier: BSD-3-Clause
"""Servers on other nodes: a place for each node, served by the keeper there."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError, ServiceError, ServiceStartError, SsdagError, StoreError
from ssdag.services.network import LOOPBACK
from ssdag.services.node_facts import machine
from ssdag.services.places import Place, PlacedServer, ServerRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.services.launch import KeeperLaunch, Report

_log = logging.getLogger("ssdag")

#: Beyond what a server itself may take, for the way there and back.
_SLACK_S = 10.0
#: A server that answers on its node is tried from here for so long.
_REACH_S = 5.0
_numbers = itertools.count(1)


class RemoteServer(PlacedServer):
    """A server on another node; see :class:`PlacedServer`."""

    def __init__(self, place: RemotePlace, name: str, outlives: bool) -> None:
        self._place = place
        self._name = name
        self.outlives = outlives
        self.hostname = place.hostname
        self._answered = threading.Event()
        self._ended = False
        #: Set when it has ended, or we let it go.
        self._over = threading.Event()
        self._cleared = threading.Event()
        self._told = threading.Condition()
        self._questions: dict[int, tuple[list[Report], threading.Event]] = {}
        self._tails = 0
        self._code: int | None = None
        self._tail = ""
        self.failure: ServiceStartError | None = None
        self.pid = 0
        self.host, self.port, self.socket, self.folder = "", 0, None, ""

    def __repr__(self) -> str:
        return f"<RemoteServer {self.pid} {self.address} on {self.hostname}>"

    # -- reports; in the thread that reads them ---------------------------------------

    def started(self, report: Report) -> None:
        """Take the facts of a start."""
        for name in ("pid", "host", "port", "socket", "folder"):
            setattr(self, name, report[name])
        self._answered.set()

    def failed(self, error: ServiceStartError) -> None:
        """Take the failure of a start."""
        self.failure = error
        self._answered.set()
        self._ended = True
        self._over.set()
        self._cleared.set()

    def ended(self, code: int | None, tail: str) -> None:
        """Take its end."""
        if not self._ended:
            self._code, self._tail = code, tail
            self._ended = True
            self._over.set()
        self.tell(tail)

    def tell(self, tail: str) -> None:
        """Take the last lines of its log."""
        with self._told:
            self._tail = tail
            self._tails += 1
            self._told.notify_all()

    def cleared(self) -> None:
        """Take that its files are removed."""
        self._cleared.set()

    def lost(self, why: str) -> None:
        """Take that its keeper is gone, and it with it."""
        if not self._answered.is_set():
            self.failed(ServiceStartError(f"no server on {self.hostname}: {why}", log_tail=why))
        self.ended(None, self._tail if self._ended else why)
        self.cleared()

    # -- for the orchestrator ---------------------------------------------------------

    def wait_started(self, timeout_s: float) -> bool:
        """Return whether the keeper has answered in time."""
        return self._answered.wait(timeout_s)

    def wait(self, timeout: float | None = None) -> int | None:
        """Block until it has ended; None where its node was lost, or we let it go."""
        if not self._over.wait(timeout):
            raise TimeoutError(f"the server on {self.hostname} still runs after {timeout} s")
        return self._code

    def running(self) -> bool:
        """Return whether it has not ended."""
        return not self._ended

    def let_go(self) -> None:
        """Have :meth:`wait` return."""
        self._over.set()

    def log_tail(self) -> str:
        """Return its last lines; blocks for a second at most."""
        if self._ended:
            return self._tail
        with self._told:
            seen = self._tails
            if self._place.order(do="log", id=self._name):
                self._told.wait_for(lambda: self._tails != seen, 1.0)
            return self._tail

    def ask_there(self, words: Sequence[bytes], timeout_s: float) -> str | SsdagError:
        """Have its keeper send it one command, where it cannot be reached from here.

        Parameters
        ----------
        words : sequence of bytes
            The command; its answer must be text.
        timeout_s : float
            How long that may take.

        Returns
        -------
        str or SsdagError
            The answer; ConfigError with the server's words if it refuses, StoreError if
            none comes.
        """
        waiting = threading.Event()
        seq = next(_numbers)
        answers: list[Report] = []
        self._questions[seq] = answers, waiting
        try:
            texts = [word.decode() for word in words]
            sent = self._place.order(
                do="tell", id=self._name, seq=seq, words=texts, timeout_s=timeout_s
            )
            if not sent or not waiting.wait(timeout_s + 1.0):
                return StoreError(f"nothing is heard of the server on {self.hostname}")
        finally:
            del self._questions[seq]
        report = answers[0]
        if report["lost"]:
            return StoreError(str(report["lost"]))
        return ConfigError(str(report["refused"])) if report["refused"] else str(report["text"])

    def answered(self, report: Report) -> None:
        """Take the answer to a command."""
        question = self._questions.get(report["seq"])
        if question is not None:
            question[0].append(report)
            question[1].set()

    def end(self, grace_s: float) -> None:
        """Wait `grace_s` for its end, then have it killed."""
        if self._ended:
            return
        sent = self._place.order(do="end", id=self._name, grace_s=grace_s)
        if not sent or not self._over.wait(grace_s + _SLACK_S):
            # Nobody there obeys: with the launch the scheduler ends what it has started.
            _log.warning("the keeper on %s does not answer: its launch is ended", self.hostname)
            self._place.abandon()

    def clear(self) -> None:
        """Have its files removed."""
        if not self._cleared.is_set() and self._place.order(do="clear", id=self._name):
            self._cleared.wait(_SLACK_S)


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
        """End the launch: nobody there obeys."""
        self.launch.kill()

    def take(self, report: Report | None) -> None:
        """Take a report; None: the launch is over. In the thread that reads them."""
        with self._lock:
            servers = dict(self._servers)
        if report is None:
            for server in servers.values():
                server.lost(self.launch.over)
            self._looked.set()
        elif "silent" in report:
            self._silent = True
            why = f"nothing was heard of {self.hostname} for {report['silent']:.0f} s"
            for server in servers.values():
                server.lost(why)
            if self.launch.ranks == 1:
                self.launch.kill()
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
        name = str(next(_numbers))
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
            if not server.wait_started(request.start_timeout_s + _SLACK_S):
                server.end(0.0)
                raise ServiceStartError(
                    f"{request.name}: the keeper on {self.hostname} has not answered for "
                    f"{request.start_timeout_s + _SLACK_S:g} s"
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
