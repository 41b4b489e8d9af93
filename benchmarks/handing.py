# SPDX-License-Identifier: BSD-3-Clause
"""Arrays from one process to another: streams, side by side.

A writer process appends arrays, a reader takes them; at most so many may lie between the two.
The time is the reader's, from the first array that it has to the last.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssdag.client import Client
from ssdag.client.tensors import npy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ssdag import Orchestrator

Array = np.ndarray[Any, np.dtype[Any]]

#: Arrays that may lie between writer and reader.
BOUND = 3
DEADLINE_S = 120.0

#: Label, bytes of an array, how many in full and quick.
SIZES = (("80 kB", 80_000, 500, 50), ("8 MB", 8_000_000, 60, 10))


def _ssdag_write(client: Client, name: str, arrays: Iterator[Array]) -> None:
    with client.stream(name, capacity=BOUND).writer() as out:
        for array in arrays:
            out.append(array)


def _ssdag_read(client: Client, name: str) -> Iterator[Array]:
    yield from client.stream(name, capacity=BOUND)


def _redis_write(client: Client, name: str, arrays: Iterator[Array]) -> None:
    """What a careful user of redis-py writes: a stream, and credits for back-pressure."""
    server = client.redis
    for array in arrays:
        server.blpop([f"{name}.credits"])
        server.xadd(name, {"data": npy.as_bytes(array)})
    server.xadd(name, {"end": b"1"})


def _redis_read(client: Client, name: str) -> Iterator[Array]:
    server: Any = client.redis
    server.rpush(f"{name}.credits", *[b"1"] * BOUND)
    last = "0"
    while True:
        (entry,) = server.xread({name: last}, count=1, block=0)[0][1]
        last, fields = entry
        if b"end" in fields:
            return
        yield np.frombuffer(fields[b"data"])
        server.xdel(name, last)
        server.rpush(f"{name}.credits", b"1")


def _sst_io(name: str) -> Any:
    from adios2 import Adios

    io = Adios().declare_io(name)
    io.set_engine("SST")
    io.set_parameters(
        {"QueueLimit": str(BOUND), "QueueFullPolicy": "Block", "RendezvousReaderCount": "1"}
    )
    return io


def _sst_write(client: Client, name: str, arrays: Iterator[Array]) -> None:
    from adios2 import Stream

    with Stream(_sst_io("writer"), name, "w") as stream:
        for array in arrays:
            stream.begin_step()
            stream.write("x", array, [array.size], [0], [array.size])
            stream.end_step()


def _sst_read(client: Client, name: str) -> Iterator[Array]:
    from adios2 import Stream

    with Stream(_sst_io("reader"), name, "r") as stream:
        for _ in stream.steps():
            yield stream.read("x")


WRITERS: dict[str, Callable[[Client, str, Iterator[Array]], None]] = {
    "ssdag stream": _ssdag_write,
    "redis-py, stream and credits": _redis_write,
    "ADIOS2 SST": _sst_write,
}
READERS: dict[str, Callable[[Client, str], Iterator[Array]]] = {
    "ssdag stream": _ssdag_read,
    "redis-py, stream and credits": _redis_read,
    "ADIOS2 SST": _sst_read,
}
NEEDS = {"ADIOS2 SST": "adios2"}


def _arrays(size: int, count: int) -> Iterator[Array]:
    array = np.random.default_rng(0).random(size // 8)
    for number in range(count):
        array[0] = number
        yield array


def measure(db: Orchestrator, quick: bool) -> dict[str, dict[str, float]]:
    """Return arrays per second for each way and size; ways take turns."""
    rounds = 1 if quick else 3
    found: dict[str, dict[str, list[float]]] = {}
    for turn in range(rounds):
        for label, size, full, few in SIZES:
            for way in WRITERS:
                if way in NEEDS and importlib.util.find_spec(NEEDS[way]) is None:
                    continue
                rate = _once(db, way, size, few if quick else full, turn)
                found.setdefault(way, {}).setdefault(label, []).append(rate)
    return {
        way: {label: statistics.median(rates) for label, rates in labels.items()}
        for way, labels in found.items()
    }


def _once(db: Orchestrator, way: str, size: int, count: int, turn: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        name = str(Path(folder, f"s{size}.{turn}"))
        words = [way, name, str(size), str(count), db.address, db.password_file]
        line = [sys.executable, "-m", "benchmarks.handing"]
        with subprocess.Popen([*line, "write", *words], cwd=folder_of_benchmarks()) as writer:
            answer = subprocess.run(
                [*line, "read", *words], cwd=folder_of_benchmarks(), text=True,
                stdout=subprocess.PIPE, timeout=DEADLINE_S, check=True,
            )  # fmt: skip
            writer.wait(DEADLINE_S)
    return float(json.loads(answer.stdout.splitlines()[-1]))


def folder_of_benchmarks() -> Path:
    """Return where ``-m benchmarks`` is found."""
    return Path(__file__).parents[1]


def main() -> None:
    """Be the writer or the reader."""
    role, way, name, size, count, address, password_file = sys.argv[1:]
    client = Client(address, password_file=password_file)
    if role == "write":
        WRITERS[way](client, name, _arrays(int(size), int(count)))
        return
    taken = 0
    began = 0.0
    for array in READERS[way](client, name):
        assert array[0] == taken
        taken += 1
        if taken == 1:
            began = time.perf_counter()
    took = time.perf_counter() - began
    assert taken == int(count)
    print(json.dumps((taken - 1) / took))


if __name__ == "__main__":
    main()
