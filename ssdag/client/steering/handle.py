# SPDX-License-Identifier: BSD-3-Clause
"""What handles of named things on a server have in common: a client, keys, programs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

from ssdag.client.base import call
from ssdag.client.shared import ClientReference
from ssdag.client.transport.resp import ReplyError, command, key_bytes
from ssdag.errors import ConfigError, DataFormatError

if TYPE_CHECKING:
    from ssdag.client.base import ClientBase
    from ssdag.client.transport.connection import Connection
    from ssdag.client.transport.resp import Reply


class Handle:
    """A named thing whose keys are ``{name}:kind`` and ``{name}:kind:more``.

    So a cluster keeps all of them on one node. It pickles as its name and the server's
    address.

    Parameters
    ----------
    client : Client
        Of the server.
    name : str
        Its name; ensemble prefixes do not apply.

    Raises
    ------
    DataFormatError
        The name cannot be one.
    """

    #: What stands behind the name in its keys.
    kind = ""

    def __init__(self, client: ClientBase, name: str) -> None:
        plain = key_bytes(name)
        if plain.startswith(b"}"):
            raise DataFormatError(f"a name must not begin with a brace here: {name!r}")
        self._client = client
        self.name = name
        self._key = b"{%b}:%b" % (plain, self.kind.encode())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} at {self._client.address}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (sent(self._client), self.name, *self._options())

    def _options(self) -> tuple[Any, ...]:
        """Return what the constructor takes behind client and name."""
        return ()

    def _also(self, end: str) -> bytes:
        """Return another one of its keys."""
        return b"%b:%b" % (self._key, end.encode())

    def _run(self, what: str, line: bytes) -> Any:
        """Send one command that may be sent twice, and return its reply."""
        what = f"{what} {self.name!r}"
        return self._client._run(what, lambda c: call(c, line), key=self._key)


def sent(client: ClientBase) -> ClientBase | ClientReference:
    """Return what stands for a client where it is sent to another process.

    In a task it becomes the client that the process has already.
    """
    if not client.shared:
        return client
    return ClientReference(client.address, client.password_file, client._timeout_s)


def script(text: str, keys: tuple[bytes, ...], *words: bytes | str | int) -> bytes:
    """Return the command that runs a program at the server."""
    return command(b"EVAL", text.encode(), *_arguments(keys, words))


def _arguments(keys: tuple[bytes, ...], words: tuple[bytes | str | int, ...]) -> list[bytes]:
    values = [w if isinstance(w, bytes) else str(w).encode() for w in words]
    return [b"%d" % len(keys), *keys, *values]


class Program:
    """A program that runs often: it is sent once, and then only its digest.

    Parameters
    ----------
    text : str
        The program.
    """

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self._digest = hashlib.sha1(self._text, usedforsecurity=False).hexdigest().encode()

    def line(self, keys: tuple[bytes, ...], *words: bytes | str | int) -> Line:
        """Return the command that runs it."""
        arguments = _arguments(keys, words)
        return Line(
            command(b"EVALSHA", self._digest, *arguments), (b"EVAL", self._text, *arguments)
        )


class Line(NamedTuple):
    """A command that runs a program.

    Attributes
    ----------
    short : bytes
        With the program's digest; nothing is done if the server does not know it.
    whole : tuple of bytes
        The words of the command with the program itself.
    """

    short: bytes
    whole: tuple[bytes, ...]

    def answer(self, connection: Connection) -> Reply:
        """Return the reply to the short form, which was sent; the long form's if need be."""
        try:
            return connection.reply()
        except ReplyError as error:
            if error.code != "NOSCRIPT":
                raise
            connection.send(command(*self.whole))
            return connection.reply()


def check_count(what: str, value: Any, least: int = 1) -> int:
    """Return a number of ranks, steps or the like.

    Raises
    ------
    ConfigError
        It is none.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < least:
        raise ConfigError(f"{what}={value!r}: a whole number of {least} or more")
    return int(value.__index__())
