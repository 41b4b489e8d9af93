# SPDX-License-Identifier: BSD-3-Clause
"""References to what is stored: the results of futures of data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssdag.client.losses import explained
from ssdag.client.shared import ClientReference
from ssdag.errors import MissingDataError
from ssdag.references import Reference

if TYPE_CHECKING:
    from ssdag.client.base import ClientBase


class StoredReference(Reference):
    """Stands for what a call of a client returns; resolves by calling it.

    Where it is unpickled the call is made by that process's client of the server.

    Attributes
    ----------
    client : Client
        Who fetches it.
    call : str
        Name of the method, such as ``get_dataset``.
    args : tuple
        What it is called with.
    options : dict
        And by name.
    prefix : str
        Of the names, in place of what the client has; None for the client's own.
    """

    __slots__ = ("args", "call", "client", "options", "prefix")

    def __init__(
        self,
        client: ClientBase,
        call: str,
        args: tuple[Any, ...],
        prefix: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.client = client
        self.call = call
        self.args = args
        self.prefix = prefix
        self.options = options or {}

    def resolve(self) -> Any:
        """Fetch it; blocks while it travels.

        Raises
        ------
        MissingDataError
            It was deleted meanwhile, or lost with its server: the text says so.
        StoreError
            The server cannot be reached.
        """
        try:
            if self.prefix is None or self.prefix == self.client.prefixes.source:
                return getattr(self.client, self.call)(*self.args, **self.options)
            with self.client.clone() as client:
                client.prefixes.source = self.prefix
                return getattr(client, self.call)(*self.args, **self.options)
        except MissingDataError as error:
            raise explained(self.client, self.args[0], error) from None

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        client = self.client
        # One client per process and server, where any of them would do.
        plain = client.given_password is None and not client.prefixes.sources
        if plain and not client.prefixes.source:
            where = ClientReference(client.address, client.password_file, client._timeout_s)
            return where, self.call, self.args, self.prefix, self.options
        return client, self.call, self.args, self.prefix, self.options

    def __repr__(self) -> str:
        return f"<StoredReference {self.call}{self.args!r} at {self.client.address}>"
