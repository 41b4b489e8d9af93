# SPDX-License-Identifier: BSD-3-Clause
"""Waiting for data on real clusters: slots that move, nodes that pause, die or are replaced."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ssdag.client import Client
from ssdag.client.datasets.dataset import Dataset
from ssdag.client.transport.slots import slot_of
from ssdag.client.waiting.conditions import existence
from ssdag.client.waiting.watch import Watcher
from ssdag.client.waiting.watchers import close_watcher
from ssdag.errors import DataTimeoutError, StoreError
from tests.conftest import wait_until
from tests.integration.bridged import BridgedHosts
from tests.integration.namespaces import refusal
from tests.integration.redis_cluster import RedisCluster, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ssdag.client.tensors.npy import Array
    from ssdag.futures import DataFuture


@pytest.fixture
def client(client: Client) -> Iterator[Client]:
    """The same, whose watcher ends with the test."""
    yield client
    close_watcher(client, StoreError("the test is over"))


def watch(watcher: Watcher, name: str) -> DataFuture[Array]:
    return watcher.watch(existence("tensor", name, name.encode()))


def listening(client: Client) -> None:
    """Return once the watcher of a client listens at all nodes."""
    names = [f"listening {i}" for i in range(20)]
    futures = [client.tensor_future(name) for name in names]
    for name in names:
        client.put_tensor(name, [1])
    for future in futures:
        future.exception(20)


def name_at(cluster: RedisCluster, server: Server, start: str = "name") -> str:
    return next(
        name
        for name in (f"{start} {i}" for i in range(200))
        if cluster.owner(slot_of(name.encode())) is server
    )


def test_all_kinds(client: Client) -> None:
    tensors = [client.tensor_future(f"t{i}") for i in range(30)]
    datasets = [client.dataset_future(f"d{i}") for i in range(30)]
    keys = [client.key_future(f"k{i}") for i in range(30)]
    lists = [client.list_future(f"l{i}", 2) for i in range(10)]
    sums = client.when(
        lambda c: sum(c.get_tensor(f"t{i}")[0] for i in range(30)),
        tensors=[f"t{i}" for i in range(30)],
    )
    for i in range(30):
        client.put_tensor(f"t{i}", [i])
        dataset = Dataset(f"d{i}")
        dataset.add_tensor("x", np.full(2, i))
        client.put_dataset(dataset)
        client.call("SET", f"k{i}", f"{i}")
    for i in range(20):
        client.append_to_list(f"l{i % 10}", f"d{i}")
    assert [f.result(20)[0] for f in tensors] == list(range(30))
    assert [f.result(20).get_tensor("x")[0] for f in datasets] == list(range(30))
    assert [f.result(20) for f in keys] == [b"%d" % i for i in range(30)]
    assert [[d.name for d in f.result(20)] for f in lists] == [
        [f"d{i}", f"d{i + 10}"] for i in range(10)
    ]
    assert sums.result(20) == sum(range(30))


def test_a_slot_moves_away(client: Client, cluster: RedisCluster) -> None:
    """A key that is written while its slot moves, and one that is written afterwards."""
    listening(client)
    first, second = "{slot} a", "{slot} b"
    slot = slot_of(first.encode())
    early, late = client.tensor_future(first), client.tensor_future(second)
    source = cluster.owner(slot)
    target = next(s for s in cluster.primaries if s is not source)
    cluster.begin_move(slot, source, target)
    client.put_tensor(first, [1])  # the server sends it to the new owner already
    assert target.call("DBSIZE") > 0
    assert early.exception(20) is None
    meanwhile = client.tensor_future(first)
    assert meanwhile.exception(20) is None
    cluster.end_move(slot, target)
    assert not late.done()
    with cluster.client() as other:
        other.put_tensor(second, [2])
    assert late.result(20).tolist() == [2]


def test_slots_move_under_traffic(client: Client, cluster: RedisCluster) -> None:
    names = [f"{{moving {i % 4}}} {i}" for i in range(480)]
    slots = sorted({slot_of(name.encode()) for name in names})
    over = threading.Event()

    def move() -> None:
        while not over.is_set():
            for slot in slots:
                source = cluster.owner(slot)
                target = next(s for s in cluster.primaries if s is not source)
                cluster.move(slot, source, target)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        with cluster.client() as writer:
            for i in range(0, len(names), 12):
                futures = [client.tensor_future(name) for name in names[i : i + 12]]
                for k, name in enumerate(names[i : i + 12]):
                    writer.put_tensor(name, [k])
                for k, future in enumerate(futures):
                    assert future.result(30).tolist() == [k]
    finally:
        over.set()
        mover.join()


def test_a_paused_node_holds_up_nobody_else(client: Client, cluster: RedisCluster) -> None:
    listening(client)
    for server in cluster.servers:
        server.call("CONFIG", "SET", "cluster-require-full-coverage", "no")
    paused, well = cluster.primaries[0], cluster.primaries[1]
    far, near = name_at(cluster, paused), name_at(cluster, well)
    waiting, impatient = client.tensor_future(far), client.tensor_future(far, timeout_s=0.1)
    other = client.tensor_future(near)
    os.kill(paused.pid, signal.SIGSTOP)
    try:
        well.call("SET", near, "x")
        assert other.exception(20) is None
        assert isinstance(impatient.exception(20), DataTimeoutError)
        assert not waiting.done()
    finally:
        os.kill(paused.pid, signal.SIGCONT)
    client.put_tensor(far, [1])
    assert waiting.result(20).tolist() == [1]


def test_a_replica_takes_over(tmp_path: Path) -> None:
    """Futures see what is written to it, subscriptions go on at another node."""
    with RedisCluster(tmp_path, 3, replicas=1) as cluster, cluster.client() as client:
        listening(client)
        all_messages = [client.subscribe("a", "b", "c") for _ in range(2)]
        for name in ("a", "b", "c"):
            client.publish(name, name)
        for messages in all_messages:
            assert {messages.get(10).channel for _ in range(3)} == {"a", "b", "c"}
        link = all_messages[0]._link
        assert link is not None
        dying = next(s for s in cluster.primaries if s.address == str(link.address))
        names = [name_at(cluster, server) for server in cluster.primaries]
        futures = [client.tensor_future(name) for name in names]
        dying.kill()
        for name in names:
            client.put_tensor(name, [7])
        for future in futures:
            assert future.result(30).tolist() == [7]
        assert client.tensor_future(names[0]).result(30).tolist() == [7]
        other = next(s for s in cluster.primaries if s is not dying)

        def arrives() -> bool:
            """Somebody else is listened to, in place of the one that died."""
            other.call("PUBLISH", "a", "x")
            try:
                return all_messages[0].get(0.05).data == b"x"
            except DataTimeoutError:
                return False

        wait_until(arrives, 20)
        for messages in all_messages:
            messages.close()
        close_watcher(client, StoreError("the test is over"))


def test_a_node_is_lost_for_good(tmp_path: Path) -> None:
    with RedisCluster(tmp_path, 3) as cluster, cluster.client() as client:
        dying, well = cluster.primaries[0], cluster.primaries[1]
        for server in cluster.servers:
            server.call("CONFIG", "SET", "cluster-require-full-coverage", "no")
        watcher = Watcher(client, patience_s=1.0)
        lost, fine = watch(watcher, name_at(cluster, dying)), watch(watcher, name_at(cluster, well))
        ready = watch(watcher, name_at(cluster, well, "ready"))
        well.call("SET", ready.name, "x")
        assert ready.exception(20) is None
        dying.kill()
        error = lost.exception(20)
        assert isinstance(error, StoreError)
        assert dying.address in str(error)
        assert not fine.done()
        assert isinstance(watch(watcher, lost.name).exception(20), StoreError)
        wait_until(lambda: well.call("SET", fine.name, "x") == "OK")
        assert fine.exception(20) is None
        assert not watcher.closed
        watcher.close()


def test_wrong_password(cluster: RedisCluster) -> None:
    began = time.monotonic()
    with Client(cluster.address, password="wrong") as client:
        watcher = Watcher(client)
        error = watch(watcher, "a").exception(20)
    assert isinstance(error, StoreError)
    assert not error.transient
    assert watcher.closed
    assert time.monotonic() - began < 5


@pytest.mark.slow
@pytest.mark.skipif(refusal() is not None, reason=refusal() or "")
def test_a_host_is_cut_off(tmp_path: Path) -> None:
    """Nobody hangs up: that another node has taken over is learned from the others."""
    hosts = BridgedHosts(6)
    try:
        with (
            RedisCluster(tmp_path, 3, 1, hosts=hosts) as cluster,
            cluster.client() as client,
            cluster.client() as other,
        ):
            listening(client)
            name = name_at(cluster, cluster.servers[0])
            future = client.tensor_future(name)
            done: list[bool] = []

            def block() -> None:
                client.wait_tensor(name, 60)
                done.append(True)

            blocked = threading.Thread(target=block)
            blocked.start()
            hosts.cut(0)
            other.put_tensor(name, [7])  # returns when the replica has taken over
            assert future.result(60).tolist() == [7]
            blocked.join()
            assert done
            close_watcher(client, StoreError("the test is over"))
    finally:
        hosts.remove()
