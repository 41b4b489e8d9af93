# SPDX-License-Identifier: BSD-3-Clause
"""The NPY format, against numpy's own writer and reader."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssdag.client.tensors import npy
from ssdag.errors import DataFormatError

# What numpy says of headers in version 2.0 and 3.0.
pytestmark = pytest.mark.filterwarnings("ignore:Stored array in format:UserWarning")

Array = np.ndarray[Any, np.dtype[Any]]

scalars = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(endianness="?"),
    hnp.datetime64_dtypes(endianness="?"),
    hnp.timedelta64_dtypes(endianness="?"),
    hnp.unicode_string_dtypes(endianness="?", min_len=1),
    hnp.byte_string_dtypes(min_len=1),
)
dtypes = st.one_of(scalars, hnp.array_dtypes(scalars, max_size=3, allow_subarrays=True))
layouts = st.sampled_from(["C", "F", "strided", "reversed"])


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    dtype = draw(dtypes)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = draw(st.binary(min_size=count, max_size=count))
    if dtype.kind == "b":
        raw = bytes(b & 1 for b in raw)
    if dtype.kind == "U":
        raw = bytes(count)
    array = np.frombuffer(raw, dtype=dtype, count=int(np.prod(shape))).reshape(shape)
    layout = draw(layouts)
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "strided" and array.ndim:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if layout == "reversed" and array.ndim:
        return array[::-1]
    return array


def saved(array: Array) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=False)
    return out.getvalue()


@settings(deadline=None, max_examples=300)
@given(arrays())
def test_bytes_are_those_of_numpy(array: Array) -> None:
    data = npy.dumps(array)
    assert data == saved(array)
    length = npy.header_length(data)
    assert length is not None
    header = npy.decode_header(data[:length])
    plain = npy.contiguous(array)
    assert header.dtype == array.dtype
    assert header.shape == array.shape
    assert header.nbytes == len(data) - length
    back = npy.empty(header)
    npy.as_bytes(back)[:] = data[length:]
    assert back.tobytes() == plain.tobytes()
    assert back.flags.f_contiguous == plain.flags.f_contiguous


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype([("x", "<f4"), ("y", ">i2", (2, 3))], align=True),
        np.dtype([("a", [("b", "?"), ("c", "U3")]), ("d", "M8[us]")]),
        np.dtype([(f"a long field name number {i}", "f8") for i in range(3000)]),
        np.dtype([("ψ", "f8")]),
        np.dtype("V7"),
        np.dtype([]),
    ],
    ids=["aligned", "nested", "version-2", "version-3", "void", "no-fields"],
)
def test_structured(dtype: np.dtype[Any]) -> None:
    array = np.zeros((2, 2), dtype)
    data = npy.dumps(array)
    assert data == saved(array)
    header = npy.decode_header(data[: npy.header_length(data)])
    assert header.dtype == array.dtype


def test_read_by_numpy() -> None:
    array = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
    back = np.load(io.BytesIO(npy.dumps(array)))
    assert np.array_equal(back, array)
    assert back.dtype == array.dtype
    assert back.flags.f_contiguous


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.zeros(2, [("a", "f4"), ("b", "O")]),
        np.ma.masked_array([1, 2], [True, False]),
        [[1, 2], [3]],
        np.zeros(2, np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [2, 0]})),
    ],
    ids=["object", "object-field", "masked", "ragged", "overlapping"],
)
def test_what_cannot_be_stored(value: object) -> None:
    with pytest.raises(DataFormatError, match=r"array|fields|objects|mask"):
        npy.dumps(value)


@pytest.mark.parametrize(
    "data",
    [
        b"hello world, this is text",
        b"\x93NUMPY\x09\x00\x10\x00aaaaaaaaaaaa",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xffaaaa",
        b"x",
    ],
)
def test_foreign_bytes(data: bytes) -> None:
    with pytest.raises(DataFormatError):
        npy.header_length(data)


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_damaged_header(text: bytes) -> None:
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with pytest.raises(DataFormatError):
        npy.decode_header(header)


def test_damaged_values() -> None:
    for text in ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", "{'descr': 'O'}"):
        with pytest.raises(DataFormatError):
            npy.decode_header(b"\x93NUMPY\x01\x00\0\0" + text.encode())
