# SPDX-License-Identifier: BSD-3-Clause
"""Frames on a stream socket: a body and buffers out of band, received in place.

Layout, native byte order (both ends are on one machine):
``u32 number of buffers | u64 length of body | u64 length of each buffer | body | buffers``.

Reading is incremental: one ``recv`` a call, small frames from a scratch buffer, large
ones straight into their own memory. Writing never blocks the caller: what the socket
does not take waits in a queue.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEADER = struct.Struct("=IQ")
_SCRATCH = 256 * 1024
#: ``sendmsg`` takes at most 1024 pieces.
_PIECES = 512
#: More buffers than any frame has: what claims them is no frame, and is not worth the
#: gigabytes that its table of sizes would take.
_MOST_BUFFERS = 1 << 24


class Frame(NamedTuple):
    """A received frame.

    Attributes
    ----------
    body : bytes or bytearray
        The pickled messages.
    buffers : list of bytearray
        The buffers out of band, in order.
    """

    body: bytes | bytearray
    buffers: list[bytearray]


def encode(
    body: bytes, buffers: Sequence[memoryview | bytes | bytearray]
) -> list[memoryview | bytes | bytearray]:
    """Return the pieces of a frame, to be written in order."""
    if not buffers:
        return [_HEADER.pack(0, len(body)) + body]
    sizes = [len(b) for b in buffers]
    head = _HEADER.pack(len(buffers), len(body)) + struct.pack(f"={len(sizes)}Q", *sizes)
    return [head + body, *buffers]


class FrameReader:
    """Reads frames from a socket, blocking or not.

    Parameters
    ----------
    sock : socket.socket
        A connected stream socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._scratch = bytearray(_SCRATCH)
        self._view = memoryview(self._scratch)
        self._start = self._end = 0
        self._frames: deque[Frame] = deque()
        #: A large frame under way: what has to be filled, and the frame that it makes.
        self._holes: deque[memoryview] = deque()
        self._partial: Frame | None = None
        #: A table of sizes that is larger than the scratch buffer, while it comes.
        self._table: tuple[int, bytearray] | None = None

    def read(self) -> bool:
        """Receive once; True if at least one whole frame can be taken with :meth:`take`.

        Raises
        ------
        EOFError
            The other side closed the connection.
        BlockingIOError
            A non-blocking socket has nothing.
        ConnectionError, MemoryError, OverflowError
            What comes is no frame: somebody else writes to the socket.
        """
        if self._holes:
            count = self._sock.recv_into(self._holes[0])
            if not count:
                raise EOFError
            self._fill(count)
        else:
            if self._start == self._end:
                self._start = self._end = 0
            elif self._end == _SCRATCH:
                rest = self._end - self._start
                self._scratch[:rest] = self._scratch[self._start : self._end]
                self._start, self._end = 0, rest
            count = self._sock.recv_into(self._view[self._end :])
            if not count:
                raise EOFError
            self._end += count
            self._parse()
        return bool(self._frames)

    def take(self) -> Frame | None:
        """Return the next whole frame, or None."""
        return self._frames.popleft() if self._frames else None

    def _fill(self, count: int) -> None:
        hole = self._holes[0]
        if count < len(hole):
            self._holes[0] = hole[count:]
            return
        self._holes.popleft()
        if self._holes:
            return
        if self._table is not None:
            (body_size, table), self._table = self._table, None
            self._begin_large(0, body_size, struct.unpack(f"={len(table) // 8}Q", table))
            if self._holes:
                return
        assert self._partial is not None
        self._frames.append(self._partial)
        self._partial = None

    def _parse(self) -> None:
        view, head = self._view, _HEADER.size
        while self._end - self._start >= head:
            number, body_size = _HEADER.unpack_from(view, self._start)
            at = self._start + head + 8 * number
            if at > self._end:
                if number > _MOST_BUFFERS:
                    raise ConnectionError(f"a frame of {number} buffers")
                if 8 * number > _SCRATCH // 2:
                    self._begin_table(number, body_size)
                return
            sizes = struct.unpack_from(f"={number}Q", view, self._start + head) if number else ()
            total = body_size + sum(sizes)
            if at + total <= self._end:
                body = bytes(view[at : at + body_size])
                at += body_size
                buffers = []
                for size in sizes:
                    buffers.append(bytearray(view[at : at + size]))
                    at += size
                self._start = at
                self._frames.append(Frame(body, buffers))
                continue
            if total <= _SCRATCH // 2:
                return  # the rest comes into the scratch buffer
            self._begin_large(at, body_size, sizes)
            return

    def _begin_table(self, number: int, body_size: int) -> None:
        """Receive a large table of sizes in memory of its own, before the frame."""
        table = bytearray(8 * number)
        here = self._view[self._start + _HEADER.size : self._end]
        table[: len(here)] = here
        self._table = body_size, table
        self._holes.append(memoryview(table)[len(here) :])
        self._start = self._end = 0

    def _begin_large(self, at: int, body_size: int, sizes: Sequence[int]) -> None:
        """Allocate a large frame, copy what is here, leave holes for what will come."""
        body = bytearray(body_size)
        buffers = [bytearray(size) for size in sizes]
        self._partial = Frame(body, buffers)
        for part in (body, *buffers):
            have = min(len(part), self._end - at)
            part[:have] = self._view[at : at + have]
            at += have
            if have < len(part):
                self._holes.append(memoryview(part)[have:])
        self._start = self._end = 0


class FrameWriter:
    """Queues pieces and writes what the socket takes.

    Parameters
    ----------
    sock : socket.socket
        A connected stream socket; non-blocking for a hub, blocking for a worker.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._queue: deque[memoryview] = deque()

    @property
    def backlog(self) -> bool:
        """True while something waits for the socket to take it."""
        return bool(self._queue)

    def send(self, pieces: Sequence[memoryview | bytes | bytearray]) -> bool:
        """Queue pieces and write what goes; True if all went."""
        for piece in pieces:
            if len(piece):
                self._queue.append(memoryview(piece))
        return self.flush()

    def flush(self) -> bool:
        """Write what the socket takes now; True if nothing is left.

        Raises
        ------
        OSError
            The connection is gone.
        """
        queue = self._queue
        while queue:
            pieces = [queue[i] for i in range(min(len(queue), _PIECES))]
            try:
                # No SIGPIPE, which a driver may have set to kill it: a worker may be gone.
                sent = self._sock.sendmsg(pieces, (), socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            for piece in pieces:
                if sent < len(piece):
                    queue[0] = piece[sent:]
                    break
                sent -= len(piece)
                queue.popleft()
        return True
