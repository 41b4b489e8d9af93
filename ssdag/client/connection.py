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
from typing import TYPE_CHECKING, NoReturn

from ssdag.client.resp import ConnectionLostError, ReplyError, command, explain
from ssdag.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.client.address import Address
    from ssdag.client.resp import Reply

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

    Raises
    ------
    StoreError
        Nobody listens there, or the password is wrong.
    """

    __slots__ = ("_buffer", "_end", "_pos", "_sock", "_timeout_s", "_view", "address", "owed")

    def __init__(
        self,
        address: Address,
        password: str | None = None,
        timeout_s: float | None = None,
        connect_s: float | None = None,
    ) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._pos = self._end = 0
        #: Replies that were asked for and not yet read; only at 0 may it be used again.
        self.owed = 0
        try:
            limits_s = [limit for limit in (timeout_s, connect_s) if limit is not None]
            self._sock = address.connect(min(limits_s, default=None))
        except OSError as error:
            raise StoreError(
                f"cannot connect to the server at {address}: {error.strerror or error}"
            ) from error
        try:
            if timeout_s is not None:
                limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6) or 1)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            if password is not None:
                self._authenticate(password)
        except BaseException:
            self.close()
            raise

    def _authenticate(self, password: str) -> None:
        try:
            self.send(command(b"AUTH", password.encode()))
            self.reply()
        except ReplyError as error:
            raise explain(error, str(self.address), "log in") from None
        except ConnectionLostError as error:
            raise StoreError(f"cannot log in at the server: {error}") from error

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
        total = sum(map(len, parts))
        try:
            if total <= _JOIN:
                self._sock.sendall(parts[0] if len(parts) == 1 else b"".join(parts))
                return
            views = [memoryview(part) for part in parts if len(part)]
            while views:
                sent = self._sock.sendmsg(views[:64])
                while views and sent >= len(views[0]):
                    sent -= len(views.pop(0))
                if sent:
                    views[0] = views[0][sent:]
        except OSError as error:
            self._refused(error)

    def _refused(self, error: OSError) -> NoReturn:
        """A write failed: the reason may wait on the reading side."""
        if not isinstance(error, BlockingIOError):
            try:
                start = self._sock.recv(512, socket.MSG_DONTWAIT)
            except OSError:
                start = b""
            if start.startswith(b"-"):
                raise ReplyError(start[1:].split(b"\r\n")[0].decode("utf-8", "replace"))
        self._lost(error)

    def _lost(self, error: OSError | None) -> NoReturn:
        if isinstance(error, BlockingIOError):  # what a kernel time limit looks like
            raise ConnectionLostError(
                f"the server at {self.address} was silent for {self._timeout_s} s", timed_out=True
            ) from error
        why = "it hung up" if error is None else error.strerror or str(error)
        raise ConnectionLostError(f"lost the server at {self.address}: {why}") from error

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
        try:
            count = self._sock.recv_into(self._view[self._end :])
        except OSError as error:
            self._lost(error)
        if not count:
            self._lost(None)
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
        try:
            while done < size:
                count = self._sock.recvmsg_into([target[done:], self._view[:2]])[0]
                if not count:
                    self._lost(None)
                done += count
        except OSError as error:
            self._lost(error)
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
