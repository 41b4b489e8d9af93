# SPDX-License-Identifier: BSD-3-Clause
"""One server that a watcher listens to, and what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdag.errors import StoreError

if TYPE_CHECKING:
    from ssdag.client.transport.address import Address
    from ssdag.client.transport.link import Link
    from ssdag.client.transport.resp import Reply

_FIRST_DELAY_S = 0.01
_LONGEST_DELAY_S = 0.5

#: A connection that lasted so long was a good one: the next loss is a new one.
_GOOD_S = 1.0

#: What is waited for: strings, keys of any kind, hashes, lists, streams.
_EVENTS = b"$ghlt"


class WatchedNode:
    """One server.

    Attributes
    ----------
    address : Address
        Where it is.
    link : Link or None
        The connection to it.
    subscribed : set of bytes
        Keys of which it tells us.
    ready : bool
        Whether it has let us in and tells of changes.
    failed : bool
        Whether other nodes of its cluster say that it is lost.
    began_s, next_s : float
        When it was connected to last, and will be again.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.link: Link | None = None
        self.subscribed: set[bytes] = set()
        self.ready = False
        self.failed = False
        self.began_s = 0.0
        self.next_s = 0.0
        self._delay_s = _FIRST_DELAY_S

    def put_off(self, now_s: float) -> None:
        """Note that the connection was lost: when to connect anew."""
        if now_s - self.began_s > _GOOD_S:
            self._delay_s = _FIRST_DELAY_S
        self.next_s = now_s + self._delay_s
        self._delay_s = min(2 * self._delay_s, _LONGEST_DELAY_S)

    def hopeful(self, now_s: float) -> bool:
        """Return whether it listens, though it may be slow to answer.

        One that hangs up again at once does not.
        """
        if self.link is None or self.link.writing or self.failed:
            return False
        return now_s - self.began_s > _GOOD_S / 2


def check_events(value: Reply, address: Address) -> None:
    """Raise StoreError if a server does not send all notifications.

    Parameters
    ----------
    value : Reply
        What it answered to ``CONFIG GET notify-keyspace-events``; a server that hides
        its configuration from us is taken to be set up.
    address : Address
        The server.
    """
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[1], bytes)):
        return
    flags = value[1]
    if b"K" not in flags or not (b"A" in flags or set(_EVENTS) <= set(flags)):
        failure = StoreError(
            f"the server at {address} does not send the notifications that waiting for data "
            f"needs (it has {flags.decode() or 'none'!r}): start it with 'notify-keyspace-events "
            "K$ghlt', or send it 'CONFIG SET notify-keyspace-events K$ghlt'"
        )
        failure.transient = False
        raise failure
