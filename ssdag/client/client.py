# SPDX-License-Identifier: BSD-3-Clause
"""The client of a simulation or of a script: tensors by name on a server."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ssdag.client import npy, tensors
from ssdag.client.address import ENV_PASSWORD_FILE, Address, from_environment
from ssdag.client.pool import Pool
from ssdag.client.resp import command, commands, key_bytes
from ssdag.errors import DataFormatError, DataTimeoutError, SerializationError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    import redis

    from ssdag.client.connection import Connection
    from ssdag.client.npy import Array
    from ssdag.client.slab import Slab

T = TypeVar("T")


class Client:
    """Tensors on a Redis or Valkey server.

    It connects at the first call. Threads may share it (each busy thread has its own
    connection), a forked child may go on using it, and it pickles as the server's
    address and the name of the password file, never as the password.

    Parameters
    ----------
    address : str, optional
        ``host:port``, ``tcp://host:port`` or ``unix://path``; by default the
        environment variable ``SSDB``.
    password : str, optional
        Of the default user. A client with a password given so does not pickle.
    password_file : str or path, optional
        File that holds the password; by default ``SSDAG_PASSWORD_FILE``, if no address
        and no password is given.
    timeout_s : float, optional
        How long the server may be silent in any call, before StoreError; None for ever.

    Raises
    ------
    ConfigError
        No address, or one that is not understood.
    """

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
        return _rebuild, (self.address, self.password_file, self._timeout_s)

    # -- tensors ---------------------------------------------------------------------

    def put_tensor(self, name: str, array: Any) -> None:
        """Store an array under a name, in place of what is there.

        Blocks until the server has it. The value is the array's NPY file: dtype, byte
        order, shape and Fortran order come back as they were.

        Parameters
        ----------
        name : str
            Any text but the empty one.
        array : array_like
            Any shape, also 0-d and empty; any dtype without Python objects. It is
            copied only if it is contiguous in neither order.

        Raises
        ------
        DataFormatError
            The dtype or the name cannot be stored.
        StoreError
            The server cannot be reached or refuses.
        """
        key = key_bytes(name)
        plain = npy.contiguous(array)
        self._run(f"put of tensor {name!r}", lambda c: tensors.put(c, key, plain))

    def get_tensor(self, name: str, *, out: Array | None = None, slab: Slab | None = None) -> Array:
        """Return a stored array, or a part of it. Blocks while it travels.

        Parameters
        ----------
        name : str
            What it was stored as.
        out : numpy.ndarray, optional
            Writable array of the same dtype and shape that is filled and returned. In
            the order of the stored array (C or Fortran) it is filled in place, without a
            copy. If the server is lost in the middle its contents are undefined.
        slab : int, slice, ``...`` or tuple of them, optional
            Return ``array[slab]``. One range of bytes travels: exactly the part for a
            range along axis 0 (Fortran order: the last axis), else from the first to
            the last element of the part.

        Raises
        ------
        MissingDataError
            Nothing is stored under this name.
        DataFormatError
            The value is no tensor, or `out` or `slab` do not fit it.
        StoreError
            The server cannot be reached or refuses.
        """
        key = key_bytes(name)
        if out is not None and not (isinstance(out, np.ndarray) and out.flags.writeable):
            raise DataFormatError("out= must be a writable numpy array")
        what = f"get of tensor {name!r}"
        if slab is None:
            return self._run(what, lambda c: tensors.get(c, name, key, out))
        return self._run(what, lambda c: tensors.get_slab(c, name, key, slab, out))

    def tensor_exists(self, name: str) -> bool:
        """Return whether something is stored under this name."""
        line = command(b"EXISTS", key_bytes(name))
        return bool(self._run(f"look for tensor {name!r}", lambda c: _call(c, line)))

    def delete_tensor(self, name: str) -> bool:
        """Delete a tensor; return whether there was one.

        It is never sent twice: if the connection breaks before the answer, StoreError
        says so and nobody knows whether it is deleted.
        """
        line = command(b"DEL", key_bytes(name))
        what = f"delete of tensor {name!r}"
        return bool(self._run(what, lambda c: _call(c, line), idempotent=False))

    def wait_tensor(self, name: str, timeout_s: float | None = None) -> None:
        """Block until a tensor of this name is there; at once if it is.

        The server tells when somebody writes it; nothing is polled.

        Parameters
        ----------
        name : str
            The tensor.
        timeout_s : float, optional
            How long to wait at most; None for ever.

        Raises
        ------
        DataTimeoutError
            It did not come in time.
        StoreError
            The server was lost, or sends no notifications.
        """
        if self.tensor_exists(name):
            return
        from ssdag.client.watch import watcher_for

        future = watcher_for(self).watch(name)
        try:
            error = future.exception(timeout_s)
        except TimeoutError:
            raise DataTimeoutError(f"tensor {name!r} did not come within {timeout_s} s") from None
        finally:
            future.cancel()
        if error is not None:
            raise error

    # -- the connection --------------------------------------------------------------

    def ping(self) -> None:
        """Return if the server answers.

        Raises
        ------
        StoreError
            It cannot be reached, or does not let us in.
        """
        self._run("ping", lambda c: _call(c, b"*1\r\n$4\r\nPING\r\n"))

    def call(self, *parts: bytes | str | int, idempotent: bool = False) -> Any:
        """Send any other command and return its reply (bytes, int, str, None, list).

        Raises
        ------
        StoreError
            The server cannot be reached or answers an error.
        """
        line = command(*[p if isinstance(p, bytes) else str(p).encode() for p in parts])
        return self._run(str(parts[0]), lambda c: _call(c, line), idempotent=idempotent)

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

    def clone(self) -> Client:
        """Return another client of the same server, with connections of its own."""
        return Client(
            self.address,
            password=self.given_password,
            password_file=self.password_file,
            timeout_s=self._timeout_s,
        )

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

    def _run(self, what: str, work: Callable[[Connection], T], *, idempotent: bool = True) -> T:
        if self._closed:
            raise StoreError(f"{what}: the client of {self.address} is closed")
        return self._pool.run(what, work, idempotent=idempotent)


def _call(connection: Connection, line: bytes) -> Any:
    connection.send(line)
    return connection.reply()


def _rebuild(address: str, password_file: str | None, timeout_s: float | None) -> Client:
    return Client(address, password_file=password_file, timeout_s=timeout_s)
