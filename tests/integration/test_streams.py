# SPDX-License-Identifier: BSD-3-Clause
"""Streams: order, policies, groups, the end, steps; and who waits for whom."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ssdag.client import Client
from ssdag.client.streams.keys import Keys
from ssdag.errors import (
    ConfigError,
    DataError,
    DataFormatError,
    DataTimeoutError,
    MissingDataError,
)
from ssdag.services.orchestrator import Orchestrator
from tests.conftest import wait_until
from tests.integration.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.client.streams.stream import Stream

#: More than stands in an entry itself.
LARGE = np.arange(4096.0)


@pytest.fixture(scope="module", params=SERVERS)
def db(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    with Orchestrator(server=request.param) as service:
        yield service


@pytest.fixture
def client(db: Orchestrator) -> Iterator[Client]:
    with Client(db.address, password_file=db.password_file) as made:
        made.call("FLUSHDB")
        yield made


def values(stream: Stream, group: str = "default", count: int | None = None) -> list[Any]:
    """Read a stream to its end, or so many records of it."""
    with stream.reader(group, timeout_s=20) as reader:
        if count is None:
            return list(reader)
        return [next(reader) for _ in range(count)]


def stream_keys(client: Client) -> set[str]:
    return {key.decode() for key in client.call("KEYS", "*")}


def payloads(client: Client) -> list[str]:
    """Keys that hold the bytes of large records."""
    return sorted(key for key in stream_keys(client) if key.count(":") == 3)


def test_order_and_end(client: Client) -> None:
    out = client.stream("u", capacity=4)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(values, client.stream("u"))
        for i in range(50):
            out.append({"i": i, "u": LARGE if i % 3 == 0 else LARGE[:2]}, timeout_s=20)
        out.end()
        assert [record["i"] for record in read.result(20)] == list(range(50))
    info = out.info()
    assert (info.length, info.appended, info.dropped, info.ended) == (0, 50, 0, True)
    with pytest.raises(DataError, match="has ended"):
        out.append(1.0)
    # Also who comes later finds the end, as often as it looks.
    assert values(out) == values(out) == values(out, "another") == []


def test_for_loop_goes_on_where_it_was_left(client: Client) -> None:
    stream = client.stream("u")
    for i in range(4):
        stream.append(i)
    stream.end()
    for record in stream:
        if record == 1:
            break
    assert [int(record) for record in stream] == [2, 3]


def test_evicted_when_read(client: Client) -> None:
    stream = client.stream("u")
    for _ in range(3):
        stream.append(LARGE)
    assert len(payloads(client)) == 3
    with stream.reader() as reader:
        for _ in range(3):
            reader.read(20)
        reader.done()
        assert not payloads(client)
        assert len(stream) == 0


def test_kept_for_later_groups(client: Client) -> None:
    stream = client.stream("u", capacity=3, evict=False)
    for i in range(3):
        stream.append(i)
    assert values(stream, count=3) == [0, 1, 2]
    assert values(stream, "later", count=3) == [0, 1, 2]
    stream.append(3, timeout_s=20)  # takes the room of 0
    assert values(stream, "latest", count=3) == [1, 2, 3]
    assert values(stream, count=1) == [3]
    stream.append(4)  # takes the room of 1, which all have had; "later" has not had 3
    stream.append(5)
    with pytest.raises(DataTimeoutError):
        stream.append(6, timeout_s=0)
    assert values(stream, "later", count=3) == [3, 4, 5]


def test_writer_waits_for_room(client: Client) -> None:
    stream = client.stream("u", capacity=2)
    stream.append(LARGE)
    stream.append(LARGE)
    with pytest.raises(DataTimeoutError, match="was full"):
        stream.append(LARGE, timeout_s=0.05)
    with pytest.raises(DataTimeoutError, match="was full"):
        stream.append(1, timeout_s=0)
    assert len(stream) == 2
    assert len(payloads(client)) == 2
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stream.append, LARGE)
        with stream.reader(timeout_s=20) as reader:
            reader.read()
            assert not waiting.done()  # one is in work, one is there
            reader.read()
            waiting.result(20)
    assert stream.info().appended == 3


def test_slow_readers_hold_up_writers_only_so_far(client: Client) -> None:
    """Many writers, a small stream: all records arrive, each once, in each writer's order."""
    stream = client.stream("u", capacity=3, writers=4)

    def write(rank: int) -> None:
        with client.stream("u", writers=4).writer() as out:
            for i in range(40):
                out.append({"rank": rank, "i": i, "u": LARGE[: 1024 * (i % 2)]}, timeout_s=30)

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, rank) for rank in range(4)]
        seen = [(record["rank"], record["i"]) for record in values(stream)]
        for writer in writers:
            writer.result(20)
    assert sorted(seen) == [(rank, i) for rank in range(4) for i in range(40)]
    for rank in range(4):
        assert [i for r, i in seen if r == rank] == list(range(40))


