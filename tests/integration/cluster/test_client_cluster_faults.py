# SPDX-License-Identifier: BSD-3-Clause
"""Clusters in trouble: nodes that are killed or stopped, slots that move under traffic."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ssdag.client import Client
from ssdag.client.transport.slots import SLOTS, slot_of
from ssdag.errors import SsdagError, StoreError
from tests.conftest import wait_until
from tests.integration.redis_cluster import PASSWORD, RedisCluster, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Generous: a failover takes one or two seconds on a quiet machine.
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three shards with a replica each; every test names the shard that it damages."""
    with RedisCluster(tmp_path_factory.mktemp("cluster"), 3, 1) as made:
        yield made


@pytest.fixture
def client(cluster: RedisCluster) -> Iterator[Client]:
    with cluster.client() as made:
        wait_until(lambda: flushed(made), what="the cluster is well", deadline_s=DEADLINE_S)
        yield made


def flushed(client: Client) -> bool:
    try:
        client.flush_db()
    except StoreError:
        return False
    return True


def names_in(shard: int, count: int = 20) -> list[str]:
    """Return names whose keys are in one of the three shards."""
    names = (f"t{i}" for i in range(10_000))
    inside = (n for n in names if slot_of(n.encode()) * 3 // SLOTS == shard)
    return list(itertools.islice(inside, count))


def pair_of(cluster: RedisCluster, shard: int) -> tuple[Server, Server]:
    """Return a shard's primary and its replica, once that has all of its data."""
    owner = cluster.owner(SLOTS * shard // 3 + 1)
    name = owner.call("CLUSTER", "MYID").decode()
    heirs: list[Server] = []

    def in_step() -> bool:
        heirs[:] = [s for s in cluster.servers if s.process is not None and _copies(s, name)]
        offset = owner.info("replication")["master_repl_offset"]
        return any(s.info("replication").get("slave_repl_offset") == offset for s in heirs)

    wait_until(in_step, what="replication", deadline_s=DEADLINE_S)
    return owner, heirs[0]


def _copies(server: Server, name: str) -> bool:
    return any(
        "myself" in line and line.split()[3] == name
        for line in server.call("CLUSTER", "NODES").decode().splitlines()
    )


def test_killed_primary_with_a_replica(cluster: RedisCluster, client: Client) -> None:
    name, *others = names_in(0)
    client.put_tensors(dict.fromkeys([name, *others], np.full(5, 1)))
    dead, heir = pair_of(cluster, 0)
    dead.kill()
    assert client.get_tensor(name).tolist() == [1] * 5
    assert str(client.node_of(name.encode())) == heir.address
    client.put_tensor(name, [2])
    assert client.delete_tensor(name)
    assert len(client.get_tensors(others)) == len(others)


def test_killed_primary_and_what_is_never_repeated(cluster: RedisCluster, client: Client) -> None:
    """To a dead node nothing was sent, so what must not be done twice waits as well."""
    names = names_in(1)
    client.put_tensors(dict.fromkeys([*names, *names_in(2)], np.zeros(1)))
    dead, heir = pair_of(cluster, 1)
    assert client.call("RPUSH", "{" + names[0] + "}list", "a") == 1
    dead, heir = pair_of(cluster, 1)
    dead.kill()
    assert client.call("RPUSH", "{" + names[0] + "}list", "b") == 2
    assert str(client.node_of(names[0].encode())) == heir.address
    everything = [*names, *names_in(2)]
    assert client.call_many([(b"EXISTS", name.encode()) for name in everything]) == [1] * 40
    client.put_tensors(dict.fromkeys(everything, np.ones(1)))
    assert len(client.get_tensors(everything)) == 40


def test_stopped_primary_with_a_replica(cluster: RedisCluster, client: Client) -> None:
    """It hears us, says nothing, and a replica takes over: the call goes on there."""
    (name,) = names_in(2, 1)
    client.put_tensor(name, [1])
    stopped, _ = pair_of(cluster, 2)
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        assert client.get_tensor(name).tolist() == [1]
        large = np.random.default_rng(0).random(4 << 20)  # more than the sockets hold
        client.put_tensor(name, large)
        assert np.array_equal(client.get_tensor(name), large)
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    assert np.array_equal(client.get_tensor(name), large)


def test_stopped_primary_gets_nothing_twice(cluster: RedisCluster, client: Client) -> None:
    key = "{" + names_in(2, 1)[0] + "}list"
    assert client.call("RPUSH", key, "first") == 1
    stopped, _ = pair_of(cluster, 2)
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreError, match="given it up"):
            client.call("RPUSH", key, "second")
        assert client.call("LLEN", key) == 1  # the new primary's
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    wait_until(
        lambda: stopped.info("replication")["role"] == "slave",
        what="it is a replica now",
        deadline_s=DEADLINE_S,
    )
    assert client.call("LRANGE", key, 0, -1) == [b"first"]


def test_time_limit(cluster: RedisCluster) -> None:
    key = "{" + names_in(2, 1)[0] + "}list"
    with cluster.client(timeout_s=0.3) as client:
        stopped, _ = pair_of(cluster, 2)
        client.call("LLEN", key)
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreError, match=r"silent for 0\.3 s"):
                client.call("LLEN", key)
        finally:
            os.kill(stopped.pid, signal.SIGCONT)


