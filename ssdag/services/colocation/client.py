# SPDX-License-Identifier: BSD-3-Clause
"""The client of a colocated orchestrator: in each process that of its node's server."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, cast

from ssdag.client.client import Client
from ssdag.errors import StoreError
from ssdag.references import Reference
from ssdag.services.servers.node_facts import is_here, node_name
from ssdag.wire.context import in_worker

if TYPE_CHECKING:
    from ssdag.client.transport.route import Route

_lock = threading.Lock()
_clients: dict[ColocatedReference, ColocatedClient] = {}


class ColocatedReference(Reference):
    """Stands for the server of whatever node it is resolved on.

    Attributes
    ----------
    name : str
        Of the orchestrator, for messages.
    servers : tuple of (str, str, str or None)
        Node, address and password file of each.
    onward : str
        How a worker on another node starts a server there; see
        :mod:`ssdag.services.colocation.onward`. Empty: it does not.
    timeout_s : float or None
        How long the server may be silent.
    """

    __slots__ = ("name", "onward", "servers", "timeout_s")

    def __init__(
        self,
        name: str,
        servers: tuple[tuple[str, str, str | None], ...],
        onward: str = "",
        timeout_s: float | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self.name = name
        self.servers = servers
        self.onward = onward

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ColocatedReference):
            return NotImplemented
        return self.__ssdag_parts__() == other.__ssdag_parts__()

    def __hash__(self) -> int:
        return hash(self.__ssdag_parts__())

    def here(self) -> tuple[str, str | None] | None:
        """Return address and password file of this node's server; None if it has none.

        In a worker elsewhere it may be started by that, which blocks.
        """
        name = node_name()
        exact = [ways for ways in self.servers if ways[0] == name]
        near = exact or [ways for ways in self.servers if is_here(ways[0])]
        found = near[0][1:] if near else None
        if found is None and self.onward and in_worker():
            from ssdag.services.colocation.onward import server_here

            return server_here(self.onward)
        return found

    def resolve(self) -> ColocatedClient:
        """Return this process's client of the server of its node.

        On a node without one (that of the driver may be no node of the allocation) its
        calls raise StoreError; it can be sent on to where there is one.
        """
        with _lock:
            client = _clients.get(self)
            if client is None:  # starting a server blocks; others here wait for the same
                client = _clients[self] = ColocatedClient(self)
                client.shared = True
            return client

    def forget(self) -> None:
        """Close this process's client: the servers have ended."""
        with _lock:
            client = _clients.pop(self, None)
        if client is not None:
            client.close()

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return self.name, self.servers, self.onward, self.timeout_s

    def __ssdag_hash__(self) -> bytes:
        return b"client"  # as of any other orchestrator: the servers are others in each run

    def __repr__(self) -> str:
        return f"<ColocatedReference {self.name!r} on {len(self.servers)} nodes>"


class ColocatedClient(Client):
    """A client of the server of this node, on every node; see :class:`~ssdag.Client`."""

    def __init__(self, reference: ColocatedReference) -> None:
        self.reference = reference
        found = reference.here()
        address, password_file = found or reference.servers[0][1:]
        super().__init__(address, password_file=password_file, timeout_s=reference.timeout_s)
        if found is None:
            self._route = cast("Route", _NoRoute(reference))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reference.__reduce__()

    def clone(self) -> Client:  # type: ignore[override]
        """Return another client of the same server, with connections of its own."""
        made = Client(self.address, password_file=self.password_file, timeout_s=self._timeout_s)
        made.prefixes = self.prefixes.copy()
        return made


class _NoRoute:
    """The way to a server that this node has not."""

    def __init__(self, reference: ColocatedReference) -> None:
        self._reference = reference

    def release(self) -> None:
        """Close what is not there."""

    def __getattr__(self, name: str) -> Any:
        nodes = [node for node, _, _ in self._reference.servers]
        error = StoreError(
            f"{self._reference.name!r} has no server on {node_name()}; it has on "
            f"{', '.join(nodes[:8])}{' ...' if len(nodes) > 8 else ''}"
        )
        error.transient = False
        raise error


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that does not exist here may have held it


os.register_at_fork(after_in_child=_after_fork)
