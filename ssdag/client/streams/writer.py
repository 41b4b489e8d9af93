# SPDX-License-Identifier: BSD-3-Clause
"""The side of a stream that writes."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from typing import TYPE_CHECKING, Any, ClassVar

from ssdag.client.base import call
from ssdag.client.steering.handle import Program, script
from ssdag.client.streams import scripts
from ssdag.client.streams.keys import DEFAULT_CAPACITY, run
from ssdag.client.streams.records import pack
from ssdag.client.transport.deadline import Deadline
from ssdag.client.transport.resp import command
from ssdag.errors import DataError, DataTimeoutError, SsdagError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ssdag.client.steering.handle import Line
    from ssdag.client.streams.core import StreamCore
    from ssdag.client.streams.records import Packed
    from ssdag.client.transport.connection import Connection

#: Records up to this size stand in the entry itself; larger ones have a key of their own.
_INLINE = 4 << 10

#: How long bytes of a writer that was killed before they became an entry stay, and how long
#: a writer's last append is remembered.
_HOLD_MS = 60_000
_REMEMBER_S = 300

#: Identities that a process keeps for each stream.
_FREE_IDENTITIES = 16
#: Streams for which a process keeps identities.
_STREAMS = 1000

_APPEND = Program(scripts.APPEND)
_IS_FULL = Program(scripts.IS_FULL)


class _Identity:
    """Who appends, and how often it has: by this the server knows what it has already.

    Tasks come and go, each with a writer of its own. They use the identities of their
    process one after the other, so that the server remembers few.
    """

    _free: ClassVar[dict[tuple[str, bytes], list[_Identity]]] = {}

    def __init__(self, place: tuple[str, bytes]) -> None:
        self._place = place
        self._pid = os.getpid()
        self.key = b"%b:%b" % (place[1], secrets.token_hex(8).encode())
        self.sequence = 0

    @classmethod
    def take(cls, address: str, stream: bytes) -> _Identity:
        """Return one that nobody uses."""
        place = (address, stream)
        while True:
            try:
                found = cls._free[place].pop()
            except (KeyError, IndexError):
                return cls(place)
            if found._pid == os.getpid():  # else it is the parent's
                return found

    def give_back(self) -> None:
        """Let another writer use it; the server goes on to count."""
        if self._pid == os.getpid():
            if len(self._free) > _STREAMS:
                self._free.clear()
            free = self._free.setdefault(self._place, [])
            if len(free) < _FREE_IDENTITIES:
                free.append(self)


class StreamWriter:
    """One of those who append to a stream. Threads may share it; made by :meth:`Stream.writer`.

    Used as a context manager, it ends its part of the stream at the end of the block; after
    an exception it tells the readers that it gave up.
    """

    def __init__(self, stream: StreamCore) -> None:
        self._stream = stream
        self._client = stream.client
        self._keys = stream.write_keys
        self._lock = threading.Lock()
        self._full = False
        self._step: dict[str, Any] | None = None
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._end_id = secrets.token_hex(8)
        self._identity = _Identity.take(self._client.address, self._keys.stream)

    def __del__(self) -> None:
        if hasattr(self, "_identity"):
            self._identity.give_back()

    def __repr__(self) -> str:
        return f"<StreamWriter of {self._stream.name!r}>"

    def append(self, value: Any, *, timeout_s: float | None = None) -> None:
        """Append a record; see :meth:`Stream.append`."""
        record = pack(value)
        with Deadline(timeout_s) as deadline, self._lock:
            if self._pid != os.getpid():  # a forked child is another writer
                self._begin()
            self._stream.open()
            self._identity.sequence += 1
            large = record.nbytes > _INLINE
            waited = large and self._full
            if waited:
                # The bytes are sent when there is room: they shall not wait in the server.
                self._wait_for_room(deadline)
            line = self._append_line(record, large, waited)
            status = self._send(record if large else None, line)
            if status == scripts.FULL:
                line = self._append_line(record, large, True)
            while status != scripts.DONE:
                if status == scripts.ENDED:
                    raise DataError(
                        f"stream {self._stream.name!r} has ended; delete() it to begin anew"
                    )
                if status == scripts.RESEND:
                    status = self._send(record, line)
                    continue
                if deadline.passed:
                    unlink = command(b"UNLINK", self._bytes_key)
                    run(self._client, self._what, self._keys, unlink)
                    raise self._too_slow(deadline)
                status = self._answer(self._after_a_token(line, deadline, appends=True))

    @property
    def _bytes_key(self) -> bytes:
        """Where the bytes of this record are, if it is large."""
        return b"%b:%d" % (self._identity.key, self._identity.sequence)

    @property
    def _what(self) -> str:
        return f"append to stream {self._stream.name!r}"

    def _append_line(self, record: Packed, large: bool, waited: bool) -> Line:
        options = self._stream.options
        return _APPEND.line(
            (*self._keys, self._identity.key, self._bytes_key),
            self._identity.sequence,
            DEFAULT_CAPACITY if options.capacity is None else options.capacity,
            options.policy or "block",
            "0" if options.evict is False else "1",
            "1" if large else "0",
            record.layout,
            b"" if large else b"".join(record.parts),
            _HOLD_MS,
            _REMEMBER_S,
            "1" if waited else "0",
        )

    def _send(self, record: Packed | None, line: Line) -> int:
        """Send the bytes of a large record, and the append; return what became of it."""

        def small(connection: Connection) -> Any:
            connection.send(line.short)
            return line.answer(connection)

        if record is None:
            return self._answer(self._run_append(small))
        head = b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (
            len(self._bytes_key),
            self._bytes_key,
            record.nbytes,
        )
        hold = b"%d" % _HOLD_MS
        tail = b"\r\n$2\r\nPX\r\n$%d\r\n%b\r\n%b" % (len(hold), hold, line.short)

        def work(connection: Connection) -> Any:
            connection.send(head, *record.parts, tail, replies=2)
            connection.reply()
            return line.answer(connection)

        return self._answer(self._run_append(work))

    def _run_append(self, work: Callable[[Connection], Any]) -> Any:
        """Run what appends; it may have been done also if the server is silent then."""
        try:
            return self._client._run(self._what, work, key=self._keys.stream)
        except DataTimeoutError as error:
            text = f"{error}; nobody knows whether the record is in the stream"
            raise StoreError(text) from error

    def _answer(self, answer: Any) -> int:
        status, full = answer
        self._full = bool(full)
        return int(status)

    def _after_a_token(self, line: Line, deadline: Deadline, *, appends: bool) -> Any:
        """Sleep until somebody makes room, or for a while; then do `line`."""
        wait_s = deadline.wait_s(self._client)
        wait = command(b"BLPOP", self._keys.room, b"%.3f" % wait_s)

        def work(connection: Connection) -> Any:
            connection.send(wait + line.short, replies=2)
            connection.reply()
            return line.answer(connection)

        if appends:
            return self._run_append(work)
        return self._client._run(self._what, work, key=self._keys.stream)

    def _wait_for_room(self, deadline: Deadline) -> None:
        line = _IS_FULL.line(self._keys)
        full = run(self._client, self._what, self._keys, command(*line.whole))
        while full:
            if deadline.passed:
                raise self._too_slow(deadline)
            full = self._after_a_token(line, deadline, appends=False)

    def _too_slow(self, deadline: Deadline) -> DataTimeoutError:
        full = f"stream {self._stream.name!r} was full for {deadline.timeout_s} s: "
        gone: list[str] = []
        with contextlib.suppress(SsdagError):  # what is known will do
            gone = self._stream.abandoned()
        if gone:
            advice = (
                f"no reader is left in {', '.join(map(repr, gone))}, for which it waits: start "
                f"one, or forget the group by remove_group({gone[0]!r})"
            )
        else:
            advice = (
                "nobody reads it, or a reader is slow; give it more capacity=, or "
                "policy='drop_oldest'"
            )
        return DataTimeoutError(full + advice)

    def end(self) -> None:
        """Say that this writer appends nothing more; see :meth:`Stream.end`."""
        self._end("")

    def fail(self, reason: str) -> None:
        """Say that it gave up; see :meth:`Stream.fail`."""
        self._end(reason or "it gave no reason")

    def _end(self, reason: str, *, all_writers: bool = False) -> None:
        with self._lock:
            if self._pid != os.getpid():
                self._begin()
            self._stream.open()
            writers = self._stream.options.writers or 1
            words = (
                self._end_id,
                writers,
                reason.encode("utf-8", "replace")[:4096],
                "1" if all_writers else "0",
            )
            line = script(scripts.END, self._keys, *words)
            what = f"end of stream {self._stream.name!r}"
            self._client._run(what, lambda c: call(c, line), key=self._keys.stream)

    # -- steps -----------------------------------------------------------------------

    def begin_step(self) -> None:
        """Begin to collect what belongs to one step; see :meth:`Stream.begin_step`."""
        if self._step is not None:
            raise DataError("begin_step() after begin_step(): end_step() is missing")
        self._step = {}

    def put(self, name: str, value: Any) -> None:
        """Add a value to the step; the last one under a name counts.

        Arrays are not copied: they must not change until ``end_step()`` has returned.
        """
        if self._step is None:
            raise DataError("put() outside of a step: begin_step() is missing")
        self._step[name] = value

    def end_step(self, *, timeout_s: float | None = None) -> None:
        """Append the step as one record; if that fails the step is still there.

        Raises
        ------
        DataTimeoutError
            There was no room in time.
        """
        if self._step is None:
            raise DataError("end_step() outside of a step: begin_step() is missing")
        self.append(self._step, timeout_s=timeout_s)
        self._step = None

    def __enter__(self) -> StreamWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.end()
        else:
            with contextlib.suppress(SsdagError):  # the caller shall see its own error
                self.fail(f"{type(error).__name__}: {error}")
