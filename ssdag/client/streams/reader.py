# SPDX-License-Identifier: BSD-3-Clause
"""The side of a stream that reads."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import socket
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from ssdag.client.steering.handle import script
from ssdag.client.streams import scripts
from ssdag.client.streams.keys import run
from ssdag.client.streams.presence import OURS, Presence, channel_of
from ssdag.client.streams.steps import Entry, StepReading
from ssdag.client.transport.deadline import Deadline
from ssdag.client.transport.resp import ReplyError, command, key_bytes
from ssdag.errors import DataError, DataTimeoutError, MissingDataError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from ssdag.client.streams.core import StreamCore
    from ssdag.client.transport.connection import Connection

#: How often a reader looks for what others left behind.
_LOOK_S = 2.0

#: Answers to a reader whose group or stream was deleted.
_GONE = frozenset({"NOGROUP", "UNBLOCKED"})

#: An entry that is not yet done with: its id, and the key of its bytes if they stand apart.
Held: TypeAlias = tuple[bytes, "bytes | None"]

#: An entry's id and its fields as a flat list, which is None if it was deleted.
Found: TypeAlias = "tuple[bytes, list[bytes] | None] | None"

_numbers = itertools.count(1)


class _GoneError(Exception):
    """The server knows neither the stream nor the group."""


class StreamReader(StepReading):
    """One of those who read a stream; made by :meth:`Stream.reader`, used by one thread.

    Each group gets every record, and in a group each record goes to one reader. A record is
    done with when the next one is asked for, at :meth:`done`, or when the block of ``with``
    ends without an exception. A record whose reader was killed before that goes to another
    reader of the group, or to the next one that comes. (Where a cluster moves the stream to
    another node just then, it may also go to two.)
    """

    def __init__(
        self,
        stream: StreamCore,
        group: str,
        consumer: str | None,
        begin: str,
        timeout_s: float | None,
        take_over_s: float | None,
    ) -> None:
        super().__init__()
        self._stream = stream
        self._client = stream.client
        self._keys = stream.read_keys
        self._group = key_bytes(group)
        if consumer is None:
            place = f"{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
            consumer = f"{place}.{secrets.token_hex(4)}"
        self._me = OURS + key_bytes(consumer)
        self._channel = channel_of(self._keys.stream, self._group)
        self._presence = Presence(self._client, self._keys.stream, self._channel + self._me)
        #: How long each read waits at most.
        self.timeout_s = timeout_s
        self._idle = "" if take_over_s is None else str(max(int(take_over_s * 1000), 1))
        self._look_s = _LOOK_S if take_over_s is None else min(_LOOK_S, max(take_over_s, 0.01))
        self._begin = begin
        self._readgroup = (b"XREADGROUP", b"GROUP", self._group, self._me, b"COUNT", b"1")
        self._pid = os.getpid()
        self._joined = False
        self._ended: str | None = None
        #: The entry that the caller has.
        self._held: Held | None = None
        #: Whether the server may have given us an entry that we have not seen.
        self._unsure = True
        #: Whether we may have more of what was ours already, as after a start under an old name.
        self._more = False
        self._looked_s = -_LOOK_S
        self._closed = False

    def __repr__(self) -> str:
        return f"<StreamReader of {self._stream.name!r}>"

    # -- reading ---------------------------------------------------------------------

    def read(self, timeout_s: float | None = None) -> Entry | None:
        """Return the next record; blocks until there is one. The one before is done with.

        Parameters
        ----------
        timeout_s : float, optional
            How long to wait at most; by default, what the reader was made with.

        Returns
        -------
        Entry or None
            None at the end of the stream.

        Raises
        ------
        DataTimeoutError
            None came in time, or the server hangs. No record is lost by that: the next call
            returns it.
        DataError
            A writer gave up; its reason is in the text.
        MissingDataError
            The stream was deleted meanwhile, or its bytes are gone.
        StoreError
            The server cannot be reached.
        """
        self._check()
        with Deadline(self.timeout_s if timeout_s is None else timeout_s) as deadline:
            self._join()
            return self._next(deadline)

    def _next(self, deadline: Deadline) -> Entry | None:
        while True:
            found = None
            try:
                if self._ended is not None or time.monotonic() - self._looked_s >= self._look_s:
                    self._presence.ensure()
                    found = self._left_behind()
                if found is None and self._ended is None:
                    found = self._new(min(deadline.wait_s(self._client), self._look_s))
            except _GoneError:
                self._check_gone()
                continue
            if found is not None:
                entry = self._use(*found)
                if entry is not None:
                    return entry
            elif self._ended is not None:
                if self._ended:
                    raise DataError(
                        f"a writer of stream {self._stream.name!r} gave up: {self._ended}"
                    )
                return None
            elif deadline.passed:
                raise DataTimeoutError(
                    f"nothing came in stream {self._stream.name!r} within {deadline.timeout_s} s"
                )

    def _check(self) -> None:
        if self._closed:
            raise DataError(f"this reader of stream {self._stream.name!r} is closed")
        if self._pid != os.getpid():
            raise DataError("this reader was made before a fork: make another one here")

    def _check_gone(self) -> None:
        """Return if the stream has only moved to another node of the cluster."""
        groups = self._stream.info().groups
        if self._group.decode("utf-8", "surrogateescape") not in groups:
            self._joined = False
            self._held = None
            raise MissingDataError(
                f"stream {self._stream.name!r} is gone: it was deleted, or its server was "
                "started anew"
            )
        self._looked_s = -_LOOK_S

    def _join(self) -> None:
        if not self._joined:
            self._stream.open()
            self._looked_s = -_LOOK_S
            line = script(scripts.JOIN, (self._keys.stream,), self._group, self._begin)
            self._presence.ensure()
            run(self._client, self._what, self._keys, line)
            self._joined = True

    @property
    def _what(self) -> str:
        return f"read of stream {self._stream.name!r}"

    def _new(self, wait_s: float) -> Found:
        """Take a new entry; None if none came for a while."""
        block = b"%d" % max(int(wait_s * 1000), 1)
        streams = (b"STREAMS", self._keys.stream, b">")
        return self._take(command(*self._readgroup, b"BLOCK", block, *streams), _first)

    def _left_behind(self) -> Found:
        """Take over what a reader that is gone had in work; see whether the end is there."""
        now_s = time.monotonic()
        keys = (self._keys.stream, self._keys.state)
        line = script(scripts.TAKE_OVER, keys, self._group, self._me, self._channel, self._idle)
        ended: list[bytes | None] = [None]

        def parse(answer: Any) -> Found:
            entry, ended[0] = answer
            return None if entry is None else tuple(entry)

        found = self._take(line, parse)
        if found is None:
            self._looked_s = now_s
        if ended[0] is not None:
            self._ended = ended[0].decode("utf-8", "replace")
        return found

    def _take(self, line: bytes, parse: Callable[[Any], Found]) -> Found:
        """Send what may give us an entry, and before it that the last one is done with.

        If its answer was lost nobody knows whether we have an entry: then we look first
        what is ours.
        """
        mine = command(*self._readgroup, b"STREAMS", self._keys.stream, b"0")

        def work(connection: Connection) -> Found:
            if self._unsure:
                found = _first(self._ask(connection, mine))
                self._more = found is not None
                if found is not None:
                    return found
            self._unsure = True
            found = parse(self._ask(connection, line))
            self._unsure = False
            return found

        return self._client._run(self._what, work, key=self._keys.stream)

    def _ask(self, connection: Connection, line: bytes) -> Any:
        try:
            if self._held is None:
                connection.send(line)
            else:
                connection.send(self._ack(self._held) + line, replies=2)
                connection.reply()
                self._held = None
            return connection.reply()
        except ReplyError as error:
            if error.code in _GONE:
                raise _GoneError from None
            raise

    def _ack(self, held: Held) -> bytes:
        entry_id, at = held
        keys = (*self._keys, at) if at else self._keys
        return script(scripts.ACK, keys, self._group, entry_id)

    def _use(self, entry_id: bytes, flat: list[bytes] | None) -> Entry | None:
        """Return the record of an entry; None if it is the end, or was deleted."""
        fields = dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {}
        if b"layout" not in fields:
            if b"end" in fields:
                self._ended = fields[b"end"].decode("utf-8", "replace")
            self._held = entry_id, None  # the end is handed on when it is done with
            return None
        number = int(entry_id.partition(b"-")[0])
        self._unsure = True
        try:
            value = self._stream.value(number, fields)
        except DataTimeoutError:
            raise  # the next read takes it again
        except DataError:
            self._held = entry_id, fields.get(b"at")  # it would be the same again
            raise
        self._held = entry_id, fields.get(b"at")
        self._unsure = self._more
        return Entry(number, value)

    def _not_taken(self) -> None:
        """Let the next read return again what the last one has returned."""
        if self._held is not None:
            self._held = None
            self._unsure = True
            self._looked_s = -_LOOK_S

    def done(self) -> None:
        """Say that the last record is done with, before the next one is asked for."""
        self._check()
        if self._held is not None:
            line = self._ack(self._held)
            run(self._client, self._what, self._keys, line)
            self._held = None

    def close(self) -> None:
        """Leave; a record that is not done with goes to another reader of the group."""
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        try:
            if self._joined and not self._client.closed:
                line = script(scripts.LEAVE, (self._keys.stream,), self._group, self._me)
                with contextlib.suppress(StoreError):
                    run(self._client, self._what, self._keys, line)
        finally:
            self._presence.close()

    def __enter__(self) -> StreamReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # A loop that was left by `break` had used its last record.
            if not self._closed and (kind is None or kind is GeneratorExit):
                self.done()
        finally:
            self.close()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        entry = self.read()
        if entry is None:
            raise StopIteration
        return entry.value


def _first(answer: Any) -> Found:
    """Return the one entry of an answer to XREADGROUP."""
    entries = answer[0][1] if answer else None
    return tuple(entries[0]) if entries else None
