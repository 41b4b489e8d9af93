# SPDX-License-Identifier: BSD-3-Clause
"""Digests of numpy arrays, scalars and dtypes, without importing numpy.

A value of a numpy type can exist only in a program that has imported it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ssdag.dataflow.encoding import Feeder, Update, Walk, class_name, sized

if TYPE_CHECKING:
    import numpy as np


def feeder_for(cls: type) -> Feeder | None:
    """Return what encodes values of a type of numpy (or a memoryview), or None.

    Subclasses of ``ndarray`` that add something (masked arrays) are left to pickle.
    """
    if cls is memoryview:
        return _memoryview
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if cls in (numpy.ndarray, numpy.memmap):
        return _array  # a memmap by its content, as the array that it stands for
    if issubclass(cls, numpy.generic):
        return _scalar
    return _dtype if issubclass(cls, numpy.dtype) else None


def _array(update: Update, value: np.ndarray[Any, Any], walk: Walk) -> None:
    walk.enter(value)  # an object array can hold itself
    update(b"A")
    walk.feed(update, value.shape)
    _dtype(update, value.dtype, walk)
    _content(update, value, walk)
    walk.leave(value)


def _content(update: Update, value: np.ndarray[Any, Any], walk: Walk) -> None:
    import numpy as np

    dtype = value.dtype
    if dtype.hasobject or dtype.kind == "T":
        for item in value.flat:
            walk.feed(update, item)
    elif dtype.names is not None:
        # Field by field: the bytes between them are not part of the value.
        for name in dtype.names:
            field = value[name]
            _dtype(update, field.dtype, walk)
            walk.feed(update, field.shape)
            _content(update, field, walk)
    elif value.nbytes:
        update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))


def _scalar(update: Update, value: np.generic, walk: Walk) -> None:
    import numpy as np

    array = np.asarray(value)
    update(b"S")
    _dtype(update, array.dtype, walk)
    _content(update, array, walk)


def _dtype(update: Update, value: np.dtype[Any], walk: Walk) -> None:
    if value.names is None and value.subdtype is None:
        # datetime64 has its unit in `str` only, bfloat16 and its like only in the name.
        sized(update, b"D", f"{value.str} {value.name}".encode())
        return
    sized(update, b"D", class_name(type(value)))
    if value.subdtype is not None:
        base, shape = value.subdtype
        walk.feed(update, shape)
        _dtype(update, base, walk)
        return
    assert value.names is not None
    assert value.fields is not None
    walk.feed(update, (value.names, value.itemsize, value.isalignedstruct))
    for name in value.names:
        field = value.fields[name]
        walk.feed(update, field[1])
        _dtype(update, field[0], walk)


def _memoryview(update: Update, value: memoryview, walk: Walk) -> None:
    update(b"V")
    walk.feed(update, (value.format, value.shape))
    update(value if value.c_contiguous else value.tobytes())


__all__ = ["feeder_for"]
