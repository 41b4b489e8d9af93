# SPDX-License-Identifier: BSD-3-Clause
"""Datasets on a connection: the wire side of ``put_dataset`` and ``get_dataset``.

Dataset D has a hash ``{D}.meta`` with its metadata and a key ``{D}.tensor`` for each
tensor, as SmartRedis has them; the hash's field ``.COMPLETE`` says that all are there.
Whoever writes changes the hash in the same transaction. So a reader that watches the
hash while it reads learns whether what it has read belongs together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssdag.client import metadata, tensors
from ssdag.client.dataset import assemble, parts
from ssdag.client.metadata import COMPLETE, TENSOR_NAMES
from ssdag.client.resp import commands, key_bytes
from ssdag.client.transactions import Sender, first_error, transaction, watching
from ssdag.errors import DataError, DataFormatError, MissingDataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.client.connection import Connection
    from ssdag.client.dataset import Dataset
    from ssdag.client.metadata import Field
    from ssdag.client.npy import Array

#: Bytes of answers that may wait in the server for one reader, as far as sizes are known.
WINDOW_BYTES = 64 << 20

#: Tensors that are asked for before the size of any is known.
_FIRST_AHEAD = 8
_MOST_AHEAD = 512

#: How often something is tried again because others write at the same time.
TRIES = 100


def missing(name: str) -> MissingDataError:
    """Return the error for a name under which no dataset is stored."""
    return MissingDataError(
        f"no dataset {name!r} is stored; wait_dataset({name!r}) waits until somebody puts it"
    )


def busy(what: str) -> DataError:
    """Return the error for something that others change again and again meanwhile."""
    error = DataError(f"{what}: others changed it at the same time, {TRIES} times in a row")
    error.transient = True
    return error


def check_base(base: bytes) -> bytes:
    """Return the start of all keys of a dataset, ``prefix.{name}``, if it can be one.

    Raises
    ------
    DataFormatError
        A cluster would not keep the keys together: the first braces hold nothing.
    """
    begin = base.index(b"{")
    if base.find(b"}", begin) == begin + 1:
        raise DataFormatError(f"the prefix of {metadata.text_of(base)!r:.80} must not have '{{}}'")
    return base


def meta_key(base: bytes) -> bytes:
    """Return the key of the hash."""
    return base + b".meta"


def tensor_key(base: bytes, name: str) -> bytes:
    """Return the key of a tensor."""
    return base + b"." + key_bytes(name)


# -- put -----------------------------------------------------------------------------


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
    """Store a dataset in one transaction, in place of what is there."""
    key = meta_key(base)
    words = packed(dataset)
    send = Sender(connection)
    send.add(b"MULTI")
    send.add(b"HGET", key, TENSOR_NAMES)
    send.add(b"DEL", key)
    if words:
        send.add(b"HSET", key, *words)
    for name, array in parts(dataset)[0].items():
        send.add_set(tensor_key(base, name), array)
    send.add(b"HSET", key, COMPLETE, b"1")
    send.add(b"EXEC")
    send.flush()
    answers = connection.replies(send.count)
    first_error(answers)
    done = answers[-1]
    assert isinstance(done, list)
    first_error(done[1:])
    sweep(connection, base, tensor_names(done[0]))


def tensor_names(packed_names: Any) -> list[str]:
    """Return the names of tensors from what the hash holds; none if it is unreadable."""
    if not isinstance(packed_names, bytes):
        return []
    try:
        return metadata.unpack_texts(TENSOR_NAMES.decode(), packed_names)
    except DataFormatError:
        return []


def sweep(connection: Connection, base: bytes, names: Sequence[str]) -> None:
    """Delete tensors that a dataset no longer has, of those that it once had.

    Done behind the put that left them out: usually there are none, and then a put is one
    round trip.
    """
    key = meta_key(base)
    for _ in range(TRIES):
        if not names:
            return
        with watching(connection):
            connection.send(commands([(b"WATCH", key), (b"HGET", key, TENSOR_NAMES)]), replies=2)
            answers = connection.replies(2)
            first_error(answers)
            used = set(tensor_names(answers[1]))
            gone = [tensor_key(base, name) for name in names if name not in used]
            if transaction(connection, [(b"UNLINK", *gone)] if gone else []) is not None:
                return


# -- get -----------------------------------------------------------------------------


def get(connection: Connection, name: str, base: bytes) -> Dataset:
    """Fetch a whole dataset, all of it as one writer left it.

    First without a transaction, so that the server never holds more than a window of
    answers for us. If somebody wrote meanwhile, again as one transaction, which nobody
    can come between (but that the names of the tensors may be others by then).
    """
    with watching(connection):
        found = read_hashes(connection, [base])[0]
        fields, names = unpack_hash(name, found)
        arrays = read_tensors(connection, [(name, tensor_key(base, n), n) for n in names])
        if transaction(connection, []) is not None:
            return whole(name, names, arrays, fields)
    for _ in range(TRIES):
        again = _get_at_once(connection, name, base, names)
        if not isinstance(again, list):
            return again
        names = again
    raise busy(f"get of dataset {name!r}")


def read_hashes(connection: Connection, bases: Sequence[bytes]) -> list[dict[bytes, bytes]]:
    """Watch and read the hashes of datasets."""
    lines = []
    for base in bases:
        key = meta_key(base)
        lines += [(b"WATCH", key), (b"HGETALL", key)]
    connection.send(commands(lines), replies=len(lines))
    answers = connection.replies(len(lines))
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
    connection: Connection, wanted: Sequence[tuple[str, bytes, str]]
) -> list[Array | None]:
    """Fetch tensors, given as (dataset, key, name), with a bounded number under way."""
    out: list[Array | None] = []
    sent = 0
    ahead = _FIRST_AHEAD
    largest = 1
    for dataset, _, name in wanted:
        if sent - len(out) <= ahead // 2:
            more = wanted[sent : len(out) + ahead]
            if more:
                lines = commands([(b"GET", key) for _, key, _ in more])
                connection.send(lines, replies=len(more))
                sent += len(more)
        array = tensors.receive(connection, f"{name} of dataset {dataset}")
        out.append(array)
        if array is not None:
            largest = max(largest, array.nbytes)
        ahead = max(1, min(2 * ahead, _MOST_AHEAD, WINDOW_BYTES // largest))
    return out


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
            raise MissingDataError(
                f"dataset {name!r} has lost its tensor {tensor!r}: it was deleted by its own key, "
                "or the server dropped it at its memory limit"
            )
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
