# SPDX-License-Identifier: BSD-3-Clause
"""The client on real clusters: routing, slots that move, nodes that die."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ssdag.client import Client
from ssdag.client.transport.resp import ReplyError
from ssdag.client.transport.slots import SLOTS, slot_of
from ssdag.errors import MissingDataError, StoreError
from tests.integration.redis_cluster import PASSWORD, RedisCluster, Server

if TYPE_CHECKING:
    from pathlib import Path


def test_every_node_gets_its_keys(client: Client, cluster: RedisCluster) -> None:
    for i in range(60):
        client.put_tensor(f"t{i}", np.full(3, i))
    held = [server.call("DBSIZE") for server in cluster.primaries]
    assert sum(held) == 60
    assert all(held)
    for i in range(60):
        assert client.get_tensor(f"t{i}")[0] == i
        assert client.get_tensor(f"t{i}", slab=slice(1, 2)).tolist() == [i]
    assert client.delete_tensor("t0")
    with pytest.raises(MissingDataError):
        client.get_tensor("t0")
    assert {str(node) for node in client.nodes()} == {s.address for s in cluster.primaries}
    assert str(client.node_of(b"t1")) == cluster.owner(slot_of(b"t1")).address
    assert client.call("PING") == "PONG"
    assert client.call("GET", "t1").startswith(b"\x93NUMPY")
    client.redis.set("by redis-py", b"x")
    assert client.call("GET", "by redis-py") == b"x"


def test_slots_are_those_of_the_server(cluster: RedisCluster) -> None:
    for key in (b"foo", b"a{}b", b"a{{foo}}b", b"a{foo", b"}{x}", b"\xff{\0}", b"x" * 1000):
        assert slot_of(key) == cluster.primaries[0].call("CLUSTER", "KEYSLOT", key)


def test_many_commands_keep_their_order(client: Client) -> None:
    keys = [b"k%d" % i for i in range(200)]
    assert client.call_many([(b"SET", key, key) for key in keys]) == ["OK"] * 200
    answers = client.call_many([(b"GET", key) for key in keys] + [(b"LPOP", b"k0"), (b"PING",)])
    assert answers[:200] == keys
    assert isinstance(answers[200], ReplyError)
    assert answers[200].code == "WRONGTYPE"
    assert answers[201] == "PONG"
    assert client.call_many([]) == []


def test_one_node_is_enough_to_find_the_rest(cluster: RedisCluster) -> None:
    for options in ({"cluster": True}, {}):
        address = cluster.primaries[1].address + ("" if options else ",")
        with Client(address, password_file=cluster.password_file, **options) as client:  # type: ignore[arg-type]
            client.put_tensor("a", [1])
            assert client.get_tensor("a").tolist() == [1]
            assert len(client.clone().nodes()) == 3


def test_a_single_server_is_told_from_a_cluster(cluster: RedisCluster) -> None:
    from ssdag.services.orchestrator import Orchestrator

    with Orchestrator() as db:
        assert db.tcp_address is not None
        with (
            Client(db.tcp_address, password_file=db.password_file, cluster=True) as client,
            pytest.raises(StoreError, match="belongs to no cluster") as caught,
        ):
            client.ping()
    assert not caught.value.transient
    first = cluster.primaries[0]
    name = next(n for n in "abcdefgh" if cluster.owner(slot_of(n.encode())) is not first)
    with (
        Client(first.address, password=PASSWORD) as client,
        pytest.raises(StoreError, match="one shard of a cluster"),
    ):
        client.put_tensor(name, [1])


def test_wrong_password(cluster: RedisCluster, tmp_path: Path) -> None:
    with (
        Client(cluster.address, password="wrong") as client,
        pytest.raises(StoreError, match="password") as caught,
    ):
        client.put_tensor("a", [1])
    assert not caught.value.transient


def test_a_slot_that_has_moved(client: Client, cluster: RedisCluster) -> None:
    slot = slot_of(b"a")
    client.put_tensor("a", [1])
    source = cluster.owner(slot)
    target = next(s for s in cluster.primaries if s is not source)
    before = client.topology_version
    cluster.move(slot, source, target)
    assert client.get_tensor("a").tolist() == [1]
    assert str(client.node_of(b"a")) == target.address
    assert client.topology_version > before
    cluster.move(slot, target, source)
    assert client.call_many([(b"EXISTS", b"a"), (b"EXISTS", b"b")]) == [1, 0]
    # Not idempotent, but nothing was done where it was sent first.
    cluster.move(slot, source, target)
    assert client.delete_tensor("a")


def test_a_slot_that_is_being_moved(client: Client, cluster: RedisCluster) -> None:
    """Some keys are here and some there; nobody notices."""
    slot = slot_of(b"{s}")
    source = cluster.owner(slot)
    target = next(s for s in cluster.primaries if s is not source)
    names = [f"{{s}}{i}" for i in range(10)]
    for name in names:
        client.put_tensor(name, np.full((100, 100), len(name)))
    cluster.begin_move(slot, source, target)
    assert cluster.move_keys(slot, source, target, 5) == 5
    for name in names:
        assert client.get_tensor(name)[0, 0] == len(name)
        assert client.get_tensor(name, slab=slice(3, 5)).shape == (2, 100)
        client.put_tensor(name, np.arange(5))
    client.put_tensor("{s}new", np.arange(100_000))
    assert client.get_tensor("{s}new").size == 100_000
    assert client.call_many([(b"EXISTS", name.encode()) for name in names]) == [1] * 10
    assert client.call("RPUSH", "{s}list", "x") == 1
    assert client.delete_tensor(names[0])
    while cluster.move_keys(slot, source, target):
        pass
    cluster.end_move(slot, target)
    assert client.get_tensor(names[1]).tolist() == list(range(5))
    assert client.call("LLEN", "{s}list") == 1


def test_slots_that_the_servers_move_by_themselves(client: Client, cluster: RedisCluster) -> None:
    """A thousand slots at once, as Valkey 9 does it: counted exactly, and no call fails."""
    source, target = cluster.primaries[0], cluster.owner(SLOTS - 1)
    name = target.call("CLUSTER", "MYID").decode()
    words = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", 0, 999, "NODE", name)
    try:
        source.call("CLUSTER", "GETSLOTMIGRATIONS")
    except StoreError:
        pytest.skip("this server cannot")
    inside = [f"t{i}" for i in range(3000) if slot_of(b"t%d" % i) < 1000][:20]
    assert cluster.owner(0) is source
    source.call(*words)
    count = 0
    while not _moved(source) or count < 50:
        for key in inside:
            assert client.call("INCR", f"{{{key}}}count") == count + 1
            client.put_tensor(key, np.full(10, count))
            assert client.get_tensor(key)[0] == count
        count += 1
    assert cluster.owner(0) is target
    assert str(client.node_of(inside[0].encode())) == target.address


def _moved(source: Server) -> bool:
    (job,) = source.call("CLUSTER", "GETSLOTMIGRATIONS")
    facts = dict(zip(job[::2], job[1::2], strict=True))
    assert facts[b"state"] not in (b"failed", b"cancelled"), facts
    return bool(facts[b"state"] == b"success")
