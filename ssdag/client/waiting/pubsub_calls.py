# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that sends messages to all who listen just now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdag.client.base import ClientBase, call
from ssdag.client.transport.resp import command, key_bytes
from ssdag.errors import ConfigError, DataFormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ssdag.client.waiting.pubsub import Subscription


class PubSubCalls(ClientBase):
    """Messages on channels; see :class:`ssdag.Client`.

    They are not stored: who does not listen does not get them. Streams are for what
    must not be lost. Channels get no prefix.
    """

    def publish(self, channel: str, data: bytes | str | memoryview) -> int:
        """Send a message to all who subscribe to a channel just now.

        Never sent twice: if the connection breaks before the answer, StoreError says so
        and nobody knows whether it was sent.

        Parameters
        ----------
        channel : str
            Any text but the empty one.
        data : bytes, str or memoryview
            The message; a text is sent as UTF-8.

        Returns
        -------
        int
            How many got it; on a cluster only those who listen at the same node.

        Raises
        ------
        DataFormatError
            It is no message.
        StoreError
            The server cannot be reached or refuses.
        """
        name = key_bytes(channel)
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogateescape")
        elif not isinstance(data, (bytes, bytearray, memoryview)):
            raise DataFormatError(f"a message is bytes or a text, not {type(data).__name__}")
        line = command(b"PUBLISH", name, bytes(data))
        # By one node per channel, so that messages of one sender stay in order.
        what = f"publish to {channel!r}"
        return int(self._run(what, lambda c: call(c, line), key=name, idempotent=False))

    def subscribe(
        self,
        *channels: str,
        patterns: Iterable[str] = (),
        timeout_s: float | None = None,
    ) -> Subscription:
        """Return the messages of some channels from now on; blocks until it listens.

        Parameters
        ----------
        *channels : str
            Their names.
        patterns : iterable of str
            Names with ``*``, ``?`` and ``[...]`` as in file names.
        timeout_s : float, optional
            How long iterating waits for the next message before it raises
            DataTimeoutError; None for ever.

        Raises
        ------
        ConfigError
            There is nothing to listen to.
        StoreError
            The server cannot be reached or refuses.

        Examples
        --------
        ::

            with client.subscribe("progress", timeout_s=60) as messages:
                for message in messages:
                    print(message.channel, message.data)
        """
        from ssdag.client.waiting.pubsub import Subscription

        names = [key_bytes(channel) for channel in channels]
        forms = [key_bytes(pattern) for pattern in patterns]
        if not names and not forms:
            raise ConfigError("name at least one channel or pattern to subscribe to")
        return Subscription(self, names, forms, timeout_s)
