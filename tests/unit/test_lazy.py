# SPDX-License-Identifier: BSD-3-Clause
"""Proxies of values that are fetched at the first use, and values as runs of bytes."""

from __future__ import annotations

import copy
import gc
import math
import operator
import pickle
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ssdag.connectors.lazy import LazyReference, Proxy, is_resolved, resolved
from ssdag.connectors.packing import pack, unpack
from ssdag.errors import DataFormatError, LostValueError, SerializationError
from ssdag.references import UNRESOLVED, Reference, fetch_unresolved

if TYPE_CHECKING:
    from collections.abc import Callable


class Elsewhere(Reference):
    """A reference that counts how often it is fetched."""

    fetched = 0

    def __init__(self, value: Any) -> None:
        self._value = value

    def resolve(self) -> Any:
        Elsewhere.fetched += 1
        return self._value

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return (self._value,)


def proxy(value: Any) -> Any:
    return Proxy(lambda: value)


UNARY = [repr, str, bool, hash, abs, operator.neg, operator.pos, math.floor, math.ceil, round,
         math.trunc, float, complex, format, copy.copy, copy.deepcopy]  # fmt: skip
BINARY = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, divmod,
          operator.mod, pow, operator.lt, operator.eq, operator.ge, operator.iadd]  # fmt: skip


@pytest.mark.parametrize("function", UNARY)
def test_what_python_does_with_a_number_it_does_with_its_proxy(
    function: Callable[[Any], Any],
) -> None:
    assert function(proxy(7.5)) == function(7.5)


@pytest.mark.parametrize("function", BINARY)
def test_operators_take_proxies_on_both_sides(function: Callable[[Any, Any], Any]) -> None:
    wanted = function(7.0, 3.0)
    assert function(proxy(7.0), 3.0) == wanted
    assert function(7.0, proxy(3.0)) == wanted
    assert function(proxy(7.0), proxy(3.0)) == wanted


def test_a_proxy_of_a_container_is_one() -> None:
    items = proxy([3, 1, 2])
    assert len(items) == 3
    assert items[0] == 3
    assert 2 in items
    assert sorted(items) == [1, 2, 3]
    assert list(reversed(items)) == [2, 1, 3]
    items[0] = 5
    del items[1]
    items.append(9)
    assert items == [5, 2, 9]
    assert isinstance(items, list)
    assert not isinstance(items, dict)
    assert dict(proxy({"a": 1}), b=2) == {"a": 1, "b": 2}
    assert proxy(max)(1, 2) == 2
    assert operator.index(proxy(3)) == 3


def test_attributes_of_a_proxy_are_those_of_its_value() -> None:
    class Thing:
        size = 3

    thing = Thing()
    stands = proxy(thing)
    stands.size = 4
    assert thing.size == 4
    assert stands.size == 4
    del stands.size
    assert stands.size == 3
    assert stands.__class__ is Thing
    with pytest.raises(AttributeError):
        getattr(stands, "nothing")  # noqa: B009


def test_numpy_takes_a_proxy_for_an_array() -> None:
    array = np.arange(6.0).reshape(2, 3)
    stands = proxy(array)
    assert isinstance(stands, np.ndarray)
    assert np.shares_memory(np.asarray(stands), array)
    assert np.array(stands, copy=True) is not array
    assert np.sum(stands) == 15
    assert (np.add(stands, stands) == 2 * array).all()
    assert (array @ stands.T == array @ array.T).all()
    assert (stands[:, 1] == array[:, 1]).all()
    assert np.concatenate([stands, stands]).shape == (4, 3)


def test_a_proxy_is_fetched_once_and_pickles_as_its_value() -> None:
    count = []

    def load() -> list[int]:
        count.append(1)
        return [1]

    stands: Any = Proxy(load)
    assert not is_resolved(stands)
    assert [*stands, 2] == [1, 2]
    assert type(pickle.loads(pickle.dumps(stands))) is list
    assert resolved(stands) is resolved(stands)
    assert is_resolved(stands)
    assert count == [1]
    assert resolved(5) == 5
    assert is_resolved(5)


def test_a_lazy_reference_arrives_as_a_proxy() -> None:
    Elsewhere.fetched = 0
    arrived = pickle.loads(pickle.dumps(LazyReference(Elsewhere("text"))))
    assert Elsewhere.fetched == 0
    assert arrived.upper() == "TEXT"
    assert Elsewhere.fetched == 1


def test_proxies_that_outlive_their_task_are_filled_and_others_are_not() -> None:
    Elsewhere.fetched = 0
    kept = pickle.loads(pickle.dumps(LazyReference(Elsewhere("kept"))))
    dropped = pickle.loads(pickle.dumps(LazyReference(Elsewhere("dropped"))))
    del dropped
    gc.collect()
    fetch_unresolved()
    assert Elsewhere.fetched == 1
    assert is_resolved(kept)
    assert not UNRESOLVED


def test_a_lost_value_in_a_body_says_so() -> None:
    def load() -> None:
        raise LostValueError("gone", key="k")

    with pytest.raises(LostValueError) as caught:
        len(Proxy(load))
    assert caught.value.in_body
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.key, again.in_body, str(again)) == ("k", True, "gone")


# -- packing ---------------------------------------------------------------------------


def there_and_back(value: Any) -> Any:
    return unpack(memoryview(bytearray(b"".join(pack(value).parts()))))


#: Without dates in the other byte order, of which NumPy itself pickles the values only.
DTYPES = npst.scalar_dtypes().filter(lambda dtype: dtype.kind not in "mM" or dtype.isnative)


@given(npst.arrays(DTYPES, npst.array_shapes(min_dims=0, min_side=0, max_side=40)))
def test_arrays_survive_packing(array: np.ndarray[Any, Any]) -> None:
    back = there_and_back(array)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=9000),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
))  # fmt: skip
def test_values_survive_packing(value: Any) -> None:
    assert there_and_back(value) == value


def test_arrays_of_a_packed_value_are_not_copied_and_lie_well() -> None:
    value: Any = {"a": np.arange(3000), "b": [np.ones((300, 300), order="F"), "c"]}
    packed = pack(value)
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), value["a"])
               for part in packed.parts())  # fmt: skip
    starts = np.cumsum([0, *map(len, packed.parts())])
    sizes = list(map(len, packed.parts()))
    assert all(start % 64 == 0 for start, size in zip(starts, sizes, strict=False) if size > 64)
    back = there_and_back(value)
    assert back["b"][0].flags.f_contiguous
    back["a"][0] = 7  # its own
    assert value["a"][0] == 0


def test_a_packed_value_pickles_as_the_value() -> None:
    array = np.arange(5000)
    buffers: list[Any] = []
    data = pickle.dumps(pack([array]), 5, buffer_callback=buffers.append)
    assert len(buffers) == 1
    assert (pickle.loads(data, buffers=buffers)[0] == array).all()
    assert (pickle.loads(pickle.dumps(pack([array]), 5))[0] == array).all()


@pytest.mark.parametrize("cut", [0, 10, 70, 200])
def test_other_bytes_are_no_value(cut: int) -> None:
    data = bytearray(b"".join(pack(np.arange(3000)).parts()))
    with pytest.raises(DataFormatError):
        unpack(memoryview(data[:cut]))
    with pytest.raises(DataFormatError):
        unpack(memoryview(b"\x93NUMPY" + bytes(100)))
    data[8] = 9
    with pytest.raises(DataFormatError, match="version 9"):
        unpack(memoryview(data))


def test_what_cannot_be_pickled_cannot_be_packed() -> None:
    with pytest.raises(SerializationError):
        pack([threading.Lock()])
