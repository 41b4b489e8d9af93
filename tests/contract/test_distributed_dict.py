# SPDX-License-Identifier: BSD-3-Clause
"""The dictionary that tasks share, on every connector."""

from __future__ import annotations

import os
import pickle
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdag.connectors import DistributedDict, SharedMemoryConnector, dictionary_keys
from ssdag.errors import (
    ConfigError,
    DataFormatError,
    DataTimeoutError,
    MissingDataError,
    SerializationError,
    StoreError,
)
from tests.contract import connector_bodies as bodies
from tests.contract.connectors import SOME

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ssdag.connectors.base import Buffer, Connector


@pytest.fixture(scope="module", params=SOME)
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Connector]:
    make: Callable[[Path], AbstractContextManager[Connector]] = request.param
    with make(tmp_path_factory.mktemp("dict")) as connector:
        yield connector


@pytest.fixture
def shared(store: Connector) -> DistributedDict[Any]:
    store.delete_many(store.keys())
    return DistributedDict(store)


# -- as a dictionary -------------------------------------------------------------------


def test_it_is_a_mutable_mapping(shared: DistributedDict[Any]) -> None:
    model: dict[Any, Any] = {"a": 1, 5: "five", ("u", 3): [1, 2], "#5": None, "(x": (), "\\": {}}
    shared.update(model)
    assert dict(shared.items()) == model
    assert len(shared) == 6
    assert set(shared) == set(shared.keys()) == set(model)
    assert sorted(map(repr, shared.values())) == sorted(map(repr, model.values()))
    assert "a" in shared
    assert 6 not in shared
    assert shared.get("a") == 1
    assert shared.get("absent") is None
    assert shared.get("absent", 7) == 7
    shared["a"] = 2
    assert shared.pop("a") == 2
    assert shared.pop("a", 3) == 3
    del shared[5]
    assert shared.setdefault(5, "again") == "again"
    assert shared.setdefault(5, "third") == "again"
    left = dict(shared.popitem() for _ in range(len(shared)))
    assert left == {key: value for key, value in model.items() if key != "a"} | {5: "again"}
    assert len(shared) == 0
    for missing in (lambda: shared["a"], lambda: shared.pop("a"), shared.popitem):
        with pytest.raises(KeyError):
            missing()
    with pytest.raises(MissingDataError, match="'a'"):
        del shared["a"]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(200_000.0).reshape(2, -1)),
        np.arange(20)[::3],
        np.array(5.0),
        np.zeros((0, 3)),
        np.array(["2026-11-21"], "datetime64[D]"),
        np.zeros(2, [("x", ">f4"), ("y", "S3")]),
        np.array([b""]),
    ],
    ids=repr,
)
def test_arrays(shared: DistributedDict[Any], array: Any) -> None:
    shared["x"] = array
    found = shared["x"]
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()
    if array.flags.f_contiguous:
        assert found.flags.f_contiguous
    assert found.flags.writeable
    found[...] = 0
    assert shared["x"].tobytes() == array.tobytes()


def test_other_values(shared: DistributedDict[Any]) -> None:
    big = np.arange(100_000)
    shared["x"] = {"fields": [big, big[:10]], "text": "ä" * 1000, "none": None}
    found = shared["x"]
    assert (found["fields"][0] == big).all()
    found["fields"][0][:] = 0
    assert (shared["x"]["fields"][0] == big).all()
    shared["objects"] = np.array([{"a": 1}, None], object)
    assert shared["objects"][0] == {"a": 1}
    shared["masked"] = np.ma.masked_equal([1, 2, 3], 2)
    assert shared["masked"].mask.tolist() == [False, True, False]
    with pytest.raises(SerializationError, match="cannot be pickled"):
        shared["x"] = threading.Lock()
    assert shared["x"]["none"] is None


def test_names_keep_dictionaries_apart(store: Connector, shared: DistributedDict[Any]) -> None:
    other: DistributedDict[Any] = DistributedDict(store, "other")
    other["a"] = "other"
    shared["a"] = "shared"
    shared.checkpoint("c")
    shared.clear()
    assert list(other.items()) == [("a", "other")]
    assert other.checkpoints() == []
    for name in ("", "a:b", "x" * 33, "a@b", "a*", 5):
        with pytest.raises(ConfigError, match="name="):
            DistributedDict(store, name)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [None, True, 1.5, b"x", ("a", None), (), "", "x" * 101, "\ud800"])
