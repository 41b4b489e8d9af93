# SPDX-License-Identifier: BSD-3-Clause
"""Commands that a server does together or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssdag.client.resp import ReplyError, command

if TYPE_CHECKING:
    from ssdag.client.connection import Connection

_EXEC = command(b"EXEC")


def transaction(connection: Connection, start: bytes, count: int) -> list[Any] | None:
    """Send ``MULTI`` with what follows, and ``EXEC``; return the replies of the commands.

    Parameters
    ----------
    connection : Connection
        To the server that has the keys.
    start : bytes
        ``MULTI`` and the commands.
    count : int
        How many commands, without ``MULTI``.

    Returns
    -------
    list or None
        None if a watched key has changed, so that nothing was done.

    Raises
    ------
    ReplyError
        A command was refused: when it was queued, and then nothing was done, or later.
    """
    connection.send(start + _EXEC, replies=count + 2)
    return finish(connection, count)


def finish(connection: Connection, count: int) -> list[Any] | None:
    """Read the replies to a transaction that was sent; see :func:`transaction`."""
    *queued, done = connection.replies(count + 2)
    for answer in (*queued, *(done if isinstance(done, list) else (done,))):
        if isinstance(answer, ReplyError):
            raise answer
    assert done is None or isinstance(done, list)
    return done
