# SPDX-License-Identifier: BSD-3-Clause
"""Futures are found in arguments, deep, and replaced by their values."""

from __future__ import annotations

import concurrent.futures as cf
import dataclasses
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pytest

from ssdag.arguments import fill, find, localize, put, raw_value
from ssdag.errors import SsdagError
from ssdag.futures import DataFuture, Future
from ssdag.references import Reference


class Point(NamedTuple):
    """A named tuple."""

    x: Any
    y: Any


class Seven(Reference):
    """A reference whose value is 7; counts how often it is fetched."""

    fetched = 0

    def resolve(self) -> int:
        type(self).fetched += 1
        return 7

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return ()


class Service:
    """A waitable."""

    def __init__(self, value: Any) -> None:
        self.future: cf.Future[Any] = done(value)

    def __ssdag_future__(self) -> cf.Future[Any]:
        return self.future


@dataclasses.dataclass
class Box:
    """An opaque container."""

    inside: Any


def done(value: Any) -> Future[Any]:
    """Return a future that has a value."""
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def test_plain_arguments_have_none() -> None:
    assert find((1, 2.0, "x", b"y", None, True), None) == ([], [], True)
    assert find((), None) == ([], [], True)


@pytest.mark.parametrize("value", [[1], (1,), {1}, {1: 2}, 1j, np.float64(1), np.ones(2), int, ...])
def test_what_is_not_plain(value: Any) -> None:
    assert find((value,), None) == ([], [], False)
    assert find((), {"x": value}) == ([], [], False)


def test_keywords_are_never_plain() -> None:
    assert find((1,), {"x": 1}) == ([], [], False)


def test_found_in_every_container_in_order() -> None:
    f = [done(i) for i in range(10)]
    args = (
        f[0],
        [f[1], (f[2], {"k": f[3]})],
        {f[4]: "key"},
        {f[5]},
        frozenset({f[6]}),
        Point(f[7], [f[8]]),
    )
    futures, waitables, plain = find(args, {"inputs": [f[9]]})
    assert futures == f
    assert waitables == []
    assert not plain


def test_foreign_futures_futures_of_data_and_services() -> None:
    stock: cf.Future[int] = cf.Future()
    data: DataFuture[int] = DataFuture("u")
    service = Service(1)
    futures, waitables, _ = find((stock, [data], {"db": service}), None)
    assert futures == [stock, data]
    assert waitables == [service]


def test_a_class_with_the_protocol_is_no_service() -> None:
    assert find((Service,), None) == ([], [], False)


def test_other_containers_are_opaque() -> None:
    future = done(1)
    array = np.array([future], dtype=object)
    for value in (Box(future), array, OrderedDict(x=future), iter([future])):
        assert find((value,), None) == ([], [], False)


def test_the_same_future_counts_each_time() -> None:
    future = done(1)
    assert find((future, [future]), None)[0] == [future, future]


def test_a_container_that_holds_itself_is_an_error_and_no_crash() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = 0
    for _ in range(100_000):
        deep = (deep,)
    for value in (loop, deep):
        with pytest.raises(SsdagError, match="nests too deeply or contains itself"):
            find((value,), None)


def test_fill_keeps_types_and_leaves_what_has_no_future() -> None:
    untouched = [1, {"a": (2, 3)}]
    args = (
        done(1),
        [done(2), 0],
        (done(3), [done(4)]),
        {done("k"): done("v")},
        {done(5), 6},
        frozenset({done(7)}),
        Point(done(8), 9),
        untouched,
    )
    filled, kwargs = fill(args, {"x": done(10), "y": untouched})
    assert filled == (
        1, [2, 0], (3, [4]), {"k": "v"}, {5, 6}, frozenset({7}), Point(8, 9), untouched,
    )  # fmt: skip
    assert [type(value) for value in filled[1:]] == [type(value) for value in args[1:]]
    assert filled[-1] is untouched
    assert kwargs == {"x": 10, "y": untouched}
    assert isinstance(args[0], Future), "the caller's containers are left as they are"
    assert isinstance(args[1][0], Future)


def test_fill_puts_in_what_a_service_gives() -> None:
    assert fill((Service("client"), [Service(2)]), None) == (("client", [2]), None)


def test_values_of_sets_must_be_hashable() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        fill(({done([1])},), None)


def test_raw_value_raises_what_the_future_raised() -> None:
    failed: Future[int] = Future()
    failed.set_exception(KeyError("k"))
    with pytest.raises(KeyError):
        raw_value(failed)
    cancelled: Future[int] = Future()
    cancelled.cancel()
    with pytest.raises(cf.CancelledError):
        raw_value(cancelled)


def test_references_are_put_in_raw_and_resolved_for_a_body_that_runs_here() -> None:
    Seven.fetched = 0
    reference = Seven()
    args, kwargs = fill((done(reference), [done(reference)]), {"x": {"k": done(reference)}})
    assert args[0] is reference
    assert Seven.fetched == 0
    assert localize(args, kwargs) == ((7, [7]), {"x": {"k": 7}})
    assert Seven.fetched == 3


def test_a_value_that_is_a_future_or_a_service_is_left_as_it_is() -> None:
    """A task in a thread may return such things; nobody looks inside them."""
    future, service = done(1), Service(2)
    assert put(done([future])) == [future]
    assert localize(([future, service], future, service), {"x": future}) == (
        ([future, service], future, service),
        {"x": future},
    )


def test_many_classes_do_not_pile_up() -> None:
    from ssdag import arguments

    before = dict(arguments._KINDS)
    try:
        for i in range(12_000):
            find((type(f"C{i}", (), {})(),), None)
        assert len(arguments._KINDS) <= 10_000
        future = done(1)
        assert find(([future],), None)[0] == [future]
        late = type("Late", (Service,), {})(3)
        assert find((late,), None)[1] == [late]
    finally:
        arguments._KINDS.clear()
        arguments._KINDS.update(before)
