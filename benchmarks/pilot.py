# SPDX-License-Identifier: BSD-3-Clause
"""``python -m benchmarks.pilot``: the pilot executor against Parsl's HTEX, and its hub alone.

One block of two workers on this machine, interleaved rounds in fresh processes, in clear
text and encrypted; then the real hub with simulated managers. Prints tables; writes
``results/pilot.json`` if everything was measured at full length.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine, tree
from benchmarks.engine import RESULTS, Run
from benchmarks.peers import PILOTS, title
from benchmarks.runner import ROOT, run_child

if TYPE_CHECKING:
    from collections.abc import Sequence

MEASURES = ("noop", "latency", "busy_1ms", "busy_10ms", "array_1mb")
#: (row, unit, key, decimals, whether more is better)
ROWS = (
    ("start to first result", "s", "start.first_result_s", 2, False),
    ("no-op", "tasks/s", "noop.tasks_per_s", 0, True),
    ("CPU of all processes", "us/task", "noop.cpu_us", 1, False),
    ("one task, p50", "us", "latency.p50_us", 0, False),
    ("one task, p99", "us", "latency.p99_us", 0, False),
    ("1 ms tasks, slowdown", "x ideal", "busy_1ms.slowdown", 2, False),
    ("10 ms tasks, slowdown", "x ideal", "busy_10ms.slowdown", 2, False),
    ("1 MB array there and back", "MB/s", "array_1mb.mb_per_s", 0, True),
)
PAIRS = (("ssdag-pilot", "htex"), ("ssdag-pilot-curve", "htex-curve"))
#: (managers, tasks per message, encrypted)
LOADS = ((1000, 64, False), (1000, 64, True), (1000, 8, False), (10, 64, False))


def measure(names: Sequence[str], rounds: int, *, quick: bool, console: Console) -> Run:
    """Measure the backends, `rounds` times, one after the other in each round."""
    tree.adopt_orphans()
    run = Run(quick, rounds, machine=machine.facts())
    budget_s = 0.25 if quick else 1.0
    for i in range(rounds):
        for name in names:
            run.load.append(round(machine.load_average(), 2))
            outcome = run_child(
                name, budget_s=budget_s, quick=quick, measures=MEASURES, deadline_s=120.0
            )
            run.add(name, outcome)
            shown = {key: round(outcome.figures.get(key, 0.0), 1) for _, _, key, _, _ in ROWS[1:4]}
            console.print(f"round {i + 1}/{rounds}  {title(name)}: {shown} {outcome.errors or ''}")
    return run


def measure_hub(rounds: int, *, quick: bool, console: Console) -> list[dict[str, Any]]:
    """Measure the hub alone; the best of some runs counts, since others use the machine too."""
    rows = []
    for managers, per_message, encrypt in LOADS:
        options = {
            "managers": managers, "per_message": per_message, "encrypt": encrypt,
            "count": 100_000 if quick else 400_000,
        }  # fmt: skip
        runs = []
        for _ in range(rounds):
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.hubload", json.dumps(options)],
                capture_output=True, text=True, timeout=300, check=True, cwd=ROOT,
            )  # fmt: skip
            runs.append(json.loads(done.stdout))
        best = min(runs, key=lambda figures: float(figures["process_cpu_us"]))
        rows.append({**options, **best})
        console.print(f"hub, {managers} managers, {per_message} tasks a message: {best}")
    return rows


def tables_of(run: Run, hub: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tables as the docs page takes them: title, columns, rows of text."""
    tables = []
    for ours, peer in PAIRS:
        rows = []
        for row, unit, key, decimals, more in ROWS:
            mine, theirs = run.median(ours, key), run.median(peer, key)
            ratio = f"{mine / theirs if more else theirs / mine:.1f}" if mine and theirs else ""
            cells = ["" if v is None else f"{v:,.{decimals}f}" for v in (mine, theirs)]
            rows.append([row, unit, *cells, ratio])
        how = "encrypted" if ours.endswith("curve") else "in clear text"
        tables.append({
            "title": f"One block of two workers, {how}",
            "columns": ["measure", "unit", title(ours), title(peer), "times better"],
            "rows": rows,
        })  # fmt: skip
    tables.append({
        "title": "The hub alone, with simulated managers",
        "columns": ["managers", "tasks a message", "encrypted", "µs of CPU per task",
                    "tasks/s that one core sustains"],
        "rows": [
            [f"{load['managers']:,}", str(load["per_message"]), "yes" if load["encrypt"] else "no",
             f"{load['process_cpu_us']:.2f}", f"{load['tasks_per_core_s']:,.0f}"]
            for load in hub
        ],
    })  # fmt: skip
    return tables


def notes_of(run: Run) -> list[str]:
    """Return how the figures were taken."""
    facts = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    load = f"{min(run.load):.1f} to {max(run.load):.1f}" if run.load else "unknown"
    return [
        (
            f"Medians of {run.rounds} interleaved round(s), fresh processes: {facts}. "
            f"Load average while measuring: {load}."
        ),
        (
            "The hub's figures are those of the calmest of as many runs: CPU time of all threads "
            "of its process, ZeroMQ's too, per task; submitting the tasks is not in it."
        ),
    ]


def show(tables: list[dict[str, Any]], console: Console) -> None:
    """Print the tables."""
    for content in tables:
        table = Table(title=content["title"])
        for column in content["columns"]:
            left = column in ("measure", "unit")
            table.add_column(column, justify="left" if left else "right")
        for row in content["rows"]:
            table.add_row(*row)
        console.print(table)


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pilot", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=0, help="default 3, with --quick 1")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    rounds = args.rounds or (1 if args.quick else 3)
    run = measure(list(PILOTS), rounds, quick=args.quick, console=console)
    hub = measure_hub(rounds, quick=args.quick, console=console)
    tables = tables_of(run, hub)
    show(tables, console)
    if not args.quick:
        path = RESULTS / "pilot.json"
        content = {**vars(run), "hub": hub, "notes": notes_of(run), "tables": tables}
        text = json.dumps(content, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        console.print(f"written: {path}", highlight=False)


if __name__ == "__main__":
    main()
