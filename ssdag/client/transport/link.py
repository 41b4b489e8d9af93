# SPDX-License-Identifier: BSD-3-Clause
"""A connection that never blocks, for who serves many that wait.

It speaks RESP3, in which the server's messages (`push`) and the answers to commands
share a connection: so a look that is sent behind a subscription is done behind it.
https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from ssdag.client.transport.resp import ConnectionLostError, ReplyError, command
from ssdag.errors import StoreError

if TYPE_CHECKING:
    from ssdag.client.transport.address import Address
    from ssdag.client.transport.resp import Reply

#: Bytes that one look at the socket takes at most.
_CHUNK = 64 << 10


#: A dead host is noticed by the kernel after about half a minute, not after two hours.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))

#: How long connecting to a host's name may take.
_CONNECT_S = 1.0


class Push(NamedTuple):
    """A message that nobody asked for, such as ``(b"message", channel, payload)``."""

    parts: tuple[Any, ...]


class Answer(NamedTuple):
    """The answer to a command.

    Attributes
    ----------
    asked : object
        What was given to :meth:`Link.ask` with it. A subscription that is refused
        gets an answer too, which then is taken for that of the next command, and all
        later ones are off by one: the link is of no use any more.
    value : Reply
        What the server said; an error is a value here.
    """

    asked: Any
    value: Reply


class Link:
    """A connection to one server.

    The first answer is that to the log-in; its `asked` is :attr:`HELLO`.

    Parameters
    ----------
    address : Address
        The server.
    password : str or None
        Of the default user.

    Raises
    ------
    StoreError
        Nobody listens there, as far as is known at once.
    """

    #: What the first answer is to.
    HELLO = "HELLO"

    def __init__(self, address: Address, password: str | None) -> None:
        self.address = address
        self._in = bytearray()
        self._chunk = memoryview(bytearray(_CHUNK))
        self._out = bytearray()
        self._asked: deque[Any] = deque()
        try:
            self._sock = _begin(address)
        except OSError as error:
            raise StoreError(
                f"cannot connect to the server at {address}: {error.strerror or error}"
            ) from error
        login = () if password is None else (b"AUTH", b"default", password.encode())
        try:
            self.ask(command(b"HELLO", b"3", *login), self.HELLO)
        except ConnectionLostError as error:
            self.close()
            raise StoreError(str(error)) from error

    def close(self) -> None:
        """Close; may be called again."""
        self._sock.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, for a selector."""
        return self._sock.fileno()

    @property
    def writing(self) -> bool:
        """Whether something waits for room in the kernel's buffer: call :meth:`flush`."""
        return bool(self._out)

    @property
    def unanswered(self) -> int:
        """Number of commands whose answers are not here yet."""
        return len(self._asked)

    def ask(self, line: bytes, asked: Any) -> None:
        """Send a command that is answered.

        Raises
        ------
        ConnectionLostError
            It broke.
        """
        self._asked.append(asked)
        self.tell(line)

    def tell(self, line: bytes) -> None:
        """Send a command that is answered by messages only (SUBSCRIBE and the like)."""
        waiting = bool(self._out)
        self._out += line
        if not waiting:
            self.flush()

    def flush(self) -> None:
        """Send what there is room for.

        Raises
        ------
        ConnectionLostError
            It broke.
        """
        while self._out:
            try:
                sent = self._sock.send(self._out)
            except BlockingIOError:
                return
            except OSError as error:
                raise ConnectionLostError(
                    f"lost the server at {self.address}: {error.strerror or error}"
                ) from error
            del self._out[:sent]

    def receive(self) -> list[Push | Answer]:
        """Return what has come whole; empty if nothing has.

        Raises
        ------
        ConnectionLostError
            It broke, and all that came before was returned already.
        """
        lost: str | None = None
        size = 0
        try:
            size = self._sock.recv_into(self._chunk)
            if not size:
                lost = "it hung up"
        except BlockingIOError:
            return []
        except OSError as error:
            lost = error.strerror or str(error)
        if lost is not None:
            raise ConnectionLostError(f"lost the server at {self.address}: {lost}")
        self._in += self._chunk[:size]
        return self._whole()

    def _whole(self) -> list[Push | Answer]:
        found: list[Push | Answer] = []
        position = 0
        with contextlib.suppress(_IncompleteError):
            while position < len(self._in):
                kind = self._in[position]
                value, position = _parse(self._in, position)
                if kind == _PUSH:
                    found.append(Push(tuple(value)))
                elif self._asked:
                    found.append(Answer(self._asked.popleft(), value))
                else:  # to a subscription, which only a refusal answers so
                    odd = ReplyError(f"ERR it answered what nobody asked: {value!r:.80}")
                    found.append(Answer(None, value if isinstance(value, ReplyError) else odd))
        del self._in[:position]
        return found


def _begin(address: Address) -> socket.socket:
    """Begin to connect; it may end later. Only a host's name takes time here.

    Raises
    ------
    OSError
        It has failed already.
    """
    address = address.ways()[0]
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        socket.inet_pton(family, address.host)
    except OSError:  # a path, or a name, which may have several addresses to be tried
        sock = address.connect(_CONNECT_S)
        sock.setblocking(False)
        return sock
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        code = sock.connect_ex((address.host, address.port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


class _IncompleteError(Exception):
    """More bytes are needed."""


_PUSH = ord(">")
_SEQUENCES = frozenset(b"*~>")
_BULKS = frozenset(b"$=!")


def _parse(data: bytearray, start: int) -> tuple[Any, int]:
    """Return the value that begins at `start`, and where the next one begins."""
    end = data.find(b"\r\n", start)
    if end < 0:
        raise _IncompleteError
    kind = data[start]
    text = data[start + 1 : end]
    position = end + 2
    if kind in _BULKS:
        length = int(text)
        if length < 0:
            return None, position
        if len(data) < position + length + 2:
            raise _IncompleteError
        value = bytes(data[position : position + length])
        position += length + 2
        if kind == ord("!"):
            return ReplyError(value.decode("utf-8", "replace")), position
        return (value[4:] if kind == ord("=") else value), position
    if kind in _SEQUENCES or kind == ord("%"):
        count = int(text) * (2 if kind == ord("%") else 1)
        if count < 0:
            return None, position
        items = []
        for _ in range(count):
            item, position = _parse(data, position)
            items.append(item)
        return items, position
    return _simple(kind, bytes(text)), position


def _simple(kind: int, text: bytes) -> Any:
    """Return a value that is one line."""
    if kind == ord(":"):
        return int(text)
    if kind == ord("+"):
        return text.decode("utf-8", "replace")
    if kind == ord("-"):
        return ReplyError(text.decode("utf-8", "replace"))
    if kind == ord("_"):
        return None
    if kind == ord("#"):
        return int(text == b"t")
    if kind in b",(":  # a number that may be no int: as text, as RESP2 has it
        return text
    raise ConnectionLostError(f"a server speaks no RESP3: {bytes([kind]) + text[:80]!r}")
