# SPDX-License-Identifier: BSD-3-Clause
"""A connector whose values are strings on the orchestrator's server, or on its shards."""

from __future__ import annotations

import contextlib
import re
import secrets
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ssdag.client.base import call
from ssdag.client.client import Client
from ssdag.client.shared import shared_client
from ssdag.client.transport.deadline import Deadline
from ssdag.client.transport.resp import ReplyError, command, commands, explain
from ssdag.connectors.base import Connector, as_views, check_key, missing
from ssdag.connectors.filesystem import machine
from ssdag.connectors.memory import fresh
from ssdag.connectors.places import key_of, matching, place_of
from ssdag.errors import ConfigError, DataTimeoutError, SerializationError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ssdag.client.transport.connection import Connection
    from ssdag.connectors.base import Buffer, Scope

_NAME = re.compile(r"[A-Za-z0-9_.@/-]{1,64}")

#: Commands in one message.
_BATCH = 500
#: How long the server keeps what a task has claimed that was killed then.
_CLAIM_S = 3600
#: Keys that one step of a scan looks at.
_STEP = 1000


class _Service(Protocol):
    """What of an orchestrator is needed here."""

    def client(self) -> Client: ...


class RedisConnector(Connector):
    """Values on a Redis or Valkey server, one or a cluster.

    Parameters
    ----------
    server : Client, Orchestrator or str
        A client, an orchestrator (which is started when the connector is first used or
        pickled), or an address as :class:`~ssdag.Client` takes it.
    name : str
        Keeps the keys of connectors on one server apart.
    password_file : path, optional
        Where the password is, for an address.

    Raises
    ------
    ConfigError
        The name or the address cannot be one.
    """

    kind = "redis"

    def __init__(
        self,
        server: Client | _Service | str,
        name: str = "store",
        *,
        password_file: str | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"name={name!r}: 1 to 64 letters, digits and _ . @ / - are possible")
        self._name = name
        self._service: _Service | None = None
        self._made: Client | None = None
        if isinstance(server, str):
            self._made = shared_client(server, password_file)
        elif isinstance(server, Client):
            self._made = server
        elif callable(getattr(server, "client", None)):
            self._service = server
        else:
            raise ConfigError(f"a client, an orchestrator or an address is needed, not {server!r}")

    @property
    def _client(self) -> Client:
        if self._service is not None:
            return self._service.client()
        assert self._made is not None
        return self._made

    @property
    def scope(self) -> Scope:
        """``node`` if the server is reached by a unix socket or on loopback, else ``network``."""
        address = self._client.address
        if address.startswith("unix:") or re.match(r"(tcp://)?(127\.|localhost:|\[?::1)", address):
            return "node"
        return "network"

    def __repr__(self) -> str:
        where = self._service if self._service is not None else self._made
        return f"<RedisConnector {self._name!r} at {getattr(where, 'address', where)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        client = self._client
        if client.given_password is not None:
            raise SerializationError(
                "a connector whose client was given a password does not pickle, so that the "
                "password stays here: give the client password_file= instead"
            )
        where = machine() if self.scope == "node" else ""
        return _reopen, (
            client.address,
            client.password_file,
            self._name,
            where,
            client._timeout_s,
        )

    def __ssdag_hash__(self) -> bytes:
        # Where data are kept does not tell calls apart: the server is another in each run.
        return b"redis " + self._name.encode()

    # -- writing ---------------------------------------------------------------------

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        """Publish a value in place of what is there; see :class:`Connector`."""
        self._set(key, self._key(key), parts, b"", idempotent=True)

    def add(self, key: str, parts: Sequence[Buffer]) -> bool:
        """Publish a value if there is none; see :class:`Connector`."""
        return self._set(key, self._key(key), parts, b"$2\r\nNX\r\n", idempotent=False)

    def _set(
        self, key: str, place: bytes, parts: Sequence[Buffer], option: bytes, *, idempotent: bool
    ) -> bool:
        views = as_views(parts)
        head = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (
            4 if option else 3,
            len(place),
            place,
            sum(map(len, views)),
        )

        def work(connection: Connection) -> bool:
            connection.send(head, *views, b"\r\n" + option)
            return connection.reply() is not None

        return self._client._run(f"write of {key!r}", work, key=place, idempotent=idempotent)

    def copy(self, source: str, target: str) -> None:
        """Copy on the server, if both keys are on one shard; see :class:`Connector`."""
        if self.copy_many([(source, target)]):
            raise missing(source, self)

    def copy_many(self, pairs: Iterable[tuple[str, str]]) -> list[str]:
        """Copy on the server; return the sources that are missing."""
        pairs, absent = list(pairs), []
        for at in range(0, len(pairs), _BATCH):
            window = pairs[at : at + _BATCH]
            lines = [self._copy_line(*pair) for pair in window]
            for (source, target), answer in zip(window, self._client.call_many(lines), strict=True):
                if isinstance(answer, ReplyError):
                    if answer.code not in ("CROSSSLOT", "ERR"):
                        self._refused(f"copy of {source!r}", answer)
                    # Different shards, or a server that has no COPY (before 6.2).
                    found = self._get(source, self._key(source))
                    if found is not None:
                        self.write(target, [found])
                        continue
                if not answer or isinstance(answer, ReplyError):
                    absent.append(source)
        return absent

    def _copy_line(self, source: str, target: str) -> tuple[bytes, ...]:
        start = self._key(source)
        same = source == target  # which COPY refuses
        return (b"EXISTS", start) if same else (b"COPY", start, self._key(target), b"REPLACE")

    def delete(self, key: str) -> bool:
        """Remove a value; return whether there was one.

        It is never sent twice: if the connection breaks before the answer, StoreError
        says so and nobody knows whether it is deleted.
        """
        place = self._key(key)
        return bool(self._one(f"delete of {key!r}", place, b"UNLINK", idempotent=False))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove several values; return how many there were.

        Sent again if the connection breaks, so the number may be too small then.
        """
        keys = list(keys)
        count = 0
        for at in range(0, len(keys), _BATCH):
            lines = [(b"UNLINK", self._key(key)) for key in keys[at : at + _BATCH]]
            for answer in self._client.call_many(lines):
                if isinstance(answer, ReplyError):
                    self._refused("delete", answer)
                count += answer
        return count

    # -- reading ---------------------------------------------------------------------

    def read(self, key: str) -> memoryview:
        """Return a value, received straight into its memory."""
        place = self._key(key)
        found = self._get(key, place)
        if found is None:
            raise missing(key, self)
        return found

    def _get(self, key: str, place: bytes) -> memoryview | None:
        line = command(b"GET", place)

        def work(connection: Connection) -> memoryview | None:
            connection.send(line)
            try:
                size = connection.bulk_length()
            except ReplyError:
                connection.owed -= 1
                raise
            if size is None:
                connection.owed -= 1
                return None
            data = fresh(size)
            connection.read_into(data)
            connection.end_bulk()
            connection.owed -= 1
            return data

        return self._client._run(f"read of {key!r}", work, key=place)

    def take(self, key: str) -> memoryview:
        """Return a value and remove it; of several that take it one gets it.

        It is first renamed to a name that only this call knows. If the connection breaks
        after that it is put back, so that nothing is lost.
        """
        place = self._key(key)
        claim = place + b":" + secrets.token_hex(8).encode()
        what = f"take of {key!r}"
        if not self._claim(what, place, claim):
            raise missing(key, self)
        try:
            found = self._get(key, claim)
        except BaseException:
            with contextlib.suppress(StoreError):
                self._one(what, claim, b"RENAMENX", place)
            raise
        self._one(what, claim, b"UNLINK")
        if found is None:  # evicted at this moment
            raise missing(key, self)
        return found

    def _claim(self, what: str, place: bytes, claim: bytes) -> bool:
        """Rename; where the answer was lost, look whether it was done."""
        lines = commands([(b"RENAME", place, claim), (b"EXPIRE", claim, b"%d" % _CLAIM_S)])

        def work(connection: Connection) -> bool:
            connection.send(lines, replies=2)
            renamed, _ = connection.replies(2)
            if isinstance(renamed, ReplyError):
                if "no such key" not in str(renamed):
                    raise renamed
                return False
            return True

        try:
            return self._client._run(what, work, key=place, idempotent=False)
        except StoreError as error:
            if not error.transient or not self._one(what, claim, b"EXISTS"):
                raise
            return True

    def exists(self, key: str) -> bool:
        """Return whether there is a value."""
        return bool(self._one(f"look for {key!r}", self._key(key), b"EXISTS"))

    def size(self, key: str) -> int:
        """Return the bytes of a value."""
        place = self._key(key)
        size = self._one(f"look for {key!r}", place, b"STRLEN")
        if not size and not self.exists(key):
            raise missing(key, self)
        return int(size)

    def keys(self, pattern: str = "*") -> list[str]:
        """Return the keys that match a shell pattern, sorted; the servers are scanned."""
        match = matching(self._name, pattern)

        def work(connection: Connection) -> set[str]:
            found = set()
            cursor: Any = b"0"
            while True:
                more = (b"MATCH", match, b"COUNT", b"%d" % _STEP, b"TYPE", b"string")
                cursor, names = call(connection, command(b"SCAN", cursor, *more))
                for name in names:
                    key = key_of(self._name, name)
                    if key is not None and fnmatchcase(key, pattern):
                        found.add(key)
                if cursor == b"0":
                    return found

        shards = self._client._run_each("scan of the keys", work)
        return sorted(set().union(*(found for _, found in shards)))

    def wait(self, key: str, timeout_s: float | None = None) -> None:
        """Block until there is a value; the server tells."""
        place = self._key(key).decode()
        try:
            with Deadline(timeout_s) as deadline:
                self._client.wait_key(place, deadline.left_s)
                while not self.exists(key):  # what we were told of may be gone by now
                    self._client.wait_key(place, deadline.left_s)
        except DataTimeoutError as error:
            text = f"{key!r} did not come within {timeout_s} s in {self!r}"
            raise DataTimeoutError(text) from error

    def close(self) -> None:
        """Close idle connections; the next call opens them again."""
        if self._made is not None:
            self._made.release()

    # -- the wire --------------------------------------------------------------------

    def _key(self, key: str) -> bytes:
        check_key(key)
        return place_of(self._name, key)

    def _one(
        self, what: str, place: bytes, word: bytes, *more: bytes, idempotent: bool = True
    ) -> Any:
        line = command(word, place, *more)
        return self._client._run(what, lambda c: call(c, line), key=place, idempotent=idempotent)

    def _refused(self, what: str, answer: ReplyError) -> NoReturn:
        raise explain(answer, self._client.address, what) from None


def _reopen(
    address: str,
    password_file: str | None,
    name: str,
    where: str,
    timeout_s: float | None = None,
) -> RedisConnector:
    """Open it again; `where` is the only machine that reaches the server, if there is one."""
    if where not in ("", machine()):
        failure = StoreError(
            f"the server at {address} is on another machine, and reached only there: "
            "Orchestrator(interface=...) opens it to others"
        )
        failure.transient = False
        raise failure
    return RedisConnector(shared_client(address, password_file, timeout_s), name)
