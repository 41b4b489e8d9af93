# SPDX-License-Identifier: BSD-3-Clause
"""One server of a colocated orchestrator: on its node, beside the tasks there."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ssdag.client.transport.address import Address
from ssdag.errors import ConfigError, ServiceStartError, SsdagError
from ssdag.services.colocation.beside import PASSWORD, bind, prepared
from ssdag.services.keepers.node_place import NodePlace
from ssdag.services.keepers.remote_server import RemoteServer
from ssdag.services.servers.admin import ask
from ssdag.services.servers.folder import remove_folder, temporary_folder
from ssdag.services.servers.node_facts import node_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.services.servers.places import Place, PlacedServer, ServerRequest


class NodeServer:
    """A server on a node, and what it needs to come back.

    Parameters
    ----------
    place : Place
        Its node.
    request : ServerRequest
        What shall run there.
    cpus : int or sequence of int, optional
        Cores that it is bound to.
    secret : bool
        Whether clients need the password.
    """

    def __init__(
        self,
        place: Place,
        request: ServerRequest,
        cpus: int | Sequence[int] | None,
        *,
        secret: bool,
    ) -> None:
        self.place = place
        self.node = place.hostname if isinstance(place, NodePlace) else node_name()
        self.server: PlacedServer | None = None
        self._request = request
        self._cpus = cpus
        self._secret = secret

    def start(self, folder_name: str) -> None:
        """Start it for the first time.

        Parameters
        ----------
        folder_name : str
            What its folder is called, on another node.

        Raises
        ------
        ServiceStartError
            It did not start; nothing is left behind.
        """
        if isinstance(self.place, NodePlace):
            self.server = self.place.start(
                self._request, cpus=self._cpus, folder_name=folder_name, beside=True
            )
            return
        folder = temporary_folder(outlives=False)
        try:
            self._start_here(prepared(self._request, str(folder)))
        except BaseException:
            remove_folder(folder)
            raise

    def _start_here(self, request: ServerRequest) -> None:
        def start() -> PlacedServer:
            bind(self._cpus)
            return self.place.start(request)

        try:  # in a thread of its own, which is bound to other cores than ours
            with ThreadPoolExecutor(1, "ssdag-beside") as pool:
                self.server = pool.submit(start).result()
        except ValueError as error:
            raise ServiceStartError(f"{request.name}: {error}") from error

    def restart(self) -> None:
        """Start it again where it was.

        Raises
        ------
        ServiceStartError
            It did not come back.
        """
        old = self.server
        assert old is not None
        request = dataclasses.replace(self._request, port=old.port, folder=old.folder)
        if isinstance(self.place, NodePlace):
            self.server = self.place.start(request, cpus=self._cpus, beside=True)
        else:
            self._start_here(request)

    def ask(self, words: Sequence[bytes], timeout_s: float) -> str | SsdagError:
        """Send it one command, through its keeper if it is elsewhere; return its answer.

        Returns
        -------
        str or SsdagError
            The answer; ConfigError with the server's words if it refuses, StoreError if
            none comes.
        """
        if isinstance(self.server, RemoteServer):
            return self.server.ask_there(words, timeout_s)
        where = Address.parse(self.ways[1])
        (answer,) = ask([where], [words], self._request.login, timeout_s)
        if isinstance(answer, SsdagError):
            return answer
        if isinstance(answer[0], Exception):
            return ConfigError(str(answer[0]))
        return answer[0].decode("utf-8", "replace") if isinstance(answer[0], bytes) else ""

    def remember(self, line: str) -> None:
        """Have it know one more line of its configuration when it is started again."""
        self._request = dataclasses.replace(self._request, lines=(*self._request.lines, line))

    def end(self) -> None:
        """End it and remove what it left."""
        if self.server is None:
            return
        self.server.end(0.0)
        self.server.clear()
        if not isinstance(self.place, NodePlace):
            remove_folder(Path(self.server.folder))

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.server is not None and self.server.running()

    @property
    def ways(self) -> tuple[str, str, str | None]:
        """Its node, its address there, and its password file there."""
        server = self.server
        assert server is not None
        address = f"unix://{server.socket}" if server.socket else server.address
        return self.node, address, f"{server.folder}/{PASSWORD}" if self._secret else None
