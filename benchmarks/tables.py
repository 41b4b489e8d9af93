# SPDX-License-Identifier: BSD-3-Clause
"""Tables of absolute figures and of ratios: on the terminal, and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table as RichTable

from benchmarks.engine import Run, title
from benchmarks.targets import (
    LAUNCH_PEERS,
    LAUNCH_ROWS,
    PROCESS_PEERS,
    PROCESS_ROWS,
    THREAD_PEERS,
    THREAD_ROWS,
    Row,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console


@dataclass(frozen=True)
class Table:
    """A heading and cells; the first row of cells is the header."""

    heading: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Gate:
    """One target, what was measured, and whether it is met."""

    what: str
    target: str
    measured: str
    met: bool


GROUPS = (
    ("Worker processes", "ssdag", PROCESS_PEERS, PROCESS_ROWS),
    ("Worker threads", "ssdag-threads", THREAD_PEERS, THREAD_ROWS),
    ("Programs, orchestrator, start-up", "launch-ssdag", LAUNCH_PEERS, LAUNCH_ROWS),
)


def number(value: float | None) -> str:
    """Three significant digits, thousands separated; a dash for nothing."""
    if value is None:
        return "-"
    if abs(value) >= 999.5:
        digits = len(str(round(abs(value)))) - 3
        return f"{round(value, -digits):,.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.6f}".rstrip("0").rstrip(".")


def times(value: float) -> str:
    """A ratio."""
    return f"{number(value)}x"


def tables(run: Run) -> list[Table]:
    """Absolute figures and ratios of every group that was measured."""
    found = []
    for heading, ours, peers, rows in GROUPS:
        present = [p for p in peers if p in run.values]
        measured = [r for r in rows if any(run.median(n, r.key) for n in (ours, *present))]
        if not measured:
            continue
        found.append(_absolute(run, heading, ours, present, measured))
        ratios = [r for r in measured if run.median(ours, r.key) is not None]
        if ratios and present:
            found.append(_ratios(run, heading, ours, present, ratios))
    return found


def _absolute(run: Run, heading: str, ours: str, peers: Sequence[str], rows: list[Row]) -> Table:
    names = [n for n in (ours, *peers) if n in run.values]
    cells = [
        [r.title, r.unit, *(number(run.median(n, r.key)) for n in names), _absolute_target(r)]
        for r in rows
    ]
    return Table(heading, ["measure", "unit", *map(title, names), "target"], cells)


def _absolute_target(row: Row) -> str:
    if row.absolute is None:
        return ""
    return f"{'≥' if row.more_is_better else '≤'} {number(row.absolute)}"


def _ratios(run: Run, heading: str, ours: str, peers: Sequence[str], rows: list[Row]) -> Table:
    cells = []
    for row in rows:
        mine = run.median(ours, row.key)
        line = [row.title]
        for peer in peers:
            theirs = run.median(peer, row.key)
            if mine is None or theirs is None:
                line.append("-")
                continue
            ratio, target = row.ratio(mine, theirs), row.ratios.get(peer)
            mark = "" if target is None else f" ({_mark(ratio >= target)} {times(target)})"
            line.append(f"{times(ratio)}{mark}")
        if any(cell != "-" for cell in line[1:]):
            cells.append(line)
    return Table(f"{heading}: how many times better", ["measure", *map(title, peers)], cells)


def _mark(met: bool) -> str:
    return "✓" if met else "✗"


def gates(run: Run) -> Iterator[Gate]:
    """Every target of the design that this run can judge."""
    for heading, ours, peers, rows in GROUPS:
        for row in rows:
            mine = run.median(ours, row.key)
            if mine is None:
                continue
            reached = row.reached(mine)
            what = f"{heading}, {row.title}"
            if reached is not None:
                yield Gate(what, _absolute_target(row) + f" {row.unit}", number(mine), reached)
            for peer in peers:
                theirs, target = run.median(peer, row.key), row.ratios.get(peer)
                if theirs is not None and target is not None:
                    ratio = row.ratio(mine, theirs)
                    wanted = f"≥ {times(target)} of {title(peer)}"
                    yield Gate(what, wanted, times(ratio), ratio >= target)
    mine, memcpy = (run.median("ssdag", f"array_64mb.{k}") for k in ("mb_per_s", "memcpy_mb_per_s"))
    if mine is not None and memcpy is not None:
        share = mine / memcpy
        yield Gate("64 MiB array there and back", "≥ 0.8x of memcpy", times(share), share >= 0.8)


def failures(run: Run) -> list[str]:
    """One line for everything that was not measured."""
    return [
        f"{title(name)}, {measure}: {' '.join(why.split())}"
        for name, errors in run.errors.items()
        for measure, why in errors.items()
    ]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose first column is text and whose others are figures."""
    rule = ["---", *["--:"] * (len(header) - 1)]
    return [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in (header, rule, *rows)
    ]


def show(run: Run, console: Console) -> None:
    """Print everything on a terminal."""
    for table in tables(run):
        rich = RichTable(title=table.heading, title_justify="left")
        for i, name in enumerate(table.header):
            rich.add_column(name, justify="left" if i == 0 else "right", no_wrap=i == 0)
        for row in table.rows:
            rich.add_row(*row)
        console.print(rich)
    judged = list(gates(run))
    for gate in judged:
        if not gate.met:
            console.print(f"missed: {gate.what}: {gate.measured}, wanted {gate.target}")
    if judged:
        console.print(f"{sum(g.met for g in judged)} of {len(judged)} targets met")
    for line in failures(run):
        console.print(f"not measured: {line}", markup=False)
