# SPDX-License-Identifier: BSD-3-Clause
"""How others see that a reader is alive.

It listens on a channel of its own. When its process ends, however that happens, the
connection is closed and nobody listens there any more: so what it had in work may be given
to another reader at once, and what a slow reader has in work never is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ssdag.client.transport.resp import ConnectionLostError, ReplyError, command, explain
from ssdag.errors import StoreError

if TYPE_CHECKING:
    from ssdag.client.base import ClientBase
    from ssdag.client.transport.connection import Connection


#: What names of our readers begin with; others may read a stream too, by Redis's own calls.
OURS = b"ssdag/"


def channel_of(stream: bytes, group: bytes) -> bytes:
    """Return what the channels of a group's readers begin with; their names follow."""
    return b"ssdag:reader:%b:%b:" % (stream, group)


class Presence:
    """Listens on a channel, at the server that has a key.

    Parameters
    ----------
    client : Client
        The server.
    key : bytes
        The key.
    channel : bytes
        The channel.
    """

    def __init__(self, client: ClientBase, key: bytes, channel: bytes) -> None:
        self._connection: Connection | None = None
        self._client = client
        self._key = key
        self._channel = channel
        self._pid = os.getpid()

    def ensure(self) -> None:
        """Listen, if that is not so; costs a look at the socket if it is.

        A server that cannot be reached is left to the reader's own commands, which know how
        long to try again.

        Raises
        ------
        StoreError
            The server does not let us listen.
        """
        try:
            node = self._client.node_of(self._key)
            connection = self._connection
            if (
                connection is None
                or self._pid != os.getpid()
                or connection.address != node
                or not connection.is_alive()
            ):
                self.close()
                self._listen(self._client.connect(node))
        except StoreError as error:
            if not error.transient:
                raise

    def _listen(self, connection: Connection) -> None:
        try:
            connection.send(command(b"SUBSCRIBE", self._channel))
            connection.reply()
        except ReplyError as error:
            connection.close()
            raise explain(error, self._client.address, "listen") from None
        except ConnectionLostError as error:
            connection.close()
            raise StoreError(f"cannot listen: {error}") from error
        except BaseException:
            connection.close()
            raise
        self._pid = os.getpid()
        self._connection = connection

    def close(self) -> None:
        """Stop; may be called again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        self.close()
