# SPDX-License-Identifier: BSD-3-Clause
"""``python -m benchmarks``: measure, print the tables; write JSON, docs page and README."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import engine, report, tables
from benchmarks.launch import NAMES
from benchmarks.peers import BACKENDS


def main() -> None:
    """Run the benchmark as the command line says."""
    known = [*BACKENDS, *NAMES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, under 3 minutes")
    parser.add_argument("--only", default="", metavar="NAME,...", help=", ".join(known))
    parser.add_argument("--measures", default="", metavar="NAME,...", help="such as noop,chain")
    parser.add_argument("--rounds", type=int, default=0, help="default 3, with --quick 1")
    parser.add_argument(
        "--output",
        type=Path,
        help="where to write the JSON (default: results/engine.json if everything was measured "
        "at full length)",
    )
    args = parser.parse_args()
    names = args.only.split(",") if args.only else known
    unknown = [n for n in names if n not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)} (known: {', '.join(known)})")
    # Ended from outside, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    measures = args.measures.split(",") if args.measures else []
    path = args.output
    if path is None and not (args.only or measures or args.quick):
        path = engine.RESULTS / "engine.json"
    run = engine.measure(
        names,
        rounds=args.rounds or (1 if args.quick else 3),
        quick=args.quick,
        console=console,
        measures=measures,
        save_to=path,
    )
    tables.show(run, console)
    if path is not None:
        console.print(f"written: {path}", highlight=False)
    if path == engine.RESULTS / "engine.json":
        report.write()
        console.print(f"written: {report.PAGE}, {report.README}", highlight=False)


if __name__ == "__main__":
    main()
