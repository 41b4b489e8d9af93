# SPDX-License-Identifier: BSD-3-Clause
"""What waiting costs, what many clients get, and what a slow reader does to the server."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.handing import folder_of_benchmarks
from ssdag.client import Client
from ssdag.client.tensors import npy

if TYPE_CHECKING:
    from ssdag import Orchestrator

#: Processes at a time, and how long each is at work.
CLIENTS = (1, 4, 16)
SECONDS = 2.0
DEADLINE_S = 120.0


def wake_up(db: Orchestrator, rounds: int) -> dict[str, tuple[float, float]]:
    """Return p50 and p99 in seconds, from before a put until the waiting thread is back."""
    ours, other = db.client(), db.client().clone()
    plain = db.client().redis
    value = np.zeros(8)
    result = {}

    def poll(name: str) -> None:  # as SmartRedis does it, every 10 ms
        while not plain.exists(name):
            time.sleep(0.01)

    def put(name: str) -> None:
        other.put_tensor(name, value)

    def push(name: str) -> None:
        other.redis.rpush(name, b"x")

    for label, wait, write in (
        ("ssdag wait_tensor", lambda name: ours.wait_tensor(name, 30), put),
        ("redis-py, BLPOP, if the writer pushes", lambda name: plain.blpop(name, 30), push),
        ("redis-py, polled every 10 ms", poll, put),
    ):
        times = []
        for i in range(max(rounds // 20, 10) if wait is poll else rounds):
            name, begun = f"w {label} {i}", threading.Event()
            woken: list[float] = []
            thread = threading.Thread(target=_wait, args=(wait, name, begun, woken))
            thread.start()
            begun.wait()
            time.sleep(0.003)  # until it waits
            began = time.perf_counter()
            write(name)
            thread.join()
            times.append(woken[0] - began)
            other.delete_tensor(name)
        times.sort()
        result[label] = statistics.median(times), times[int(len(times) * 0.99)]
    other.close()
    return result


def _wait(wait: Any, name: str, begun: threading.Event, woken: list[float]) -> None:
    begun.set()
    wait(name)
    woken.append(time.perf_counter())


def idle_futures(db: Orchestrator, count: int, seconds: float) -> dict[str, float]:
    """Return the share of a core that waiting futures cost, here and at the server."""
    import psutil

    futures = [db.tensor(f"never.{i}") for i in range(count)]
    # All are known to the server once the last of them has been seen to come.
    last = db.tensor("last")
    db.client().put_tensor("last", np.zeros(1))
    last.result(60)
    server = psutil.Process(db.pid)
    before, server_before = time.process_time(), sum(server.cpu_times()[:2])
    threading.Event().wait(seconds)
    ours, theirs = time.process_time() - before, sum(server.cpu_times()[:2]) - server_before
    for future in futures:
        future.cancel()
    return {"futures": count, "driver": ours / seconds, "server": theirs / seconds}


def many_clients(db: Orchestrator) -> dict[str, dict[str, float]]:
    """Return puts and gets of 64 KiB per second, of all processes together."""
    found: dict[str, dict[str, float]] = {}
    for count in CLIENTS:
        for way in ("ssdag", "redis-py"):
            line = [sys.executable, "-m", "benchmarks.waiting", way, db.address, db.password_file]
            children = [
                subprocess.Popen(
                    [*line, str(i)], cwd=folder_of_benchmarks(), text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                )
                for i in range(count)
            ]  # fmt: skip
            for child in children:  # all have connected
                assert child.stdout is not None
                child.stdout.readline()
            for child in children:
                assert child.stdin is not None
                child.stdin.write("go\n")
                child.stdin.flush()
            total = sum(int(child.communicate(timeout=DEADLINE_S)[0]) for child in children)
            found.setdefault(way, {})[str(count)] = total / SECONDS
    return found


def slow_reader(db: Orchestrator, count: int) -> dict[str, float]:
    """Return the server's memory, in bytes, while a reader takes 20 ms for each of 8 MB."""
    writer, reader = db.client().clone(), db.client()
    array = np.zeros(1_000_000)
    base = _memory(db)
    most = 0

    def write() -> None:
        with writer.stream("slow", capacity=3).writer() as out:
            for _ in range(count):
                out.append(array)

    thread = threading.Thread(target=write)
    thread.start()
    for _ in reader.stream("slow", capacity=3):
        most = max(most, _memory(db) - base)
        time.sleep(0.02)
    thread.join()
    writer.close()
    return {"written": float(array.nbytes * count), "most": float(most)}


def _memory(db: Orchestrator) -> int:
    return int(db.health().facts["memory_bytes"])


def main() -> None:
    """Put and get for a while; print how often."""
    way, address, password_file, number = sys.argv[1:]
    client = Client(address, password_file=password_file)
    array, name, count = np.zeros(8192), f"many.{number}", 0
    plain = client.redis
    client.put_tensor(name, array)
    plain.ping()
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        if way == "ssdag":
            client.put_tensor(name, array)
            client.get_tensor(name)
        else:
            plain.set(name, npy.as_bytes(array))
            np.frombuffer(plain.get(name))  # type: ignore[arg-type]
        count += 2
    print(count)


if __name__ == "__main__":
    main()
