# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that has streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdag.client.base import ClientBase

if TYPE_CHECKING:
    from ssdag.client.streams.keys import Policy
    from ssdag.client.streams.stream import Stream


class StreamCalls(ClientBase):
    """Streams by name; see :class:`ssdag.Client`."""

    def stream(
        self,
        name: str,
        *,
        capacity: int | None = None,
        policy: Policy | None = None,
        evict: bool | None = None,
        writers: int | None = None,
    ) -> Stream:
        """Return a stream; it is made when options are given, else when it is first used.

        Who opens a stream first chooses its options; who asks for others later gets
        ConfigError, who asks for none takes it as it is.

        Parameters
        ----------
        name : str
            Any text but the empty one. Ensemble prefixes apply as to lists.
        capacity : int, optional
            How many records the server holds at most (16). Each writer that waits may have
            one more there, and each reader of a stream that drops, one in work.
        policy : {"block", "drop_oldest", "latest"}, optional
            What a writer does when the stream is full: it waits until every group of
            readers that is there is done with a record (the default); it drops the oldest
            record that nobody has in work; or ``"latest"``: only the newest one is kept.
        evict : bool, optional
            Whether a record goes when every group is done with it (True). Else it stays,
            for groups that come later, until its room is needed.
        writers : int, optional
            How many have to call ``end()`` before the stream ends (1).

        Raises
        ------
        ConfigError
            An option has no possible value, or another one than the stream has.
        DataFormatError
            The name cannot be one.
        StoreError
            The server cannot be reached.
        """
        from ssdag.client.streams.keys import Options
        from ssdag.client.streams.stream import Stream

        made = Stream(self, name, Options(capacity, policy, evict, writers))
        made._core.open()
        return made
