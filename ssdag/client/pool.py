# SPDX-License-Identifier: BSD-3-Clause
"""Connections of one client, and the rule by which a command is repeated.

A connection serves one thread at a time; as many are open as threads were busy at once.
After a fork the child starts with none. A command is repeated once, on a new
connection, if it is idempotent or was never sent; a connection that still owes a reply
is closed, so that nobody ever reads half of an earlier answer.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

from ssdag.client.address import read_password
from ssdag.client.connection import Connection
from ssdag.client.resp import ConnectionLostError, ReplyError, explain
from ssdag.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.client.address import Address

T = TypeVar("T")

#: Idle connections beyond this are closed.
_KEEP = 8


class Pool:
    """Connections to one server.

    Parameters
    ----------
    address : Address
        The server.
    password : str or None
        Of the default user.
    password_file : str or None
        Where the password is read from, anew for each connection.
    timeout_s : float or None
        As in :class:`~ssdag.client.connection.Connection`.
    """

    def __init__(
        self,
        address: Address,
        password: str | None,
        password_file: str | None,
        timeout_s: float | None,
    ) -> None:
        self.address = address
        self.given_password = password
        self._password_file = password_file
        self._timeout_s = timeout_s
        self._idle: list[Connection] = []
        self._pid = os.getpid()

    def password(self) -> str | None:
        """Return the password, read from its file if it has one."""
        if self._password_file is not None:
            return read_password(self._password_file)
        return self.given_password

    def connect(self) -> Connection:
        """Return a new connection; the caller owns it.

        Raises
        ------
        StoreError
            The server cannot be reached or does not let us in.
        """
        return Connection(self.address, self.password(), self._timeout_s)

    def close(self) -> None:
        """Close what is idle; connections in use are closed as they come back."""
        self._drop_idle()

    def __del__(self) -> None:
        if hasattr(self, "_idle"):
            self._drop_idle()

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> tuple[Connection, bool]:
        """Return a connection and whether it was used before."""
        if self._pid != os.getpid():
            # The parent talks on these sockets: closing our copies leaves them alone.
            self._drop_idle()
            self._pid = os.getpid()
        try:
            return self._idle.pop(), True
        except IndexError:
            return self.connect(), False

    def _give(self, connection: Connection) -> None:
        if connection.owed or connection.buffered or len(self._idle) >= _KEEP:
            connection.close()
        else:
            self._idle.append(connection)

    def run(
        self,
        what: str,
        work: Callable[[Connection], T],
        *,
        key: bytes | None = None,
        idempotent: bool = True,
    ) -> T:
        """Run `work` with a connection and return its value.

        Parameters
        ----------
        what : str
            Said in errors, such as ``put of tensor 'x'``.
        work : callable
            Sends and reads whole replies. It may be called twice if `idempotent`.
        key : bytes, optional
            The key that it is about; a single server has them all.
        idempotent : bool
            Whether doing it twice is the same as once.

        Raises
        ------
        StoreError
            The server cannot be reached, hung up twice, or refused.
        DataError
            Under the name is another kind of value.
        """
        connection, used = self._take()
        if used and not idempotent and not connection.is_alive():
            # It ended while idle, so nothing of this command was sent yet.
            connection.close()
            self._drop_idle()
            connection = self.connect()
        try:
            return work(connection)
        except ReplyError as error:
            raise explain(error, str(self.address), what) from None
        except ConnectionLostError as error:
            connection.close()
            self._drop_idle()  # they are as old, and most likely as dead
            if error.timed_out or not idempotent:
                raise StoreError(f"{what}: {error}") from error
        finally:
            self._give(connection)
        return self._again(what, work)

    def _again(self, what: str, work: Callable[[Connection], T]) -> T:
        try:
            connection = self.connect()
        except StoreError as error:
            raise StoreError(f"{what}: {error}") from error
        try:
            return work(connection)
        except ReplyError as error:
            raise explain(error, str(self.address), what) from None
        except ConnectionLostError as error:
            raise StoreError(f"{what}: {error}, for the second time") from error
        finally:
            self._give(connection)
