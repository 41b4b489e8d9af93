# SPDX-License-Identifier: BSD-3-Clause
"""One connection to a server, made for large values.

Sending takes the parts of a command where they are (``sendmsg``, no joining), receiving
puts a value where it shall be (``recv_into`` of the array's memory). The socket is in
blocking mode and its time limit is the kernel's, so that a whole value is one system
call in each direction and the interpreter lock is free meanwhile.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

from ssdag.client.transport.deadline import silence_ends
from ssdag.client.transport.patience import Patience
from ssdag.client.transport.resp import ConnectionLostError, ReplyError, command, explain
from ssdag.errors import DataTimeoutError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.client.transport.address import Address
    from ssdag.client.transport.resp import Reply

#: Bytes that one look at the socket takes beside a large value: a small tensor whole.
_BUFFER = 16 << 10

#: What is left of an unwanted value is read away up to this size, else the connection
#: is closed, which is quicker.
_SKIP = 256 << 10

#: Below this, copying the payload beside its header is cheaper than a second buffer.
_JOIN = 8 << 10


class Connection:
    """A connection that is used by one thread at a time.

    Parameters
    ----------
    address : Address
        Where the server is.
    password : str or None
        Of the default user.
    timeout_s : float or None
        How long to wait for connecting, and for each further byte; None for ever.
    connect_s : float, optional
        How long connecting may take, if less than `timeout_s`.
    counts : callable, optional
        ``counts(address)`` is asked each second in which the server is silent, whether it
        is still worth waiting for; if not, the connection counts as lost.

    Raises
    ------
    StoreError
        Nobody listens there, or the password is wrong.
    DataTimeoutError
        The deadline of the call has passed meanwhile.
    """

    __slots__ = ("_buffer", "_end", "_patience", "_pos", "_sock", "_view", "address", "owed")

    def __init__(
        self,
        address: Address,
        password: str | None = None,
        timeout_s: float | None = None,
        connect_s: float | None = None,
        counts: Callable[[Address], bool] | None = None,
    ) -> None:
        self.address = address
        self._patience = Patience(address, timeout_s, counts)
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._pos = self._end = 0
        #: Replies that were asked for and not yet read; only at 0 may it be used again.
        self.owed = 0
        until_s = silence_ends()
        try:
            limits_s = [limit for limit in (timeout_s, connect_s) if limit is not None]
            if until_s is not None:
                limits_s.append(max(until_s - time.monotonic(), 0.02))
            self._sock = address.connect(min(limits_s, default=None))
        except OSError as error:
            text = f"cannot connect to the server at {address}: {error.strerror or error}"
            if until_s is not None and time.monotonic() >= until_s:
                raise DataTimeoutError(text) from error
            raise StoreError(text) from error
        try:
            self._patience.heed(until_s)
            if self._patience.look_s is not None:
                self._limit(self._patience.look_s)
            if password is not None:
                self._authenticate(password)
        except BaseException:
            self.close()
            raise

    def heed(self) -> None:
        """Take over the deadline of the call that uses it now; none, if it has none."""
        until_s = silence_ends()
        if until_s != self._patience.until_s:
            self._patience.heed(until_s)
            self._limit(self._patience.look_s)

    def _limit(self, limit_s: float | None) -> None:
        """Have the kernel end each read and write after so long; None for never."""
        whole = struct.pack("ll", 0, 0)
        if limit_s is not None:
            whole = struct.pack("ll", int(limit_s), int(limit_s % 1 * 1e6) or 1)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, whole)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, whole)

    def _authenticate(self, password: str) -> None:
        try:
            self.send(command(b"AUTH", password.encode()))
            self.reply()
        except ReplyError as error:
            raise explain(error, str(self.address), "log in") from None
        except ConnectionLostError as error:
            kind = DataTimeoutError if error.late else StoreError
            raise kind(f"cannot log in at the server: {error}") from error

    def close(self) -> None:
        """Close; may be called again."""
        self._sock.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, for a selector."""
        return self._sock.fileno()

    @property
    def buffered(self) -> bool:
        """Whether received bytes wait to be read, which no selector can see."""
        return self._pos < self._end

    def is_alive(self) -> bool:
        """Return False if the server has closed the connection; does not block."""
        try:
            return self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    # -- sending ---------------------------------------------------------------------

    def send(self, *parts: bytes | memoryview, replies: int = 1) -> None:
        """Write the parts one after the other, without joining large ones.

        Raises
        ------
        ConnectionLostError
            It broke; nobody knows how much the server has seen.
        ReplyError
            The server refused in the middle, and said why before it hung up.
        """
        self.owed += replies
        views: list[bytes | memoryview]
        if sum(map(len, parts)) <= _JOIN:
            views = [parts[0] if len(parts) == 1 else b"".join(parts)]
        else:
            views = [memoryview(part) for part in parts if len(part)]
        looks = 0
        while views:
            try:
                if len(views) == 1:
                    sent = self._sock.send(views[0])
                else:
                    sent = self._sock.sendmsg(views[:64])
            except OSError as error:
                looks += 1
                self._refused(error, looks)
                continue
            looks = 0
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = memoryview(views[0])[sent:]

    def _refused(self, error: OSError, looks: int) -> None:
        """A write failed: the reason may wait on the reading side. Return to try again."""
        if not isinstance(error, BlockingIOError):
            try:
                start = self._sock.recv(512, socket.MSG_DONTWAIT)
            except OSError:
                start = b""
            if start.startswith(b"-"):
                raise ReplyError(start[1:].split(b"\r\n")[0].decode("utf-8", "replace"))
        self._patience.waited(error, looks)

    # -- receiving -------------------------------------------------------------------

    def _fill(self) -> None:
        """Read more into the buffer; at least one byte."""
        if self._pos:
            rest = self._end - self._pos
            self._view[:rest] = self._view[self._pos : self._end]
            self._pos, self._end = 0, rest
        if self._end == len(self._buffer):
            self._view.release()
            self._buffer.extend(bytes(len(self._buffer)))
            self._view = memoryview(self._buffer)
        looks = 0
        while True:
            try:
                count = self._sock.recv_into(self._view[self._end :])
                break
            except OSError as error:
                looks += 1
                self._patience.waited(error, looks)
        if not count:
            self._patience.lost(None)
        self._end += count

    def line(self) -> bytes:
        """Return the next line without its end."""
        searched = 0
        while True:
            end = self._buffer.find(b"\r\n", self._pos + searched, self._end)
            if end >= 0:
                line = bytes(self._view[self._pos : end])
                self._pos = end + 2
                return line
            searched = max(self._end - self._pos - 1, 0)
            self._fill()

    def peek(self, count: int) -> memoryview:
        """Return the next `count` bytes and leave them; valid until the next call."""
        while self._end - self._pos < count:
            self._fill()
        return self._view[self._pos : self._pos + count]

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > _BUFFER:
            out = bytearray(count)
            self.read_into(memoryview(out))
            return bytes(out)
        data = bytes(self.peek(count))
        self._pos += count
        return data

    def read_into(self, target: memoryview) -> None:
        """Fill `target` with the next bytes: first what is here, the rest in place."""
        done = min(len(target), self._end - self._pos)
        if done:
            target[:done] = self._view[self._pos : self._pos + done]
            self._pos += done
        size = len(target)
        if done == size:
            return
        # All that was buffered is used up: the bytes behind the value (its line end)
        # go to the buffer with the same call.
        self._pos = self._end = 0
        looks = 0
        while done < size:
            try:
                count = self._sock.recvmsg_into([target[done:], self._view[:2]])[0]
            except OSError as error:
                looks += 1
                self._patience.waited(error, looks)
                continue
            if not count:
                self._patience.lost(None)
            looks = 0
            done += count
        self._end = done - size

    def skip(self, count: int) -> bool:
        """Read `count` bytes away if they are few; False if closing is quicker."""
        if count > _SKIP:
            return False
        while count:
            step = min(count, _BUFFER)
            self.take(step)
            count -= step
        return True

    def bulk_length(self) -> int | None:
        """Begin a bulk string: return its length, None for nil.

        The caller reads that many bytes and then calls :meth:`end_bulk`.
        """
        line = self.line()
        if line[:1] == b"$":
            length = int(line[1:])
            return None if length < 0 else length
        if line[:1] == b"-":
            raise ReplyError(line[1:].decode("utf-8", "replace"))
        raise ConnectionLostError(f"the server at {self.address} speaks no RESP2: {line[:80]!r}")

    def end_bulk(self) -> None:
        """Read the line end behind a bulk string."""
        self.take(2)

    def array_length(self) -> int | None:
        """Begin an array: return the number of its elements, None for nil."""
        line = self.line()
        if line[:1] == b"*":
            length = int(line[1:])
            return None if length < 0 else length
        if line[:1] == b"-":
            raise ReplyError(line[1:].decode("utf-8", "replace"))
        raise ConnectionLostError(f"the server at {self.address} speaks no RESP2: {line[:80]!r}")

    def reply(self) -> Reply:
        """Return the next whole reply.

        Raises
        ------
        ReplyError
            It is an error; the connection stays in step.
        """
        value = self._value()
        self.owed -= 1
        if isinstance(value, ReplyError):
            raise value
        return value

    def replies(self, count: int) -> Sequence[Reply]:
        """Return `count` replies; errors are values."""
        values = []
        for _ in range(count):
            values.append(self._value())
            self.owed -= 1
        return values

    def _value(self) -> Reply:
        line = self.line()
        kind = line[:1]
        if kind == b"+":
            return line[1:].decode("utf-8", "replace")
        if kind == b":":
            return int(line[1:])
        if kind == b"-":
            return ReplyError(line[1:].decode("utf-8", "replace"))
        if kind == b"$":
            length = int(line[1:])
            if length < 0:
                return None
            data = self.take(length)
            self.take(2)
            return data
        if kind == b"*":
            length = int(line[1:])
            return None if length < 0 else [self._value() for _ in range(length)]
        raise ConnectionLostError(f"the server at {self.address} speaks no RESP2: {line[:80]!r}")
