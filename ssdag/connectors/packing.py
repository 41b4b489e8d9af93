# SPDX-License-Identifier: BSD-3-Clause
"""Any value as one run of bytes whose arrays are used where they lie.

Layout, little-endian: ``b"ssdagval" | u32 version | u32 number of buffers | u64 length of
the pickle | u64 length of each buffer``, then the pickle and the buffers, each at the next
multiple of 64. The pickle is of protocol 5 with its buffers out of band.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from ssdag.errors import DataFormatError
from ssdag.wire.serialize import Encoder, loads

if TYPE_CHECKING:
    import pickle
    from collections.abc import Sequence

    from ssdag.connectors.base import Buffer

_HEAD = struct.Struct("<8sIIQ")
_MAGIC = b"ssdagval"
_VERSION = 1
#: Arrays begin where the widest instructions of processors want them.
_ALIGN = 64
#: Smaller buffers stay inside the pickle.
_OUT_OF_BAND_BYTES = 4096


class Packed:
    """A value in bytes. Pickled, it arrives as the value.

    Parameters
    ----------
    payload : bytes
        The pickle.
    buffers : sequence of memoryview
        Its buffers out of band; flat bytes.
    originals : sequence of pickle.PickleBuffer, optional
        The same as the pickler gave them, for a value that is pickled on.

    Attributes
    ----------
    nbytes : int
        What it takes, without the header.
    """

    __slots__ = ("_buffers", "_originals", "_payload", "nbytes")

    def __init__(
        self,
        payload: Buffer,
        buffers: Sequence[memoryview],
        originals: Sequence[pickle.PickleBuffer] = (),
    ) -> None:
        self._payload = payload
        self._buffers = buffers
        self._originals = originals
        self.nbytes = len(payload) + sum(buffer.nbytes for buffer in buffers)

    def parts(self) -> list[Buffer]:
        """Return the bytes to write in a row, the value's own memory among them."""
        sizes = [buffer.nbytes for buffer in self._buffers]
        head = _HEAD.pack(_MAGIC, _VERSION, len(sizes), len(self._payload))
        head += struct.pack(f"<{len(sizes)}Q", *sizes)
        parts: list[Buffer] = [_padded(head)]
        for piece in (self._payload, *self._buffers):
            parts.append(piece)
            if gap := -len(piece) % _ALIGN:
                parts.append(bytes(gap))
        return parts

    def __reduce__(self) -> tuple[Any, ...]:
        # Not buffers of memoryviews: in a cycle of garbage, views of views crash Python 3.11.
        assert len(self._originals) == len(self._buffers)
        return loads, (self._payload, list(self._originals))


def pack(value: Any) -> Packed:
    """Pickle a value, its large buffers apart and not copied.

    Raises
    ------
    SerializationError
        It cannot be pickled.
    """
    originals: list[pickle.PickleBuffer] = []

    def accept(buffer: pickle.PickleBuffer) -> bool:
        with buffer.raw() as raw:
            if raw.nbytes < _OUT_OF_BAND_BYTES:
                return True
        originals.append(buffer)
        return False

    payload = Encoder(accept, originals.clear).dumps(value)
    return Packed(payload, [buffer.raw() for buffer in originals], originals)


def unpack(data: memoryview) -> Any:
    """Return the value of :meth:`Packed.parts`; arrays are views of `data`.

    Raises
    ------
    DataFormatError
        These are other bytes, or not all of them.
    Exception
        Whatever the classes of the value raise while they load.
    """
    return loads(*split(data))


def split(data: memoryview) -> tuple[memoryview, list[memoryview]]:
    """Return the pickle and the buffers of :meth:`Packed.parts`, as views.

    Raises
    ------
    DataFormatError
        These are other bytes, or not all of them.
    """
    if len(data) < _HEAD.size or bytes(data[:8]) != _MAGIC:
        raise DataFormatError("the stored bytes are not a value of ssdag")
    _, version, count, payload_bytes = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise DataFormatError(f"the stored value has version {version}; this is {_VERSION}")
    end = _HEAD.size + 8 * count
    if end > len(data):
        raise DataFormatError("the stored value is cut off")
    sizes = struct.unpack_from(f"<{count}Q", data, _HEAD.size)
    pieces = []
    for size in (payload_bytes, *sizes):
        start = end + -end % _ALIGN
        end = start + size
        if end > len(data):
            raise DataFormatError("the stored value is cut off")
        pieces.append(data[start:end])
    return pieces[0], pieces[1:]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGN)
