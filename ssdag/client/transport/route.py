# SPDX-License-Identifier: BSD-3-Clause
"""From a key to the server that has it, and the rule by which a command is repeated.

A command is sent again, once, on a new connection, if it is idempotent or was never
sent. That a server is silent for too long ends it in any case.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

from ssdag.client.transport.pool import Access, Pool
from ssdag.client.transport.resp import ConnectionLostError, ReplyError, explain
from ssdag.errors import DataTimeoutError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.client.transport.address import Address
    from ssdag.client.transport.connection import Connection
    from ssdag.errors import SsdagError

T = TypeVar("T")


class Route(ABC):
    """Where commands go.

    Parameters
    ----------
    access : Access
        How to get in.
    """

    def __init__(self, access: Access) -> None:
        self.access = access

    @abstractmethod
    def run(
        self,
        what: str,
        work: Callable[[Connection], T],
        *,
        key: bytes | None = None,
        idempotent: bool = True,
    ) -> T:
        """Run `work` with a connection to who has `key`, and return its value.

        Parameters
        ----------
        what : str
            Said in errors, such as ``put of tensor 'x'``.
        work : callable
            Sends whole commands and reads whole replies, all about keys of one slot. It
            may be called again if `idempotent`, and if the server sends it elsewhere: so
            what is not idempotent must be one command, or one transaction.
        key : bytes, optional
            The key that it is about; None for what any server can do.
        idempotent : bool
            Whether doing it twice is the same as once.

        Raises
        ------
        StoreError
            The server cannot be reached, hung up twice, or refused.
        DataTimeoutError
            It was silent until after the deadline of the call, if that has one.
        DataError
            Under the name is another kind of value.
        """

    @abstractmethod
    def run_many(
        self,
        what: str,
        keys: Sequence[bytes | None],
        send: Callable[[Connection, Sequence[int]], None],
        receive: Callable[[Connection, Sequence[int]], Sequence[Any]],
        *,
        idempotent: bool = True,
    ) -> list[Any]:
        """Do something for many keys, those of a server in one go; values in order.

        Parameters
        ----------
        what : str
            Said in errors.
        keys : sequence of bytes or None
            The key that each item is about.
        send : callable
            ``send(connection, items)`` sends the commands of these items, by their
            places in `keys`.
        receive : callable
            ``receive(connection, items)`` reads their replies and returns a value for
            each; where the server refused, the ReplyError.
        idempotent : bool
            Whether doing an item twice is the same as once.

        Returns
        -------
        list
            A value or a ReplyError for each key.

        Raises
        ------
        StoreError
            A server cannot be reached; what others did is done.
        """

    @abstractmethod
    def run_each(
        self,
        what: str,
        work: Callable[[Connection], T],
        nodes: Sequence[Address] | None = None,
        *,
        idempotent: bool = True,
    ) -> list[tuple[Address, T]]:
        """Run `work` on every server that has keys, one after the other; who gave what.

        Parameters
        ----------
        what : str
            Said in errors.
        work : callable
            As for :meth:`run`.
        nodes : sequence of Address, optional
            Only on these.
        idempotent : bool
            Whether doing it twice is the same as once.

        Raises
        ------
        StoreError
            One of them cannot be reached or refused.
        """

    @abstractmethod
    def connect(self, node: Address | None = None) -> Connection:
        """Return a new connection, to any server or to this one; the caller owns it."""

    @abstractmethod
    def nodes(self) -> list[Address]:
        """Return the servers that have keys; may ask one of them."""

    @abstractmethod
    def node_of(self, key: bytes) -> Address:
        """Return the server that has a key, as far as is known; may ask one of them."""

    @property
    def version(self) -> int:
        """Counts how often the servers or their slots were seen to change."""
        return 0

    @abstractmethod
    def refresh(self) -> None:
        """Ask who has which slots; nothing to do for a single server."""

    @abstractmethod
    def release(self) -> None:
        """Close idle connections."""


class OneServer(Route):
    """A single server that has all keys.

    Parameters
    ----------
    address : Address
        The server.
    access : Access
        How to get in.
    """

    def __init__(self, address: Address, access: Access) -> None:
        super().__init__(access)
        self._pool = Pool(address, access)

    def run(
        self,
        what: str,
        work: Callable[[Connection], T],
        *,
        key: bytes | None = None,
        idempotent: bool = True,
    ) -> T:
        """Run `work` with a connection; see :meth:`Route.run`."""
        pool = self._pool
        connection = pool.take(checked=not idempotent)
        try:
            return pool.use(connection, work)
        except ReplyError as error:
            raise explain(error, str(pool.address), what) from None
        except ConnectionLostError as error:
            if error.timed_out or not idempotent:
                raise ended(error, what) from error
        return run_again(pool, what, work)

    def run_many(
        self,
        what: str,
        keys: Sequence[bytes | None],
        send: Callable[[Connection, Sequence[int]], None],
        receive: Callable[[Connection, Sequence[int]], Sequence[Any]],
        *,
        idempotent: bool = True,
    ) -> list[Any]:
        """Send all, then read all; see :meth:`Route.run_many`."""
        items = range(len(keys))

        def work(connection: Connection) -> list[Any]:
            send(connection, items)
            return list(receive(connection, items))

        return self.run(what, work, idempotent=idempotent) if items else []

    def run_each(
        self,
        what: str,
        work: Callable[[Connection], T],
        nodes: Sequence[Address] | None = None,
        *,
        idempotent: bool = True,
    ) -> list[tuple[Address, T]]:
        """Run `work` on the server."""
        times = 1 if nodes is None else len(nodes)
        address = self._pool.address
        return [(address, self.run(what, work, idempotent=idempotent)) for _ in range(times)]

    def connect(self, node: Address | None = None) -> Connection:
        """Return a new connection; the caller owns it."""
        return self._pool.connect()

    def nodes(self) -> list[Address]:
        """Return the one server."""
        return [self._pool.address]

    def node_of(self, key: bytes) -> Address:
        """Return the one server."""
        return self._pool.address

    def refresh(self) -> None:
        """Do nothing: it has all keys."""

    def release(self) -> None:
        """Close idle connections."""
        self._pool.drop()


def run_again(pool: Pool, what: str, work: Callable[[Connection], T]) -> T:
    """Run `work` on a new connection after another was lost under it.

    Raises
    ------
    StoreError
        It is lost too, or nobody listens any more.
    """
    try:
        connection = pool.connect()
    except StoreError as error:
        raise told(error, what) from error
    try:
        return pool.use(connection, work)
    except ReplyError as error:
        raise explain(error, str(pool.address), what) from None
    except ConnectionLostError as error:
        raise ended(error, what, ", for the second time") from error


def ended(error: ConnectionLostError, what: str, more: str = "") -> SsdagError:
    """Return the error of a call that ends because its connection did."""
    if error.late:
        return DataTimeoutError(f"{what}: {error}")
    return StoreError(f"{what}: {error}{more}")


def told(error: StoreError, what: str) -> StoreError:
    """Return the same error with what was tried in front."""
    made = StoreError(f"{what}: {error}")
    made.transient = error.transient
    return made
