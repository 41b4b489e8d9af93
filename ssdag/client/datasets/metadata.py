# SPDX-License-Identifier: BSD-3-Clause
"""Metadata of datasets as SmartRedis packs them, byte for byte.

A field is one value of a Redis hash: a byte that says the type, then the values one
after the other. Numbers are packed as the machine has them (little-endian), a text is
its length in bytes (8 bytes) and its UTF-8 bytes. Every field is a vector.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from ssdag.client.transport.resp import key_bytes
from ssdag.errors import DataFormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Present, with the value ``1``, in the hash of every dataset that is whole.
COMPLETE = b".COMPLETE"
#: The names of a dataset's tensors in the order in which they were added.
TENSOR_NAMES = b".tensor_names"

STRING = 7
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f8"),
    2: np.dtype("<f4"),
    3: np.dtype("<i4"),
    4: np.dtype("<i8"),
    5: np.dtype("<u4"),
    6: np.dtype("<u8"),
}
_TYPES: dict[np.dtype[Any], int] = {dtype: number for number, dtype in _DTYPES.items()}

#: Where values of other types go without loss.
_WIDER: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(np.bool_): np.dtype("<i4"),
    np.dtype(np.int8): np.dtype("<i4"),
    np.dtype(np.int16): np.dtype("<i4"),
    np.dtype(np.uint8): np.dtype("<u4"),
    np.dtype(np.uint16): np.dtype("<u4"),
    np.dtype(np.float16): np.dtype("<f4"),
}


class Field:
    """The values of one field, all of one type.

    Parameters
    ----------
    dtype : numpy.dtype or None
        Of numbers: float64, float32, int32, int64, uint32 or uint64; None for texts.
    values : list
        Numbers as Python has them, or texts.
    """

    __slots__ = ("dtype", "values")

    def __init__(self, dtype: np.dtype[Any] | None, values: list[Any]) -> None:
        self.dtype = dtype
        self.values = values

    @property
    def kind(self) -> str:
        """Name of the type, for errors."""
        return "str" if self.dtype is None else self.dtype.name

    def array(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Return the numbers, 1-d."""
        return np.array(self.values, self.dtype)

    def packed(self) -> bytes:
        """Return the field as it is stored."""
        if self.dtype is None:
            return pack_texts(self.values)
        return bytes((_TYPES[self.dtype],)) + self.array().tobytes()


def pack_texts(texts: Iterable[str]) -> bytes:
    """Return a field of texts as it is stored."""
    out = bytearray((STRING,))
    for text in texts:
        data = text_bytes(text)
        out += struct.pack("<Q", len(data))
        out += data
    return bytes(out)


def text_bytes(text: str) -> bytes:
    """Return a text as UTF-8, also the empty one.

    Raises
    ------
    DataFormatError
        It is no text, or holds half a surrogate pair.
    """
    return b"" if isinstance(text, str) and not text else key_bytes(text)


def text_of(data: bytes | memoryview) -> str:
    """Return a text from its bytes; those that are no UTF-8 survive the round trip."""
    return bytes(data).decode("utf-8", "surrogateescape")


def unpack(name: str, data: bytes) -> Field:
    """Return a stored field.

    Raises
    ------
    DataFormatError
        It is cut or of an unknown type; `name` is said in the message.
    """
    kind = data[0] if data else 0
    if kind == STRING:
        return Field(None, unpack_texts(name, data))
    dtype = _DTYPES.get(kind)
    if dtype is None:
        raise DataFormatError(f"metadata field {name!r} is of the unknown type {kind}")
    if (len(data) - 1) % dtype.itemsize:
        raise DataFormatError(f"metadata field {name!r} is cut: {len(data)} bytes of {dtype}")
    return Field(dtype, np.frombuffer(data, dtype, offset=1).tolist())


def unpack_texts(name: str, data: bytes) -> list[str]:
    """Return the texts of a stored field; errors as in :func:`unpack`."""
    if not data or data[0] != STRING:
        raise DataFormatError(f"metadata field {name!r} holds no texts")
    texts = []
    at = 1
    while at < len(data):
        begin = at + 8
        length = int.from_bytes(data[at:begin], "little")
        at = begin + length
        if begin > len(data) or at > len(data):
            raise DataFormatError(f"metadata field {name!r} is cut: {len(data)} bytes of texts")
        texts.append(text_of(data[begin:at]))
    return texts


def stored_type(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type under which numbers of a type are stored without loss.

    Raises
    ------
    DataFormatError
        Metadata have none that fits.
    """
    little = dtype.newbyteorder("<") if dtype.byteorder == ">" else dtype
    little = _WIDER.get(little, little)
    if little not in _TYPES:
        raise DataFormatError(
            f"metadata field {name!r}: {dtype} cannot be stored; metadata are float64, float32, "
            "int32, int64, uint32, uint64 or texts, and others may be put as a tensor"
        )
    return little


def exact(value: float, dtype: np.dtype[Any]) -> Any:
    """Return a plain number as `dtype` has it; None if it does not hold it exactly."""
    try:
        number = np.array(value, dtype).item()
    except (OverflowError, ValueError):
        return None
    return number if number == value or value != value else None
