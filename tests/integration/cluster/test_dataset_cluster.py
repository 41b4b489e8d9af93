# SPDX-License-Identifier: BSD-3-Clause
"""Datasets and lists on a real cluster: routing, many nodes at once, slots on their way."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ssdag.client import Client, Dataset
from ssdag.client.datasets import writing as dataset_writing
from ssdag.client.transport.slots import slot_of
from ssdag.errors import MissingDataError

if TYPE_CHECKING:
    from tests.integration.redis_cluster import RedisCluster


def example(name: str, i: int = 1) -> Dataset:
    return Dataset(name, {n: np.full(50, i) for n in "abc"}, {"i": i, "t": ["x", "y"]})


def check(found: Dataset, name: str) -> int:
    """Fail unless it is an example; return which."""
    i: int = found.meta["i"]
    assert found.name == name
    assert {int(x) for array in found.values() for x in array} == {i}
    assert found.tensor_names == ["a", "b", "c"]
    return i


def test_datasets_and_lists(client: Client, cluster: RedisCluster) -> None:
    client.prefixes.out = client.prefixes.source = "p"
    for i in range(100):
        client.put_dataset(example(f"d{i}", i))
        assert client.append_to_list("l", f"d{i}") == i + 1
    assert all(server.call("DBSIZE") for server in cluster.primaries)
    assert [check(d, f"d{i}") for i, d in enumerate(client.get_datasets_from_list("l"))] == list(
        range(100)
    )
    assert check(client.get_dataset("d5"), "d5") == 5
    assert client.delete_dataset("d5")
    assert not client.dataset_exists("d5")
    assert len(client.get_datasets_from_list("l", missing_ok=True)) == 99
    for name in "mno":  # other slots, most likely other nodes
        client.copy_list("l", name)
    client.rename_list("l", "q")
    assert [client.get_list_length(name) for name in "lmnoq"] == [0, 100, 100, 100, 100]
    assert client.delete_list("q", datasets=True)
    for name in "mno":
        assert client.delete_list(name)
    assert sum(server.call("DBSIZE") for server in cluster.primaries) == 0


def test_copy_and_rename(client: Client, cluster: RedisCluster) -> None:
    """Between slots, and within one, which the braces of the name decide."""
    for call in (client.copy_dataset, client.rename_dataset):
        with pytest.raises(MissingDataError, match="no dataset 'x'"):
            call("x", "y")
    client.put_dataset(example("x"))
    for i in range(6):
        client.copy_dataset("x", f"y{i}")
        check(client.get_dataset(f"y{i}"), f"y{i}")
    client.rename_dataset("x", "z")
    check(client.get_dataset("z"), "z")
    assert not client.dataset_exists("x")
    assert sum(server.call("DBSIZE") for server in cluster.primaries) == 7 * 4
    with pytest.raises(MissingDataError, match="no list 'l'"):
        client.rename_list("l", "m")


@pytest.mark.parametrize("large", [False, True])
def test_while_a_slot_moves(
    client: Client, cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """With a dataset's keys on two nodes nobody sees a part of it, and nobody fails."""
    if large:
        monkeypatch.setattr(dataset_writing, "LARGE_BYTES", 1)
    slot = slot_of(b"{d}")
    stop = threading.Event()
    failures: list[BaseException] = []
    done = [0, 0, 0]

    def write() -> None:
        with cluster.client() as own:
            while not stop.is_set():
                done[0] += 1
                own.put_dataset(example("d", done[0]))

    def read() -> None:
        with cluster.client() as own:
            while not stop.is_set():
                check(own.get_dataset("d"), "d")
                done[1] += 1

    def read_list() -> None:
        with cluster.client() as own:
            while not stop.is_set():
                for one in own.get_datasets_from_list("l"):
                    check(one, one.name)
                done[2] += 1

    def guarded(work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    client.put_dataset(example("d"))
    for name in ("other", "d", "more"):
        client.put_dataset(example(name))
        client.append_to_list("l", name)
    threads = [threading.Thread(target=guarded, args=(w,)) for w in (write, read, read_list)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            source = cluster.owner(slot)
            target = next(s for s in cluster.primaries if s is not source)
            cluster.begin_move(slot, source, target)
            try:
                while cluster.move_keys(slot, source, target, 1):
                    stop.wait(0.03)  # all are at work while the keys are here and there
            finally:
                cluster.end_move(slot, target)
        for i in range(3):  # everybody gets on when it is over
            before = done[i]
            for _ in range(500):
                if done[i] > before or failures:
                    break
                stop.wait(0.02)
            assert done[i] > before, failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert check(client.get_dataset("d"), "d") == done[0]


def test_delete_while_a_slot_moves(client: Client, cluster: RedisCluster) -> None:
    """A dataset whose keys are on two nodes is deleted as soon as they are together."""
    slot = slot_of(b"{d}")
    client.put_dataset(example("d"))
    source = cluster.owner(slot)
    target = next(s for s in cluster.primaries if s is not source)
    cluster.begin_move(slot, source, target)
    cluster.move_keys(slot, source, target, 2)
    found: list[bool] = []
    deleting = threading.Thread(target=lambda: found.append(client.delete_dataset("d")))
    deleting.start()
    deleting.join(0.2)
    while cluster.move_keys(slot, source, target):
        pass
    cluster.end_move(slot, target)
    deleting.join(30)
    assert found == [True]
    assert sum(server.call("DBSIZE") for server in cluster.primaries) == 0
