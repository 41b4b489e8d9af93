# SPDX-License-Identifier: BSD-3-Clause
"""Futures of data: thousands at once, written by anybody, cancelled, lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import wait
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from ssdag.client import Client
from ssdag.client.shared import TensorReference
from ssdag.client.waiting.conditions import existence
from ssdag.client.waiting.watch import Watcher
from ssdag.client.waiting.watchers import watcher_for
from ssdag.errors import DataFormatError, MissingDataError, StoreError
from ssdag.services.orchestrator import Orchestrator

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def db() -> Iterator[Orchestrator]:
    with Orchestrator() as service:
        yield service


WRITER = """
import io, os, sys, numpy, redis
out = io.BytesIO()
numpy.save(out, numpy.arange(5.0))
path = os.environ["SSDB"].removeprefix("unix://")
password = open(os.environ["SSDAG_PASSWORD_FILE"]).read().strip()
redis.Redis(unix_socket_path=path, password=password).set("from outside", out.getvalue())
"""


def test_another_process_with_plain_redis_writes(db: Orchestrator) -> None:
    future = db.tensor("from outside")
    assert not future.done()
    environment = {**os.environ, **db.environment()}
    subprocess.run([sys.executable, "-c", WRITER], env=environment, check=True)
    assert future.result(5).tolist() == [0, 1, 2, 3, 4]
    assert isinstance(future._result, TensorReference)


def test_client_from_the_environment(db: Orchestrator) -> None:
    code = "from ssdag.client import Client; Client().put_tensor('a', [1, 2])"
    environment = {**os.environ, **db.environment()}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert db.tensor("a").result(5).tolist() == [1, 2]


def test_written_before(db: Orchestrator) -> None:
    db.client().put_tensor("a", [3])
    assert db.tensor("a").result(5).tolist() == [3]


def test_starts_lazily() -> None:
    db = Orchestrator()
    future = db.tensor("a")
    with db:
        db.client().put_tensor("a", [3])
        assert future.result(5).tolist() == [3]


@pytest.mark.parametrize("command", ["rename", "copy", "restore"])
def test_other_ways_to_appear(db: Orchestrator, command: str) -> None:
    redis = db.client().redis
    db.client().put_tensor("source", [3])
    future = db.tensor("target")
    if command == "rename":
        redis.rename("source", "target")
    elif command == "copy":
        redis.copy("source", "target")
    else:
        redis.restore("target", 0, redis.dump("source") or b"")
    assert future.result(5).tolist() == [3]


def test_two_thousand_names(db: Orchestrator) -> None:
    names = [f"tensor {i}" for i in range(2000)]
    client = db.client()
    for name in names[::3]:
        client.put_tensor(name, [1])
    futures = [db.tensor(name) for name in names]

    def write() -> None:
        for name in names[1::3]:
            client.put_tensor(name, [1])

    writer = threading.Thread(target=write)
    writer.start()
    for name in names[2::3]:
        client.put_tensor(name, [1])
    writer.join()
    done, waiting = wait(futures, 20)
    assert (len(done), len(waiting)) == (2000, 0)
    assert all(future.exception() is None for future in futures)
    assert watcher_for(client).waiting == 0


def test_no_write_is_missed(db: Orchestrator) -> None:
    """Put and watch at the same moment, many times."""
    client = db.client()
    for i in range(200):
        writer = threading.Thread(target=client.put_tensor, args=(f"race {i}", [i]))
        writer.start()
        future = db.tensor(f"race {i}")
        assert future.result(5)[0] == i
        writer.join()


def test_same_name_and_cancel(db: Orchestrator) -> None:
    first, second, third = (db.tensor("a") for _ in range(3))
    watcher = watcher_for(db.client())
    assert second.cancel()
    assert watcher.waiting == 1
    db.client().put_tensor("a", [1])
    assert first.result(5)[0] == third.result(5)[0] == 1
    assert second.cancelled()
    other = db.tensor("b")
    other.cancel()
    assert watcher.waiting == 0


def test_deleted_before_it_is_fetched(db: Orchestrator) -> None:
    client = db.client()
    future = db.tensor("a")
    client.put_tensor("a", [1])
    assert future.exception(5) is None
    client.delete_tensor("a")
    with pytest.raises(MissingDataError):
        future.result()
    again = db.tensor("a")
    client.put_tensor("a", [2])
    assert again.result(5)[0] == 2


def test_bad_name(db: Orchestrator) -> None:
    with pytest.raises(DataFormatError):
        db.tensor("")


def test_server_killed(db: Orchestrator) -> None:
    futures = [db.tensor(f"t{i}") for i in range(10)]
    assert db.pid is not None
    watcher_for(db.client())
    os.kill(db.pid, signal.SIGKILL)
    for future in futures:
        error = future.exception(5)
        assert isinstance(error, StoreError)
        assert "'orchestrator'" in str(error)
        assert "SIGKILL" in str(error)
    late = db.tensor("late")
    assert isinstance(late.exception(5), StoreError)


def test_server_lost_for_another_process(db: Orchestrator) -> None:
    """A watcher that does not own the server gives up after its time."""
    with Client(db.address, password_file=db.password_file) as client:
        watcher = Watcher(client, patience_s=0.2)
        future = watcher.watch(existence("tensor", "a", b"a"))
        db.stop()
        assert isinstance(future.exception(5), StoreError)
        assert isinstance(watcher.watch(existence("tensor", "b", b"b")).exception(5), StoreError)


def test_server_without_notifications() -> None:
    with Orchestrator(config={"notify-keyspace-events": '""'}) as db:
        error = db.tensor("a").exception(5)
        assert isinstance(error, StoreError)
        assert "notify-keyspace-events" in str(error)


def test_idle_costs_nothing(db: Orchestrator) -> None:
    futures = [db.tensor(f"t{i}") for i in range(10_000)]
    client = db.client()
    client.put_tensor("t9999", [1])
    futures[-1].result(20)
    assert db.pid is not None
    processes = [psutil.Process(), psutil.Process(db.pid)]
    before = [sum(p.cpu_times()[:2]) for p in processes]
    time.sleep(1.0)  # the measured interval, not a synchronisation
    used = sum(sum(p.cpu_times()[:2]) for p in processes) - sum(before)
    assert used <= 0.03  # two ticks of the clock, and the server's own beat


def test_latency(db: Orchestrator) -> None:
    client = db.client()
    times = []
    for i in range(100):
        future = db.tensor(f"t{i}")
        woken = threading.Event()
        when: list[float] = []

        def note(_: object, woken: threading.Event = woken, when: list[float] = when) -> None:
            when.append(time.perf_counter())
            woken.set()

        future.add_done_callback(note)
        began = time.perf_counter()
        client.put_tensor(f"t{i}", [1])
        assert woken.wait(5)
        times.append(when[0] - began)
    assert np.median(times) < 0.005
