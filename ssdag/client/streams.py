# SPDX-License-Identifier: BSD-3-Clause
"""Streams: records that some write and others read, with a bound on what the server holds."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from ssdag.client import stream_scripts as scripts
from ssdag.client.handle import script, sent
from ssdag.client.records import BytesSource, WireSource, unpack
from ssdag.client.resp import command
from ssdag.client.stream_keys import Keys, Options, run
from ssdag.client.stream_reader import StreamReader
from ssdag.client.stream_steps import Entry
from ssdag.client.stream_writer import StreamWriter
from ssdag.errors import ConfigError, MissingDataError

if TYPE_CHECKING:
    from collections.abc import Generator

    from ssdag.client.base import ClientBase
    from ssdag.client.connection import Connection
    from ssdag.client.stream_reader import Start

#: How often the newest record is tried again that was read and evicted just then.
_TRIES = 10


class GroupInfo(NamedTuple):
    """How far a group of readers is.

    Attributes
    ----------
    readers : int
        How many it has, with those of which nobody has noticed that they are gone.
    in_work : int
        Records that they have and are not done with.
    """

    readers: int
    in_work: int


class StreamInfo(NamedTuple):
    """What a stream holds.

    Attributes
    ----------
    length : int
        Records that the server holds.
    capacity : int or None
        How many it may hold; None before anybody said.
    policy : str or None
        What happens when it is full.
    appended, dropped : int
        Records so far; and how many of them were dropped before all groups had them.
    ended : bool
        Whether no more will come.
    groups : dict
        A :class:`GroupInfo` for each group.
    """

    length: int
    capacity: int | None
    policy: str | None
    appended: int
    dropped: int
    ended: bool
    groups: dict[str, GroupInfo]


class Stream:
    """A stream of records on the server; see :meth:`ssdag.Client.stream`.

    Iterating over it reads it, as one of the readers of the group ``"default"``. It pickles
    as its name and the server's address.
    """

    def __init__(self, client: ClientBase, name: str, options: Options) -> None:
        self._client = client
        self.name = name
        #: What was asked for here.
        self.options = options.checked()
        self._write_keys = Keys.of(client.prefixes.write("list", name))
        self._read_keys = Keys.of(client.prefixes.read("list", name))
        self._lock = threading.Lock()
        self._opened = not any(value is not None for value in options)
        self._writer: StreamWriter | None = None

    def __repr__(self) -> str:
        return f"<Stream {self.name!r} at {self._client.address}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (sent(self._client), self.name, self.options)

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
            There was no room in time; the record is not in the stream.
        DataError
            The stream has ended.
        DataFormatError
            The value cannot be stored.
        ConfigError
            The stream has other options than were asked for here.
        StoreError
            The server cannot be reached or refuses.
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
        return StreamWriter(self)

    def _default_writer(self) -> StreamWriter:
        with self._lock:
            if self._writer is None:
                self._writer = StreamWriter(self)
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
            Each group gets every record; in a group, each goes to one reader.
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
        if start not in ("oldest", "newest"):
            raise ConfigError(f"start={start!r}: it is 'oldest' or 'newest'")
        return StreamReader(self, group, consumer, start, timeout_s, take_over_s)

    def __iter__(self) -> Generator[Any, None, None]:
        with self.reader() as reader:
            for value in reader:  # noqa: UP028 - "yield from" would close the reader first
                yield value

    def newest(self) -> Entry | None:
        """Return the newest record that is there and leave it; None if there is none.

        For watching a stream without being one of its readers. Does not wait.
        """
        keys = self._read_keys
        what = f"look at stream {self.name!r}"
        line = command(b"XREVRANGE", keys.stream, b"+", b"-", b"COUNT", b"2")
        for _ in range(_TRIES):
            for entry_id, flat in run(self._client, what, keys, line):
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                if b"layout" not in fields:
                    continue
                number = int(entry_id.partition(b"-")[0])
                try:
                    return Entry(number, self._value(number, fields))
                except MissingDataError:  # somebody was done with it just now
                    break
            else:
                return None
        return None

    def _value(self, number: int, fields: dict[bytes, bytes]) -> Any:
        """Return the record of an entry; fetches its bytes if they stand apart."""
        layout = fields[b"layout"]
        if b"bytes" in fields:
            return unpack(layout, BytesSource(fields[b"bytes"]))
        line = command(b"GET", fields[b"at"])

        def work(connection: Connection) -> Any:
            connection.send(line)
            total = connection.bulk_length()
            if total is None:
                connection.owed -= 1
                raise MissingDataError(
                    f"record {number} of stream {self.name!r} has lost its bytes: deleted by "
                    "somebody else, or evicted because the server's memory was full"
                )
            source = WireSource(connection, total)
            value = unpack(layout, source)
            source.end()
            connection.owed -= 1
            return value

        return self._client._run(f"read of stream {self.name!r}", work, key=fields[b"at"])

    # -- the stream as such ----------------------------------------------------------

    def _open(self) -> None:
        """Set what was asked for, at the first use; see whether others asked for the same."""
        with self._lock:
            if self._opened:
                return
            for keys in {self._write_keys, self._read_keys}:
                self._set_options(keys)
            self._opened = True

    def _set_options(self, keys: Keys) -> None:
        words = self.options.words()
        flat = [word for pair in words.items() for word in pair]
        line = script(scripts.OPEN, keys[:2], *flat)
        held = run(self._client, f"open of stream {self.name!r}", keys, line)
        for (name, asked), is_now in zip(words.items(), held, strict=True):
            if asked and asked != is_now:
                raise ConfigError(
                    f"stream {self.name!r} has {name}={is_now.decode()}, and {asked.decode()} was "
                    "asked for: leave it away, or delete() the stream first"
                )

    def info(self) -> StreamInfo:
        """Return what the stream holds and how far its groups are."""
        line = script(scripts.LOOK, self._read_keys[:2])
        what = f"look at stream {self.name!r}"
        flat, length, groups = run(self._client, what, self._read_keys, line)
        state = dict(zip(flat[::2], flat[1::2], strict=True))
        known = {}
        for one in groups:
            facts = dict(zip(one[::2], one[1::2], strict=True))
            known[facts[b"name"].decode("utf-8", "surrogateescape")] = GroupInfo(
                facts[b"consumers"], facts[b"pending"]
            )
        return StreamInfo(
            length=length,
            capacity=int(state[b"capacity"]) if b"capacity" in state else None,
            policy=state[b"policy"].decode() if b"policy" in state else None,
            appended=int(state.get(b"appended", 0)),
            dropped=int(state.get(b"dropped", 0)),
            ended=b"ended" in state,
            groups=known,
        )

    def __len__(self) -> int:
        return self.info().length

    def __bool__(self) -> bool:
        return True

    def remove_group(self, group: str) -> bool:
        """Forget a group, for which writers would wait; return whether there was one."""
        line = script(scripts.REMOVE_GROUP, self._read_keys, group)
        return bool(run(self._client, f"group of {self.name!r}", self._read_keys, line))

    def delete(self) -> bool:
        """Delete all of it; return whether there was something. Readers get an error."""
        line = script(scripts.DELETE, self._read_keys)
        there = run(self._client, f"delete of stream {self.name!r}", self._read_keys, line)
        self._opened = not any(value is not None for value in self.options)
        return bool(there)