def test_a_first_address_that_is_dead(cluster: RedisCluster) -> None:
    live = cluster.owner(0).address
    with Client(f"127.0.0.1:1,{live}", password=PASSWORD) as client:
        client.put_tensor("a", [1])
        assert client.get_tensor("a").tolist() == [1]
    with (
        Client("127.0.0.1:1,127.0.0.1:2", password=PASSWORD) as client,
        pytest.raises(StoreError, match="no node of the cluster answers"),
    ):
        client.put_tensor("a", [1])


def _in_child(client: Client, answer: Any) -> None:
    client.put_tensor("child", client.get_tensor("a") + 1)
    answer.send(client.get_tensor("child").tolist())


def test_forked_child_goes_on(client: Client) -> None:
    client.put_tensor("a", [1])
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(client, theirs))
    child.start()
    assert ours.recv() == [2]
    child.join()
    assert client.get_tensor("child").tolist() == [2]


def test_slots_move_under_traffic(cluster: RedisCluster, client: Client) -> None:
    """Nothing is lost, done twice or seen half while slots go from node to node."""
    names = [f"{{s}}{i}" for i in range(20)]
    slot = slot_of(b"{s}")
    primaries = [cluster.owner(SLOTS * shard // 3 + 1) for shard in range(3)]
    source = cluster.owner(slot)
    target = next(s for s in primaries if s is not source)
    client.put_tensors(dict.fromkeys(names, np.zeros(100)))
    done = threading.Event()
    failures: list[SsdagError] = []
    counts = [0] * 3

    def traffic(which: int) -> None:
        try:
            for i in range(1_000_000):
                if done.is_set():
                    return
                name = names[i % len(names)]
                client.put_tensor(name, np.full(100, i))
                found = client.get_tensor(names[(i * 7) % len(names)])
                assert (found == found[0]).all()
                assert client.call_many([(b"EXISTS", n.encode()) for n in names]) == [1] * 20
                assert len(client.get_tensors(names)) == 20
                client.call("INCR", "{s}counter")
                counts[which] += 1
        except SsdagError as error:
            failures.append(error)

    threads = [threading.Thread(target=traffic, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            before = counts[0]
            wait_until(lambda b=before: counts[0] > b + 2 or failures, what="traffic")  # type: ignore[misc]
            cluster.begin_move(slot, source, target)
            while cluster.move_keys(slot, source, target, 2):
                pass
            cluster.end_move(slot, target, primaries)
            source, target = target, source
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert client.call("GET", "{s}counter") == str(sum(counts)).encode()


def test_killed_primary_without_a_replica(cluster: RedisCluster, client: Client) -> None:
    """Runs last: the data of the first shard are gone."""
    (name,) = names_in(0, 1)
    (other,) = names_in(2, 1)
    client.put_tensors(dict.fromkeys([name, other], np.zeros(1)))
    owner = cluster.owner(slot_of(name.encode()))  # its replica by now, or still itself
    for server in cluster.servers:
        if server.process is not None and _copies(server, owner.call("CLUSTER", "MYID").decode()):
            server.kill()
    owner.kill()
    # At once, or as soon as the others know; the text says what is lost, and where.
    with pytest.raises(StoreError, match="has no replica") as caught:
        client.get_tensor(name)
    assert f"{owner.address} is lost, with the keys in slots 0-5460" in str(caught.value)

    # Soon the others serve nothing either, as they are told to; that is said too.
    def refusal() -> StoreError | None:
        try:
            client.get_tensor(other)
        except StoreError as error:
            return error
        return None

    wait_until(refusal, what="the cluster is down", deadline_s=DEADLINE_S)
    assert owner.address in str(refusal())
