# SPDX-License-Identifier: BSD-3-Clause
"""What a stream, its writers and its readers share: name, keys, options, what it holds."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from ssdag.client.steering.handle import script
from ssdag.client.streams import scripts
from ssdag.client.streams.keys import Keys, Options, run
from ssdag.client.streams.presence import OURS, channel_of
from ssdag.client.streams.records import BytesSource, WireSource, unpack
from ssdag.client.transport.resp import command
from ssdag.errors import ConfigError, MissingDataError

if TYPE_CHECKING:
    from ssdag.client.base import ClientBase
    from ssdag.client.transport.connection import Connection


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


class StreamCore:
    """A stream on the server, without a writer or a reader.

    Parameters
    ----------
    client : Client
        Of the server.
    name : str
        The stream.
    options : Options
        What is asked for here.
    """

    def __init__(self, client: ClientBase, name: str, options: Options) -> None:
        self.client = client
        self.name = name
        self.options = options.checked()
        self.write_keys = Keys.of(client.prefixes.write("list", name))
        self.read_keys = Keys.of(client.prefixes.read("list", name))
        self._lock = threading.Lock()
        self._opened = False
        self.forget()

    def forget(self) -> None:
        """Let the next use set the options again, after the stream was deleted."""
        self._opened = not any(value is not None for value in self.options)

    def open(self) -> None:
        """Set what was asked for, at the first use; see whether others asked for the same."""
        with self._lock:
            if self._opened:
                return
            for keys in {self.write_keys, self.read_keys}:
                self._set_options(keys)
            self._opened = True

    def _set_options(self, keys: Keys) -> None:
        words = self.options.words()
        flat = [word for pair in words.items() for word in pair]
        line = script(scripts.OPEN, keys[:2], *flat)
        held = run(self.client, f"open of stream {self.name!r}", keys, line)
        for (name, asked), is_now in zip(words.items(), held, strict=True):
            if asked and asked != is_now:
                raise ConfigError(
                    f"stream {self.name!r} has {name}={is_now.decode()}, and {asked.decode()} was "
                    "asked for: leave it away, or delete() the stream first"
                )

    def value(self, number: int, fields: dict[bytes, bytes]) -> Any:
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

        return self.client._run(f"read of stream {self.name!r}", work, key=fields[b"at"])

    def info(self) -> StreamInfo:
        """Return what the stream holds and how far its groups are."""
        line = script(scripts.LOOK, self.read_keys[:2])
        what = f"look at stream {self.name!r}"
        flat, length, groups = run(self.client, what, self.read_keys, line)
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

    def abandoned(self) -> list[str]:
        """Return the groups that are not done with all records and have no living reader."""
        what = f"look at stream {self.name!r}"
        keys = self.read_keys
        flat, _, groups = run(self.client, what, keys, script(scripts.LOOK, keys[:2]))
        appended = int(dict(zip(flat[::2], flat[1::2], strict=True)).get(b"appended", 0))
        found = []
        for one in groups:
            facts = dict(zip(one[::2], one[1::2], strict=True))
            group = facts[b"name"]
            read = int(facts[b"last-delivered-id"].partition(b"-")[0])
            if read >= appended and not facts[b"pending"]:
                continue
            line = command(b"XINFO", b"CONSUMERS", keys.stream, group)
            readers = [
                dict(zip(reader[::2], reader[1::2], strict=True))[b"name"]
                for reader in run(self.client, what, keys, line)
            ]
            if all(reader.startswith(OURS) for reader in readers):
                channels = [channel_of(keys.stream, group) + reader for reader in readers]
                line = command(b"PUBSUB", b"NUMSUB", *channels)
                if not any(run(self.client, what, keys, line)[1::2]):
                    found.append(group.decode("utf-8", "surrogateescape"))
        return found
