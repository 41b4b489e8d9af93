# SPDX-License-Identifier: BSD-3-Clause
"""Slabs, many tensors at once, copies, names, options: on single servers and on a cluster."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssdag.client import Client
from ssdag.client.tensors import sets as tensor_sets
from ssdag.client.tensors import slab_write
from ssdag.client.transport.slots import slot_of
from ssdag.errors import ConfigError, DataError, DataFormatError, MissingDataError, StoreError
from ssdag.services.orchestrator import Orchestrator
from tests.conftest import wait_until
from tests.integration.redis_cluster import RedisCluster
from tests.integration.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=[*SERVERS, "cluster"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Address and password file."""
    if request.param == "cluster":
        with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
            yield cluster.address, str(cluster.password_file)
    else:
        with Orchestrator(server=request.param) as db:
            yield db.address, db.password_file


@pytest.fixture
def client(server: tuple[str, str]) -> Iterator[Client]:
    with Client(server[0], password_file=server[1]) as made:
        made.flush_db()
        yield made


# -- slabs ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_slab(client: Client, data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    array = np.arange(np.prod(shape, dtype=int), dtype=">i4").reshape(shape)
    if data.draw(st.booleans()):
        array = np.asfortranarray(array)
    slab = data.draw(hnp.basic_indices(shape, allow_newaxis=False, allow_ellipsis=True))
    client.put_tensor("a", array)
    part = array[slab]
    values = np.asarray(-1 - np.arange(part.size).reshape(part.shape))
    client.put_slab("a", slab, values)
    expected = array.copy(order="K")
    expected[slab] = values
    back = client.get_tensor("a")
    assert np.array_equal(back, expected)
    assert (back.dtype, back.flags.f_contiguous) == (array.dtype, array.flags.f_contiguous)
    assert np.array_equal(client.get_tensor("a", slab=slab), values)


