# SPDX-License-Identifier: BSD-3-Clause
"""The NPY format: what a stored tensor looks like, byte for byte.

A tensor is an NPY header followed by the bytes of the array
(https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html), so that
``numpy.load`` and every other NPY reader understands it. Headers are memoised in both
directions: a simulation puts the same shapes again and again.
"""

from __future__ import annotations

import ast
import math
import operator
import struct
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ssdag.errors import DataFormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    Array = np.ndarray[Any, np.dtype[Any]]
    DType = np.dtype[Any]
    Shape = tuple[int, ...]

MAGIC = b"\x93NUMPY"

#: Headers are padded to a multiple of this, so that mapped data is aligned.
_ALIGN = 64

#: numpy leaves room for a longer first (Fortran: last) axis, to append in place.
_GROWTH_DIGITS = 21

#: A header longer than this is damage, not a dtype.
_LONGEST = 1 << 20

_OBJECT_ADVICE = (
    "dtype {} cannot be stored as a tensor: it holds Python objects. Convert it to numbers or "
    "to fixed-width strings (array.astype(float), array.astype(str)), or put the fields apart"
)


class Header(NamedTuple):
    """What an NPY header says.

    Attributes
    ----------
    dtype : numpy.dtype
        Of one element.
    shape : tuple of int
        Of the array; empty for 0-d.
    fortran : bool
        True if the first axis varies fastest.
    offset : int
        Where the data begins, in bytes.
    """

    dtype: DType
    shape: Shape
    fortran: bool
    offset: int

    @property
    def items(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of data bytes, without the header."""
        return self.items * self.dtype.itemsize


def contiguous(array: Any) -> Array:
    """Return a plain array in C or Fortran order, copied only if it is in neither.

    Raises
    ------
    DataFormatError
        For a dtype that holds Python objects, a masked array, or no array at all: a
        mapping, such as a dataset, would become an array of its keys.
    """
    if isinstance(array, Mapping):
        raise _no_array(array)
    masked = sys.modules.get("numpy.ma")
    if masked is not None and isinstance(array, masked.MaskedArray):
        raise DataFormatError(
            "a masked array would lose its mask: put array.filled(...), and array.mask apart"
        )
    try:
        plain: Array = np.asarray(array)
    except ValueError as error:  # ragged nested lists
        raise DataFormatError(f"this is no rectangular array: {error}") from error
    if plain.dtype.hasobject:
        raise DataFormatError(_OBJECT_ADVICE.format(plain.dtype))
    flags = plain.flags
    if not (flags.c_contiguous or flags.f_contiguous):
        plain = np.ascontiguousarray(plain)
    return plain


def _no_array(mapping: Mapping[Any, Any]) -> DataFormatError:
    from ssdag.client.datasets.dataset import Dataset  # which stands above this

    if isinstance(mapping, Dataset):
        return DataFormatError(
            f"this is the dataset {mapping.name!r}, not an array: store it with put_dataset()"
        )
    return DataFormatError(
        f"{type(mapping).__name__} is no array: store its values by put_tensors(), or together "
        "as a Dataset by put_dataset()"
    )


def as_bytes(array: Array) -> memoryview:
    """Return the memory of a contiguous array as bytes, without a copy.

    Writable if the array is; bytes are in memory order, whichever that is.
    """
    if array.nbytes == 0:
        return memoryview(bytearray())
    flat = array.reshape(-1) if array.flags.c_contiguous else array.T.reshape(-1)
    return memoryview(flat.view(np.uint8))  # type: ignore[arg-type]  # numpy's stubs < 3.12


@lru_cache(maxsize=1024)
def _encode(dtype: DType, shape: Shape, fortran: bool) -> bytes:
    if dtype.names is not None:
        try:
            descr: Any = dtype.descr
        except ValueError as error:
            raise DataFormatError(
                f"structured dtype {dtype} has overlapping or reordered fields: repack it with "
                "numpy.lib.recfunctions.repack_fields"
            ) from error
    elif dtype.isbuiltin == 2 or not getattr(type(dtype), "_legacy", True):
        raise DataFormatError(_OBJECT_ADVICE.format(dtype))
    else:
        descr = dtype.str
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}"
    if shape:
        text += " " * (_GROWTH_DIGITS - len(repr(shape[-1 if fortran else 0])))
    # Version 1.0 whenever it fits, as numpy does: 2.0 has a longer length field,
    # 3.0 is in UTF-8 (field names beyond Latin-1).
    for version, size, encoding in ((1, "<H", "latin-1"), (2, "<I", "latin-1"), (3, "<I", "utf-8")):
        try:
            body = text.encode(encoding)
        except UnicodeEncodeError:
            continue
        length = len(body) + 1
        padding = _ALIGN - (len(MAGIC) + 2 + struct.calcsize(size) + length) % _ALIGN
        if version == 1 and length + padding > 0xFFFF:
            continue
        prefix = MAGIC + bytes((version, 0)) + struct.pack(size, length + padding)
        return prefix + body + b" " * padding + b"\n"
    raise DataFormatError(f"field names of {dtype} cannot be written as UTF-8")


def encode_header(array: Array) -> bytes:
    """Return the NPY header of a contiguous array: the bytes that numpy.save writes.

    Raises
    ------
    DataFormatError
        For a dtype that has no NPY description.
    """
    flags = array.flags
    return _encode(array.dtype, array.shape, flags.f_contiguous and not flags.c_contiguous)


def header_of(shape: int | Sequence[int], dtype: Any, order: str) -> tuple[bytes, int]:
    """Return the NPY header of an array that does not exist, and its bytes of data.

    Raises
    ------
    DataFormatError
        The shape, the dtype or the order is none, or has no NPY description.
    """
    if isinstance(shape, Mapping):
        raise _no_array(shape)
    try:
        kind = np.dtype(dtype)
        lengths = (shape,) if isinstance(shape, int) else tuple(operator.index(n) for n in shape)
    except TypeError as error:
        raise DataFormatError(f"shape={shape!r}, dtype={dtype!r}: {error}") from error
    if kind.hasobject:
        raise DataFormatError(_OBJECT_ADVICE.format(kind))
    if any(n < 0 for n in lengths) or order not in ("C", "F"):
        raise DataFormatError(f"shape={shape!r}, order={order!r}: lengths from 0 on, 'C' or 'F'")
    # As for an array: what is contiguous in both orders counts as C.
    both = sum(n > 1 for n in lengths) < 2 or 0 in lengths
    header = _encode(kind, lengths, order == "F" and not both)
    return header, math.prod(lengths) * kind.itemsize


def dumps(array: Any) -> bytes:
    """Return the array as one NPY byte string (a copy of the data)."""
    plain = contiguous(array)
    return encode_header(plain) + bytes(as_bytes(plain))


def header_length(start: bytes | memoryview) -> int | None:
    """Return how long the header is that begins with `start`, or None if too few bytes.

    Raises
    ------
    DataFormatError
        The bytes are no NPY data.
    """
    head = bytes(start[:12])
    if len(head) < 12:
        if not MAGIC.startswith(head[:6]):
            raise DataFormatError("the value is no tensor: it does not begin as NPY data does")
        return None
    if head[:6] != MAGIC:
        raise DataFormatError("the value is no tensor: it does not begin as NPY data does")
    if head[6] == 1:
        return 10 + int.from_bytes(head[8:10], "little")
    if head[6] in (2, 3):
        length = 12 + int.from_bytes(head[8:12], "little")
        if length > _LONGEST:
            raise DataFormatError(f"the value is no tensor: a header of {length} bytes")
        return length
    raise DataFormatError(f"NPY version {head[6]}.{head[7]} is not known (1.0, 2.0 and 3.0 are)")


def _describe(descr: Any) -> DType:
    """Return the dtype of a description, padding fields left out as numpy does."""
    if isinstance(descr, str):
        return np.dtype(descr)
    if isinstance(descr, tuple):
        base, shape = descr
        return np.dtype((_describe(base), shape))
    names, titles, formats, offsets = [], [], [], []
    offset = 0
    for field in descr:
        kind = _describe(field[1] if len(field) == 2 else (field[1], field[2]))
        name = field[0]
        if name != "" or kind.type is not np.void or kind.names is not None:
            title, name = name if isinstance(name, tuple) else (None, name)
            names.append(name)
            titles.append(title)
            formats.append(kind)
            offsets.append(offset)
        offset += kind.itemsize
    spec = {
        "names": names,
        "formats": formats,
        "titles": titles,
        "offsets": offsets,
        "itemsize": offset,
    }
    return np.dtype(spec)  # type: ignore[call-overload,no-any-return]


@lru_cache(maxsize=1024)
def decode_header(header: bytes) -> Header:
    """Return what a whole NPY header says; the opposite of :func:`encode_header`.

    Raises
    ------
    DataFormatError
        The header is damaged, or its dtype holds Python objects.
    """
    start = 10 if header[6] == 1 else 12
    try:
        fields = ast.literal_eval(header[start:].decode("utf-8" if header[6] == 3 else "latin-1"))
        dtype = _describe(fields["descr"])
        shape = tuple(int(n) for n in fields["shape"])
        fortran = bool(fields["fortran_order"])
        damaged = any(n < 0 for n in shape)
    except (ValueError, TypeError, KeyError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataFormatError(f"the NPY header is damaged: {bytes(header[:200])!r}") from error
    if damaged:
        raise DataFormatError(f"the NPY header has a negative length: {shape}")
    if dtype.hasobject:
        raise DataFormatError(_OBJECT_ADVICE.format(dtype))
    return Header(dtype, shape, fortran, len(header))


def empty(header: Header) -> Array:
    """Return a new uninitialised array as the header describes it."""
    return np.empty(header.shape, header.dtype, order="F" if header.fortran else "C")
