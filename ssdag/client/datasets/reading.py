# SPDX-License-Identifier: BSD-3-Clause
"""Reading datasets on a connection, so that all of one is what one writer left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssdag.client.datasets import metadata
from ssdag.client.datasets.dataset import assemble
from ssdag.client.datasets.keys import TRIES, busy, lost, meta_key, missing, tensor_key
from ssdag.client.datasets.metadata import COMPLETE, TENSOR_NAMES
from ssdag.client.tensors import transfer as tensors
from ssdag.client.transport.resp import ReplyError, commands
from ssdag.client.transport.transactions import Watch, first_error
from ssdag.errors import DataFormatError, MissingDataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.client.datasets.dataset import Dataset
    from ssdag.client.datasets.metadata import Field
    from ssdag.client.tensors.npy import Array
    from ssdag.client.transport.connection import Connection

#: Bytes of tensors that a server may hold for one reader, beside a single larger one.
WINDOW_BYTES = 64 << 20


def get(connection: Connection, name: str, base: bytes) -> Dataset:
    """Fetch a whole dataset, all of it as one writer left it.

    First without a transaction, so that the server never holds more than a window of
    answers for us. If somebody wrote meanwhile, again as one transaction, which nobody
    can come between (but that the names of the tensors may be others by then). So too if
    a tensor is not there: the dataset's slot may be on its way to another node, and a
    transaction is only done where all of its keys are.
    """
    with Watch(connection) as watch:
        ask_many(connection, [base])
        (found,) = _hashes(connection, 1)
        fields, names = unpack_hash(name, found)
        wanted = [(name, tensor_key(base, n), n) for n in names]
        arrays, unchanged = read_tensors(connection, watch, wanted)
        if unchanged and not any(a is None for a in arrays):
            return whole(name, names, arrays, fields)
    for _ in range(TRIES):
        again = _get_at_once(connection, name, base, names)
        if not isinstance(again, list):
            return again
        names = again
    raise busy(f"get of dataset {name!r}")


def _hashes(connection: Connection, count: int) -> list[dict[bytes, bytes]]:
    """Read the hashes that were asked for."""
    answers = connection.replies(2 * count)
    first_error(answers)
    return [_pairs(answer) for answer in answers[1::2]]


def _pairs(answer: Any) -> dict[bytes, bytes]:
    return dict(zip(answer[::2], answer[1::2], strict=True))


def unpack_hash(name: str, found: dict[bytes, bytes]) -> tuple[dict[str, Field], list[str]]:
    """Return metadata fields and names of tensors.

    Raises
    ------
    MissingDataError
        There is no such dataset, or it is not complete.
    DataFormatError
        A field is damaged.
    """
    if COMPLETE not in found:
        if found:
            raise MissingDataError(
                f"dataset {name!r} is not complete: its writer is not done with it, or has failed"
            )
        raise missing(name)
    fields = {}
    names: list[str] = []
    for key, data in found.items():
        if key == TENSOR_NAMES:
            names = metadata.unpack_texts(f"{name}{TENSOR_NAMES.decode()}", data)
        elif key != COMPLETE:
            text = metadata.text_of(key)
            fields[text] = metadata.unpack(text, data)
    return fields, names


def read_tensors(
    connection: Connection, watch: Watch, wanted: Sequence[tuple[str, bytes, str]]
) -> tuple[list[Array | None], bool]:
    """Fetch tensors, given as (dataset, key, name), a bounded number of bytes at a time.

    The sizes of all but the first are asked for together with that one.

    The hashes of their datasets must have been read on this connection: that a node of a
    cluster has the hash and sends us away for a tensor means that they are being moved.

    Returns
    -------
    tuple
        The arrays, None for those that are not there; and whether nobody has written to
        the hashes until the last one was read.
    """
    if not wanted:
        watch.ask([])
        return [], watch.unchanged()
    keys = [key for _, key, _ in wanted]
    lines: list[Sequence[bytes]] = [(b"GET", keys[0]), *((b"STRLEN", key) for key in keys[1:])]
    if len(keys) == 1:  # the end goes along
        watch.ask(lines)
    else:
        connection.send(commands(lines), replies=len(lines))
    try:
        out = [_receive(connection, *wanted[0])]
        sizes: list[Any] = [0, *connection.replies(len(keys) - 1)]
        first_error(sizes)
        sent, waiting = 1, 0
        for i in range(1, len(keys)):
            begin = sent
            if waiting <= WINDOW_BYTES // 2:
                while sent < len(keys) and (sent == i or waiting + sizes[sent] <= WINDOW_BYTES):
                    waiting += sizes[sent]
                    sent += 1
            lines = [(b"GET", key) for key in keys[begin:sent]]
            if lines and sent == len(keys):
                watch.ask(lines)
            elif lines:
                connection.send(commands(lines), replies=len(lines))
            out.append(_receive(connection, *wanted[i]))
            waiting -= sizes[i]
    except ReplyError as error:
        raise _moving(error) from None
    return out, watch.unchanged()


def _receive(connection: Connection, dataset: str, _: bytes, name: str) -> Array | None:
    return tensors.receive(connection, f"{name} of dataset {dataset}")


def _moving(error: ReplyError) -> ReplyError:
    """Return what to do about ASK for one key of several: wait until all are there."""
    if error.code == "ASK":
        return ReplyError("TRYAGAIN the keys of the dataset are being moved to another node")
    return error


def whole(
    name: str, names: Sequence[str], arrays: Sequence[Array | None], fields: dict[str, Field]
) -> Dataset:
    """Return the dataset of what was read.

    Raises
    ------
    MissingDataError
        One of its tensors is not there.
    """
    made: dict[str, Array] = {}
    for tensor, array in zip(names, arrays, strict=True):
        if array is None:
            raise lost(name, tensor)
        made[tensor] = array
    return assemble(name, made, fields)


def _get_at_once(
    connection: Connection, name: str, base: bytes, names: list[str]
) -> Dataset | list[str]:
    """Read everything in one transaction; return the present names if they are others."""
    lines = [(b"HGETALL", meta_key(base)), *((b"GET", tensor_key(base, n)) for n in names)]
    connection.send(commands([(b"MULTI",), *lines, (b"EXEC",)]), replies=len(lines) + 2)
    first_error(connection.replies(len(lines) + 1))
    connection.array_length()
    connection.owed += len(lines) - 1  # each element of the array is read as a reply
    found: Any = connection.reply()
    arrays = [tensors.receive(connection, f"{n} of dataset {name}") for n in names]
    fields, now = unpack_hash(name, _pairs(found))
    return whole(name, names, arrays, fields) if now == names else now


def ask_many(connection: Connection, bases: Sequence[bytes]) -> None:
    """Begin to read several datasets; :func:`read_many` does the rest."""
    lines = []
    for base in bases:
        key = meta_key(base)
        lines += [(b"WATCH", key), (b"HGETALL", key)]
    connection.send(commands(lines), replies=len(lines))


def read_many(
    connection: Connection, names: Sequence[str], bases: Sequence[bytes]
) -> list[Dataset | MissingDataError | None]:
    """Return the datasets that were asked for.

    A MissingDataError stands for one that is not there, None for one that must be read
    by itself: somebody wrote meanwhile, the server sends us elsewhere, or it is damaged.
    """
    with Watch(connection) as watch:
        try:
            found = _hashes(connection, len(bases))
            return _read_many(connection, watch, names, bases, found)
        except (ReplyError, DataFormatError):
            return [None] * len(bases)


def _read_many(
    connection: Connection,
    watch: Watch,
    names: Sequence[str],
    bases: Sequence[bytes],
    found: Sequence[dict[bytes, bytes]],
) -> list[Dataset | MissingDataError | None]:
    heads: list[tuple[dict[str, Field], list[str]] | MissingDataError] = []
    wanted = []
    for name, base, pairs in zip(names, bases, found, strict=True):
        try:
            head = unpack_hash(name, pairs)
        except MissingDataError as error:
            heads.append(error)
            continue
        heads.append(head)
        wanted += [(name, tensor_key(base, n), n) for n in head[1]]
    found_arrays, unchanged = read_tensors(connection, watch, wanted)
    if not unchanged:
        return [None] * len(bases)
    arrays = iter(found_arrays)
    out: list[Dataset | MissingDataError | None] = []
    for name, one in zip(names, heads, strict=True):
        if isinstance(one, MissingDataError):
            out.append(one)
            continue
        fields, tensors_of = one
        own = [next(arrays) for _ in tensors_of]
        out.append(None if any(a is None for a in own) else whole(name, tensors_of, own, fields))
    return out
