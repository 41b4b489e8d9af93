# SPDX-License-Identifier: BSD-3-Clause
"""What all parts of a client share: where the server is, and sending commands to it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from ssdag.client.prefixes import Kind, Prefixes
from ssdag.client.transport.address import ENV_PASSWORD_FILE, Place, from_environment
from ssdag.client.transport.pool import Access
from ssdag.client.transport.resp import command, commands, key_bytes
from ssdag.client.transport.route import OneServer
from ssdag.client.transport.slots import key_of
from ssdag.errors import ConfigError, SerializationError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    import redis

    from ssdag.client.transport.address import Address
    from ssdag.client.transport.connection import Connection
    from ssdag.client.transport.route import Route

T = TypeVar("T")

#: How long connecting to a node of a cluster may take: another one may be able to serve.
_CONNECT_S = 5.0


class ClientBase:
    """Where the server is, and sending commands to it; see :class:`ssdag.Client`."""

    def __init__(
        self,
        address: str | None = None,
        *,
        password: str | None = None,
        password_file: str | os.PathLike[str] | None = None,
        timeout_s: float | None = None,
        cluster: bool | None = None,
        identifier: str = "",
    ) -> None:
        if address is None:
            place = from_environment(identifier)
            if cluster is not None:
                place = Place.parse(str(place), cluster)
            self.prefixes = Prefixes.from_environment(identifier)
            if password_file is None and password is None:
                end = f"_{identifier}" if identifier else ""
                password_file = os.environ.get(ENV_PASSWORD_FILE + end) or None
        else:
            if identifier:
                raise ConfigError("give address= or identifier=, which reads it, but not both")
            place = Place.parse(address, cluster)
            #: Which prefixes names get, and for what.
            self.prefixes = Prefixes()
        self.password_file = None if password_file is None else os.fspath(password_file)
        self._place = place
        self._timeout_s = timeout_s
        self._access = Access(
            password, self.password_file, timeout_s, _CONNECT_S if place.clustered else None
        )
        self._route: Route
        if place.clustered:
            from ssdag.client.transport.cluster import Cluster

            self._route = Cluster(place.addresses, self._access)
        else:
            self._route = OneServer(place.addresses[0], self._access)
        self._lock = threading.Lock()
        self._redis: tuple[int, Any] | None = None
        self._closed = False
        #: Set on the client that a process shares: closing it frees connections only.
        self.shared = False

    @property
    def address(self) -> str:
        """Where the server or the cluster is, in the form that the constructor takes."""
        return str(self._place)

    @property
    def clustered(self) -> bool:
        """Whether it is a cluster."""
        return self._place.clustered

    @property
    def given_password(self) -> str | None:
        """The password that the constructor was given; None if it is in a file."""
        return self._access.given_password

    def __repr__(self) -> str:
        return f"<Client {self.address}{' closed' if self._closed else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.given_password is not None:
            raise SerializationError(
                "a client that was given a password does not pickle, so that the password "
                "stays here: give it password_file= instead"
            )
        return _rebuild, (
            type(self),
            self.address,
            self.password_file,
            self._timeout_s,
            self.prefixes,
        )

    # -- names ------------------------------------------------------------------------

    def _written(self, kind: Kind, name: object) -> bytes:
        """Return the key under which a name is written."""
        plain = key_bytes(name)
        return key_bytes(self.prefixes.write(kind, str(name))) if self.prefixes.out else plain

    def _read(self, kind: Kind, name: object) -> bytes:
        """Return the key under which a name is read."""
        plain = key_bytes(name)
        return key_bytes(self.prefixes.read(kind, str(name))) if self.prefixes.source else plain

    # -- the connection --------------------------------------------------------------

    def ping(self) -> None:
        """Return if the server answers.

        Raises
        ------
        StoreError
            It cannot be reached, or does not let us in.
        """
        self._run("ping", lambda c: call(c, b"*1\r\n$4\r\nPING\r\n"))

    def call(
        self, *parts: bytes | str | int, idempotent: bool = False, key: bytes | None = None
    ) -> Any:
        """Send any other command and return its reply (bytes, int, str, None, list).

        Parameters
        ----------
        *parts : bytes, str or int
            The command's words.
        idempotent : bool
            Whether it may be sent again if the connection breaks under it.
        key : bytes, optional
            What it is about, so that a cluster can route it; by default, its key as the
            usual commands have it (mostly the second word).

        Raises
        ------
        StoreError
            The server cannot be reached or answers an error.
        """
        words = [p if isinstance(p, bytes) else str(p).encode() for p in parts]
        line = command(*words)
        if key is None and self._place.clustered:
            key = key_of(words)
        return self._run(str(parts[0]), lambda c: call(c, line), key=key, idempotent=idempotent)

    def call_many(self, lines: Sequence[Sequence[bytes]], *, idempotent: bool = True) -> list[Any]:
        """Send commands in one go and return their replies; errors are among the values.

        In a cluster, each goes to the node that has its key (its second word, for usual
        commands), and those of a node in one go. The order is kept for commands of one
        key only.

        Parameters
        ----------
        lines : sequence of sequence of bytes
            The commands, each about keys of one slot.
        idempotent : bool
            Whether they may be sent again if the connection breaks. If not, StoreError
            leaves open which of them were done.

        Raises
        ------
        StoreError
            The server cannot be reached.
        """
        keys = [key_of(line) for line in lines] if self._place.clustered else [None] * len(lines)

        def send(connection: Connection, items: Sequence[int]) -> None:
            connection.send(commands([lines[i] for i in items]), replies=len(items))

        def receive(connection: Connection, items: Sequence[int]) -> Sequence[Any]:
            return connection.replies(len(items))

        return self._run_many(f"{len(lines)} commands", keys, send, receive, idempotent=idempotent)

    def clone(self) -> Self:
        """Return another client of the same server, with connections of its own."""
        made = type(self)(
            self.address,
            password=self.given_password,
            password_file=self.password_file,
            timeout_s=self._timeout_s,
        )
        made.prefixes = self.prefixes.copy()
        return made

    @property
    def redis(self) -> redis.Redis:
        """A redis-py client of the same server, for everything else.

        Its calls wait for ever, so that blocking commands work. For a cluster it is a
        ``redis.RedisCluster``.
        """
        with self._lock:
            if self._redis is None or self._redis[0] != os.getpid():
                from ssdag.client.redispy import redis_client

                self._redis = (os.getpid(), redis_client(self._place, self._access.password()))
            made: redis.Redis = self._redis[1]
            return made

    # -- the nodes -------------------------------------------------------------------

    def connect(self, node: Address | None = None) -> Connection:
        """Return a new connection, for who must hold one; the caller closes it.

        Parameters
        ----------
        node : Address, optional
            One of :meth:`nodes`; by default any.
        """
        return self._route.connect(node)

    def nodes(self) -> list[Address]:
        """Return the servers that have keys: one, or the primaries of the cluster."""
        return self._route.nodes()

    def node_of(self, key: bytes) -> Address:
        """Return the server that has a key, as far as is known now."""
        return self._route.node_of(key)

    @property
    def topology_version(self) -> int:
        """Counts how often the cluster's nodes or their slots were seen to change."""
        return self._route.version

    def refresh(self) -> None:
        """Ask the cluster who has which slots; calls do so by themselves where needed."""
        self._route.refresh()

    @property
    def closed(self) -> bool:
        """Whether it was closed for good."""
        return self._closed

    def close(self) -> None:
        """Close the connections; later calls raise StoreError.

        The client that a task gets from the orchestrator is shared by its process: of
        that one only idle connections are closed, and it goes on working.
        """
        self._closed = not self.shared
        self.release()

    def release(self) -> None:
        """Close the idle connections; the next call connects anew."""
        self._route.release()
        with self._lock:
            made, self._redis = self._redis, None
        if made is not None and made[0] == os.getpid():
            made[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- for the parts of the client ---------------------------------------------------

    def _run(
        self,
        what: str,
        work: Callable[[Connection], T],
        *,
        key: bytes | None = None,
        idempotent: bool = True,
    ) -> T:
        """Run `work` with a connection to the server that has `key`; see :meth:`Route.run`."""
        if self._closed:
            raise self._is_closed(what)
        return self._route.run(what, work, key=key, idempotent=idempotent)

    def _run_many(
        self,
        what: str,
        keys: Sequence[bytes | None],
        send: Callable[[Connection, Sequence[int]], None],
        receive: Callable[[Connection, Sequence[int]], Sequence[Any]],
        *,
        idempotent: bool = True,
    ) -> list[Any]:
        """Do something for many keys, those of a server in one go; see :meth:`Route.run_many`."""
        if self._closed:
            raise self._is_closed(what)
        return self._route.run_many(what, keys, send, receive, idempotent=idempotent)

    def _run_each(
        self,
        what: str,
        work: Callable[[Connection], T],
        nodes: Sequence[Address] | None = None,
        *,
        idempotent: bool = True,
    ) -> list[tuple[Address, T]]:
        """Run `work` on every server that has keys; see :meth:`Route.run_each`."""
        if self._closed:
            raise self._is_closed(what)
        return self._route.run_each(what, work, nodes, idempotent=idempotent)

    def _is_closed(self, what: str) -> StoreError:
        return StoreError(f"{what}: the client of {self.address} is closed")


def call(connection: Connection, line: bytes) -> Any:
    """Send one command and return its reply."""
    connection.send(line)
    return connection.reply()


def _rebuild(
    cls: type[ClientBase],
    address: str,
    password_file: str | None,
    timeout_s: float | None,
    prefixes: Prefixes,
) -> ClientBase:
    client = cls(address, password_file=password_file, timeout_s=timeout_s)
    client.prefixes = prefixes
    return client
