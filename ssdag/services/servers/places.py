# SPDX-License-Identifier: BSD-3-Clause
"""Where a server runs: this machine, or by the same contract any other node.

An orchestrator says what shall run in a :class:`ServerRequest`, which is plain data. A
:class:`Place` adds what only its node knows (folder, free port, address), starts the
server and returns it as a :class:`PlacedServer`. :class:`LocalPlace` does it here; a
place on another node sends the request there and has a ``LocalPlace`` do it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import socket as sockets
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssdag.client.transport.address import Address
from ssdag.errors import ConfigError, ServiceStartError
from ssdag.services.servers.admin import Login, ask
from ssdag.services.servers.folder import (
    choose_socket,
    free_port,
    interface_address,
    private_folder,
    remove_folder,
    temporary_folder,
    write_private,
)
from ssdag.services.servers.server import ServerProcess, find_server, quote
from ssdag.wire import guard

#: How often another free port is taken because somebody else got it first.
_PORT_TRIES = 5


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A server that shall run: all but what only its node knows. Plain data.

    Attributes
    ----------
    name : str
        Shown in errors, such as ``orchestrator shard 2``.
    lines : tuple of str
        Lines of its configuration that hold on any node. They have no secret in them.
    user, password : str
        Who may do everything there; used to see whether it is ready. No password: "".
    program : str, optional
        The server program; by default the node's, see
        :func:`~ssdag.services.servers.server.find_server`.
    interface : str
        Network interface (``eth0``) or address of the node on which it listens; by
        default loopback.
    port : int, optional
        By default a free one; 0 for none.
    unix_socket : bool or str, optional
        As :class:`~ssdag.services.orchestrator.Orchestrator` takes it.
    cluster : bool
        Whether it is a shard: it listens for the others at ``port + 10000`` too.
    folder : str, optional
        Its working folder; by default a private temporary one, which is removed when
        the server is cleared away.
    outlives : bool
        Whether it goes on when the process that started it ends.
    grace_s : float
        How long it may take to store its data at an end that nobody asked for.
    huge_pages : bool
        Whether to advise its allocator to use them: not for servers that fork.
    start_timeout_s : float
        How long it may take to be ready.
    """

    name: str
    lines: tuple[str, ...]
    user: str = "default"
    password: str = field(default="", repr=False)
    program: str | None = None
    interface: str = ""
    port: int | None = None
    unix_socket: bool | str | None = None
    cluster: bool = False
    folder: str | None = None
    outlives: bool = False
    grace_s: float = 0.0
    huge_pages: bool = True
    start_timeout_s: float = 10.0

    def plain(self) -> dict[str, Any]:
        """Return it as JSON takes it; the password is among it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> ServerRequest:
        """Return what :meth:`plain` was called on, also after JSON."""
        return cls(**{**values, "lines": tuple(values["lines"])})

    @property
    def login(self) -> Login:
        """Who asks whether it is ready."""
        return Login(self.password, self.user)


class PlacedServer(ABC):
    """A running server, on whatever node.

    Threads may share it.

    Attributes
    ----------
    pid : int
        Its number on its node.
    hostname : str
        The name of the node.
    host : str
        The address at which it listens.
    port : int
        Its port there; 0 if it has none.
    socket : str or None
        Path of its unix socket on its node.
    folder : str
        Its working folder on its node.
    """

    pid: int
    hostname: str
    host: str
    port: int
    socket: str | None
    folder: str

    @property
    def address(self) -> str:
        """``host:port``, or ``unix://path`` if it has no port."""
        if not self.port:
            return f"unix://{self.socket}"
        return str(Address(host=self.host, port=self.port))

    @property
    def address_here(self) -> str:
        """Where processes of this machine connect; better than :attr:`address` if it is here."""
        return self.address

    @abstractmethod
    def wait(self, timeout: float | None = None) -> int | None:
        """Block until it has ended, or its node is lost.

        Returns
        -------
        int or None
            Exit code, negative for minus the signal number; None if nobody knows it.

        Raises
        ------
        TimeoutError
            It still runs after `timeout` seconds.
        """

    @abstractmethod
    def running(self) -> bool:
        """Return whether it has not ended; does not block."""

    def let_go(self) -> None:  # noqa: B027
        """Have :meth:`wait` return although it runs, because it outlives us."""

    @abstractmethod
    def log_tail(self) -> str:
        """Return the last lines that it printed; the empty text if nobody knows them."""

    @abstractmethod
    def end(self, grace_s: float) -> None:
        """Wait `grace_s` for its end, then kill it with all that it started."""

    @abstractmethod
    def clear(self) -> None:
        """Remove the files that its place made for it; it has ended."""


class Place(ABC):
    """A node where servers can be started.

    Attributes
    ----------
    hostname : str
        Name of the node, shown in errors.
    """

    hostname: str

    @abstractmethod
    def start(self, request: ServerRequest) -> PlacedServer:
        """Start a server and return when it answers; called from several threads.

        With ``port`` and ``folder`` of an ended server it comes back where it was.

        Raises
        ------
        ServiceStartError
            It did not start: its own last words. Nothing is left behind.
        """

    def close(self) -> None:  # noqa: B027
        """Let the node go; all servers there have ended or outlive us."""