def test_drop_oldest(client: Client) -> None:
    stream = client.stream("u", capacity=3, policy="drop_oldest")
    for i in range(10):
        stream.append({"i": i, "u": LARGE}, timeout_s=0)
    assert stream.info().dropped == 7
    assert len(payloads(client)) == 3
    with stream.reader(timeout_s=20) as reader:
        assert next(reader)["i"] == 7
        for i in range(10, 20):
            stream.append({"i": i, "u": LARGE}, timeout_s=0)
        # The one that was in work was not taken away; it did not count either.
        assert [next(reader)["i"] for _ in range(3)] == [17, 18, 19]


def test_latest(client: Client) -> None:
    stream = client.stream("u", policy="latest")
    for i in range(10):
        stream.append(i)
    assert values(stream, count=1) == [9]
    stream.append(10)
    stream.append(11)
    stream.end()
    assert values(stream) == [11]


def test_groups_get_all_and_readers_share(client: Client) -> None:
    stream = client.stream("u", capacity=100)
    with ThreadPoolExecutor(5) as pool:
        shared = [pool.submit(values, client.stream("u"), "shared") for _ in range(4)]
        alone = pool.submit(values, client.stream("u"), "alone")
        wait_until(lambda: len(stream.info().groups) == 2)
        for i in range(100):
            stream.append(i)
        stream.end()
        parts = [[int(i) for i in part.result(20)] for part in shared]
        assert sorted(i for part in parts for i in part) == list(range(100))
        assert [int(i) for i in alone.result(20)] == list(range(100))
    assert len(stream) == 0


def test_a_group_made_before_its_readers_misses_nothing(client: Client) -> None:
    stream = client.stream("u", capacity=2)
    stream.add_group("late")
    stream.add_group("late")
    stream.append(0)
    stream.append(1)
    assert values(stream, "early", count=2) == [0, 1]
    with pytest.raises(DataTimeoutError):  # "late" has not had them
        stream.append(2, timeout_s=0)
    assert values(stream, "late", count=2) == [0, 1]
    stream.append(2)
    with pytest.raises(ConfigError, match="start="):
        stream.add_group("other", start="middle")  # type: ignore[arg-type]


def test_a_group_that_begins_with_what_comes(client: Client) -> None:
    stream = client.stream("u")
    stream.append(1)
    with stream.reader("new", start="newest", timeout_s=20) as reader:
        with pytest.raises(DataTimeoutError):
            reader.read(0)
        stream.append(2)
        stream.end()
        assert [int(i) for i in reader] == [2]
    assert values(stream) == [1]  # 2 went when all groups that there were had it
    with stream.reader("late and new", start="newest", timeout_s=20) as reader:
        assert list(reader) == []


def test_remove_group_frees_writers(client: Client) -> None:
    stream = client.stream("u", capacity=2)
    for group in ("a", "b"):
        with stream.reader(group) as reader, pytest.raises(DataTimeoutError):
            reader.read(0)
    stream.append(0)
    stream.append(1)
    assert values(stream, "a", count=2) == [0, 1]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stream.append, 2)
        assert stream.remove_group("b")
        waiting.result(20)
    assert not stream.remove_group("b")
    assert len(stream) == 1


def test_a_full_stream_names_the_group_that_nobody_reads(client: Client) -> None:
    stream = client.stream("u", capacity=1)
    stream.append(0)
    with pytest.raises(DataTimeoutError, match="nobody reads it, or a reader is slow"):
        stream.append(1, timeout_s=0)
    stream.add_group("left")
    with stream.reader("here") as reader:
        reader.read(20)  # has it in work: slow, but there
        with pytest.raises(DataTimeoutError, match=r"'left', for.* remove_group\('left'\)"):
            stream.append(1, timeout_s=0)
        assert stream.remove_group("left")
        with pytest.raises(DataTimeoutError, match="a reader is slow"):
            stream.append(1, timeout_s=0)
    stream.append(1, timeout_s=20)  # it was done with 0 as it left
    with pytest.raises(DataTimeoutError, match=r"remove_group\('here'\)"):
        stream.append(LARGE, timeout_s=0)
    assert stream.remove_group("here")


def test_newest_looks_without_reading(client: Client) -> None:
    stream = client.stream("u")
    assert stream.newest() is None
    stream.append(LARGE)
    stream.append(LARGE + 1)
    stream.end()
    for _ in range(2):
        entry = stream.newest()
        assert entry is not None
        assert entry.number == 2
        assert entry.value[0] == 1
    assert len(stream) == 2


def test_failure_of_a_writer_reaches_readers(client: Client) -> None:
    stream = client.stream("u", writers=3)
    stream.append(1)
    with pytest.raises(ZeroDivisionError), stream.writer():
        raise ZeroDivisionError("no luck")
    with stream.reader(timeout_s=20) as reader:
        assert next(reader) == 1
        with pytest.raises(DataError, match="ZeroDivisionError: no luck"):
            next(reader)
        with pytest.raises(DataError, match="no luck"):
            next(reader)


def test_the_end_wakes_all_who_wait(client: Client) -> None:
    stream = client.stream("u", capacity=1)
    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(values, client.stream("u"), group) for group in "aaabb"]
        wait_until(lambda: [g.readers for g in stream.info().groups.values()] in ([3, 2], [2, 3]))
        stream.end()
        assert [reader.result(20) for reader in readers] == [[]] * 5


