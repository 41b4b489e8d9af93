# SPDX-License-Identifier: BSD-3-Clause
"""Parts of a stored tensor: which bytes to read for ``array[index]``.

The answer is always one range of bytes, from the first to the last element of the part
in memory order. For a range of rows (C order: along axis 0, Fortran order: along the
last axis) that is exactly the part; for others, what lies between comes along and is
left out on arrival.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ssdag.errors import DataFormatError

if TYPE_CHECKING:
    from types import EllipsisType

    from ssdag.client.tensors.npy import Array, Header

#: What ``slab=`` takes: one index, or a tuple of them for the axes from 0 on.
Slab: TypeAlias = "int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...]"


class Part(NamedTuple):
    """Where a part of a tensor lies.

    Attributes
    ----------
    shape : tuple of int
        Of the part.
    strides : tuple of int
        In bytes, within the range that is read.
    first : int
        Bytes from the start of the range to the part's first element (more than 0 for
        negative steps).
    start, stop : int
        The range, in bytes from the start of the tensor's data.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    first: int
    start: int
    stop: int

    def view(self, raw: Array, dtype: np.dtype[Any]) -> Array:
        """Return the part as a view of the bytes of its range."""
        return np.ndarray(self.shape, dtype, raw.data, self.first, self.strides)

    def whole(self, itemsize: int) -> str | None:
        """Return ``"C"`` or ``"F"`` if the range is just the part in that order."""
        if math.prod(self.shape) * itemsize != self.stop - self.start or self.first:
            return None
        for order in ("C", "F"):
            expected, fits = itemsize, True
            axes = range(len(self.shape))
            for axis in axes if order == "F" else reversed(axes):
                if self.shape[axis] > 1:
                    fits &= self.strides[axis] == expected
                expected *= self.shape[axis]
            if fits:
                return order
        return None


def _expand(slab: Slab, ndim: int) -> list[int | slice]:
    """Return one index for each axis."""
    given = slab if isinstance(slab, tuple) else (slab,)
    dots = sum(1 for index in given if index is Ellipsis)
    if dots > 1 or len(given) - dots > ndim:
        raise DataFormatError(f"slab {slab!r} has too many indices for {ndim} axes")
    out: list[int | slice] = []
    for index in given:
        if index is Ellipsis:
            out += [slice(None)] * (ndim - len(given) + 1)
        elif isinstance(index, slice):
            out.append(index)
        else:
            try:
                out.append(operator.index(index))
            except TypeError:
                out = []
                break
            if isinstance(index, bool | np.bool_):
                out = []
                break
    else:
        return out + [slice(None)] * (ndim - len(out))
    raise DataFormatError(f"slab {slab!r}: only whole numbers, slices and '...' are possible")


def locate(header: Header, slab: Slab) -> Part:
    """Return where the part ``array[slab]`` of a stored tensor lies.

    Raises
    ------
    DataFormatError
        The index is no basic one, has too many axes, or a number is out of bounds.
    """
    size = header.dtype.itemsize
    ndim = len(header.shape)
    stride = [0] * ndim
    step = size
    for axis in range(ndim) if header.fortran else reversed(range(ndim)):
        stride[axis] = step
        step *= header.shape[axis]
    shape, strides = [], []
    low = high = first = 0
    empty = header.items == 0
    for axis, index in enumerate(_expand(slab, ndim)):
        length = header.shape[axis]
        if isinstance(index, int):
            if not -length <= index < length:
                raise DataFormatError(
                    f"slab index {index} is out of bounds for axis {axis} of length {length}"
                )
            offset = (index % length) * stride[axis]
            low, high, first = low + offset, high + offset, first + offset
            continue
        try:
            begin, stop, by = index.indices(length)
        except (TypeError, ValueError) as error:
            raise DataFormatError(f"slab {slab!r}: {error}") from error
        n = len(range(begin, stop, by))
        shape.append(n)
        strides.append(by * stride[axis])
        if n == 0:
            empty = True
            continue
        ends = (begin * stride[axis], (begin + (n - 1) * by) * stride[axis])
        low, high, first = low + min(ends), high + max(ends), first + ends[0]
    if empty:
        return Part(tuple(shape), tuple(strides), 0, 0, 0)
    return Part(tuple(shape), tuple(strides), first - low, low, high + size)
