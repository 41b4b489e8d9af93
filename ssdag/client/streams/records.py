# SPDX-License-Identifier: BSD-3-Clause
"""Records: an array, a dictionary or a dataset as one value, for streams and checkpoints.

The bytes of a record are the NPY files of its arrays, one after the other, as repeated
``numpy.save`` to one file writes them; of a single array, its NPY file. What else there is
to know (names, order, plain values) stands in a short JSON text, the layout.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ssdag.client.datasets.dataset import Dataset, assemble
from ssdag.client.datasets.dataset import parts as dataset_parts
from ssdag.client.datasets.metadata import unpack as unpack_field
from ssdag.client.tensors import npy
from ssdag.errors import DataFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssdag.client.datasets.metadata import Field
    from ssdag.client.tensors.npy import Array
    from ssdag.client.transport.connection import Connection

#: What a field is: an array, a numpy scalar, bytes, a value of JSON, or metadata of a dataset.
_ARRAY, _SCALAR, _BYTES, _VALUE, _METADATA = "a", "s", "b", "v", "m"


class Packed(NamedTuple):
    """A record, ready to be sent.

    Attributes
    ----------
    layout : bytes
        The JSON text.
    parts : list of bytes or memoryview
        The NPY files; the data are where the caller has them, not copied.
    nbytes : int
        Length of all parts.
    """

    layout: bytes
    parts: list[bytes | memoryview]
    nbytes: int


class Source(Protocol):
    """Where the arrays of a record are read from, one after the other."""

    def array(self) -> Array:
        """Return the next one, in memory of its own."""


def pack(value: Any) -> Packed:
    """Return a value as a record.

    Parameters
    ----------
    value : array_like, dict or Dataset
        A dictionary has texts as keys, and as values arrays, numbers, texts, bytes, None,
        or lists and dictionaries of these (no arrays inside them).

    Raises
    ------
    DataFormatError
        Something in it cannot be stored.
    """
    parts: list[bytes | memoryview] = []
    if isinstance(value, dict):
        layout: dict[str, Any] = {"kind": "dict", "fields": _fields(value, parts)}
    elif isinstance(value, Dataset):
        tensors, metadata = dataset_parts(value)
        fields = _fields(tensors, parts)
        for name, field in metadata.items():
            _add(np.frombuffer(field.packed(), np.uint8), parts)
            fields.append((name, _METADATA))
        layout = {"kind": "dataset", "name": value.name, "fields": fields}
    else:
        layout = {"kind": "tensor"}
        _add_alone(value, parts)
    text = json.dumps(layout, separators=(",", ":")).encode()
    return Packed(text, parts, sum(map(len, parts)))


def _add_alone(value: Any, parts: list[bytes | memoryview]) -> None:
    """Add what is neither a dictionary nor a dataset: it must be an array."""
    kind = type(value).__name__
    if isinstance(value, (str, bytes, bytearray)):
        raise DataFormatError(
            f"a record is no bare {kind}, which would come back as an array: "
            "give it a name, as in {'text': value}"
        )
    try:
        _add(value, parts)
    except DataFormatError as error:
        if isinstance(value, (list, tuple)) or hasattr(value, "__array__"):
            raise  # an array, and the text says what is wrong with it
        raise DataFormatError(
            f"{kind} is no record: it is an array, a dictionary with texts as keys, or a Dataset"
        ) from error


def _add(array: Any, parts: list[bytes | memoryview]) -> None:
    plain = npy.contiguous(array)
    parts.append(npy.encode_header(plain))
    parts.append(npy.as_bytes(plain))


def _fields(
    values: Mapping[str, Any], parts: list[bytes | memoryview]
) -> list[tuple[str, str] | tuple[str, str, Any]]:
    fields: list[tuple[str, str] | tuple[str, str, Any]] = []
    for name, value in values.items():
        if not isinstance(name, str):
            raise DataFormatError(f"a key of a record is a text, not {type(name).__name__}")
        if isinstance(value, (bytes, bytearray)):
            _add(np.frombuffer(value, np.uint8), parts)
            fields.append((name, _BYTES))
        elif value is None or isinstance(value, (bool, int, float, str, list, tuple, dict)):
            if isinstance(value, np.generic):  # numpy's float64 is a float
                _add(value, parts)
                fields.append((name, _SCALAR))
            else:
                _check_json(name, value)
                fields.append((name, _VALUE, value))
        else:
            try:
                _add(value, parts)
            except DataFormatError as error:
                raise DataFormatError(f"field {name!r}: {error}") from error
            fields.append((name, _SCALAR if isinstance(value, np.generic) else _ARRAY))
    return fields


def _check_json(name: str, value: Any) -> None:
    if isinstance(value, (list, tuple, dict)):
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise DataFormatError(
                f"field {name!r}: {error}; give arrays (numpy.asarray) a field of their own"
            ) from error


def unpack(layout: bytes, source: Source) -> Any:
    """Return the value of a record: an array, a dict or a Dataset.

    Raises
    ------
    DataFormatError
        It is damaged.
    """
    try:
        said = json.loads(layout)
        if said["kind"] == "tensor":
            return source.array()
        values: dict[str, Any] = {}
        metadata: dict[str, Field] = {}
        for name, what, *rest in said["fields"]:
            if what == _METADATA:
                metadata[name] = unpack_field(name, source.array().tobytes())
            else:
                values[name] = rest[0] if what == _VALUE else _read(what, source)
        if said["kind"] == "dataset":
            return assemble(said["name"], values, metadata)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataFormatError(f"a record is damaged: {layout[:200]!r}") from error
    return values


def _read(what: str, source: Source) -> Any:
    array = source.array()
    if what == _BYTES:
        return array.tobytes()
    return array[()] if what == _SCALAR else array


class BytesSource:
    """Arrays out of bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def array(self) -> Array:
        """Return a copy of the next one, writable."""
        length = npy.header_length(self._data[:12])
        if length is None or length > len(self._data):
            raise DataFormatError("a record is damaged: the header of an array is cut")
        header = npy.decode_header(bytes(self._data[:length]))
        array = npy.empty(header)
        end = length + header.nbytes
        if end > len(self._data):
            raise DataFormatError("a record is damaged: the data of an array are cut")
        npy.as_bytes(array)[:] = self._data[length:end]
        self._data = self._data[end:]
        return array


class WireSource:
    """Arrays out of a bulk string that comes in, each received where it stays.

    Parameters
    ----------
    connection : Connection
        Behind ``bulk_length()``, which returned `total`.
    total : int
        Bytes of the bulk string.
    """

    def __init__(self, connection: Connection, total: int) -> None:
        self._connection = connection
        self._left = total

    def array(self) -> Array:
        """Receive the next one; blocks while it travels."""
        connection = self._connection
        length = npy.header_length(connection.peek(min(self._left, 12)))
        if length is None or length > self._left:
            raise DataFormatError("a record is damaged: the header of an array is cut")
        header = npy.decode_header(connection.take(length))
        self._left -= length
        if header.nbytes > self._left:
            raise DataFormatError("a record is damaged: the data of an array are cut")
        array = npy.empty(header)
        connection.read_into(npy.as_bytes(array))
        self._left -= header.nbytes
        return array

    def end(self) -> None:
        """Read what is left of the bulk string.

        Raises
        ------
        DataFormatError
            There is more than the layout says.
        """
        if self._left:
            raise DataFormatError(f"a record is damaged: {self._left} bytes too many")
        self._connection.end_bulk()
