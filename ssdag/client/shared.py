# SPDX-License-Identifier: BSD-3-Clause
"""The client that a process has for each server, and references that resolve through it.

A task that gets an orchestrator gets this client; a tensor that a task waits for is
fetched by it. Connecting once per process and not once per task is what makes small
tasks cheap.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from ssdag.client.client import Client
from ssdag.client.losses import explained
from ssdag.errors import MissingDataError
from ssdag.references import Reference

if TYPE_CHECKING:
    from ssdag.client.tensors.npy import Array

_lock = threading.Lock()
_clients: dict[tuple[str, str | None, float | None], Client] = {}


def shared_client(
    address: str, password_file: str | None, timeout_s: float | None = None
) -> Client:
    """Return this process's client of a server; made at the first call.

    Parameters
    ----------
    address, password_file : str
        The server.
    timeout_s : float, optional
        How long the server may be silent; there is a client for each value.
    """
    key = (address, password_file, timeout_s)
    with _lock:
        client = _clients.get(key)
        if client is None:
            client = _clients[key] = Client(
                address, password_file=password_file, timeout_s=timeout_s
            )
            client.shared = True
        return client


def forget_client(address: str, password_file: str | None) -> None:
    """Close the connections of a server that has ended."""
    with _lock:
        gone = [key for key in _clients if key[:2] == (address, password_file)]
        clients = [_clients.pop(key) for key in gone]
    for client in clients:
        client.close()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that does not exist here may have held it


os.register_at_fork(after_in_child=_after_fork)


class ClientReference(Reference):
    """Stands for a connected client; resolves to the shared one of the process.

    Attributes
    ----------
    address : str
        The server.
    password_file : str or None
        Where its password is.
    timeout_s : float or None
        How long it may be silent.
    """

    __slots__ = ("address", "password_file", "timeout_s")

    def __init__(
        self, address: str, password_file: str | None, timeout_s: float | None = None
    ) -> None:
        self.address = address
        self.password_file = password_file
        self.timeout_s = timeout_s

    def resolve(self) -> Client:
        """Return the shared client; it connects when first used."""
        return shared_client(self.address, self.password_file, self.timeout_s)

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return self.address, self.password_file, self.timeout_s

    def __ssdag_hash__(self) -> bytes:
        # Where data is kept does not tell calls apart: the server is another in each run.
        return b"client"

    def __repr__(self) -> str:
        return f"<ClientReference {self.address}>"


class TensorReference(Reference):
    """Stands for a stored tensor; resolves by fetching it.

    Attributes
    ----------
    address, password_file : str
        The server.
    name : str
        The tensor.
    timeout_s : float or None
        How long the server may be silent.
    """

    __slots__ = ("address", "name", "password_file", "timeout_s")

    def __init__(
        self, address: str, password_file: str | None, name: str, timeout_s: float | None = None
    ) -> None:
        self.address = address
        self.password_file = password_file
        self.name = name
        self.timeout_s = timeout_s

    def resolve(self) -> Array:
        """Fetch the tensor; blocks while it travels.

        Raises
        ------
        MissingDataError
            It was deleted meanwhile, or lost with its server: the text says so.
        StoreError
            The server cannot be reached.
        """
        client = shared_client(self.address, self.password_file, self.timeout_s)
        try:
            return client.get_tensor(self.name)
        except MissingDataError as error:
            raise explained(client, self.name, error) from None

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return self.address, self.password_file, self.name, self.timeout_s

    def __repr__(self) -> str:
        return f"<TensorReference {self.name!r} at {self.address}>"
