# SPDX-License-Identifier: BSD-3-Clause
"""One contract, every connector: whole values, private copies, several processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssdag.connectors.base import LONGEST_KEY, Connector
from ssdag.errors import DataFormatError, DataTimeoutError, MissingDataError
from tests.conftest import wait_until
from tests.contract import connector_bodies as bodies
from tests.contract.connector_bodies import BIG
from tests.contract.connectors import CONNECTORS

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

#: Quick enough for several examples, and each has its own way of reading.
SIZES = [0, 1, 100, (64 << 10) - 1, 64 << 10, BIG]


@pytest.fixture(scope="module", params=CONNECTORS)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Connector]:
    make: Callable[[Path], AbstractContextManager[Connector]] = request.param
    with make(tmp_path_factory.mktemp("connector")) as connector:
        yield connector
        connector.close()


@pytest.fixture
def connector(opened: Connector) -> Connector:
    opened.delete_many(opened.keys())
    return opened


def ended_well(process: subprocess.Popen[bytes]) -> None:
    assert process.wait(60) == 0


# -- values ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_value_comes_back(connector: Connector, size: int) -> None:
    data = os.urandom(size)
    connector.write("x", [data])
    found = connector.read("x")
    assert bytes(found) == data
    assert connector.size("x") == size
    assert (found.format, found.ndim, found.readonly, len(found)) == ("B", 1, False, size)


def test_parts_are_put_in_a_row(connector: Connector) -> None:
    array = np.arange(100_000.0).reshape(100, 1000)
    parts: list[Any] = [b"head", b"", bytearray(b"er"), array.data, memoryview(b"xyz")[1:]]
    connector.write("x", parts)
    assert bytes(connector.read("x")) == b"header" + array.tobytes() + b"yz"
    connector.write("x", [])
    assert bytes(connector.read("x")) == b""
    connector.write("x", [b"%d " % i for i in range(2000)])
    assert len(bytes(connector.read("x")).split()) == 2000


@pytest.mark.parametrize("size", SIZES)
def test_what_is_read_belongs_to_the_reader(connector: Connector, size: int) -> None:
    old = os.urandom(size)
    connector.write("x", [old])
    first, second = connector.read("x"), connector.read("x")
    if size:
        first[0] ^= 0xFF
        assert first[0] != old[0]
    assert bytes(second) == old
    connector.write("x", [b"new"])
    assert bytes(second) == old
    assert connector.delete("x")
    assert bytes(second) == old
    for i in range(4):  # somebody else gets the space
        connector.write(f"y{i}", [os.urandom(size)])
    assert bytes(second) == old


def test_the_writers_memory_is_its_own_again(connector: Connector) -> None:
    data = bytearray(os.urandom(BIG))
    expected = bytes(data)
    connector.write("x", [data])
    data[:] = bytes(BIG)
    assert bytes(connector.read("x")) == expected


def test_nothing_there(connector: Connector) -> None:
    for ask in (connector.read, connector.size, connector.take):
        with pytest.raises(MissingDataError, match="'nothing here'"):
            ask("nothing here")
    with pytest.raises(MissingDataError, match="'nothing here'"):
        connector.copy("nothing here", "x")
    assert not connector.exists("nothing here")
    assert not connector.delete("nothing here")
    assert connector.keys() == []
    assert connector.delete_many(["a", "b"]) == 0


def test_delete(connector: Connector) -> None:
    for i in range(5):
        connector.write(f"k{i}", [b"v"])
    assert connector.delete("k0")
    assert not connector.delete("k0")
    assert not connector.exists("k0")
    assert connector.delete_many(["k1", "k2", "absent"]) == 2
    assert connector.keys() == ["k3", "k4"]


@pytest.mark.parametrize("size", [0, 10, BIG])
def test_copies_are_values_of_their_own(connector: Connector, size: int) -> None:
    data = os.urandom(size)
    connector.write("a", [data])
    connector.copy("a", "b")
    connector.copy("a", "a")
    connector.write("a", [b"other"])
    assert bytes(connector.read("b")) == data
    connector.copy("a", "b")
    connector.delete("a")
    assert bytes(connector.read("b")) == b"other"
    connector.write("c", [b"c"])
    assert connector.copy_many([("b", "d"), ("absent", "e"), ("c", "f")]) == ["absent"]
    assert connector.keys() == ["b", "c", "d", "f"]


def test_add_only_if_there_is_nothing(connector: Connector) -> None:
    assert connector.add("x", [b"first"])
    assert not connector.add("x", [b"second"])
    assert bytes(connector.read("x")) == b"first"
    connector.delete("x")
    assert connector.add("x", [])
    assert connector.exists("x")


def test_take(connector: Connector) -> None:
    data = os.urandom(BIG)
    connector.write("x", [data])
    found = connector.take("x")
    assert not connector.exists("x")
    assert connector.keys() == []
    connector.write("x", [bytes(BIG)])
    assert bytes(found) == data


# -- keys ------------------------------------------------------------------------------


AWKWARD = [
    ":", "a:", ":a", "::", "a:b:c", "a:{", "%:%", "a:%",
    ".", "..", ".parts", "a/b", "/", "%", "%41", "%=", "a b", "-x", "~", "*", "[a]", "?", "{x}",
    "}{", "a:b", "ä", "😀", "\n", "\0", "\x7f", "x" * LONGEST_KEY, "/" * LONGEST_KEY,
    "é" * (LONGEST_KEY // 2), "con", "A", "a", "\\", "^",
]  # fmt: skip


def test_awkward_keys(connector: Connector) -> None:
    for key in AWKWARD:
        connector.write(key, [key.encode()])
    assert connector.keys() == sorted(AWKWARD)
    for key in AWKWARD:
        assert bytes(connector.read(key)) == key.encode()
        assert connector.size(key) == len(key.encode())
    connector.copy("/" * LONGEST_KEY, "\0")
    assert len(connector.take("\0")) == LONGEST_KEY
    assert connector.delete_many(AWKWARD) == len(AWKWARD) - 1


@pytest.mark.parametrize("key", ["", "x" * (LONGEST_KEY + 1), "\ud800", 5, b"x", None])
def test_keys_that_cannot_be(connector: Connector, key: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: connector.write(key, [b""]),
        lambda: connector.add(key, [b""]),
        lambda: connector.read(key),
        lambda: connector.take(key),
        lambda: connector.wait(key, 0),
        lambda: connector.exists(key),
        lambda: connector.size(key),
        lambda: connector.delete(key),
        lambda: connector.copy(key, "x"),
        lambda: connector.copy("x", key),
    ]
    for call in calls:
        with pytest.raises(DataFormatError, match="key"):
            call()


@pytest.mark.parametrize("parts", [b"data", "text", ["text"], [1], [np.eye(4)[:, ::2]]])
def test_parts_that_cannot_be(connector: Connector, parts: Any) -> None:
    with pytest.raises(DataFormatError, match="part"):
        connector.write("x", parts)
    assert not connector.exists("x")


def test_patterns(connector: Connector) -> None:
    for key in ("a1", "a2", "b1", "a[1]", "a*", "x/y"):
        connector.write(key, [b""])
    assert connector.keys("a?") == ["a*", "a1", "a2"]
    assert connector.keys("[ab]1") == ["a1", "b1"]
    assert connector.keys("a[[]*") == ["a[1]"]
    assert connector.keys("[!a]*") == ["b1", "x/y"]
    assert connector.keys("x*y") == ["x/y"]
    assert connector.keys("a1") == ["a1"]
    assert connector.keys("nothing*") == []


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=45),
    data=st.binary(max_size=200),
)
def test_any_key_and_value(connector: Connector, key: str, data: bytes) -> None:
    connector.write(key, [data])
    assert bytes(connector.read(key)) == data
    assert connector.keys() == [key]
    assert bytes(connector.take(key)) == data


# -- waiting ---------------------------------------------------------------------------


def test_wait_for_what_is_there(connector: Connector) -> None:
    connector.write("x", [b""])
    connector.wait("x")
    connector.wait("x", 0)


def test_waiting_ends(connector: Connector) -> None:
    connector.write("y", [b""])
    for timeout_s in (0.0, 0.05):
        with pytest.raises(DataTimeoutError, match=f"'x' did not come within {timeout_s} s"):
            connector.wait("x", timeout_s)


@pytest.mark.parametrize("how", ["write", "add", "copy"])
def test_waiters_are_woken(connector: Connector, how: str) -> None:
    connector.write("source", [b"data"])
    started = threading.Barrier(5)
    seen: list[bytes] = []

    def wait() -> None:
        started.wait()
        connector.wait("x", 30)
        seen.append(bytes(connector.read("x")))

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    connector.write("not x", [b""])
    if how == "copy":
        connector.copy("source", "x")
    elif how == "add":
        connector.add("x", [b"data"])
    else:
        connector.write("x", [b"data"])
    for thread in threads:
        thread.join(30)
    assert seen == [b"data"] * 4


# -- several at once -------------------------------------------------------------------


def test_another_process(connector: Connector) -> None:
    process = bodies.start(connector, bodies.echo)
    connector.write("question", [b"?" * 100_000])
    connector.wait("answer", 30)
    assert bytes(connector.read("answer")) == b"?" * 100_000 + b"!"
    ended_well(process)


def test_a_pickle_holds_no_data_and_is_the_same_place(connector: Connector) -> None:
    connector.write("x", [bytes(BIG)])
    pickled = pickle.dumps(connector)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert type(again) is type(connector)
    assert again.scope == connector.scope
    assert again.local == connector.local
    again.write("y", [again.read("x")])
    assert connector.read("y") == connector.read("x")
    again.close()
    assert again.exists("y")


def test_facts(connector: Connector) -> None:
    assert connector.scope in ("node", "shared", "network")
    assert isinstance(connector.kind, str)
    assert type(connector).__name__ in repr(connector)


def test_readers_see_whole_values(connector: Connector) -> None:
    """While two processes write, and after they were killed in the middle of it."""
    connector.write("x", [b"\0" * bodies.LARGE])
    writers = [bodies.start(connector, bodies.write_for_ever, seed) for seed in "12"]
    seen: list[int] = []

    def both_were_seen() -> bool:
        found = connector.read("x")
        assert len(found) == bodies.LARGE
        assert bytes(found) == bytes(found[:1]) * bodies.LARGE
        seen.append(found[0])
        return len(seen) > 20 and {1, 2} <= set(seen)

    wait_until(both_were_seen, 60, "values of both")
    for writer in writers:
        writer.kill()
        writer.wait(30)
    both_were_seen()
    assert connector.keys() == ["x"]
    connector.write("x", [b"next"])


def test_one_of_many_adds_and_takes(connector: Connector) -> None:
    threads, rounds = 4, 15
    added: list[int] = []
    taken: list[bytes] = []

    def work(me: int) -> None:
        for i in range(rounds):
            if connector.add(f"k{i}", [b"%d" % me]):
                added.append(i)
            barrier.wait()
            with contextlib.suppress(MissingDataError):
                taken.append(bytes(connector.take(f"k{i}")))
            barrier.wait()

    barrier = threading.Barrier(threads)
    workers = [threading.Thread(target=work, args=(me,)) for me in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(added) == list(range(rounds))
    assert len(taken) == rounds
    assert connector.keys() == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork(connector: Connector) -> None:
    connector.write("x", [b"parent"])
    process = multiprocessing.get_context("fork").Process(target=bodies.echo, args=(connector,))
    process.start()
    connector.write("question", [b"ok"])
    connector.wait("answer", 30)
    process.join(30)
    assert process.exitcode == 0
    assert bytes(connector.read("answer")) == b"ok!"
    assert bytes(connector.read("x")) == b"parent"


def test_a_wait_notices_quickly(connector: Connector) -> None:
    """A generous limit: the slowest look again after a quarter of a second."""
    began = time.monotonic()
    timer = threading.Timer(0.3, connector.write, ("x", [b""]))
    timer.start()
    connector.wait("x", 30)
    timer.join()
    assert time.monotonic() - began < 10
