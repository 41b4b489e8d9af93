# SPDX-License-Identifier: BSD-3-Clause
"""The side of a stream that reads."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import socket
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from ssdag.client import stream_scripts as scripts
from ssdag.client.resp import ReplyError, command, key_bytes
from ssdag.client.stream_keys import Deadline, run, script
from ssdag.client.stream_presence import Presence
from ssdag.errors import DataError, DataTimeoutError, MissingDataError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from ssdag.client.connection import Connection
    from ssdag.client.streams import Stream

#: Where a new group begins: with what is there, or with what comes.
Start: TypeAlias = Literal["oldest", "newest"]

#: How often a reader that always has something to read looks for what others left behind.
_LOOK_S = 2.0

#: Answers to a reader whose group or stream was deleted.
_GONE = frozenset({"NOGROUP", "UNBLOCKED"})

#: An entry's id and its fields as a flat list, which is None if it was deleted.
Found: TypeAlias = "tuple[bytes, list[bytes] | None] | None"

_numbers = itertools.count(1)


class Entry(NamedTuple):
    """One record of a stream.

    Attributes
    ----------
    number : int
        From 1; what is missing in between was dropped, or read by others of the group.
    value : numpy.ndarray, dict or Dataset
        What was appended.
    """

    number: int
    value: Any


class StreamReader:
    """One of those who read a stream; made by :meth:`Stream.reader`, used by one thread.

    Each group gets every record, and in a group each record goes to one reader. A record is
    done with when the next one is asked for, at :meth:`done`, or when the block of ``with``
    ends without an exception. A record whose reader was killed before that goes to another
    reader of the group, or to the next one that comes.
    """

    def __init__(
        self,
        stream: Stream,
        group: str,
        consumer: str | None,
        start: Start,
        timeout_s: float | None,
        take_over_s: float | None,
    ) -> None:
        self._stream = stream
        self._client = stream._client
        self._keys = stream._read_keys
        self._group = key_bytes(group)
        if consumer is None:
            place = f"{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
            consumer = f"{place}.{secrets.token_hex(4)}"
        self._me = b"ssdag/" + key_bytes(consumer)
        self._channel = b"ssdag:reader:%b:%b:" % (self._keys.stream, self._group)
        self._presence = Presence(self._client, self._keys.stream, self._channel + self._me)
        self._timeout_s = timeout_s
        self._idle = "" if take_over_s is None else str(max(int(take_over_s * 1000), 1))
        self._start = start
        self._readgroup = (b"XREADGROUP", b"GROUP", self._group, self._me, b"COUNT", b"1")
        self._pid = os.getpid()
        self._joined = False
        self._ended: str | None = None
        #: The entry that the caller has.
        self._held: bytes | None = None
        #: Whether the server may have given us an entry that we have not seen.
        self._unsure = True
        self._looked_s = -_LOOK_S
        self._step: dict[str, Any] | None = None
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
            None came in time.
        DataError
            A writer gave up; its reason is in the text.
        MissingDataError
            The stream was deleted meanwhile, or its bytes are gone.
        StoreError
            The server cannot be reached.
        """
        self._check()
        deadline = Deadline(self._timeout_s if timeout_s is None else timeout_s)
        self._join()
        while True:
            found = None
            if self._ended is not None or time.monotonic() - self._looked_s >= _LOOK_S:
                found = self._left_behind()
            if found is None and self._ended is None:
                found = self._new(deadline.wait_s(self._client))
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

    def _join(self) -> None:
        if not self._joined:
            self._stream._open()
            begin = "0" if self._start == "oldest" else "$"
            line = script(scripts.JOIN, (self._keys.stream,), self._group, begin)
            run(self._client, self._what, self._keys, line)
            self._joined = True
        self._presence.ensure()

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
                self._joined = False
                raise MissingDataError(
                    f"stream {self._stream.name!r} is gone: it was deleted, or its server "
                    "was started anew"
                ) from None
            raise

    def _ack(self, entry_id: bytes) -> bytes:
        # A slot that is being moved has its keys on two nodes: the server must know of all.
        record = b"%b:%b" % (self._keys.stream, entry_id.partition(b"-")[0])
        return script(scripts.ACK, (*self._keys, record), self._group, entry_id)

    def _use(self, entry_id: bytes, flat: list[bytes] | None) -> Entry | None:
        """Return the record of an entry; None if it is the end, or was deleted."""
        fields = dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {}
        if b"layout" not in fields:
            if b"end" in fields:
                self._ended = fields[b"end"].decode("utf-8", "replace")
            self._held = entry_id  # the end is handed on when it is done with
            return None
        number = int(entry_id.partition(b"-")[0])
        self._unsure = True
        try:
            value = self._stream._value(self._keys, number, fields)
        except DataError:
            self._held = entry_id  # it would be the same again
            raise
        self._held = entry_id
        self._unsure = False
        return Entry(number, value)

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
            if kind is None or kind is GeneratorExit:
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

    # -- steps -----------------------------------------------------------------------

    def begin_step(self, timeout_s: float | None = None) -> bool:
        """Wait for the next step, which :meth:`get` then reads from; False at the end.

        Raises
        ------
        DataError
            What came is no step, but a single array; and all that :meth:`read` raises.
        """
        entry = self.read(timeout_s)
        self._step = None
        if entry is None:
            return False
        if not isinstance(entry.value, dict):
            raise DataError(
                f"record {entry.number} of stream {self._stream.name!r} is no step: it was not "
                "written by begin_step(), put() and end_step(), nor as a dict"
            )
        self._step = entry.value
        return True

    @property
    def names(self) -> tuple[str, ...]:
        """What the step has."""
        return tuple(self._in_step())

    def get(self, name: str) -> Any:
        """Return a value of the step.

        Raises
        ------
        MissingDataError
            The step has nothing of this name.
        """
        step = self._in_step()
        if name not in step:
            known = ", ".join(step) or "nothing"
            raise MissingDataError(f"the step has no {name!r}; it has {known}")
        return step[name]

    def _in_step(self) -> dict[str, Any]:
        if self._step is None:
            raise DataError("not in a step: begin_step() is missing, or returned False")
        return self._step

    def end_step(self) -> None:
        """Say that the step is done with: a writer that waits may go on."""
        self._in_step()
        self._step = None
        self.done()


def _first(answer: Any) -> Found:
    """Return the one entry of an answer to XREADGROUP."""
    entries = answer[0][1] if answer else None
    return tuple(entries[0]) if entries else None
