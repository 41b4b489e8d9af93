# SPDX-License-Identifier: BSD-3-Clause
"""Streams: records that some write and others read, with a bound on what the server holds."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ssdag.client.steering.handle import script, sent
from ssdag.client.streams import scripts
from ssdag.client.streams.core import StreamCore
from ssdag.client.streams.keys import run
from ssdag.client.streams.reader import StreamReader
from ssdag.client.streams.steps import Entry
from ssdag.client.streams.writer import StreamWriter
from ssdag.client.transport.resp import command, key_bytes
from ssdag.errors import ConfigError, MissingDataError

if TYPE_CHECKING:
    from collections.abc import Generator

    from ssdag.client.base import ClientBase
    from ssdag.client.streams.core import StreamInfo
    from ssdag.client.streams.keys import Options

#: Where a new group begins: with what is there, or with what comes.
Start: TypeAlias = Literal["oldest", "newest"]

#: How often the newest record is tried again that was read and evicted just then.
_TRIES = 10


class Stream:
    """A stream of records on the server; see :meth:`ssdag.Client.stream`.

    Iterating over it reads it, as one of the readers of the group ``"default"``. It pickles
    as its name and the server's address.
    """

    def __init__(self, client: ClientBase, name: str, options: Options) -> None:
        self._core = StreamCore(client, name, options)
        self._lock = threading.Lock()
        self._writer: StreamWriter | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self._core.name

    @property
    def options(self) -> Options:
        """What was asked for here."""
        return self._core.options

    def __repr__(self) -> str:
        return f"<Stream {self.name!r} at {self._core.client.address}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (sent(self._core.client), self.name, self.options)

    # -- writing ---------------------------------------------------------------------

    def append(self, value: Any, *, timeout_s: float | None = None) -> None:
        """Append a record.

        If the stream is full it waits for room, or something is dropped, as its policy
        says. It is appended once, also if the connection breaks meanwhile.

        Parameters
        ----------
        value : array_like, dict or Dataset
            An array as :meth:`~ssdag.Client.put_tensor` takes it; a dataset; or a
            dictionary from texts to arrays, numbers, texts, bytes, None, and lists or
            dictionaries of the latter.
        timeout_s : float, optional
            How long to wait for room at most; None for ever.

        Raises
        ------
        DataTimeoutError
            There was no room in time, or the server hangs and has not got the record; it is
            not in the stream.
        DataError
            The stream has ended.
        DataFormatError
            The value cannot be stored.
        ConfigError
            The stream has other options than were asked for here.
        StoreError
            The server cannot be reached or refuses; or it hangs while it has the record, of
            which nobody knows then whether it is in the stream.
        """
        self._default_writer().append(value, timeout_s=timeout_s)

    def end(self) -> None:
        """Say that nothing more comes: readers end when they have read what is there.

        With ``writers=n`` that is so when n of them have said it. Twice is as once.
        """
        self._default_writer().end()

    def fail(self, reason: str) -> None:
        """Say that the writer gave up: readers get DataError when they have read the rest.

        Parameters
        ----------
        reason : str
            What they are told.
        """
        self._default_writer().fail(reason)

    def writer(self) -> StreamWriter:
        """Return one more writer, which ends by itself: ``with stream.writer() as out:``."""
        return StreamWriter(self._core)

    def _default_writer(self) -> StreamWriter:
        with self._lock:
            if self._writer is None:
                self._writer = StreamWriter(self._core)
            return self._writer

    def begin_step(self) -> None:
        """Begin a step: what :meth:`put` gets until :meth:`end_step` is one record."""
        self._default_writer().begin_step()

    def put(self, name: str, value: Any) -> None:
        """Add a value to the step; see :meth:`StreamWriter.put`."""
        self._default_writer().put(name, value)

    def end_step(self, *, timeout_s: float | None = None) -> None:
        """Append the step as one record, a dictionary; raises what :meth:`append` does."""
        self._default_writer().end_step(timeout_s=timeout_s)

    # -- reading ---------------------------------------------------------------------

    def reader(
        self,
        group: str = "default",
        *,
        consumer: str | None = None,
        start: Start = "oldest",
        timeout_s: float | None = None,
        take_over_s: float | None = None,
    ) -> StreamReader:
        """Return a reader; the group is made when it first reads.

        Parameters
        ----------
        group : str
            Each group gets every record that is there when it is made, or comes later; in a
            group, each goes to one reader. See :meth:`add_group`.
        consumer : str, optional
            A name that a reader keeps when it is started anew: it begins with the record
            that it had not done with. Two at a time must not have the same.
        start : {"oldest", "newest"}
            Where a new group begins: with what is there, or with what comes.
        timeout_s : float, optional
            How long each read waits at most; None for ever.
        take_over_s : float, optional
            Records that another reader of the group has in work for so long are taken from
            it, although it lives. Those of readers that are gone are taken at once.
        """
        begin = _begin(start)
        return StreamReader(self._core, group, consumer, begin, timeout_s, take_over_s)

    def __iter__(self) -> Generator[Any, None, None]:
        with self.reader() as reader:
            for value in reader:  # noqa: UP028 - "yield from" would close the reader first
                yield value

    def newest(self) -> Entry | None:
        """Return the newest record that is there and leave it; None if there is none.

        For watching a stream without being one of its readers. Does not wait.
        """
        keys = self._core.read_keys
        what = f"look at stream {self.name!r}"
        line = command(b"XREVRANGE", keys.stream, b"+", b"-", b"COUNT", b"2")
        for _ in range(_TRIES):
            for entry_id, flat in run(self._core.client, what, keys, line):
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                if b"layout" not in fields:
                    continue
                number = int(entry_id.partition(b"-")[0])
                try:
                    return Entry(number, self._core.value(number, fields))
                except MissingDataError:  # somebody was done with it just now
                    break
            else:
                return None
        return None

    # -- the stream as such ----------------------------------------------------------

    def info(self) -> StreamInfo:
        """Return what the stream holds and how far its groups are."""
        return self._core.info()

    def __len__(self) -> int:
        return self.info().length

    def __bool__(self) -> bool:
        return True

    def add_group(self, group: str, *, start: Start = "oldest") -> None:
        """Make a group before its readers come, so that no record goes before they had it.

        Nothing happens if there is one.

        Parameters
        ----------
        group : str
            Its name.
        start : {"oldest", "newest"}
            Where it begins: with what is there, or with what comes.
        """
        keys = self._core.read_keys
        line = script(scripts.JOIN, (keys.stream,), key_bytes(group), _begin(start))
        run(self._core.client, f"group of stream {self.name!r}", keys, line)

    def remove_group(self, group: str) -> bool:
        """Forget a group, for which writers would wait; return whether there was one."""
        line = script(scripts.REMOVE_GROUP, self._core.read_keys, group)
        return bool(run(self._core.client, f"group of {self.name!r}", self._core.read_keys, line))

    def delete(self) -> bool:
        """Delete all of it; return whether there was something. Readers get an error."""
        line = script(scripts.DELETE, self._core.read_keys)
        there = run(
            self._core.client, f"delete of stream {self.name!r}", self._core.read_keys, line
        )
        self._core.forget()
        return bool(there)


def _begin(start: Start) -> str:
    """Return where a new group begins, as the server has it."""
    if start not in ("oldest", "newest"):
        raise ConfigError(f"start={start!r}: it is 'oldest' or 'newest'")
    return "0" if start == "oldest" else "$"
