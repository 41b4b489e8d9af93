# SPDX-License-Identifier: BSD-3-Clause
"""Slabs and many tensors at once: cut connections, a silent server, no memory left."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ssdag.client import Client
from ssdag.errors import MissingDataError, StoreError
from ssdag.services.orchestrator import Orchestrator
from tests.integration.test_client_faults import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20


@pytest.fixture(scope="module")
def db() -> Iterator[Orchestrator]:
    with Orchestrator(memory_limit_bytes=400 * MIB) as service:
        yield service


@pytest.fixture
def direct(db: Orchestrator) -> Iterator[Client]:
    with Client(db.address, password_file=db.password_file) as made:
        made.flush_db()
        yield made
        made.flush_db()


@pytest.fixture
def proxy(db: Orchestrator) -> Iterator[Proxy]:
    with Proxy(db.address.removeprefix("unix://")) as relay:
        yield relay


@pytest.fixture
def client(proxy: Proxy, db: Orchestrator) -> Iterator[Client]:
    with Client(proxy.address, password_file=db.password_file) as made:
        yield made


def test_slab_cut_in_the_middle(client: Client, direct: Client, proxy: Proxy) -> None:
    direct.create_tensor("a", (2, 4 * MIB))  # 64 MiB; half of it goes in two pieces
    proxy.cuts = [(10 * MIB, None)]
    client.put_slab("a", 1, 1.0)
    assert proxy.connections == 2
    assert direct.get_tensor("a").mean(axis=1).tolist() == [0, 1]
    client.release()
    proxy.cuts = [(20 * MIB, None), (20 * MIB, None)]
    with pytest.raises(StoreError, match="second time"):
        client.put_slab("a", 0, 1.0)
    # The first piece was there, and was not written without the second.
    assert direct.get_tensor("a").mean(axis=1).tolist() == [0, 1]


def test_many_cut_in_the_middle(client: Client, direct: Client, proxy: Proxy) -> None:
    arrays = {f"t{i}": np.full(MIB // 8, i) for i in range(40)}
    proxy.cuts = [(10 * MIB, None)]
    client.put_tensors(arrays)
    assert proxy.connections == 2
    client.release()
    proxy.cuts = [(None, 10 * MIB)]
    found = client.get_tensors(arrays)
    assert proxy.connections == 4
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    client.release()
    proxy.cuts = [(None, 10 * MIB)] * 2
    with pytest.raises(StoreError, match="second time"):
        client.get_tensors(arrays)
    direct.flush_db()
    proxy.cuts = [(10 * MIB, None)] * 2
    client.release()
    with pytest.raises(StoreError, match="second time"):
        client.put_tensors(arrays)
    # Those that are there are whole.
    there = direct.get_tensors(arrays, missing_ok=True)
    assert 5 < len(there) < 40
    assert all(np.array_equal(array, arrays[name]) for name, array in there.items())


def test_new_name_is_not_given_twice(client: Client, direct: Client, proxy: Proxy) -> None:
    direct.put_tensor("a", [1])
    # The log-in's answer is 5 bytes; that of the rename is lost.
    proxy.cuts = [(None, 5)]
    with pytest.raises(StoreError, match="lost the server"):
        client.rename_tensor("a", "b")
    assert proxy.connections == 1
    assert direct.list_tensors() in (["a"], ["b"])


def test_no_memory_left(direct: Client) -> None:
    """It is said, nothing is half there, and what was there still is."""
    direct.put_tensor("a", np.ones(MIB // 8))
    large = _fill(direct, "f", 2 * MIB)
    assert 10 < large < 100
    assert not direct.tensor_exists(f"f{large}")
    assert _fill(direct, "g", MIB // 64) < 1000  # to the brim
    calls: list[Callable[[], object]] = [
        lambda: direct.put_tensors({f"h{i}": np.ones(MIB) for i in range(3)}),
        lambda: direct.create_tensor("a", 100),
        lambda: direct.put_slab("a", slice(5), 7),
        lambda: direct.copy_tensor("a", "c"),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="memory_limit_bytes"):
            call()
    assert (direct.get_tensor("a") == 1).all()
    assert not direct.tensor_exists("c")
    direct.rename_tensor("a", "b")
    assert direct.get_tensor("b").size == MIB // 8
    with pytest.raises(MissingDataError):
        direct.get_tensor("a")
    direct.delete_tensors([f"f{i}" for i in range(large)])
    direct.put_tensor("a", [1])


def _fill(client: Client, prefix: str, size: int) -> int:
    """Put tensors of so many numbers until the server refuses; return how many there are."""
    for i in range(10_000):
        try:
            client.put_tensor(f"{prefix}{i}", np.ones(size))
        except StoreError:
            return i
    raise AssertionError("the server takes everything")


def test_paused_server(direct: Client, db: Orchestrator) -> None:
    """A pause is no error without a time limit, and nothing is done twice."""
    assert db.pid is not None
    direct.create_tensor("a", 4 * MIB)
    for call in (
        lambda: direct.put_slab("a", slice(MIB), 1.0),
        lambda: direct.put_tensors({f"t{i}": np.ones(MIB) for i in range(8)}),
        lambda: direct.get_tensors([f"t{i}" for i in range(8)]),
        lambda: direct.rename_tensor("a", "b"),
    ):
        os.kill(db.pid, signal.SIGSTOP)
        wake = threading.Timer(0.2, os.kill, (db.pid, signal.SIGCONT))
        wake.start()
        call()
        wake.join()
    assert direct.get_tensor("b").mean() == 0.25
