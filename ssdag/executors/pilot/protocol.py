# SPDX-License-Identifier: BSD-3-Clause
"""What the hub and its managers say to one another, and how nothing of it gets lost.

A message has parts: a header, a body, and buffers out of band. The header is
``token | kind | number | ack``. Nothing of a message is read (let alone unpickled)
before the token has shown that it comes from the other side: a program that takes over
the port of a dead driver does not know it.

Messages from :attr:`Kind.TASKS` on are numbered. A connection may break and come back,
and what was on its way is lost then; so the sender keeps each numbered message until it
is acknowledged (by the ``ack`` of any message that comes back), the receiver takes them
in order and asks for what is missing, and each beat says how many there should be.

* ``HELLO`` (JSON, so that any two versions understand it): a manager and its node.
* ``WELCOME`` (pickle): where the driver is: ``sys.path``, ``sys.argv``, folder.
* ``REFUSED`` (JSON): the manager is not wanted, and why; it ends.
* ``BEAT``: alive; `number` is how many numbered messages were sent. A manager's has
  its clock as a body.
* ``RESEND``: `number` is the first message that is missing.
* ``TASKS``: ``(functions, specs, tasks)``. `functions` lists ``(number, bytes)`` as
  for local workers, `specs` lists ``(number, function, name, walltime_s, priority)``,
  `tasks` lists ``(seq, task id, spec, arguments, number of buffers)``; arguments are
  the tuple itself if all of it is plain, else a pickle that managers do not open.
* ``RESULTS``: ``(clock, begun, running, results)``. `begun` lists tasks that workers
  hold now (negative: hold no more); `results` lists ``(seq, code, value, number of
  buffers, started, ended)``.
* ``CANCEL``: a list of seq. ``GIVE_BACK``: how many tasks that have not begun.
* ``QUESTION``: ``(number, what, name)``, of a worker: how a server of the driver's is
  reached. ``ANSWER``: ``(number, {"answer": ..., "error": text})``.
* ``SHUTDOWN``: the manager ends. ``BYE``: it ends by itself: ``(reason, is cut)``.
"""

from __future__ import annotations

import hmac
import struct
import time
from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Version of all this; a manager with another one is refused.
PROTOCOL = 2
TOKEN_BYTES = 16
_HEADER = struct.Struct("!16sBQQ")
_CLOCK = struct.Struct("!Q")

#: Codes of a result, beside those of local workers: taken back on request.
CANCELLED = 4
#: Received bytes after which the other side is told at once, so that it can let go.
_TELL_BYTES = 8 << 20
#: A missing message is asked for again after so long.
_ASK_AGAIN_S = 0.5


class Kind(IntEnum):
    """What a message is."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    BEAT = 4
    RESEND = 5
    TASKS = 6
    RESULTS = 7
    CANCEL = 8
    GIVE_BACK = 9
    SHUTDOWN = 10
    BYE = 11
    QUESTION = 12
    ANSWER = 13


class ForeignMessageError(Exception):
    """A message whose sender does not know the token."""


def plain(token: bytes, kind: Kind, body: bytes = b"") -> list[bytes]:
    """Return the parts of a message without a number, for who has no channel yet."""
    return [_HEADER.pack(token, kind, 0, 0), body]


def kind_of(header: Any, token: bytes) -> Kind:
    """Return the kind of a message whose token is right.

    Raises
    ------
    ForeignMessageError
        It is not.
    """
    if len(header) != _HEADER.size or not hmac.compare_digest(bytes(header[:TOKEN_BYTES]), token):
        raise ForeignMessageError
    try:
        return Kind(header[TOKEN_BYTES])
    except ValueError:
        raise ForeignMessageError from None


def clock() -> bytes:
    """Return the body of a manager's beat."""
    return _CLOCK.pack(time.monotonic_ns())


def clock_of(body: Any) -> int:
    """Return the nanoseconds of :func:`clock`; 0 if it is none."""
    return int(_CLOCK.unpack(body)[0]) if len(body) == _CLOCK.size else 0


class Channel:
    """One direction-pair of numbered messages; not safe for threads.

    Parameters
    ----------
    send : callable
        Takes the parts of a message; it may lose it if the connection is broken.
    token : bytes
        Begins what we send.
    """

    def __init__(self, send: Callable[[Sequence[Any]], None], token: bytes) -> None:
        self._send = send
        self._token = token
        self._sent = 0
        self._received = 0
        self._kept: deque[tuple[int, Kind, Sequence[Any], int]] = deque()
        #: Bytes that were sent and not acknowledged.
        self.unacked_bytes = 0
        self._untold_bytes = 0
        self._asked_for = 0
        self._asked_at = 0.0

    def post(self, kind: Kind, body: bytes, buffers: Sequence[Any] = ()) -> None:
        """Send a message that must arrive."""
        self._sent += 1
        parts = [body, *buffers]
        size = sum(map(len, parts))
        self._kept.append((self._sent, kind, parts, size))
        self.unacked_bytes += size
        self._emit(kind, self._sent, parts)

    def beat(self, body: bytes = b"") -> None:
        """Say that we live, what was sent and what was received."""
        self._emit(Kind.BEAT, self._sent, [body])

    def take(self, header: Any, size: int) -> Kind | None:
        """Look at the header of a message, whose token was checked.

        Parameters
        ----------
        header : bytes-like
            Its first part.
        size : int
            Bytes of the rest.

        Returns
        -------
        Kind or None
            None if there is nothing more to do with it.
        """
        _, kind, number, ack = _HEADER.unpack(header)
        self._acknowledged(ack)
        if kind == Kind.BEAT:
            if number > self._received:
                self._ask()
            return Kind.BEAT
        if kind == Kind.RESEND:
            self._repeat(number)
            return None
        if number:
            if number != self._received + 1:
                if number > self._received:
                    self._ask()
                return None
            self._received = number
            self._untold_bytes += size
            if self._untold_bytes > _TELL_BYTES:
                self.beat()
        return Kind(kind)

    def _emit(self, kind: Kind, number: int, parts: Sequence[Any]) -> None:
        self._untold_bytes = 0
        self._send([_HEADER.pack(self._token, kind, number, self._received), *parts])

    def _acknowledged(self, ack: int) -> None:
        kept = self._kept
        while kept and kept[0][0] <= ack:
            self.unacked_bytes -= kept.popleft()[3]

    def _ask(self) -> None:
        now = time.monotonic()
        wanted = self._received + 1
        if self._asked_for == wanted and now - self._asked_at < _ASK_AGAIN_S:
            return
        self._asked_for, self._asked_at = wanted, now
        self._emit(Kind.RESEND, wanted, [])

    def _repeat(self, first: int) -> None:
        for number, kind, parts, _ in tuple(self._kept):
            if number >= first:
                self._emit(kind, number, parts)
