# SPDX-License-Identifier: BSD-3-Clause
"""Talking to a node of a cluster about a slot that is just being moved to it.

Such a node serves a command only right behind the word ASKING; the next one is sent
back again. Inside a transaction the one before MULTI counts for all.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from ssdag.client.transport.connection import Connection
from ssdag.client.transport.resp import ReplyError, command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ssdag.client.transport.address import Address
    from ssdag.client.transport.resp import Reply

_ASKING = command(b"ASKING")


class _Parts:
    """The bytes of several buffers in a row, without joining them."""

    def __init__(self, parts: Sequence[bytes | memoryview]) -> None:
        self._parts = [memoryview(part) for part in parts if len(part)]
        self._ends = list(accumulate(map(len, self._parts)))
        self.size = self._ends[-1] if self._ends else 0

    def cut(self, begin: int, end: int) -> list[memoryview]:
        """Return the buffers of a range."""
        out = []
        i = bisect_right(self._ends, begin)
        while begin < end:
            start = self._ends[i] - len(self._parts[i])
            out.append(self._parts[i][begin - start : end - start])
            begin, i = self._ends[i], i + 1
        return out

    def number(self, at: int) -> tuple[int, int]:
        """Return the number in the line at a place, and where the next line begins."""
        line = b""
        while not line.endswith(b"\r\n"):
            line += b"".join(self.cut(at, min(at + 1, self.size)))
            at += 1
        return int(line[1:-2]), at


def split(parts: Sequence[bytes | memoryview]) -> Iterator[tuple[bytes, list[memoryview]]]:
    """Yield the name and the buffers of each command in what is to be sent."""
    data = _Parts(parts)
    at = 0
    while at < data.size:
        begin = at
        words, at = data.number(at)
        name = b""
        for word in range(words):
            length, at = data.number(at)
            if not word:
                name = b"".join(data.cut(at, at + length)).upper()
            at += length + 2
        yield name, data.cut(begin, at)


class AskingConnection(Connection):
    """A connection that says ASKING before each command, and hides the answers to it."""

    __slots__ = ("_asking", "_hidden", "_inside")

    def __init__(
        self,
        address: Address,
        password: str | None = None,
        timeout_s: float | None = None,
        connect_s: float | None = None,
        counts: Callable[[Address], bool] | None = None,
    ) -> None:
        #: What `owed` is when an answer to ASKING comes next.
        self._hidden: list[int] = []
        self._inside = False
        self._asking = False  # the log-in goes without
        super().__init__(address, password, timeout_s, connect_s, counts)
        self._asking = True

    def send(self, *parts: bytes | memoryview, replies: int = 1) -> None:
        """Write whole commands, each (a transaction as a whole) behind an ASKING."""
        out: list[bytes | memoryview] = []
        asked = []
        left = replies
        for name, buffers in split(parts):
            if self._asking and not self._inside:
                out.append(_ASKING)
                asked.append(left)
            if name == b"MULTI":
                self._inside = True
            elif name in (b"EXEC", b"DISCARD"):
                self._inside = False
            out += buffers
            left -= 1
        self._hidden = [owed + replies for owed in self._hidden] + asked
        super().send(*out, replies=replies)

    def _skip_hidden(self) -> None:
        if self._hidden and self._hidden[0] == self.owed:
            self._hidden.pop(0)
            line = self.line()
            if line[:1] == b"-":
                raise ReplyError(line[1:].decode("utf-8", "replace"))

    def bulk_length(self) -> int | None:
        """Begin a bulk string."""
        self._skip_hidden()
        return super().bulk_length()

    def array_length(self) -> int | None:
        """Begin an array."""
        self._skip_hidden()
        return super().array_length()

    def reply(self) -> Reply:
        """Return the next whole reply."""
        self._skip_hidden()
        return super().reply()

    def replies(self, count: int) -> Sequence[Reply]:
        """Return `count` replies; errors are values."""
        values: list[Reply] = []
        for _ in range(count):
            self._skip_hidden()
            values += super().replies(1)
        return values
