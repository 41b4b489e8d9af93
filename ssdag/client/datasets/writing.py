# SPDX-License-Identifier: BSD-3-Clause
"""Writing datasets on a connection: put, delete, copy and rename, each one transaction."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ssdag.client.datasets import metadata
from ssdag.client.datasets.dataset import parts
from ssdag.client.datasets.keys import (
    TRIES,
    busy,
    lost,
    meta_key,
    missing,
    tensor_key,
    tensor_names,
)
from ssdag.client.datasets.metadata import COMPLETE, TENSOR_NAMES
from ssdag.client.transport.resp import ReplyError, command, key_bytes
from ssdag.client.transport.transactions import Sender, Watch, ended, first_error, transaction
from ssdag.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ssdag.client.datasets.dataset import Dataset
    from ssdag.client.tensors.npy import Array
    from ssdag.client.transport.connection import Connection

#: Datasets beyond this are stored aside first. A server closes the connection if a
#: transaction holds more than its client-query-buffer-limit, by default 1 GiB.
LARGE_BYTES = 256 << 20

#: How long parts of an unfinished put stay.
ASIDE_MS = 15 * 60 * 1000


def gone(what: str) -> StoreError:
    """Return the error for parts that the server dropped while they were put together."""
    return StoreError(
        f"{what}: the server dropped parts of it before it was whole (its memory limit is "
        f"reached, or it took more than {ASIDE_MS // 60_000} minutes); nothing is changed"
    )


def packed(dataset: Dataset) -> list[bytes]:
    """Return fields and values of the hash, without the mark that it is complete."""
    arrays, fields = parts(dataset)
    words = []
    for name, field in fields.items():
        words += [key_bytes(name), field.packed()]
    if arrays:
        words += [TENSOR_NAMES, metadata.pack_texts(arrays)]
    return words


def put(connection: Connection, base: bytes, dataset: Dataset) -> None:
    """Store a dataset in one transaction, in place of what is there.

    A large one is first stored aside, as a server keeps all of a transaction until its
    end, and takes only so much.
    """
    words = packed(dataset)
    arrays = parts(dataset)[0]
    if dataset.nbytes > LARGE_BYTES:
        done = _put_large(connection, base, words, arrays)
    else:
        done = _put_small(connection, base, words, arrays)
    sweep(connection, base, set(tensor_names(done[0])) - arrays.keys())


def _put_small(
    connection: Connection, base: bytes, words: list[bytes], arrays: dict[str, Array]
) -> list[Any]:
    """Send everything in one go."""
    key = meta_key(base)
    send = Sender(connection)
    send.add(b"MULTI")
    for line in _opening(key, words):
        send.add(*line)
    for name, array in arrays.items():
        send.add_set(tensor_key(base, name), array)
    send.add(b"HSET", key, COMPLETE, b"1")
    send.add(b"EXEC")
    send.flush()
    done = ended(connection.replies(send.count), ignored=1)
    assert done is not None  # nothing was watched
    return done


def _opening(key: bytes, words: list[bytes]) -> list[Sequence[bytes]]:
    """Return the commands on the hash before the tensors; the first tells who were there."""
    lines: list[Sequence[bytes]] = [(b"HGET", key, TENSOR_NAMES), (b"DEL", key)]
    if words:
        lines.append((b"HSET", key, *words))
    return lines


def _put_large(
    connection: Connection, base: bytes, words: list[bytes], arrays: dict[str, Array]
) -> list[Any]:
    """Store the tensors under other keys, which expire, and rename all in one transaction."""
    key = meta_key(base)
    aside = base + b".~" + os.urandom(8).hex().encode() + b"."
    keys = [aside + b"%d" % i for i in range(len(arrays))]
    # On a cluster: is the slot whole here, or would all that is sent be sent again?
    transaction(connection, [(b"EXISTS", key), (b"EXISTS", keys[0])])
    try:
        for there, array in zip(keys, arrays.values(), strict=True):
            send = Sender(connection)
            send.add_set(there, array, b"PX", b"%d" % ASIDE_MS)
            send.flush()
            first_error(connection.replies(1))
        lines = _opening(key, words)
        for there, name in zip(keys, arrays, strict=True):
            goal = tensor_key(base, name)
            lines += [(b"RENAME", there, goal), (b"PERSIST", goal)]
        lines.append((b"HSET", key, COMPLETE, b"1"))
        with Watch(connection) as watch:
            # None of them may go before the renames: a transaction is not undone.
            _, there_are = watch.look((b"WATCH", *keys), (b"EXISTS", *keys))
            done = watch.transaction(lines, ignored=1) if there_are == len(keys) else None
        if done is None:
            raise gone(f"put of a dataset of {sum(a.nbytes for a in arrays.values())} bytes")
    except (ReplyError, StoreError):
        if connection.owed == 0:
            connection.send(command(b"UNLINK", *keys))
            connection.replies(1)
        raise
    return done


def sweep(connection: Connection, base: bytes, names: Collection[str]) -> None:
    """Delete tensors that a dataset no longer has, of those that it once had.

    Done behind the put that left them out: usually there are none, and then a put is one
    round trip.
    """
    key = meta_key(base)
    for _ in range(TRIES if names else 0):
        with Watch(connection) as watch:
            used = set(_watch(watch, key)[1])
            unused = [tensor_key(base, name) for name in names if name not in used]
            if watch.transaction([(b"UNLINK", *unused)] if unused else []) is not None:
                return


def delete(connection: Connection, base: bytes) -> bool:
    """Delete a dataset with all its tensors; return whether there was one."""
    key = meta_key(base)
    for _ in range(TRIES):
        with Watch(connection) as watch:
            exists, names = _watch(watch, key)
            keys = [key, *(tensor_key(base, name) for name in names)]
            lines = [(b"UNLINK", *keys)] if exists else []
            if watch.transaction(lines) is not None:
                return exists
    raise busy("delete of a dataset")


def _watch(watch: Watch, key: bytes) -> tuple[bool, list[str]]:
    """Watch a hash; return whether it is there, and the names of its tensors."""
    answers = watch.look((b"WATCH", key), (b"EXISTS", key), (b"HGET", key, TENSOR_NAMES))
    return bool(answers[1]), tensor_names(answers[2])


def move(connection: Connection, name: str, source: bytes, target: bytes, *, keep: bool) -> None:
    """Copy (`keep`) or rename a dataset within its server, in place of what is there.

    Raises
    ------
    MissingDataError
        There is none, it is not complete, or it has lost a tensor.
    """
    key, goal = meta_key(source), meta_key(target)
    for _ in range(TRIES):
        with Watch(connection) as watch:
            old = _watch(watch, goal)[1]
            names = _watch(watch, key)[1]
            keys = [tensor_key(source, n) for n in names]
            # All of them are watched before we look: they are there when it is done.
            _, complete, there_are = watch.look(
                (b"WATCH", key, *keys), (b"HEXISTS", key, COMPLETE), (b"EXISTS", key, *keys)
            )
            problem = None
            if not complete:
                problem = missing(name)
            elif there_are != len(keys) + 1:
                problem = lost(name)
            if problem or source == target:
                if watch.transaction([]) is None:
                    continue
                if problem:
                    raise problem
                return
            lines: list[Sequence[bytes]] = [
                (b"UNLINK", goal, *(tensor_key(target, n) for n in old)),
            ]
            goals = [goal, *(tensor_key(target, n) for n in names)]
            for there, here in zip([key, *keys], goals, strict=True):
                lines.append((b"COPY", there, here) if keep else (b"RENAME", there, here))
            if watch.transaction(lines) is not None:
                return
    raise busy(f"{'copy' if keep else 'rename'} of dataset {name!r}")
