# SPDX-License-Identifier: BSD-3-Clause
"""Tensors on a connection: the wire side of ``put_tensor`` and ``get_tensor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ssdag.client.tensors import npy
from ssdag.client.tensors.slab import locate
from ssdag.client.transport.resp import ReplyError, command, commands
from ssdag.errors import DataFormatError, MissingDataError

if TYPE_CHECKING:
    from ssdag.client.tensors.npy import Array, Header
    from ssdag.client.tensors.slab import Part, Slab
    from ssdag.client.transport.connection import Connection

#: Most headers are 128 bytes; what a slab reads to learn dtype and shape.
_FIRST_LOOK = 256


def missing(name: str) -> MissingDataError:
    """Return the error for a name under which nothing is stored."""
    return MissingDataError(
        f"no tensor {name!r} is stored; wait_tensor({name!r}) waits until somebody puts it"
    )


def put(connection: Connection, key: bytes, array: Array, ttl_ms: int | None = None) -> None:
    """Store a contiguous array; returns once the server has it."""
    connection.send(*put_parts(key, array, ttl_ms))
    connection.reply()


def put_parts(
    key: bytes, array: Array, ttl_ms: int | None = None
) -> tuple[bytes, memoryview, bytes]:
    """Return the command that stores a contiguous array, whose data are not copied."""
    header = npy.encode_header(array)
    data = npy.as_bytes(array)
    head = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b" % (
        3 if ttl_ms is None else 5,
        len(key),
        key,
        len(header) + len(data),
        header,
    )
    if ttl_ms is None:
        return head, data, b"\r\n"
    limit = b"%d" % ttl_ms
    return head, data, b"\r\n$2\r\nPX\r\n$%d\r\n%b\r\n" % (len(limit), limit)


def get(connection: Connection, name: str, key: bytes, out: Array | None) -> Array:
    """Fetch a tensor, into new memory or into `out`."""
    connection.send(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))
    found = receive(connection, name, out)
    if found is None:
        raise missing(name)
    return found


def receive(connection: Connection, name: str, out: Array | None = None) -> Array | None:
    """Read the answer to a ``GET`` of a tensor that was sent before; None if it is not there."""
    total = _begin(connection)
    if total is None:
        connection.owed -= 1
        return None
    left = total
    try:
        length = npy.header_length(connection.peek(min(total, 12)))
        if length is None or length > total:
            raise DataFormatError(f"tensor {name!r} is damaged: {total} bytes with a cut header")
        header = npy.decode_header(connection.take(length))
        left -= length
        if left != header.nbytes:
            raise DataFormatError(
                f"tensor {name!r} is damaged: {left} bytes of data, but its header says "
                f"{header.shape} of {header.dtype}"
            )
        target, aside = _target(name, header.shape, header, out)
    except DataFormatError:
        if connection.skip(left):
            connection.end_bulk()
            connection.owed -= 1
        raise
    connection.read_into(npy.as_bytes(target))
    connection.end_bulk()
    connection.owed -= 1
    if aside is not None:
        aside[...] = target
        return aside
    return target


def _begin(connection: Connection) -> int | None:
    try:
        return connection.bulk_length()
    except ReplyError:
        connection.owed -= 1
        raise


def _target(
    name: str, shape: tuple[int, ...], header: Header, out: Array | None
) -> tuple[Array, Array | None]:
    """Return the array to receive into, and `out` if it must be copied to afterwards."""
    order: str = "F" if header.fortran else "C"
    if out is None:
        return np.empty(shape, header.dtype, order), None  # type: ignore[call-overload]
    check_out(name, shape, header, out)
    if _is_in_order(out, order):
        return out, None
    return np.empty(shape, header.dtype, order), out  # type: ignore[call-overload]


def _is_in_order(array: Array, order: str) -> bool:
    return array.flags.f_contiguous if order == "F" else array.flags.c_contiguous


def check_out(name: str, shape: tuple[int, ...], header: Header, out: Array) -> None:
    """Raise DataFormatError if `out` cannot hold the tensor as it is."""
    if out.dtype != header.dtype or out.shape != shape:
        raise DataFormatError(
            f"tensor {name!r} is {shape} of {header.dtype}, and out= is {out.shape} of "
            f"{out.dtype}: they must be equal"
        )


def get_slab(connection: Connection, name: str, key: bytes, slab: Slab, out: Array | None) -> Array:
    """Fetch a part of a tensor: one look at its header, then one range of bytes.

    The range is read in a transaction with the header: if another shape was stored in
    between, the look is repeated with the new one.
    """
    start: bytes | None = None
    while True:
        known = look(connection, name, key, start)
        part = locate(known[0], slab)
        if out is not None:
            check_out(name, part.shape, known[0], out)
        found = _read_part(connection, name, key, known, part, out)
        if not isinstance(found, bytes):
            return found
        start = found


def look(
    connection: Connection, name: str, key: bytes, start: bytes | None = None
) -> tuple[Header, bytes]:
    """Return a tensor's header, decoded and as it is stored.

    Parameters
    ----------
    connection : Connection
        To who has it.
    name : str
        Said in errors.
    key : bytes
        Where it is.
    start : bytes, optional
        Its first bytes, if they are known already.

    Raises
    ------
    MissingDataError
        Nothing is stored under this name.
    DataFormatError
        It is no tensor, or damaged.
    """
    wanted = _FIRST_LOOK
    while True:
        if start is None:
            connection.send(command(b"GETRANGE", key, b"0", b"%d" % (wanted - 1)))
            answer = connection.reply()
            assert isinstance(answer, bytes)
            start = answer
        if not start:
            raise missing(name)
        length = npy.header_length(start)
        if length is None:
            raise DataFormatError(f"tensor {name!r} is damaged: {len(start)} bytes")
        if length <= len(start):
            return npy.decode_header(start[:length]), start[:length]
        if wanted >= length:
            raise DataFormatError(f"tensor {name!r} is damaged: its header is cut")
        wanted, start = length, None


def _read_part(
    connection: Connection,
    name: str,
    key: bytes,
    known: tuple[Header, bytes],
    part: Part,
    out: Array | None,
) -> Array | bytes:
    """Return the part; or the tensor's present start if it is another tensor by now."""
    header, header_bytes = known
    size = part.stop - part.start
    begin = header.offset + part.start
    whole = part.whole(header.dtype.itemsize) if size else None
    if whole is not None and (out is None or _is_in_order(out, whole)):
        target = np.empty(part.shape, header.dtype, whole) if out is None else out  # type: ignore[call-overload]
    else:
        target = None
    if not size:
        return np.empty(part.shape, header.dtype) if out is None else out
    first = max(len(header_bytes), _FIRST_LOOK)
    connection.send(
        commands(
            [
                (b"MULTI",),
                (b"GETRANGE", key, b"0", b"%d" % (first - 1)),
                (b"GETRANGE", key, b"%d" % begin, b"%d" % (begin + size - 1)),
                (b"EXEC",),
            ]
        ),
        replies=4,
    )
    for answer in connection.replies(3):
        if isinstance(answer, ReplyError):
            raise answer
    connection.array_length()
    start = connection.take(connection.bulk_length() or 0)
    connection.end_bulk()
    length = connection.bulk_length() or 0
    same = start[: len(header_bytes)] == header_bytes and length == size
    raw = None
    if not same:
        connection.take(length)
    elif target is not None:
        connection.read_into(npy.as_bytes(target))
    else:
        raw = np.empty(size, np.uint8)
        connection.read_into(npy.as_bytes(raw))
    connection.end_bulk()
    connection.owed -= 1
    if not same:
        if start[: len(header_bytes)] == header_bytes:
            raise DataFormatError(f"tensor {name!r} is damaged: its data are cut")
        return start
    if target is not None:
        return target
    assert raw is not None
    view = part.view(raw, header.dtype)
    if out is None:
        return view.copy(order="F" if header.fortran else "C")
    out[...] = view
    return out