def test_the_end_wakes_writers_that_wait(client: Client) -> None:
    stream = client.stream("u", capacity=1)
    stream.append(1)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(stream.writer().append, 2) for _ in range(3)]
        stream.end()
        for writer in waiting:
            with pytest.raises(DataError, match="has ended"):
                writer.result(20)
    assert values(stream) == [1]


def test_steps(client: Client) -> None:
    out = client.stream("u")
    for step in range(3):
        out.begin_step()
        out.put("u", np.full((2, 2), step))
        out.put("t", 0.5 * step)
        out.end_step()
    out.end()
    with client.stream("u").reader(timeout_s=20) as reader:
        count = 0
        while reader.begin_step():
            assert reader.names == ("u", "t")
            assert reader.get("t") == 0.5 * count
            with pytest.raises(MissingDataError, match="it has u, t"):
                reader.get("w")
            reader.end_step()
            count += 1
        assert count == 3
        with pytest.raises(DataError, match="not in a step"):
            reader.get("u")
    with pytest.raises(DataError, match="outside of a step"):
        out.end_step()
    with pytest.raises(DataError, match="outside of a step"):
        out.put("u", 1)


def test_options_are_those_of_the_first(client: Client) -> None:
    client.stream("u", capacity=5, policy="drop_oldest")
    assert client.stream("u").info().capacity == 5
    stream = client.stream("u", capacity=5, writers=2)
    with pytest.raises(ConfigError, match="has capacity=5, and 6 was asked for"):
        client.stream("u", capacity=6)
    with pytest.raises(ConfigError, match="policy=drop_oldest"):
        client.stream("u", policy="block")
    stream.delete()
    client.stream("u", policy="latest")
    with pytest.raises(ConfigError, match="has capacity=1"):
        stream.append(2)
    client.stream("u").append(2)
    assert client.stream("u").info().policy == "latest"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"capacity": 0}, "capacity=0"),
        ({"capacity": True}, "capacity=True"),
        ({"writers": 1.5}, "writers=1.5"),
        ({"policy": "newest"}, "policy='newest'"),
        ({"capacity": 3, "policy": "latest"}, "drop_oldest"),
    ],
)
def test_impossible_options(client: Client, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        client.stream("u", **options)
    with pytest.raises(DataFormatError):
        client.stream("")


def test_delete(client: Client) -> None:
    stream = client.stream("u")
    assert not stream.delete()
    for _ in range(3):
        stream.append(LARGE)
    with client.stream("u").reader(timeout_s=20) as reader:
        next(reader)
        assert stream.delete()
        writers = {key for key in stream_keys(client) if key.count(":") == 2}
        assert writers == stream_keys(client)
        with pytest.raises(MissingDataError, match="deleted"):
            next(reader)
        stream.append(4)
        assert next(reader) == 4


def test_a_reader_that_waits_hears_of_the_deletion(client: Client) -> None:
    stream = client.stream("u")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(values, stream)
        wait_until(lambda: "default" in stream.info().groups)
        stream.delete()
        with pytest.raises(MissingDataError, match="deleted"):
            waiting.result(20)


def test_lost_bytes_are_said_and_passed(client: Client) -> None:
    stream = client.stream("u")
    stream.append(LARGE)
    stream.append(LARGE)
    client.call("DEL", payloads(client)[0])
    with stream.reader(timeout_s=20) as reader:
        with pytest.raises(MissingDataError, match="record 1"):
            reader.read()
        entry = reader.read()
        assert entry is not None
        assert entry.number == 2


def test_another_kind_of_value_under_the_name(client: Client) -> None:
    client.call("SET", Keys.of("u").stream.decode(), "1")
    with pytest.raises(DataError, match="another kind"):
        client.stream("u").append(1)
    with pytest.raises(DataError, match="another kind"):
        next(iter(client.stream("u")))


def test_prefixes(client: Client) -> None:
    client.prefixes.out = "a"
    client.prefixes.source = "b"
    client.stream("u").append(1)
    assert "{a.u}:stream" in stream_keys(client)
    with pytest.raises(DataTimeoutError):
        client.stream("u").reader(timeout_s=0).read()
    client.prefixes.source = "a"
    assert values(client.stream("u"), count=1) == [1]


def test_pickles_as_name_and_address(client: Client, db: Orchestrator) -> None:
    stream = pickle.loads(pickle.dumps(client.stream("u", capacity=2)))
    stream.append(1)
    assert values(client.stream("u"), count=1) == [1]
    assert stream.info().capacity == 2
    shared = db.client().stream("u")
    assert pickle.loads(pickle.dumps(shared))._core.client is db.client()
    stream._core.client.close()


def test_threads_share_a_writer(client: Client) -> None:
    stream = client.stream("u", capacity=1000)
    barrier = threading.Barrier(4)

    def write(rank: int) -> None:
        barrier.wait()
        for i in range(50):
            stream.append(rank * 1000 + i)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    stream.end()
    seen = [int(i) for i in values(stream)]
    assert sorted(seen) == [rank * 1000 + i for rank in range(4) for i in range(50)]
