# SPDX-License-Identifier: BSD-3-Clause
"""Ways to put an array somewhere and to get it back, side by side."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import redis

from ssdag.client.tensors import npy
from ssdag.connectors import (
    DirectoryConnector,
    DistributedDict,
    RedisConnector,
    SharedMemoryConnector,
)
from ssdag.services.orchestrator import Orchestrator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
Array = np.ndarray[Any, np.dtype[Any]]

#: Label, bytes, rounds in full and quick.
SIZES = (("8 kB", 8_000, 300, 30), ("1 MB", 1_000_000, 100, 10), ("8 MB", 8_000_000, 30, 5))
WARM_UP = 2
DRAGON_DEADLINE_S = 240.0


class Way(NamedTuple):
    """One way; its name begins with ``ssdag`` if it is ours."""

    name: str
    put: Callable[[Array], object]
    get: Callable[[], Array]


class Figure(NamedTuple):
    """Medians in seconds."""

    put_s: float
    get_s: float


def ways(db: Orchestrator, open_db: Orchestrator, folder: Path) -> Iterator[Way]:
    """Yield what is installed here; ProxyStore knows no passwords and gets the open server."""
    client = db.client()
    yield Way("ssdag tensor", lambda a: client.put_tensor("x", a), lambda: client.get_tensor("x"))
    for name, store in (
        ("server", RedisConnector(db)),
        ("folder", DirectoryConnector(folder / "ours")),
        ("shared memory", SharedMemoryConnector()),
    ):
        shared: DistributedDict[Array] = DistributedDict(store, "bench")
        yield Way(
            f"ssdag DistributedDict, {name}",
            lambda a, shared=shared: shared.__setitem__("x", a),  # type: ignore[misc]
            lambda shared=shared: shared["x"],  # type: ignore[misc]
        )
    password = Path(db.password_file).read_text().strip()
    plain = redis.Redis(
        unix_socket_path=db.address.removeprefix("unix://"), password=password, socket_timeout=None
    )

    def get_plain() -> Array:
        data = plain.get("plain")
        assert isinstance(data, bytes)
        return np.frombuffer(data)

    yield Way("redis-py", lambda a: plain.set("plain", npy.as_bytes(a)), get_plain)
    if importlib.util.find_spec("proxystore") is not None:
        yield from _proxystore(open_db, folder)
    yield _memcpy()


def _proxystore(open_db: Orchestrator, folder: Path) -> Iterator[Way]:
    from proxystore.connectors.file import FileConnector
    from proxystore.connectors.redis import RedisConnector as Theirs
    from proxystore.store import Store

    assert open_db.tcp_address is not None
    host, _, port = open_db.tcp_address.rpartition(":")
    for name, connector in (
        ("server", Theirs(host, int(port))),
        ("folder", FileConnector(str(folder / "theirs"))),
    ):
        # Without its cache, which would hand out the object that was put.
        store: Any = Store(f"bench-{name}", connector, cache_size=0)
        last: list[Any] = []

        def put(array: Array, store: Any = store, last: list[Any] = last) -> None:
            if last:
                store.evict(last.pop())
            last.append(store.put(array))

        yield Way(f"ProxyStore, {name}", put, lambda store=store, last=last: store.get(last[0]))  # type: ignore[misc]


def _memcpy() -> Way:
    kept: list[Array] = []

    def put(array: Array) -> None:
        kept[:] = [array.copy()]

    return Way("memcpy", put, lambda: kept[0].copy())


def measure(db: Orchestrator, quick: bool) -> dict[str, dict[str, Figure]]:
    """Return the figures of each way for each size; ways take turns in every round."""
    found: dict[str, dict[str, Figure]] = {}
    folder = Path(tempfile.mkdtemp(prefix="ssdag-bench-", dir="/dev/shm"))
    open_db = Orchestrator(open_access=True, name="open")
    try:
        all_ways = list(ways(db, open_db, folder))
        for label, size, full, few in SIZES:
            array = np.random.default_rng(0).random(size // 8)
            times: dict[str, tuple[list[float], list[float]]] = {}
            for turn in range(-WARM_UP, few if quick else full):
                for way in all_ways:
                    began = time.perf_counter()
                    way.put(array)
                    middle = time.perf_counter()
                    got = way.get()
                    total = float(got[-1])  # it may have been mapped and not read
                    ended = time.perf_counter()
                    assert total == array[-1], way.name
                    if turn >= 0:
                        puts, gets = times.setdefault(way.name, ([], []))
                        puts.append(middle - began)
                        gets.append(ended - middle)
            for name, (puts, gets) in times.items():
                figure = Figure(statistics.median(puts), statistics.median(gets))
                found.setdefault(name, {})[label] = figure
    finally:
        open_db.stop()
        shutil.rmtree(folder, ignore_errors=True)
    dragon = dragon_dictionary(quick)
    if dragon:
        found["Dragon's dictionary"] = dragon
    return found


def dragon_dictionary(quick: bool) -> dict[str, Figure]:
    """Return the figures of Dragon's dictionary, which needs a launcher of its own."""
    launcher = Path(sys.executable).with_name("dragon")
    if not launcher.exists():
        return {}
    rounds = {label: [size, few if quick else full] for label, size, full, few in SIZES}
    try:
        answer = subprocess.run(
            [str(launcher), "--single-node-override", __file__, json.dumps(rounds)],
            capture_output=True, text=True, timeout=DRAGON_DEADLINE_S, check=False,
            env={**os.environ, "PATH": f"{launcher.parent}:{os.environ['PATH']}"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {}
    for line in answer.stdout.splitlines():
        if line.startswith("{"):
            return {label: Figure(*pair) for label, pair in json.loads(line).items()}
    return {}


def _in_dragon() -> None:
    """Measure the dictionary; runs beneath Dragon's launcher."""
    import multiprocessing

    import dragon  # noqa: F401
    from dragon.data.ddict import DDict

    multiprocessing.set_start_method("dragon")
    store = DDict(1, 1, 512 << 20)
    found: dict[str, list[float]] = {}
    for label, (size, rounds) in json.loads(sys.argv[1]).items():
        array = np.random.default_rng(0).random(size // 8)
        puts, gets = [], []
        for _ in range(rounds + WARM_UP):
            began = time.perf_counter()
            store["x"] = array
            middle = time.perf_counter()
            assert store["x"][-1] == array[-1]
            gets.append(time.perf_counter() - middle)
            puts.append(middle - began)
        found[label] = [statistics.median(puts[WARM_UP:]), statistics.median(gets[WARM_UP:])]
    print(json.dumps(found), flush=True)
    store.destroy()


if __name__ == "__main__":
    _in_dragon()
