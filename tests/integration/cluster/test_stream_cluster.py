# SPDX-License-Identifier: BSD-3-Clause
"""Streams on clusters: all of one is on one node, which may change under it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ssdag.client.transport.slots import slot_of
from tests.conftest import wait_until
from tests.integration.redis_cluster import RedisCluster

if TYPE_CHECKING:
    from pathlib import Path

    from ssdag.client import Client
    from ssdag.client.streams.stream import Stream


def numbers(stream: Stream) -> list[int]:
    with stream.reader(timeout_s=30) as reader:
        return [int(value.flat[0]) for value in reader]


def write(stream: Stream, count: int) -> None:
    for i in range(count):
        stream.append(np.full(2048 if i % 2 else 1, i), timeout_s=30)
    stream.end()


def test_streams_on_all_nodes(client: Client) -> None:
    streams = [client.stream(f"u{i}", capacity=3) for i in range(12)]
    assert len({str(client.node_of(stream._core.write_keys.stream)) for stream in streams}) == 3
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(write, stream, 9) for stream in streams[:2]]
        for stream in streams[:2]:
            assert numbers(stream) == list(range(9))
        for writing in done:
            writing.result(20)
    for stream in streams[2:]:
        write_one = np.arange(3000.0)
        stream.append(write_one)
        with stream.reader(timeout_s=20) as reader:
            assert (next(reader) == write_one).all()


def test_taken_over_from_a_reader_that_is_gone(client: Client, cluster: RedisCluster) -> None:
    stream = client.stream("u")
    stream.append(np.array([1]))
    gone = cluster.client()
    reader = gone.stream("u").reader(timeout_s=20)
    assert next(reader) == 1
    reader._presence.close()
    gone.close()
    stream.end()
    wait_until(lambda: numbers(stream) == [1], what="the server sees that it is gone")


def test_a_stream_that_moves_between_nodes(client: Client, cluster: RedisCluster) -> None:
    """Writer and reader go on while all of it moves to another node and back."""
    stream = client.stream("u", capacity=4)
    slot = slot_of(stream._core.write_keys.stream)
    nodes = [cluster.owner(slot)]
    nodes.append(next(s for s in cluster.primaries if s is not nodes[0]))
    began = threading.Event()

    def read() -> list[int]:
        found = []
        with cluster.client() as near, near.stream("u").reader(timeout_s=30) as reader:
            for value in reader:
                found.append(int(value.flat[0]))
                if len(found) == 20:
                    began.set()
        return found

    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(read)
        writing = pool.submit(write, stream, 400)
        assert began.wait(30)
        for _ in range(2):
            cluster.move(slot, nodes[0], nodes[1])
            nodes.reverse()
        writing.result(60)
        assert reading.result(60) == list(range(400))


def test_a_stream_that_moves_while_all_wait(client: Client, cluster: RedisCluster) -> None:
    stream = client.stream("u", capacity=1)
    full = client.stream("{u}full", capacity=1)
    full.append(np.array([0]))
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(numbers, stream)
        writing = pool.submit(full.append, np.array([1]))
        wait_until(lambda: "default" in stream.info().groups)
        for waiting in (stream, full):
            slot = slot_of(waiting._core.write_keys.stream)
            source = cluster.owner(slot)
            cluster.move(slot, source, next(s for s in cluster.primaries if s is not source))
        write(stream, 5)
        assert reading.result(30) == list(range(5))
        with full.reader(timeout_s=30) as reader:
            assert next(reader) == 0
            assert next(reader) == 1
        writing.result(30)


def test_steering_on_a_slot_that_moves(client: Client, cluster: RedisCluster) -> None:
    checkpoint = client.checkpoint("c", keep=2)
    counter = client.step_counter("c")
    steering = client.steering("c")
    slot = slot_of(b"{c}")
    source = cluster.owner(slot)
    target = next(s for s in cluster.primaries if s is not source)

    def run() -> list[int]:
        seen = []
        for step in range(300):
            checkpoint.save(step, np.full(600, step))
            counter.done(step)
            seen += [command.value for command in steering.check(step)]
            client.steer("next", step, channel="c")
        return seen

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        assert client.step_counter("c").wait(20, timeout_s=30) >= 20
        cluster.move(slot, source, target)
        cluster.move(slot, target, source)
        assert client.step_counter("c").wait(299, timeout_s=60) == 299
        assert running.result(30) == list(range(299))
    assert checkpoint.steps == [298, 299]
    assert (checkpoint.load().value == 299).all()
    assert checkpoint.delete()


def test_a_replica_takes_over(tmp_path: Path) -> None:
    """Who reads and writes goes on with the replica of a node that was killed."""
    with (
        RedisCluster(tmp_path, 3, replicas=1) as cluster,
        cluster.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        stream = client.stream("u", capacity=1000)
        owner = cluster.owner(slot_of(stream._core.write_keys.stream))
        for i in range(10):
            stream.append(np.array([i]))
        node = client.node_of(stream._core.write_keys.stream)
        names = (f"other {i}" for i in range(1000))
        other = client.stream(next(n for n in names if client.node_of(f"{{{n}}}".encode()) == node))
        other.append(np.array([1]))
        other.end()
        reading = pool.submit(numbers, stream)
        wait_until(lambda: len(stream) == 0)
        assert owner.call("WAIT", 1, 5000) == 1  # the replica knows
        owner.kill()
        assert numbers(other) == [1]  # one that begins to read just now
        for i in range(10, 20):
            stream.append(np.array([i]), timeout_s=60)
        stream.end()
        assert reading.result(60) == list(range(20))
