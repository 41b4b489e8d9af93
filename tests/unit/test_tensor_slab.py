# SPDX-License-Identifier: BSD-3-Clause
"""Which bytes a part of a tensor is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssdag.client.tensors import npy
from ssdag.client.tensors.slab import locate
from ssdag.errors import DataFormatError


def header_of(array: np.ndarray[Any, Any]) -> npy.Header:
    return npy.decode_header(npy.encode_header(array))


@settings(deadline=None, max_examples=400)
@given(st.data(), hnp.array_shapes(max_dims=4, max_side=5), st.booleans())
def test_like_numpy(data: st.DataObject, shape: tuple[int, ...], fortran: bool) -> None:
    array = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
    if fortran:
        array = np.asfortranarray(array)
    index = data.draw(hnp.basic_indices(shape, allow_ellipsis=True, allow_newaxis=False))
    expected = np.asarray(array[index])
    part = locate(header_of(array), index)
    assert part.shape == expected.shape
    raw = np.frombuffer(npy.as_bytes(array)[part.start : part.stop], np.uint8)
    if part.stop > part.start:
        assert np.array_equal(part.view(raw, array.dtype), expected)
        order = part.whole(array.itemsize)
        if order is not None:
            straight = np.frombuffer(raw.tobytes(), array.dtype).reshape(part.shape, order=order)  # type: ignore[call-overload]
            assert np.array_equal(straight, expected)
    else:
        assert expected.size == 0


def test_rows_are_one_range() -> None:
    part = locate(header_of(np.zeros((10, 4, 5))), slice(2, 5))
    assert (part.start, part.stop) == (2 * 160, 5 * 160)
    assert part.whole(8) == "C"
    part = locate(header_of(np.zeros((10, 4, 5), order="F")), (..., slice(1, 3)))
    assert (part.start, part.stop) == (320, 960)
    assert part.whole(8) == "F"


@pytest.mark.parametrize(
    "slab", [10, -11, (0, 0, 0), (..., ...), [1, 2], "a", 1.5, True, None, slice("a", "b")]
)
def test_bad(slab: Any) -> None:
    with pytest.raises(DataFormatError, match="slab"):
        locate(header_of(np.zeros((10, 4))), slab)
