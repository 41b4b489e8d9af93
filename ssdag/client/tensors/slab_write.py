# SPDX-License-Identifier: BSD-3-Clause
"""Writing parts of a stored tensor in place, without reading the rest of it.

A part is some runs of bytes. A small script on the server writes them if the tensor's
header is still the one that was looked at, so that a tensor of another shape that came
in between is never damaged; what is large goes in several calls of one transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ssdag.client.tensors import npy
from ssdag.client.tensors.slab import locate
from ssdag.client.tensors.transfer import look
from ssdag.client.transport.resp import command
from ssdag.client.transport.transactions import ended
from ssdag.errors import DataError, DataFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.client.tensors.npy import Array, Header
    from ssdag.client.tensors.slab import Part, Slab
    from ssdag.client.transport.connection import Connection

#: Answers 1 if it was written, 0 if another tensor is there by now, -1 if its data are cut.
_SCRIPT = b"""\
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1] then return 0 end
if redis.call('STRLEN', KEYS[1]) ~= tonumber(ARGV[2]) then return -1 end
for i = 3, #ARGV, 2 do redis.call('SETRANGE', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1"""

#: The first writing line fails, if one must, while nothing has changed. What is there
#: already is not made longer but made anew, so that all of it is zero.
_CREATE = b"""\
local there = redis.call('EXISTS', KEYS[1]) == 1
local data = #ARGV[1] <= tonumber(ARGV[2])
if data then redis.call('SETRANGE', KEYS[1], ARGV[2], '\\0') end
if there then
  redis.call('DEL', KEYS[1])
  if data then redis.call('SETRANGE', KEYS[1], ARGV[2], '\\0') end
end
redis.call('SETRANGE', KEYS[1], 0, ARGV[1])
if ARGV[3] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end"""

#: A script holds its arguments in memory of its own, so a large part goes in pieces of
#: so many bytes, and of so many runs.
PIECE = 16 << 20
_RUNS = 4096

#: How often another tensor may take the place of the one that was just looked at.
_TRIES = 100


class Runs(NamedTuple):
    """Where the bytes of a part are, and the part's bytes in that order.

    Attributes
    ----------
    offsets : numpy.ndarray
        Of each run, in bytes from the start of the tensor's data.
    length : int
        Of all runs, in bytes.
    data : memoryview
        The runs one after the other.
    """

    offsets: Array
    length: int
    data: memoryview


def find_runs(header: Header, part: Part, values: Any) -> Runs:
    """Return where and what to write so that ``array[slab] = values``.

    Raises
    ------
    DataFormatError
        The values do not fit in shape, or cannot become the tensor's dtype safely.
    """
    dtype = header.dtype
    plain = _converted(npy.contiguous(values), dtype)
    try:
        block = np.broadcast_to(plain, part.shape)
    except ValueError as error:
        raise DataFormatError(
            f"values of shape {plain.shape} do not fit into a part of shape {part.shape}"
        ) from error
    # Backward axes are turned around, then the axes are put in the order of memory.
    begin = part.start + part.first
    axes = []
    for axis, (count, stride) in enumerate(zip(part.shape, part.strides, strict=True)):
        if count > 1:
            if stride < 0:
                block = np.flip(block, axis)
                begin += (count - 1) * stride
            axes.append((abs(stride), count, axis))
    axes.sort(reverse=True)
    block = block.transpose(*[axis for *_, axis in axes], *_single(part.shape))
    data = npy.as_bytes(np.ascontiguousarray(block))
    length = dtype.itemsize
    while axes and axes[-1][0] == length:
        length *= axes.pop()[1]
    offsets: Array = np.array([begin], np.int64)
    for stride, count, _ in axes:
        offsets = np.add.outer(offsets, np.arange(count, dtype=np.int64) * stride).reshape(-1)
    return Runs(offsets, length, data)


def _converted(plain: Array, dtype: np.dtype[Any]) -> Array:
    """Return values in the dtype of the tensor; only digits behind the point may be lost."""
    if plain.dtype == dtype:
        return plain
    if np.can_cast(plain.dtype, dtype, "same_kind"):
        made = plain.astype(dtype)
        if dtype.kind in "fc" or np.can_cast(plain.dtype, dtype, "safe"):
            return made
        if np.array_equal(made.astype(plain.dtype), plain):
            return made
    raise DataFormatError(
        f"values of {plain.dtype} do not fit into a tensor of {dtype}: convert them first"
    )


def _single(shape: tuple[int, ...]) -> list[int]:
    return [axis for axis, count in enumerate(shape) if count <= 1]


def put_slab(connection: Connection, name: str, key: bytes, slab: Slab, values: Any) -> None:
    """Write a part of a tensor; returns once the server has it."""
    for _ in range(_TRIES):
        header, stored = look(connection, name, key)
        part = locate(header, slab)
        runs = find_runs(header, part, values)
        if not runs.data:
            return
        answer = _write(connection, key, stored, header, runs)
        if answer == 1:
            return
        if answer == -1:
            raise DataFormatError(f"tensor {name!r} is damaged: its data are cut")
    raise DataError(f"tensor {name!r} changes its shape all the time: the slab was not written")


def _write(connection: Connection, key: bytes, stored: bytes, header: Header, runs: Runs) -> object:
    """Return what the script answers; all of it is written, or nothing."""
    pieces = list(_pieces(runs))
    total = b"%d" % (header.offset + header.nbytes)
    several = len(pieces) > 1
    if several:
        connection.send(command(b"MULTI"))
    for offsets, data in pieces:
        words = command(b"EVAL", _SCRIPT, b"1", key, stored, total)
        # These are six words; each run adds two.
        parts: list[bytes | memoryview] = [b"*%d" % (6 + 2 * len(offsets)), words[2:]]
        for i, offset in enumerate(offsets):
            where = b"%d" % (header.offset + offset)
            run = data[i * runs.length : (i + 1) * runs.length] if len(offsets) > 1 else data
            parts.append(b"$%d\r\n%b\r\n$%d\r\n" % (len(where), where, len(run)))
            parts += (run, b"\r\n")
        if len(offsets) > 1:  # many small ones: joining is cheaper than a list of buffers
            parts = [b"".join(parts)]
        connection.send(*parts)
    if not several:
        return connection.reply()
    connection.send(command(b"EXEC"))
    return min(ended(connection.replies(len(pieces) + 2)) or (0,))


def _pieces(runs: Runs) -> Iterator[tuple[list[int], memoryview]]:
    """Yield offsets and bytes of the pieces in which a part is sent."""
    if runs.length > PIECE:
        for i, offset in enumerate(runs.offsets.tolist()):
            for at in range(0, runs.length, PIECE):
                end = min(at + PIECE, runs.length)
                yield [offset + at], runs.data[i * runs.length + at : i * runs.length + end]
        return
    count = max(1, min(_RUNS, PIECE // runs.length))
    for i in range(0, len(runs.offsets), count):
        yield (
            runs.offsets[i : i + count].tolist(),
            runs.data[i * runs.length : (i + count) * runs.length],
        )


def create(
    connection: Connection, key: bytes, header: bytes, nbytes: int, ttl_ms: int | None
) -> None:
    """Store a tensor of zero bytes without sending them; returns once the server has it."""
    last = b"%d" % (len(header) + nbytes - 1)
    limit = b"" if ttl_ms is None else b"%d" % ttl_ms
    connection.send(command(b"EVAL", _CREATE, b"1", key, header, last, limit))
    connection.reply()
