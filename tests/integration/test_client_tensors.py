# SPDX-License-Identifier: BSD-3-Clause
"""Every method of the client, on each server program that this machine has."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssdag.client import Client
from ssdag.client.datasets.dataset import Dataset
from ssdag.errors import (
    DataError,
    DataFormatError,
    DataTimeoutError,
    MissingDataError,
    StoreError,
)
from ssdag.services.orchestrator import Orchestrator
from tests.integration.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module", params=SERVERS)
def db(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    with Orchestrator(server=request.param, memory_limit_bytes=1 << 30) as service:
        yield service


@pytest.fixture(params=["unix", "tcp"])
def client(db: Orchestrator, request: pytest.FixtureRequest) -> Iterator[Client]:
    address = db.address if request.param == "unix" else db.tcp_address
    with Client(address, password_file=db.password_file) as made:
        made.redis.flushdb()
        yield made


def test_round_trip(client: Client) -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert not client.tensor_exists("a")
    client.put_tensor("a", array)
    assert client.tensor_exists("a")
    assert np.array_equal(client.get_tensor("a"), array)
    client.put_tensor("a", np.float32(1.5))
    assert client.get_tensor("a").shape == ()
    assert client.delete_tensor("a")
    assert not client.delete_tensor("a")
    with pytest.raises(MissingDataError, match="no tensor 'a'"):
        client.get_tensor("a")
    with pytest.raises(MissingDataError):
        client.get_tensor("a", slab=0)


def test_any_array(client: Client) -> None:
    dtypes = [
        hnp.scalar_dtypes(),
        hnp.byte_string_dtypes(min_len=1),
        hnp.unicode_string_dtypes(min_len=1),
        hnp.array_dtypes(),
        hnp.nested_dtypes(),
        st.sampled_from([np.dtype(np.longdouble), np.dtype(np.clongdouble)]),
    ]

    @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
    @given(hnp.arrays(st.one_of(dtypes), hnp.array_shapes(min_dims=0, min_side=0)), st.booleans())
    def check(array: np.ndarray[Any, Any], fortran: bool) -> None:
        if fortran:
            array = np.asfortranarray(array)
        client.put_tensor("any", array)
        back = client.get_tensor("any")
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert back.flags.f_contiguous == array.flags.f_contiguous
        assert back.tobytes() == array.tobytes()

    check()


def test_64_mib(client: Client) -> None:
    array = np.random.default_rng(1).random((64, 1 << 17))
    client.put_tensor("big", array)
    assert np.array_equal(client.get_tensor("big"), array)
    out = np.empty_like(array)
    assert client.get_tensor("big", out=out) is out
    assert np.array_equal(out, array)
    assert np.array_equal(client.get_tensor("big", slab=slice(10, 20)), array[10:20])


def test_numpy_reads_it(client: Client) -> None:
    array = np.asfortranarray(np.arange(6).reshape(2, 3))
    client.put_tensor("a", array)
    assert np.array_equal(np.load(io.BytesIO(client.redis.get("a"))), array)  # type: ignore[arg-type]
    out = io.BytesIO()
    np.save(out, array + 1)
    client.redis.set("b", out.getvalue())
    assert np.array_equal(client.get_tensor("b"), array + 1)


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "new\nline\r\n",
        "ψ/目",
        "\0",
        "{tag}x",
        "*",
        "x" * 5000,
        b"\xff\x80".decode("utf-8", "surrogateescape"),
    ],
)
def test_odd_names(client: Client, name: str) -> None:
    client.put_tensor(name, [1, 2])
    assert client.tensor_exists(name)
    client.wait_tensor(name, 5)
    assert client.get_tensor(name).tolist() == [1, 2]
    assert client.get_tensor(name, slab=1) == 2
    assert client.delete_tensor(name)


@pytest.mark.parametrize("name", ["", 3, None, "\ud800"])
def test_bad_names(client: Client, name: Any) -> None:
    for call in (client.get_tensor, client.tensor_exists, client.delete_tensor, client.wait_tensor):
        with pytest.raises(DataFormatError, match="name"):
            call(name)
    with pytest.raises(DataFormatError, match="name"):
        client.put_tensor(name, [1])


def test_object_dtype(client: Client) -> None:
    with pytest.raises(DataFormatError, match="Python objects"):
        client.put_tensor("a", np.array([None, {}]))
    assert not client.tensor_exists("a")


DATASETS = [Dataset("empty"), Dataset("step", {"u": [1.0], "v": [2.0]})]


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda d: d.name)
def test_a_dataset_is_no_tensor(client: Client, dataset: Dataset) -> None:
    client.put_tensor("there", np.zeros(2, "U4"))
    puts: list[Callable[[], None]] = [
        lambda: client.put_tensor("a", dataset),
        lambda: client.put_tensors({"a": dataset}),
        lambda: client.create_tensor("a", dataset),  # type: ignore[arg-type]
        lambda: client.put_slab("there", ..., dataset),
        lambda: Dataset("outer").add_tensor("a", dataset),
    ]
    for put in puts:
        with pytest.raises(DataFormatError, match=r"dataset '\w+', not an array.*put_dataset"):
            put()
    with pytest.raises(DataFormatError, match="dict is no array"):
        client.put_tensor("a", {"u": 1.0})
    assert not client.tensor_exists("a")
    assert client.get_tensor("there").tolist() == ["", ""]


def test_out(client: Client) -> None:
    array = np.arange(6.0).reshape(2, 3)
    fortran = np.empty((2, 3), order="F")
    client.put_tensor("c", array)
    client.put_tensor("f", np.asfortranarray(array))
    for name in ("c", "f"):
        for out in (np.empty((2, 3)), fortran.copy(order="F"), np.empty((4, 6))[::2, ::2]):
            assert client.get_tensor(name, out=out) is out
            assert np.array_equal(out, array)
    big = np.ones(1 << 17)
    client.put_tensor("big", big)
    for name in ("c", "big"):
        for wrong in (np.empty((3, 2)), np.empty((2, 3), "f4")):
            with pytest.raises(DataFormatError, match="out="):
                client.get_tensor(name, out=wrong)
    for bad in (np.broadcast_to(0.0, (2, 3)), [1, 2]):
        with pytest.raises(DataFormatError, match="writable"):
            client.get_tensor("c", out=bad)  # type: ignore[arg-type]
    assert np.array_equal(client.get_tensor("c"), array)


def test_slabs(client: Client) -> None:
    stored = np.arange(120, dtype=">i4").reshape(4, 5, 6)
    arrays = {"c": stored, "f": np.asfortranarray(stored)}
    for name, array in arrays.items():
        client.put_tensor(name, array)

    @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(["c", "f"]),
        hnp.basic_indices((4, 5, 6), allow_ellipsis=True, allow_newaxis=False),
    )
    def check(name: str, index: Any) -> None:
        expected = np.asarray(arrays[name][index], stored.dtype)
        got = client.get_tensor(name, slab=index)
        assert got.dtype == expected.dtype
        assert np.array_equal(got, expected)
        assert got.flags.owndata or got.base is None
        out = np.zeros_like(expected)
        assert client.get_tensor(name, slab=index, out=out) is out
        assert np.array_equal(out, expected)

    check()
    with pytest.raises(DataFormatError, match="out of bounds"):
        client.get_tensor("c", slab=4)
    with pytest.raises(DataFormatError, match="out="):
        client.get_tensor("c", slab=0, out=np.empty(3))


def test_slab_with_a_long_header(client: Client) -> None:
    array = np.zeros(5, [(f"a field with a long name {i}", "f8") for i in range(50)])
    client.put_tensor("a", array)
    assert client.get_tensor("a", slab=slice(1, 3)).tobytes() == array[1:3].tobytes()


def test_slab_while_the_shape_changes(client: Client, db: Orchestrator) -> None:
    stop = threading.Event()

    def write() -> None:
        with Client(db.address, password_file=db.password_file) as other:
            while not stop.is_set():
                other.put_tensor("a", np.full((4, 4), 1.0))
                other.put_tensor("a", np.full((9, 2, 3), 2, np.int16))

    client.put_tensor("a", np.full((4, 4), 1.0))
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            row = client.get_tensor("a", slab=1)
            assert (row.shape == (4,) and (row == 1).all()) or (
                row.shape == (2, 3) and (row == 2).all()
            )
    finally:
        stop.set()
        writer.join()


def test_values_that_are_no_tensor(client: Client) -> None:
    client.redis.rpush("list", "x")
    client.redis.set("text", "hello, this is no tensor")
    client.redis.set("empty", "")
    client.redis.set("cut", b"\x93NUMPY\x01\x00")
    client.put_tensor("short", np.arange(1000.0))
    client.redis.set("short", client.redis.getrange("short", 0, 999))
    for slab in (None, 0):
        with pytest.raises(DataError, match="another kind"):
            client.get_tensor("list", slab=slab)
        for name in ("text", "cut"):
            with pytest.raises(DataFormatError, match=r"no tensor|damaged"):
                client.get_tensor(name, slab=slab)
    with pytest.raises(DataFormatError, match="damaged"):
        client.get_tensor("empty")
    with pytest.raises(DataFormatError, match="damaged"):
        client.get_tensor("short")
    with pytest.raises(DataFormatError, match="damaged"):
        client.get_tensor("short", slab=slice(900, 950))
    client.ping()


def test_wait(client: Client, db: Orchestrator) -> None:
    with pytest.raises(DataTimeoutError, match="'w' did not come"):
        client.wait_tensor("w", 0.05)
    done = threading.Event()

    def wait() -> None:
        client.wait_tensor("w", 10)
        done.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    client.put_tensor("w", [1])
    assert done.wait(10)
    waiter.join()
    client.wait_tensor("w")


def test_memory_limit(client: Client) -> None:
    client.redis.config_set("maxmemory", "60mb")
    try:
        client.put_tensor("a", np.zeros(1 << 20))
        with pytest.raises(StoreError, match="memory_limit_bytes"):
            client.put_tensor("b", np.zeros(8 << 20))
    finally:
        client.redis.config_set("maxmemory", "1gb")
    client.put_tensor("b", np.zeros(1 << 10))


def test_too_large_for_the_server(client: Client) -> None:
    limit = client.redis.config_get("proto-max-bulk-len")["proto-max-bulk-len"] or 0
    client.redis.config_set("proto-max-bulk-len", 1 << 20)
    try:
        # The server refuses and hangs up while the array is on its way.
        with pytest.raises((DataFormatError, StoreError)):
            client.put_tensor("a", np.zeros(8 << 20))
    finally:
        client.redis.config_set("proto-max-bulk-len", limit)
    client.put_tensor("a", np.zeros(2 << 17))


def test_wrong_password(db: Orchestrator) -> None:
    for password, word in (("wrong", "password is wrong"), (None, "asks for a password")):
        with pytest.raises(StoreError, match=word) as caught:
            Client(db.address, password=password).ping()
        assert not caught.value.transient


def test_threads(client: Client) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(50):
                array = np.full((i * 37 + 1,), number * 1000 + i)
                client.put_tensor(f"t{number}", array)
                assert np.array_equal(client.get_tensor(f"t{number}"), array)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def _child(client: Client) -> None:
    for i in range(100):
        client.put_tensor("child", np.full(1000, i))
        assert (client.get_tensor("child") == i).all()
    client.wait_tensor("child", 5)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child(client: Client) -> None:
    client.put_tensor("parent", [0])  # leaves an idle connection behind
    process = multiprocessing.get_context("fork").Process(target=_child, args=(client,))
    process.start()
    for i in range(100):
        client.put_tensor("parent", np.full(1000, i))
        assert (client.get_tensor("parent") == i).all()
    process.join(20)
    assert process.exitcode == 0


def test_pickle(client: Client) -> None:
    data = pickle.dumps(client)
    with open(client.password_file or os.devnull, "rb") as file:
        assert file.read().strip() not in data
    with pickle.loads(data) as back:
        back.put_tensor("a", [1])
    assert client.tensor_exists("a")
