# SPDX-License-Identifier: BSD-3-Clause
"""Aggregation lists of datasets on each server program that this machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ssdag.client import Client, Dataset
from ssdag.client.datasets import lists as list_calls
from ssdag.client.datasets import reading as dataset_reading
from ssdag.errors import DataError, DataFormatError, MissingDataError
from ssdag.services.orchestrator import Orchestrator
from tests.integration.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=SERVERS)
def db(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    with Orchestrator(server=request.param) as service:
        yield service


@pytest.fixture
def client(db: Orchestrator) -> Iterator[Client]:
    with Client(db.address, password_file=db.password_file) as made:
        made.redis.flushdb()
        yield made


def fill(client: Client, count: int, name: str = "l") -> None:
    for i in range(count):
        one = Dataset(f"d{i}", {"u": np.full(10, i)}, {"i": i})
        client.put_dataset(one)
        assert client.append_to_list(name, one) == i + 1


def numbers(found: Any) -> list[int]:
    out = []
    for one in found:
        assert one.name == f"d{one.meta['i']}"
        assert one["u"].tolist() == [one.meta["i"]] * 10
        out.append(one.meta["i"])
    return out


def test_append_and_get(client: Client) -> None:
    assert client.get_list_length("l") == 0
    assert client.get_datasets_from_list("l") == []
    fill(client, 7)
    assert client.get_list_length("l") == 7
    assert client.redis.lrange("l", 0, 1) == [b"{d0}", b"{d1}"]
    assert numbers(client.get_datasets_from_list("l")) == list(range(7))
    assert numbers(client.get_dataset_list_range("l", 2, 4)) == [2, 3, 4]
    assert numbers(client.get_dataset_list_range("l", -2, -1)) == [5, 6]
    assert numbers(client.get_dataset_list_range("l", 5, 99)) == [5, 6]
    assert client.get_dataset_list_range("l", 9, 99) == []
    assert client.append_to_list("l", "d0") == 8
    assert numbers(client.get_dataset_list_range("l", -1, -1)) == [0]


@pytest.mark.parametrize("window", [1, 50, 64 << 20])
def test_many(client: Client, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(dataset_reading, "WINDOW_BYTES", window)
    fill(client, 400)
    assert numbers(client.get_datasets_from_list("l")) == list(range(400))
    some = client.iter_datasets_from_list("l", 100)
    client.delete_list("l")  # what is read was settled before
    assert numbers(some) == list(range(100, 400))


def test_missing_ones(client: Client) -> None:
    fill(client, 5)
    client.delete_dataset("d1")
    client.redis.delete("{d3}.u")
    with pytest.raises(MissingDataError, match="get of list 'l': no dataset 'd1'"):
        client.get_datasets_from_list("l")
    assert numbers(client.get_datasets_from_list("l", missing_ok=True)) == [0, 2, 4]
    client.put_dataset(Dataset("d1", {"u": np.full(10, 1)}, {"i": 1}))
    with pytest.raises(MissingDataError, match="'d3' has lost its tensor 'u'"):
        client.get_datasets_from_list("l")
    client.redis.hset("{d3}.meta", "i", b"\x04\x01")
    with pytest.raises(DataFormatError, match="field 'i' is cut"):
        client.get_datasets_from_list("l")
    client.redis.rpush("l", "plain")
    with pytest.raises(DataFormatError, match="'plain' is no entry"):
        client.get_datasets_from_list("l")


def test_read_while_one_changes(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is put between the two halves of a window is read again, as whole."""
    fill(client, 5)
    real = dataset_reading.read_tensors
    left = [1]

    def meddle(connection: Any, watch: Any, wanted: Any) -> Any:
        if left:
            left.pop()
            with client.clone() as other:
                other.put_dataset(Dataset("d2", {"u": np.full(10, 2)}, {"i": 2, "new": 1}))
        return real(connection, watch, wanted)

    monkeypatch.setattr(dataset_reading, "read_tensors", meddle)
    found = client.get_datasets_from_list("l")
    assert numbers(found) == list(range(5))
    assert found[2].meta["new"] == 1


def test_copy_and_rename(client: Client) -> None:
    for call in (client.copy_list, client.rename_list):
        with pytest.raises(MissingDataError, match="no list 'l'"):
            call("l", "m")
    fill(client, 3)
    client.append_to_list("m", "other")
    client.copy_list("l", "m")
    client.copy_list("l", "l")
    assert numbers(client.get_datasets_from_list("m")) == [0, 1, 2]
    client.rename_list("l", "l")
    client.rename_list("m", "n")
    assert client.get_list_length("m") == 0
    assert numbers(client.get_datasets_from_list("n")) == [0, 1, 2]
    assert numbers(client.get_datasets_from_list("l")) == [0, 1, 2]


def test_delete(client: Client) -> None:
    assert not client.delete_list("l")
    assert not client.delete_list("l", datasets=True)
    fill(client, 3)
    client.copy_list("l", "m")
    assert client.delete_list("l")
    assert numbers(client.get_datasets_from_list("m")) == [0, 1, 2]
    client.append_to_list("m", "d0")  # twice in the list
    assert client.delete_list("m", datasets=True)
    assert client.redis.keys() == []


def test_delete_leaves_what_comes_meanwhile(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(client, 3)
    real = list_calls._trim

    def meddle(*args: Any) -> bool:
        with client.clone() as other:
            other.append_to_list("l", "late")
        return real(*args)

    monkeypatch.setattr(list_calls, "_trim", meddle)
    assert client.delete_list("l", datasets=True)
    assert client.redis.lrange("l", 0, -1) == [b"{late}"]


def test_other_kinds_of_values(client: Client) -> None:
    client.put_tensor("l", [1])
    for call in (client.get_list_length, client.get_datasets_from_list, client.delete_list):
        with pytest.raises(DataError, match="another kind"):
            call("l")
    with pytest.raises(DataError, match="another kind"):
        client.append_to_list("l", "d")
    with pytest.raises(DataError, match="another kind"):
        client.rename_list("l", "m")
    assert client.get_tensor("l").tolist() == [1]


def test_prefixes(client: Client) -> None:
    client.prefixes.out = client.prefixes.source = "p"
    fill(client, 2)
    assert client.redis.lrange("p.l", 0, -1) == [b"p.{d0}", b"p.{d1}"]
    assert numbers(client.get_datasets_from_list("l")) == [0, 1]
    with client.clone() as other:  # who reads the list finds the data, whatever its prefix
        other.prefixes.out = other.prefixes.source = ""
        assert numbers(other.get_datasets_from_list("p.l")) == [0, 1]
    client.prefixes.use("list", False)
    assert client.get_list_length("l") == 0