def test_keys_that_cannot_be(shared: DistributedDict[Any], key: Any) -> None:
    if key == ():
        shared[key] = 1  # an empty tuple is a tuple
        assert list(shared) == [()]
        return
    calls: list[Callable[[], Any]] = [
        lambda: shared[key],
        lambda: shared.get(key, timeout_s=0.1),
        lambda: shared.pop(key, 1),
        lambda: key in shared,
        lambda: shared.setdefault(key, 1),
    ]
    for call in calls:
        with pytest.raises(DataFormatError, match="key"):
            call()


def test_numbers_of_numpy_are_numbers(shared: DistributedDict[Any]) -> None:
    shared[np.int64(3)] = "three"
    shared["step", np.uint8(4)] = "four"
    assert shared[3] == "three"
    assert shared["step", 4] == "four"
    assert set(shared) == {3, ("step", 4)}


KEYS = st.recursive(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.integers(),
    lambda keys: st.lists(keys, max_size=3).map(tuple),
    max_leaves=5,
)


@given(KEYS, KEYS)
def test_every_key_comes_back(first: Any, second: Any) -> None:
    try:
        texts = dictionary_keys.encode(first), dictionary_keys.encode(second)
    except DataFormatError:
        return
    assert [dictionary_keys.decode(text) for text in texts] == [first, second]
    assert (texts[0] == texts[1]) == (first == second)


@given(st.text('#(\\,)1"a []', max_size=8))
def test_what_is_no_key_is_no_key(text: str) -> None:
    key = dictionary_keys.decode(text)
    assert key is None or dictionary_keys.encode(key) == text


# -- shared ----------------------------------------------------------------------------


def test_get_waits(shared: DistributedDict[Any]) -> None:
    started = threading.Event()

    def put() -> None:
        started.wait()
        shared["x"] = np.arange(3)

    thread = threading.Thread(target=put)
    thread.start()
    started.set()
    assert shared.get("x", timeout_s=60).tolist() == [0, 1, 2]
    assert shared.get("x", timeout_s=None).tolist() == [0, 1, 2]
    thread.join()
    assert shared.get("never", "nothing", timeout_s=0.01) == "nothing"
    with pytest.raises(DataTimeoutError, match=r"'never' did not come within 0.01 s"):
        shared.get("never", timeout_s=0.01)


def test_other_processes(shared: DistributedDict[Any]) -> None:
    workers = [bodies.start(shared, bodies.count, str(i)) for i in range(2)]
    shared["go"] = 10
    assert [shared.get(("done", i), timeout_s=60) for i in range(2)] == [10, 10]
    ended_well(workers)
    assert shared["all", 1, 9].tolist() == [1, 9]
    assert len(shared) == 23


def ended_well(workers: Iterable[subprocess.Popen[bytes]]) -> None:
    assert [worker.wait(60) for worker in workers] == [0, 0]