def test_slabs_in_pieces(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is larger than one call takes goes in several, all or nothing."""
    monkeypatch.setattr(slab_write, "PIECE", 1000)
    array = np.zeros((100, 50))
    client.put_tensor("a", array)
    for slab in (slice(10, 90), (slice(None), slice(3, 40)), (slice(None), 49)):
        values = np.random.default_rng(0).random(array[slab].shape)
        array[slab] = values
        client.put_slab("a", slab, values)
        assert np.array_equal(client.get_tensor("a"), array)


def test_slabs_that_do_not_fit(client: Client) -> None:
    client.put_tensor("a", np.zeros((3, 4), np.int32))
    with pytest.raises(DataFormatError, match="out of bounds"):
        client.put_slab("a", 3, 0)
    with pytest.raises(DataFormatError, match=r"shape \(5,\)"):
        client.put_slab("a", 0, np.zeros(5, np.int32))
    for values in (1.5, 2**40, "x", np.datetime64("2020-01-01"), 1j):
        with pytest.raises(DataFormatError, match="do not fit"):
            client.put_slab("a", 0, values)
    client.put_slab("a", 0, 7)  # a Python int is an int64 that fits
    client.put_slab("a", (1, slice(2)), np.array([1, 2], np.int16))
    assert client.get_tensor("a").tolist() == [[7, 7, 7, 7], [1, 2, 0, 0], [0, 0, 0, 0]]
    with pytest.raises(MissingDataError, match="no tensor 'b'"):
        client.put_slab("b", 0, 1)
    client.put_tensor("s", np.array(["abc"]))
    with pytest.raises(DataFormatError, match="do not fit"):
        client.put_slab("s", 0, "abcd")
    client.call("SET", "text", "this is no tensor")
    with pytest.raises(DataFormatError, match="no tensor"):
        client.put_slab("text", 0, 1)
    client.call("SET", "cut", client.call("GET", "a")[:-1])
    with pytest.raises(DataFormatError, match="damaged"):
        client.put_slab("cut", 0, 1)
    client.call("RPUSH", "list", "x")
    with pytest.raises(DataError, match="another kind"):
        client.put_slab("list", 0, 1)


def test_slab_of_a_tensor_that_changes(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another shape comes between the look and the write: nothing is damaged."""
    client.put_tensor("a", np.zeros(10))
    real = slab_write.find_runs
    shapes = [np.zeros((5, 2)), np.zeros(20)]

    def meanwhile(*arguments: Any) -> Any:
        if shapes:
            client.put_tensor("a", shapes.pop(0))
        return real(*arguments)

    monkeypatch.setattr(slab_write, "find_runs", meanwhile)
    client.put_slab("a", slice(2, 4), 1)
    assert client.get_tensor("a").tolist() == [0, 0, 1, 1] + [0] * 16
    client.put_tensor("a", np.zeros((5, 2), np.float32))
    shapes = [np.zeros(2)]
    with pytest.raises(DataFormatError, match="out of bounds"):
        client.put_slab("a", 4, 1)
    assert client.get_tensor("a").tolist() == [0, 0]


def test_writers_of_one_tensor(client: Client) -> None:
    client.create_tensor("a", (8, 1000))

    def write(row: int) -> None:
        for _ in range(20):
            client.put_slab("a", row, np.full(1000, row))

    threads = [threading.Thread(target=write, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(client.get_tensor("a"), np.arange(8.0)[:, None] * np.ones(1000))


@pytest.mark.parametrize("order", ["C", "F"])
def test_create(client: Client, order: Any) -> None:
    for shape, dtype in (((3, 4), "<f8"), (5, ">i2"), ((), bool), ((0, 3), "M8[s]")):
        client.put_tensor("a", np.ones(1000))
        client.create_tensor("a", shape, dtype, order=order)
        back = client.get_tensor("a")
        assert back.tobytes() == np.zeros(shape, dtype).tobytes()
        assert (back.dtype, back.shape) == (np.dtype(dtype), np.zeros(shape).shape)
        info = client.get_tensor_info("a")
        assert (info.dtype, info.shape, info.nbytes) == (back.dtype, back.shape, back.nbytes)
        assert back.flags.f_contiguous == np.zeros(shape, dtype, order).flags.f_contiguous
    for bad in ({"shape": -1}, {"shape": (1.5,)}, {"shape": 1, "dtype": object},
                {"shape": 1, "order": "K"}):  # fmt: skip
        with pytest.raises(DataFormatError):
            client.create_tensor("a", **bad)
    client.create_tensor("b", 3, ttl_s=1000)
    assert 990 < (client.get_tensor_ttl("b") or 0) <= 1000


def test_create_that_the_server_refuses_changes_nothing(client: Client) -> None:
    client.put_tensor("a", [1, 2])
    limit = client.config_get("proto-max-bulk-len")["proto-max-bulk-len"]
    client.config_set("proto-max-bulk-len", "1048576")
    try:
        with pytest.raises(DataFormatError, match="proto-max-bulk-len"):
            client.create_tensor("a", 1 << 20)
    finally:
        client.config_set("proto-max-bulk-len", limit)
    assert client.get_tensor("a").tolist() == [1, 2]


def test_large_tensors_by_slabs(client: Client) -> None:
    """Larger than what travels in one piece: nobody ever holds all of it but the server."""
    shape = (32, 1 << 18)
    client.create_tensor("a", shape)  # 64 MiB
    for i in range(0, 32, 8):
        client.put_slab("a", slice(i, i + 8), np.full((8, 1 << 18), i))
    out = np.empty((8, 1 << 18))
    for i in range(0, 32, 8):
        assert (client.get_tensor("a", slab=slice(i, i + 8), out=out) == i).all()


# -- time to live --------------------------------------------------------------------------


def test_time_to_live(client: Client) -> None:
    client.put_tensor("a", [1], ttl_s=0.05)
    client.put_tensors({"b": [1], "c": [2]}, ttl_s=1000)
    assert 990 < (client.get_tensor_ttl("b") or 0) <= 1000
    wait_until(lambda: not client.tensor_exists("a"), what="expiry")
    client.expire_tensor("b", None)
    assert client.get_tensor_ttl("b") is None
    client.expire_tensor("b", None)
    client.expire_tensor("c", 0.02)
    wait_until(lambda: not client.tensor_exists("c"), what="expiry")
    client.put_tensor("d", [1], ttl_s=1000)
    client.put_tensor("d", [2])
    assert client.get_tensor_ttl("d") is None
    for limit in (None, 5):
        with pytest.raises(MissingDataError):
            client.expire_tensor("none", limit)
    with pytest.raises(MissingDataError):
        client.get_tensor_ttl("none")
    for bad in (0, -1, float("nan"), float("inf"), "5"):
        with pytest.raises(ConfigError, match="ttl_s"):
            client.put_tensor("a", [1], ttl_s=bad)  # type: ignore[arg-type]


# -- many at once --------------------------------------------------------------------------


def test_many_tensors(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"t{i}": rng.random(rng.integers(0, 2000)) for i in range(300)}
    arrays["f"] = np.asfortranarray(np.arange(6).reshape(2, 3))
    for window in (1 << 16, 64 << 20):
        monkeypatch.setattr(tensor_sets, "_WINDOW_BYTES", window)
        client.flush_db()
        client.put_tensors(arrays)
        back = client.get_tensors(arrays)
        assert list(back) == list(arrays)
        for name, array in arrays.items():
            assert np.array_equal(back[name], array)
    assert back["f"].flags.f_contiguous
    assert client.get_tensors(["t1", "none", "t1"], missing_ok=True).keys() == {"t1"}
    with pytest.raises(MissingDataError, match="no tensor 'none'"):
        client.get_tensors(["t1", "none"])
    with pytest.raises(MissingDataError, match="2 of 3 tensors"):
        client.get_tensors(["t1", "none", "nor this"])
    client.put_tensors({})
    assert client.get_tensors([]) == {}
    assert client.delete_tensors(["t1", "t2", "none"]) == 2
    with pytest.raises(DataFormatError, match="Python objects"):
        client.put_tensors({"new": [1], "object": [None]})
    assert not client.tensor_exists("new")


def test_one_of_many_is_no_tensor(client: Client) -> None:
    arrays = {f"t{i}": np.full(10, i) for i in range(40)}
    client.put_tensors(arrays)
    client.call("SET", "t5", "no tensor")
    with pytest.raises(DataFormatError, match="no tensor"):
        client.get_tensors(arrays)
    client.call("SET", "t5", b"x" * (1 << 20))  # too much to be read away
    with pytest.raises(DataFormatError, match="no tensor"):
        client.get_tensors(arrays)
    client.delete_tensor("t5")
    client.call("RPUSH", "t5", "x")
    with pytest.raises(DataError, match="t5"):
        client.get_tensors(arrays)
    assert client.get_tensor("t6").tolist() == [6] * 10


# -- copies and names ----------------------------------------------------------------------

# On a cluster: the same slot, and two nodes.
PAIRS = [("{t}a", "{t}b"), ("a", "b")]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_copy_and_rename(client: Client, one: str, other: str) -> None:
    array = np.random.default_rng(0).random((30, 1000))
    client.put_tensor(one, array, ttl_s=1000)
    client.put_tensor(other, [1])
    client.copy_tensor(one, other)
    assert np.array_equal(client.get_tensor(one), array)
    assert np.array_equal(client.get_tensor(other), array)
    assert 990 < (client.get_tensor_ttl(other) or 0) <= 1000
    client.copy_tensor(one, one)
    client.put_tensor(one, [5])
    client.rename_tensor(one, other)
    assert client.get_tensor(other).tolist() == [5]
    assert not client.tensor_exists(one)
    client.rename_tensor(other, other)
    for call in (client.copy_tensor, client.rename_tensor):
        for target in (one, other):
            with pytest.raises(MissingDataError, match=repr(one)):
                call(one, target)
    assert client.get_tensor(other).tolist() == [5]


def test_new_name_while_it_is_written(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put under the old name in between is not lost."""
    if not client.clustered:
        return  # one step on a single server
    from ssdag.client.tensors import moving

    assert slot_of(b"a") != slot_of(b"b")
    client.put_tensor("a", [1])
    real, left = moving._store, [3, 2]

    def meanwhile(*arguments: Any) -> None:
        real(*arguments)
        if left:
            client.put_tensor("a", [left.pop()])

    monkeypatch.setattr(moving, "_store", meanwhile)
    client.rename_tensor("a", "b")
    assert client.get_tensor("b").tolist() == [3]
    assert not client.tensor_exists("a")
    # No connection still watches.
    assert client.get_tensor("b", slab=0) == 3


def test_list(client: Client) -> None:
    client.put_tensors({"u.1": [1], "u.2": [1], "v[1]": [1], "{tag}x": [1], "ψ": [1]})
    client.call("SET", "text", "no tensor")
    client.call("RPUSH", "a list", "x")
    client.call("HSET", "{D}.meta", ".COMPLETE", "1")
    client.put_tensor("{D}.field", [1])
    assert client.list_tensors() == ["u.1", "u.2", "v[1]", "{tag}x", "ψ"]
    assert client.list_tensors("u.*") == ["u.1", "u.2"]
    assert client.list_tensors("v\\[1\\]") == ["v[1]"]
    assert client.list_keys("*e*") == ["text", "{D}.meta"] or client.list_keys("te*") == ["text"]
    client.prefixes.out, client.prefixes.sources, client.prefixes.source = "m*", ("m*",), "m*"
    client.put_tensor("x", [1])
    assert client.list_tensors() == ["x"]
    client.use_tensor_ensemble_prefix(False)
    assert "m*.x" in client.list_tensors()
    with pytest.raises(ConfigError, match="SSKEYIN"):
        client.set_data_source("none")
    client.set_data_source("m*")


def test_list_thousands(client: Client) -> None:
    names = sorted(f"t{i}" for i in range(3000))
    client.put_tensors(dict.fromkeys(names, np.zeros(1)))
    assert client.list_tensors() == names


def test_keys(client: Client) -> None:
    client.prefixes.out = client.prefixes.source = "p"
    client.put_tensor("a", [1])
    assert client.key_exists("p.a")
    assert not client.key_exists("a")
    assert client.list_keys() == ["p.a"]
    assert client.delete_key("p.a")
    assert not client.delete_key("p.a")


# -- servers -------------------------------------------------------------------------------


def test_facts_and_options(client: Client) -> None:
    client.put_tensor("a", [1])
    nodes = [str(node) for node in client.nodes()]
    for addresses in (None, nodes):
        facts = client.get_db_node_info(addresses)
        assert len(facts) == len(nodes)
        assert all(int(fact["Memory"]["used_memory"]) > 0 for fact in facts)
    if client.clustered:
        (fact,) = client.get_db_cluster_info(nodes[:1])
        assert fact["cluster_state"] == "ok"
    else:
        with pytest.raises(StoreError, match="no cluster"):
            client.get_db_cluster_info()
        with pytest.raises(ConfigError, match="no server of this client"):
            client.get_db_node_info(["127.0.0.1:1"])
    before = client.config_get("slowlog-max-len")
    client.config_set("slowlog-max-len", "77")
    assert client.config_get("slowlog-max-*", nodes[-1]) == {"slowlog-max-len": "77"}
    client.config_set("slowlog-max-len", before["slowlog-max-len"], nodes[0])
    with pytest.raises(StoreError, match="option 'none'"):
        client.config_set("none", "1")
    began = int(time.time())
    client.save()
    assert all(client._run_each("", lambda c: _last_save(c) >= began))
    client.flush_db()
    assert client.list_keys() == []


def _last_save(connection: Any) -> int:
    from ssdag.client.base import call
    from ssdag.client.transport.resp import command

    return int(call(connection, command(b"LASTSAVE")))
