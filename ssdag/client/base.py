# SPDX-License-Identifier: BSD-3-Clause
"""What all parts of a client share: where the server is, and sending commands to it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from ssdag.client.address import ENV_PASSWORD_FILE, Address, from_environment
from ssdag.client.pool import Pool
from ssdag.client.prefixes import Kind, Prefixes
from ssdag.client.resp import command, commands, key_bytes
from ssdag.errors import SerializationError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    import redis

    from ssdag.client.connection import Connection

T = TypeVar("T")


class ClientBase:
    """Where the server is, and sending commands to it; see :class:`ssdag.Client`."""

    def __init__(
        self,
        address: str | None = None,
        *,
        password: str | None = None,
        password_file: str | os.PathLike[str] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        if password_file is None and password is None and address is None:
            password_file = os.environ.get(ENV_PASSWORD_FILE) or None
        self.password_file = None if password_file is None else os.fspath(password_file)
        self._address = Address.parse(from_environment() if address is None else address)
        self._timeout_s = timeout_s
        self._pool = Pool(self._address, password, self.password_file, timeout_s)
        self._lock = threading.Lock()
        self._redis: tuple[int, redis.Redis] | None = None
        #: Which prefixes names get, and for what.
        self.prefixes = Prefixes.from_environment() if address is None else Prefixes()
        self._closed = False
        #: Set on the client that a process shares: closing it frees connections only.
        self.shared = False

    @property
    def address(self) -> str:
        """Where the server is, in the form that the constructor takes."""
        return str(self._address)

    @property
    def given_password(self) -> str | None:
        """The password that the constructor was given; None if it is in a file."""
        return self._pool.given_password

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

    def call(self, *parts: bytes | str | int, idempotent: bool = False) -> Any:
        """Send any other command and return its reply (bytes, int, str, None, list).

        Raises
        ------
        StoreError
            The server cannot be reached or answers an error.
        """
        line = command(*[p if isinstance(p, bytes) else str(p).encode() for p in parts])
        return self._run(str(parts[0]), lambda c: call(c, line), idempotent=idempotent)

    def call_many(self, lines: Sequence[Sequence[bytes]]) -> list[Any]:
        """Send commands in one go and return their replies; errors are among the values.

        All of them must be idempotent: they are sent again if the connection breaks.

        Raises
        ------
        StoreError
            The server cannot be reached.
        """
        data = commands(lines)

        def work(connection: Connection) -> list[Any]:
            connection.send(data, replies=len(lines))
            return list(connection.replies(len(lines)))

        return self._run(f"{len(lines)} commands", work)

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

        Its calls wait for ever, so that blocking commands work.
        """
        with self._lock:
            if self._redis is None or self._redis[0] != os.getpid():
                import redis

                password = self._pool.password()
                if self._address.path:
                    made = redis.Redis(
                        unix_socket_path=self._address.path, password=password, socket_timeout=None
                    )
                else:
                    made = redis.Redis(
                        self._address.host,
                        self._address.port,
                        password=password,
                        socket_timeout=None,
                    )
                self._redis = (os.getpid(), made)
            return self._redis[1]

    def connect(self) -> Connection:
        """Return a new connection of its own, for who must hold one; the caller closes it."""
        return self._pool.connect()

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
        self._pool.close()
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

    def _run(
        self,
        what: str,
        work: Callable[[Connection], T],
        *,
        key: bytes | None = None,
        idempotent: bool = True,
    ) -> T:
        """Run `work` with a connection to the server that has `key`; see :class:`Pool`."""
        if self._closed:
            raise StoreError(f"{what}: the client of {self.address} is closed")
        return self._pool.run(what, work, key=key, idempotent=idempotent)


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