class LocalPlace(Place):
    """This machine."""

    def __init__(self) -> None:
        self.hostname = sockets.gethostname()

    def __repr__(self) -> str:
        return "LocalPlace()"

    def start(self, request: ServerRequest) -> LocalServer:
        """Start a server here, in a session of its own."""
        program = find_server(request.program)
        try:
            host = interface_address(request.interface)
        except ConfigError as error:
            raise ServiceStartError(f"{request.name}: {error}") from error
        given = request.folder is not None
        folder = Path(request.folder or temporary_folder(outlives=request.outlives))
        try:
            private_folder(folder)
            for tries_left in reversed(range(_PORT_TRIES)):
                try:
                    return _launch(program, host, folder, request)
                except ServiceStartError as error:
                    free_choice = request.port is None and "in use" in error.log_tail
                    if not (tries_left and free_choice):
                        raise
        except BaseException:
            if not given:
                remove_folder(folder)
            raise
        raise AssertionError("the last try raises")


def _launch(program: str, host: str, folder: Path, request: ServerRequest) -> LocalServer:
    """Start it once, on one port, and wait until it is ready."""
    port = free_port(host, bus=request.cluster) if request.port is None else request.port
    wanted = request.unix_socket
    if wanted is None and (request.interface or request.cluster):
        wanted = False  # those who connect may be elsewhere
    path = choose_socket(folder, wanted, needed=port == 0)
    lines = [
        f"port {port}",
        f"bind {host}",
        f"dir {quote(str(folder))}",
        "daemonize no",
        'logfile ""',
        *request.lines,
    ]
    if path is not None:
        lines += [f"unixsocket {quote(path)}", "unixsocketperm 700"]
    if request.cluster:
        lines += [
            "cluster-enabled yes",
            "cluster-config-file nodes.conf",
            f"cluster-announce-ip {host}",
        ]
    conf, log = folder / "server.conf", folder / "server.log"
    write_private(conf, "\n".join(lines) + "\n")
    write_private(log, "")
    if path is not None and not request.outlives:
        guard.path(path)
    address = Address(path=path) if path else Address(host=host, port=port)
    process = ServerProcess(
        program,
        conf,
        log,
        outlives=request.outlives,
        grace_s=request.grace_s,
        huge_pages=request.huge_pages,
    )
    try:
        process.wait_ready(lambda: _answer(address, request.login), request.start_timeout_s)
    except BaseException:
        process.end(0.0)
        raise
    return LocalServer(process, host, port, path, folder, made_folder=request.folder is None)


def _answer(address: Address, login: Login) -> str | None:
    """Return None if the server answers a ping, else what is wrong."""
    (answer,) = ask([address], [[b"PING"]], login, 0.5)
    if isinstance(answer, Exception):
        return str(answer)
    return str(answer[0]) if isinstance(answer[0], Exception) else None


class LocalServer(PlacedServer):
    """A server that this process started on this machine; see :class:`PlacedServer`."""

    def __init__(
        self,
        process: ServerProcess,
        host: str,
        port: int,
        socket: str | None,
        folder: Path,
        *,
        made_folder: bool,
    ) -> None:
        self._process = process
        self._made_folder = made_folder
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.pid = process.process.pid
        self.hostname = sockets.gethostname()
        self.host = host
        self.port = port
        self.socket = socket
        self.folder = str(folder)

    def __repr__(self) -> str:
        return f"<LocalServer {self.pid} {self.address}>"

    @property
    def address_here(self) -> str:
        """``unix://path``; ``host:port`` if it has no socket."""
        return f"unix://{self.socket}" if self.socket else self.address

    def __del__(self) -> None:
        if getattr(self, "_wake_fd", -1) >= 0:
            os.close(self._wake_fd)

    def wait(self, timeout: float | None = None) -> int | None:
        """Block until it has ended and return its exit code; None if we are let go."""
        process = self._process.process
        fd = process.hold()
        try:
            if fd >= 0:
                poller = select.poll()
                poller.register(fd, select.POLLIN)
                poller.register(self._wake_fd, select.POLLIN)
                events = poller.poll(None if timeout is None else timeout * 1000)
                if not events:
                    raise TimeoutError(f"{self!r} still runs after {timeout} s")
        finally:
            process.let_go()
        return process.poll()

    def let_go(self) -> None:
        """Have :meth:`wait` return."""
        os.eventfd_write(self._wake_fd, 1)

    def running(self) -> bool:
        """Return whether it has not ended."""
        return self._process.process.poll() is None

    def log_tail(self) -> str:
        """Return the last lines that it printed."""
        return self._process.log_tail()

    def end(self, grace_s: float) -> None:
        """Wait `grace_s` for its end, then kill it with all that it started."""
        self._process.end(grace_s)

    def clear(self) -> None:
        """Remove its socket, and its folder if it was made for it."""
        if self.socket is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.socket)
            guard.release_path(self.socket)
        if self._made_folder:
            remove_folder(Path(self.folder))
