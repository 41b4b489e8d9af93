# SPDX-License-Identifier: BSD-3-Clause
"""Values as a whole: copied, renamed and listed, on one server or between nodes.

Where both keys are on one server, the server does it. Between nodes the bytes of the
value travel through the client, with its time to live.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ssdag.client.base import ClientBase, call
from ssdag.client.transport.resp import ReplyError, command
from ssdag.client.transport.slots import slot_of
from ssdag.client.transport.transactions import Watch, transaction
from ssdag.errors import DataError

if TYPE_CHECKING:
    from ssdag.client.transport.connection import Connection

#: Names that one step of a search looks at.
_STEP = b"1000"

#: How often a value may be written while it is given another name.
_TRIES = 20

_DATASET = re.compile(rb"^(.*\{.+\}\.).+$", re.DOTALL)


def copy(client: ClientBase, what: str, source: bytes, target: bytes) -> bool:
    """Copy a string value over another key; return False if there is none."""
    if _together(client, source, target):
        if source == target:
            return bool(
                client._run(what, lambda c: call(c, command(b"EXISTS", source)), key=source)
            )
        line = command(b"COPY", source, target, b"REPLACE")
        return bool(client._run(what, lambda c: call(c, line), key=source))
    value, ttl_ms = client._run(what, lambda c: _fetch(c, source), key=source)
    if value is None:
        return False
    client._run(what, lambda c: _store(c, target, value, ttl_ms), key=target)
    return True


def rename(client: ClientBase, what: str, old: bytes, new: bytes) -> bool:
    """Move a string value over another key; return False if there is none."""
    if _together(client, old, new):
        line = command(b"RENAME", old, new)

        def work(connection: Connection) -> bool:
            try:
                call(connection, line)
            except ReplyError as error:
                if "no such key" in str(error):
                    return False
                raise
            return True

        return client._run(what, work, key=old, idempotent=False)

    def move(connection: Connection) -> bool | None:
        with Watch(connection) as watch:
            _, value, ttl_ms = watch.look((b"WATCH", old), (b"GET", old), (b"PTTL", old))
            if value is None:
                return False
            client._run(what, lambda c: _store(c, new, value, ttl_ms), key=new)
            done = watch.transaction([(b"DEL", old)])
        return None if done is None else True

    for _ in range(_TRIES):
        moved = client._run(what, move, key=old, idempotent=False)
        if moved is not None:
            return moved
    raise DataError(f"{what}: it is written all the time, so it is there under both names now")


def _together(client: ClientBase, one: bytes, other: bytes) -> bool:
    """Return whether one command may name both keys."""
    return not client.clustered or slot_of(one) == slot_of(other)


def _fetch(connection: Connection, key: bytes) -> tuple[bytes | None, int]:
    """Return a value and its time to live in milliseconds, -1 for none."""
    answers = transaction(connection, [(b"GET", key), (b"PTTL", key)])
    assert answers is not None  # nothing was watched
    return answers[0], answers[1]


def _store(connection: Connection, key: bytes, value: bytes, ttl_ms: int) -> None:
    limit = (b"PX", b"%d" % ttl_ms) if ttl_ms > 0 else ()
    words = 3 + len(limit)
    head = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (words, len(key), key, len(value))
    tail = b"\r\n" + (command(*limit)[4:] if limit else b"")
    connection.send(head, value, tail)
    connection.reply()


def scan(client: ClientBase, glob: bytes, kind: bytes | None = None) -> list[bytes]:
    """Return the keys that fit a pattern on all servers, each one once.

    Parameters
    ----------
    client : Client
        Where.
    glob : bytes
        As the server's ``SCAN`` takes it.
    kind : bytes, optional
        Only values of this type.
    """
    found: dict[bytes, None] = {}
    only = () if kind is None else (b"TYPE", kind)

    def work(connection: Connection) -> None:
        cursor = b"0"
        while True:
            line = command(b"SCAN", cursor, b"MATCH", glob, b"COUNT", _STEP, *only)
            cursor, keys = call(connection, line)
            found.update(dict.fromkeys(keys))
            if cursor == b"0":
                return

    client._run_each("search for names", work)
    return list(found)


def escape(text: bytes) -> bytes:
    """Return a pattern that fits just this text."""
    return re.sub(rb"([*?\[\]\\^])", rb"\\\1", text)


def dataset_of(key: bytes) -> bytes | None:
    """Return the key of the metadata if this may be the key of a dataset's tensor."""
    match = _DATASET.match(key)
    return None if match is None else match[1] + b"meta"
