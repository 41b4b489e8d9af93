# SPDX-License-Identifier: BSD-3-Clause
"""Python values in a connector: arrays as NPY files, everything else as pickles.

An array's bytes are those that ``numpy.save`` writes, so that every NPY reader
understands the file or the string on the server, and they are used where they lie: in a
folder of this machine the array that is returned is the mapped file. Other values are
pickled with their arrays beside them, see :mod:`ssdag.connectors.packing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ssdag.client.tensors import npy
from ssdag.connectors.packing import pack, unpack
from ssdag.errors import DataFormatError

if TYPE_CHECKING:
    from ssdag.connectors.base import Buffer, Connector


def to_parts(value: Any) -> list[Buffer]:
    """Return the bytes of a value, its own memory among them.

    Raises
    ------
    SerializationError
        It cannot be pickled.
    """
    if type(value) is np.ndarray and not value.dtype.hasobject:
        try:
            plain = npy.contiguous(value)
            return [npy.encode_header(plain), npy.as_bytes(plain)]
        except DataFormatError:
            pass  # a dtype that NPY cannot describe
    return pack(value).parts()


def from_bytes(data: memoryview) -> Any:
    """Return the value of :func:`to_parts`; its arrays are views of `data`.

    Raises
    ------
    DataFormatError
        These are other bytes, or not all of them.
    Exception
        Whatever the classes of a pickled value raise while they load.
    """
    if bytes(data[:6]) != npy.MAGIC:
        return unpack(data)
    length = npy.header_length(data)
    if length is None or length > len(data):
        raise DataFormatError(f"the stored array is damaged: {len(data)} bytes with a cut header")
    header = npy.decode_header(bytes(data[:length]))
    if len(data) - length != header.nbytes:
        raise DataFormatError(
            f"the stored array is damaged: {len(data) - length} bytes of data, but its header "
            f"says {header.shape} of {header.dtype}"
        )
    if not header.nbytes:
        return npy.empty(header)
    order: Any = "F" if header.fortran else "C"
    return np.ndarray(header.shape, header.dtype, data, length, order=order)


def put(connector: Connector, key: str, value: Any) -> None:
    """Publish a value in place of what is there.

    Raises
    ------
    SerializationError
        It cannot be pickled.
    DataFormatError
        The key cannot be one.
    StoreError
        No room, or the place cannot be reached.
    """
    connector.write(key, to_parts(value))


def get(connector: Connector, key: str) -> Any:
    """Return a value.

    Raises
    ------
    MissingDataError
        There is none.
    DataFormatError
        The bytes are no value of :func:`put`.
    StoreError
        The place cannot be reached.
    """
    return from_bytes(connector.read(key))
