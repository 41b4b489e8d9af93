# SPDX-License-Identifier: BSD-3-Clause
"""Several commands as one: all are done, with nothing of others between, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssdag.client.tensors import npy
from ssdag.client.transport.resp import ReplyError, command, commands

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from ssdag.client.tensors.npy import Array
    from ssdag.client.transport.connection import Connection

#: Payloads up to this are copied together, so that one system call sends many.
_SMALL = 16 << 10
_GATHER = 256 << 10


#: An empty transaction is refused, too, if a watched key has changed.
_CHECK = ((b"MULTI",), (b"EXEC",))


class Watch:
    """Keys that are watched from a look at them to a transaction; a context manager.

    On the way out nothing is left watched, which would make somebody else's transaction
    on this connection fail.

    Parameters
    ----------
    connection : Connection
        Where ``WATCH`` is sent.
    """

    __slots__ = ("_connection", "_ended")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A connection that owes replies is not used again.
        if not self._ended and self._connection.owed == 0:
            self._connection.send(b"*1\r\n$7\r\nUNWATCH\r\n")
            self._connection.reply()

    def look(self, *lines: Sequence[bytes]) -> list[Any]:
        """Send commands, ``WATCH`` among them, and return their replies.

        Raises
        ------
        ReplyError
            One of them failed.
        """
        self._connection.send(commands(lines), replies=len(lines))
        answers = list(self._connection.replies(len(lines)))
        first_error(answers)
        return answers

    def ask(self, lines: Sequence[Sequence[bytes]]) -> None:
        """Send commands, and behind them the question whether a watched key has changed.

        The caller reads their replies, and then calls :meth:`unchanged`.
        """
        self._connection.send(commands([*lines, *_CHECK]), replies=len(lines) + len(_CHECK))

    def unchanged(self) -> bool:
        """Return the answer to :meth:`ask`; then nothing is watched."""
        done = ended(self._connection.replies(len(_CHECK)))
        self._ended = True
        return done is not None

    def transaction(self, lines: Sequence[Sequence[bytes]], ignored: int = 0) -> list[Any] | None:
        """Do commands in one transaction, see :func:`ended`; then nothing is watched."""
        done = transaction(self._connection, lines, ignored)
        self._ended = True
        return done


def first_error(answers: Sequence[Any]) -> None:
    """Raise the first error among answers, one that aborted a transaction only at last."""
    errors = [answer for answer in answers if isinstance(answer, ReplyError)]
    for error in errors:
        if error.code != "EXECABORT":
            raise error
    if errors:
        raise errors[0]


def ended(answers: Sequence[Any], ignored: int = 0) -> list[Any] | None:
    """Return what a transaction's commands answered, of all replies from MULTI to EXEC.

    None if a watched key was changed before, so that nothing was done.

    Parameters
    ----------
    answers : sequence
        The replies.
    ignored : int
        So many of the first commands may fail.

    Raises
    ------
    ReplyError
        A command was refused, so none was done; or one failed.
    """
    first_error(answers)
    done = answers[-1]
    if done is None:
        return None
    assert isinstance(done, list)
    first_error(done[ignored:])
    return done


def transaction(
    connection: Connection, lines: Sequence[Sequence[bytes]], ignored: int = 0
) -> list[Any] | None:
    """Do commands in one transaction; see :func:`ended`."""
    connection.send(commands([(b"MULTI",), *lines, (b"EXEC",)]), replies=len(lines) + 2)
    return ended(connection.replies(len(lines) + 2), ignored)


class Sender:
    """Commands one after the other: small ones together, large payloads from where they are."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._replies = 0
        #: Commands so far.
        self.count = 0

    def add(self, *words: bytes) -> None:
        """Add a command."""
        self._buffer += command(*words)
        self._counted()

    def add_set(self, key: bytes, array: Array, *options: bytes) -> None:
        """Add ``SET key array``."""
        header, data = npy.encode_header(array), npy.as_bytes(array)
        self._buffer += b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b" % (
            3 + len(options),
            len(key),
            key,
            len(header) + len(data),
            header,
        )
        rest = b"\r\n" + b"".join([b"$%d\r\n%b\r\n" % (len(o), o) for o in options])
        if len(data) <= _SMALL:
            self._buffer += data
            self._buffer += rest
        else:
            self._replies += 1
            self.flush(data, rest)
            self._replies -= 1
        self._counted()

    def _counted(self) -> None:
        self.count += 1
        self._replies += 1
        if len(self._buffer) > _GATHER:
            self.flush()

    def flush(self, *more: bytes | memoryview) -> None:
        """Send what is here, and `more` behind it."""
        head, self._buffer = bytes(self._buffer), bytearray()
        replies, self._replies = self._replies, 0
        if head or more:
            self._connection.send(head, *more, replies=replies)