def test_each_value_is_popped_once(shared: DistributedDict[Any]) -> None:
    for i in range(40):
        shared[i] = i
    popped: list[int] = []

    def pop() -> None:
        while True:
            try:
                popped.append(shared.popitem()[1])
            except KeyError:
                return

    threads = [threading.Thread(target=pop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(popped) == list(range(40))


def test_one_of_many_sets_the_default(shared: DistributedDict[Any]) -> None:
    barrier = threading.Barrier(4)
    got: list[int] = []

    def ask(me: int) -> None:
        barrier.wait()
        got.append(shared.setdefault("x", me))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == 4
    assert set(got) == {shared["x"]}


def test_it_pickles_as_a_place(shared: DistributedDict[Any]) -> None:
    shared["x"] = np.zeros(100_000)
    pickled = pickle.dumps(shared)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    again["y"] = 1
    assert shared["y"] == 1
    assert again.name == shared.name
    assert shared == shared  # which fetches nothing
    assert shared != again
    assert hash(shared) != hash(again)
    assert shared.__ssdag_hash__() == again.__ssdag_hash__()
    assert "'dict'" in repr(again)


def test_keys_that_go_while_one_looks(shared: DistributedDict[Any]) -> None:
    shared.update({i: i for i in range(5)})
    seen = []
    for key, _ in shared.items():
        seen.append(key)
        shared.clear()
    assert len(seen) == 1


# -- checkpoints -----------------------------------------------------------------------


def test_rollback(shared: DistributedDict[Any]) -> None:
    before = {"a": 1, 2: "two", ("u", 3): list(range(1000))}
    shared.update(before)
    assert shared.checkpoint("start") == 3
    shared["a"] = "changed"
    del shared[2]
    shared["new"] = 5
    assert shared.checkpoint("later") == 3
    assert shared.checkpoints() == ["later", "start"]
    for _ in range(2):
        assert shared.rollback("start") == 3
        assert dict(shared.items()) == before
    shared.clear()
    assert shared.rollback("later") == 3
    assert dict(shared.items()) == {"a": "changed", ("u", 3): list(range(1000)), "new": 5}
    assert shared.delete_checkpoint("later")
    assert not shared.delete_checkpoint("later")
    assert shared.checkpoints() == ["start"]
    with pytest.raises(MissingDataError, match=r"no checkpoint 'later'.*there is start"):
        shared.rollback("later")
    for name in ("", "a.b", "a:b", "x" * 33):
        with pytest.raises(ConfigError, match="checkpoint"):
            shared.checkpoint(name)


def test_chosen_keys(shared: DistributedDict[Any]) -> None:
    shared.update({"model": 1, "step": 10})
    assert shared.checkpoint("c", ["model", "model", "absent"]) == 1
    shared.update({"model": 2, "step": 20, "absent": 3})
    assert shared.rollback("c") == 1
    assert dict(shared.items()) == {"model": 1, "step": 20}
    assert shared.checkpoint("none", []) == 0
    assert shared.rollback("none") == 0
    assert len(shared) == 2


def test_a_checkpoint_is_replaced(store: Connector, shared: DistributedDict[Any]) -> None:
    for i in range(3):
        shared["x"] = i
        shared.checkpoint("c")
    shared["x"] = "lost"
    shared.rollback("c")
    assert shared["x"] == 2
    assert len(store.keys("dict@c.*")) == 1
    assert shared.delete_checkpoint("c")
    assert store.keys("dict@*") == []


def test_arrays_that_were_read_are_not_rolled_back(shared: DistributedDict[Any]) -> None:
    old = np.arange(100_000)
    shared["x"] = old
    shared.checkpoint("c")
    shared["x"] = new = np.zeros(100_000, int)
    held = shared["x"]
    shared.rollback("c")
    assert (held == new).all()
    assert (shared["x"] == old).all()
    shared["x"] = new
    assert (shared.get("x") == new).all()
    shared.rollback("c")
    assert (shared["x"] == old).all()


def test_a_checkpoint_that_is_not_whole(store: Connector, shared: DistributedDict[Any]) -> None:
    shared.update({"a": 1, "b": 2})
    shared.checkpoint("c")
    shared["a"] = 3
    (copy,) = store.keys("dict@c.*:b")
    store.delete(copy)
    with pytest.raises(MissingDataError, match=r"lacks 1 of its values \('b'\)"):
        shared.rollback("c")
    assert dict(shared.items()) == {"a": 3, "b": 2}


class Failing(SharedMemoryConnector):
    """Fails after so many calls that change something."""

    calls_left = 1 << 30

    def _count(self) -> None:
        if self.calls_left == 0:
            raise StoreError("the store is gone")
        self.calls_left -= 1

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        self._count()
        super().write(key, parts)

    def copy(self, source: str, target: str) -> None:
        self._count()
        super().copy(source, target)

    def delete(self, key: str) -> bool:
        self._count()
        return super().delete(key)


def test_checkpoint_and_rollback_may_be_cut_anywhere() -> None:
    """An old checkpoint holds until the new one is whole; a cut rollback is repeated."""
    with Failing() as store:
        shared: DistributedDict[Any] = DistributedDict(store)
        states = [{i: (n, i) for i in range(3)} for n in range(2)]
        shared.update(states[0])
        shared.checkpoint("c")
        shared.update(states[1])
        for calls in range(5):  # three copies, the record, the first old copy
            store.calls_left = calls
            with pytest.raises(StoreError, match="the store is gone"):
                shared.checkpoint("c")
            store.calls_left = 1 << 30
            shared.rollback("c")
            assert dict(shared.items()) == states[calls == 4]
            shared.update(states[1])
        shared[3] = "new"
        for calls in range(4):
            store.calls_left = calls
            with pytest.raises(StoreError, match="the store is gone"):
                shared.rollback("c")
        store.calls_left = 1 << 30
        shared.rollback("c")
        assert dict(shared.items()) == states[1]
        shared.delete_checkpoint("c")
        assert store.keys("dict@*") == []


# -- with tasks ------------------------------------------------------------------------


def test_a_store_is_whatever_holds_one(tmp_path: Path) -> None:
    shared: DistributedDict[Any] = DistributedDict(tmp_path / "folder")
    shared["u"] = np.arange(4.0)
    loaded = np.load(os.path.join(tmp_path, "folder", "dict:u"))
    assert loaded.tolist() == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="store="):
        DistributedDict(5)
