# SPDX-License-Identifier: BSD-3-Clause
"""Connections of one client to one server.

A connection serves one thread at a time; as many are open as threads were busy at once.
After a fork the child starts with none. A connection that still owes a reply is closed,
so that nobody ever reads half of an earlier answer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ssdag.client.transport.address import read_password
from ssdag.client.transport.connection import Connection
from ssdag.client.transport.resp import ConnectionLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.client.transport.address import Address

T = TypeVar("T")

#: Idle connections beyond this are closed.
_KEEP = 8


@dataclass(frozen=True, slots=True)
class Access:
    """How a client gets in, and how patient it is.

    Attributes
    ----------
    given_password : str or None
        Of the default user.
    password_file : str or None
        Where the password is read from, anew for each connection.
    timeout_s : float or None
        How long a server may be silent; None for ever.
    connect_s : float or None
        How long connecting may take; None for as long as `timeout_s`.
    counts : callable or None
        Asked whether a silent server is still worth waiting for.
    """

    given_password: str | None = field(default=None, repr=False)
    password_file: str | None = None
    timeout_s: float | None = None
    connect_s: float | None = None
    counts: Callable[[Address], bool] | None = None

    def password(self) -> str | None:
        """Return the password, read from its file if it has one.

        Raises
        ------
        StoreError
            The file cannot be read.
        """
        if self.password_file is not None:
            return read_password(self.password_file)
        return self.given_password


class Pool:
    """Connections to one server.

    Parameters
    ----------
    address : Address
        The server.
    access : Access
        How to get in.
    kind : type
        Of the connections.
    """

    def __init__(
        self, address: Address, access: Access, kind: type[Connection] = Connection
    ) -> None:
        self.kind = kind
        self.address = address
        self.access = access
        self._idle: list[Connection] = []
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<Pool {self.address}>"

    def connect(self) -> Connection:
        """Return a new connection; the caller owns it.

        Raises
        ------
        StoreError
            The server cannot be reached or does not let us in.
        """
        access = self.access
        return self.kind(
            self.address, access.password(), access.timeout_s, access.connect_s, access.counts
        )

    def drop(self) -> None:
        """Close what is idle; connections in use are closed as they come back."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __del__(self) -> None:
        if hasattr(self, "_idle"):
            self.drop()

    def take(self, *, checked: bool = False) -> Connection:
        """Return an idle connection or a new one; the caller gives it back.

        Parameters
        ----------
        checked : bool
            Look whether the server has ended it meanwhile: for what must not be sent
            into nowhere.
        """
        if self._pid != os.getpid():
            # The parent talks on these sockets: closing our copies leaves them alone.
            self.drop()
            self._pid = os.getpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            return self.connect()
        if checked and not connection.is_alive():
            connection.close()
            self.drop()
            return self.connect()
        connection.heed()
        return connection

    def give(self, connection: Connection) -> None:
        """Take a connection back; it is kept only if it is in step."""
        if (
            connection.owed
            or connection.buffered
            or connection.fileno() < 0
            or len(self._idle) >= _KEEP
        ):
            connection.close()
        else:
            self._idle.append(connection)

    def use(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        """Run `work` once with a connection that was taken here, and give that back.

        Raises
        ------
        ReplyError
            The server refused.
        ConnectionLostError
            It hung up or was silent too long; the others that idle are closed too, as
            they are as old, and most likely as dead.
        """
        try:
            return work(connection)
        except ConnectionLostError:
            connection.close()
            self.drop()
            raise
        finally:
            self.give(connection)
