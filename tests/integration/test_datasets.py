# SPDX-License-Identifier: BSD-3-Clause
"""Datasets on each server program that this machine has."""

from __future__ import annotations

import io
import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssdag.client import Client, Dataset
from ssdag.client.datasets import reading as dataset_reading
from ssdag.client.datasets import writing as dataset_writing
from ssdag.client.transport.transactions import Watch
from ssdag.errors import DataFormatError, MissingDataError, StoreError
from ssdag.services.orchestrator import Orchestrator
from tests.integration.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.client.transport.connection import Connection


@pytest.fixture(scope="module", params=SERVERS)
def db(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    with Orchestrator(server=request.param, memory_limit_bytes=1 << 30) as service:
        yield service


@pytest.fixture
def client(db: Orchestrator) -> Iterator[Client]:
    with Client(db.address, password_file=db.password_file) as made:
        made.redis.flushdb()
        yield made


def same(one: Dataset, other: Dataset) -> None:
    """Fail unless two datasets hold the same."""
    assert one.name == other.name
    assert one.tensor_names == other.tensor_names
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        assert array.shape == other[name].shape
        assert array.flags.f_contiguous == other[name].flags.f_contiguous
        assert array.tobytes() == other[name].tobytes()
    assert sorted(one.meta) == sorted(other.meta)
    for name in one.meta:
        assert one.get_metadata_field_type(name) == other.get_metadata_field_type(name)
        assert np.array_equal(one.meta[name], other.meta[name])


def example(name: str = "d") -> Dataset:
    made = Dataset(name, {"u": np.arange(6.0).reshape(2, 3), "v": np.float32(2)})
    made["größe"] = np.asfortranarray(np.arange(8, dtype=">i2").reshape(2, 4))
    made["empty"] = np.zeros((0, 3), "M8[s]")
    made["large"] = np.arange(100_000)
    made.meta.update(step=7, time=0.5, tags=["a", "", "ß"], box=np.arange(3, dtype=np.float32))
    return made


def test_round_trip(client: Client) -> None:
    assert not client.dataset_exists("d")
    with pytest.raises(MissingDataError, match="no dataset 'd'"):
        client.get_dataset("d")
    client.put_dataset(example())
    assert client.dataset_exists("d")
    same(client.get_dataset("d"), example())
    client.put_dataset(Dataset("bare"))
    same(client.get_dataset("bare"), Dataset("bare"))
    client.put_dataset(Dataset("many", {str(i): [i] for i in range(3000)}))
    assert [int(a[0]) for a in client.get_dataset("many").values()] == list(range(3000))


def test_any_dataset(client: Client) -> None:
    names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
    arrays = hnp.arrays(
        st.one_of(hnp.scalar_dtypes(), hnp.array_dtypes()),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    )
    numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
    fields = st.one_of(numbers, names, st.lists(names, min_size=1), st.lists(numbers, min_size=1))

    @settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
    @given(names, st.dictionaries(names, arrays, max_size=4), st.dictionaries(names, fields))
    def check(name: str, tensors: dict[str, Any], meta: dict[str, Any]) -> None:
        try:
            made = Dataset(name, tensors, meta)
        except DataFormatError:
            return
        client.put_dataset(made)
        same(client.get_dataset(name), made)

    check()


def test_others_read_it(client: Client) -> None:
    """What is stored are plain keys: a hash, and a file of numpy for each tensor."""
    client.put_dataset(example())
    plain = client.redis
    assert plain.hget("{d}.meta", ".COMPLETE") == b"1"
    assert plain.hget("{d}.meta", "step") == b"\x04" + (7).to_bytes(8, "little")
    value: Any = plain.get("{d}.u")
    assert np.array_equal(np.load(io.BytesIO(value)), example()["u"])
    assert np.array_equal(client.get_tensor("{d}.u"), example()["u"])


def test_tensors_that_are_left_out_go(client: Client) -> None:
    client.put_dataset(example())
    client.put_dataset(Dataset("d", {"u": [1], "new": [2]}))
    assert sorted(client.redis.keys()) == [b"{d}.meta", b"{d}.new", b"{d}.u"]
    assert len(client.get_dataset("d").meta) == 0


def test_not_complete(client: Client) -> None:
    client.put_dataset(example())
    client.redis.hdel("{d}.meta", ".COMPLETE")
    assert not client.dataset_exists("d")
    with pytest.raises(MissingDataError, match="not complete"):
        client.get_dataset("d")
    client.redis.hset("{d}.meta", ".COMPLETE", "1")
    client.redis.delete("{d}.u")
    with pytest.raises(MissingDataError, match="lost its tensor 'u'"):
        client.get_dataset("d")
    client.redis.hset("{d}.meta", "step", b"\x09")
    with pytest.raises(DataFormatError, match="'step' is of the unknown type 9"):
        client.get_dataset("d")
    client.put_dataset(example())
    same(client.get_dataset("d"), example())


def test_prefixes(client: Client) -> None:
    client.prefixes.out, client.prefixes.source = "w", "r"
    client.put_dataset(example())
    assert client.redis.exists("w.{d}.meta")
    assert not client.dataset_exists("d")
    client.prefixes.source = "w"
    same(client.get_dataset("d"), example())
    client.prefixes.use("dataset", False)
    assert not client.dataset_exists("d")


def test_names_by_pattern(client: Client) -> None:
    client.redis.hset("{plain}.meta", "x", "1")
    client.put_tensor("{d.meta", [1])
    for name in ("d1", "d2", "e{x}", "ß*"):
        client.put_dataset(Dataset(name, {"u": [1]}))
    assert client.list_datasets() == ["d1", "d2", "e{x}", "ß*"]
    assert client.list_datasets("d?") == ["d1", "d2"]
    assert client.list_datasets("ß\\*") == ["ß*"]
    client.prefixes.out = client.prefixes.source = "p*"
    assert client.list_datasets() == []
    client.put_dataset(Dataset("d", {"u": [1]}))
    assert client.list_datasets("[a-d]") == ["d"]


def test_pickles() -> None:
    plain = example()
    del plain["größe"]  # numpy itself changes the byte order
    same(pickle.loads(pickle.dumps(plain)), plain)


def test_reads_belong_together(client: Client) -> None:
    """A reader beside a writer sees all of one put."""
    stop = threading.Event()

    def write() -> None:
        with client.clone() as own:
            i = 0
            while not stop.is_set():
                i += 1
                tensors = {n: np.full(1000, i) for n in ("a", "b", "c")}
                own.put_dataset(Dataset("d", tensors, {"i": i}))

    client.put_dataset(Dataset("d", {n: np.full(1000, 0) for n in "abc"}, {"i": 0}))
    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen: set[int] = set()
        end_s = time.monotonic() + 30
        reads = 0
        while reads < 150 or (len(seen) < 3 and time.monotonic() < end_s):
            reads += 1
            found = client.get_dataset("d")
            values = {int(x) for array in found.values() for x in (array.min(), array.max())}
            assert values == {found.meta["i"]}
            seen |= values
    finally:
        stop.set()
        writer.join()
    assert len(seen) > 2


def test_read_while_it_changes(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody writes, with other tensors each time, just between the two halves of a read."""
    client.put_dataset(example())
    real = dataset_reading.read_tensors

    def meddle(connection: Connection, watch: Watch, wanted: Any) -> Any:
        with client.clone() as other:
            other.put_dataset(Dataset("d", {"x": [1]}, {"n": 1}))
        return real(connection, watch, wanted)

    monkeypatch.setattr(dataset_reading, "read_tensors", meddle)
    same(client.get_dataset("d"), Dataset("d", {"x": [1]}, {"n": 1}))


def test_no_watch_is_left_behind(client: Client) -> None:
    """A failed read leaves no watch on its connection to spoil the next transaction."""
    with pytest.raises(MissingDataError):
        client.get_dataset("d")
    client.put_dataset(example())
    with client.clone() as other:
        other.put_dataset(example())
    client.put_dataset(example())
    same(client.get_dataset("d"), example())


def test_delete_copy_rename(client: Client) -> None:
    assert not client.delete_dataset("d")
    for call in (client.copy_dataset, client.rename_dataset):
        with pytest.raises(MissingDataError, match="no dataset 'd'"):
            call("d", "e")
    client.put_dataset(example())
    client.put_dataset(Dataset("e", {"u": [1], "stale": [2]}, {"old": 1}))
    client.copy_dataset("d", "e")
    same(client.get_dataset("e"), example("e"))
    same(client.get_dataset("d"), example())
    client.copy_dataset("d", "d")
    client.rename_dataset("d", "d")
    client.put_dataset(Dataset("f", {"stale": [2]}))
    client.rename_dataset("d", "f")
    same(client.get_dataset("f"), example("f"))
    assert not client.dataset_exists("d")
    assert not client.redis.keys("*stale")
    assert client.delete_dataset("f")
    assert client.delete_dataset("e")
    assert client.redis.keys() == []


def test_damaged_ones_are_not_copied(client: Client) -> None:
    client.put_dataset(example())
    client.redis.delete("{d}.u")
    for call in (client.copy_dataset, client.rename_dataset):
        with pytest.raises(MissingDataError, match="lost a tensor"):
            call("d", "e")
    client.redis.hdel("{d}.meta", ".COMPLETE")
    with pytest.raises(MissingDataError):
        client.copy_dataset("d", "e")
    assert client.delete_dataset("d")
    assert client.redis.keys() == []


def test_large_one(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stored aside and renamed: as whole, and with nothing left of the detour."""
    monkeypatch.setattr(dataset_writing, "LARGE_BYTES", 1000)
    client.put_dataset(Dataset("d", {"stale": [1], "u": [2]}))
    for _ in range(2):
        client.put_dataset(example())
        same(client.get_dataset("d"), example())
        assert len(client.redis.keys()) == 1 + len(example())
        assert {client.redis.ttl(key) for key in client.redis.keys()} == {-1}  # noqa: SIM118


def test_large_one_loses_a_part(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_writing, "LARGE_BYTES", 1000)
    client.put_dataset(Dataset("d", {"u": [1]}))
    real = Watch.look

    def drop(self: Watch, *lines: Any) -> Any:
        if lines[0][0] == b"WATCH" and lines[1][0] == b"EXISTS" and len(lines[0]) > 2:
            answers = real(self, *lines)
            with client.clone() as other:
                other.redis.delete(lines[0][1])
            return answers
        return real(self, *lines)

    monkeypatch.setattr(Watch, "look", drop)
    with pytest.raises(StoreError, match="dropped parts of it"):
        client.put_dataset(example())
    same(client.get_dataset("d"), Dataset("d", {"u": [1]}))
    assert len(client.redis.keys()) == 2


def test_out_of_memory(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A put that the server has no room for changes nothing and leaves nothing."""
    client.put_dataset(example())
    used = int(client.redis.info("memory")["used_memory"])
    large = Dataset("d", {name: np.zeros(1 << 20) for name in "abcdef"})
    for limit in (10**12, 1000):
        monkeypatch.setattr(dataset_writing, "LARGE_BYTES", limit)
        client.redis.config_set("maxmemory", used + (20 << 20))
        try:
            with pytest.raises(StoreError, match="memory limit"):
                client.put_dataset(large)
        finally:
            client.redis.config_set("maxmemory", 1 << 30)
    same(client.get_dataset("d"), example())
    assert len(client.redis.keys()) == 1 + len(example())


def test_tables_and_fields(client: Client) -> None:
    """Datasets of pandas and xarray come back from the server as they were."""
    frame = pd.DataFrame({"x": [1.5, None], "city": ["Ulm", None], "n": [1, 2]})
    client.put_dataset(Dataset.from_pandas("t", frame))
    pd.testing.assert_frame_equal(client.get_dataset("t").to_pandas(), frame)
    client.put_dataset(Dataset.from_pandas("t", frame[:0]))
    pd.testing.assert_frame_equal(client.get_dataset("t").to_pandas(), frame[:0])
    grid = xr.Dataset({"u": (("t", "x"), np.eye(3))}, {"x": [1, 2, 3]}, {"title": "ß"})
    client.put_dataset(Dataset.from_xarray("f", grid))
    xr.testing.assert_identical(client.get_dataset("f").to_xarray(), grid)
