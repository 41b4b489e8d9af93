# SPDX-License-Identifier: BSD-3-Clause
"""The short tables of the README, made of the same results as the docs page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from benchmarks.engine import Run, title
from benchmarks.tables import markdown_table, number
from benchmarks.targets import PROCESS_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OURS = "ssdag"
PEERS = ("htex", "ray", "dask", "processpool")
KEYS = (
    "noop.tasks_per_s",
    "noop.cpu_us",
    "latency.p50_us",
    "chain.us_per_node",
    "fan.us_per_node",
    "layered.us_per_node",
    "array_1mb.mb_per_s",
    "pending.bytes_per_task",
    "start.first_result_s",
)


def factor(value: float) -> str:
    """A ratio in two digits: a reader compares orders of magnitude here."""
    if value >= 99.5:
        return f"{value:.0f}x"
    return f"{float(f'{value:.2g}'):g}x"


def engine_lines(run: Run) -> Iterator[str]:
    """The engine: our figures, and how many times better than each peer they are."""
    peers = [peer for peer in PEERS if peer in run.values]
    cells = [["two workers", "unit", OURS, *(title(peer) for peer in peers)]]
    for row in PROCESS_ROWS:
        ours = run.median(OURS, row.key)
        if row.key not in KEYS or ours is None:
            continue
        theirs = [run.median(peer, row.key) for peer in peers]
        ratios = ["-" if their is None else factor(row.ratio(ours, their)) for their in theirs]
        cells.append([row.title, row.unit, number(ours), *ratios])
    if len(cells) == 1:
        return
    machine = f"{run.machine.get('processor', '?')}, {run.machine.get('cores', '?')} cores"
    yield f"Tasks ({machine}, {run.created[:10]}): the figure of ssdag, and how many times better"
    yield "it is than that of each peer in the same run."
    yield ""
    yield from markdown_table(cells[0], cells[1:])


def tensor_lines(data: dict[str, Any]) -> Iterator[str]:
    """Tensors over the unix socket, beside redis-py."""
    times = {(row["size"], row["method"]): row for row in data.get("rows", [])}
    cells = [["array", "put", "redis-py", "ratio", "get", "redis-py", "ratio"]]
    for size in dict.fromkeys(size for size, _ in times):
        ours, theirs = times.get((size, "ssdag unix")), times.get((size, "redis-py unix"))
        if ours is None or theirs is None:
            continue
        line = [size]
        for field in ("put_us", "get_us"):
            line += [duration(ours[field]), duration(theirs[field])]
            line.append(factor(theirs[field] / ours[field]))
        cells.append(line)
    if len(cells) == 1:
        return
    about = data["machine"]
    yield f"Tensors through the orchestrator ({about['server']}, unix socket, same machine), beside"
    yield f"redis-py {about['redis']} with hiredis {about['hiredis']} storing the same bytes:"
    yield ""
    yield from markdown_table(cells[0], cells[1:])


def duration(us: float) -> str:
    """Microseconds as text, three digits."""
    return f"{number(us)} µs" if us < 999.5 else f"{number(us / 1000)} ms"


def section(results: Path) -> str:
    """What stands between the markers of the README."""
    engine, tensors = results / "engine.json", results / "tensors.json"
    parts = []
    if engine.exists():
        parts.append("\n".join(engine_lines(Run.read(engine))))
    if tensors.exists():
        parts.append("\n".join(tensor_lines(json.loads(tensors.read_text(encoding="utf-8")))))
    return "\n\n".join(part for part in parts if part) or "Nothing has been measured yet."
