# SPDX-License-Identifier: BSD-3-Clause
"""The command line of the molecule search."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import ssdag
from ssdag.executors import LocalExecutor

from . import report
from .molecules import load_molecules
from .outcome import Outcome
from .picture import draw
from .plan import Plan
from .progress import View
from .search import Search, SearchError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Exit codes, beside 0: recall too low, the search could not go on, Ctrl-C.
TOO_LOW, STUCK, INTERRUPTED = 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and which option was probably meant."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            near = difflib.get_close_matches(
                unknown.split()[0].partition("=")[0], self._option_string_actions, n=1
            )
            message = f"unknown: {unknown}" + (f"; did you mean {near[0]}?" if near else "")
        self.exit(STUCK, f"{self.prog}: {message} (options: {self.prog} --help)\n")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def parser(program: str) -> argparse.ArgumentParser:
    """Describe the options; `program` is what the user typed."""
    options = _Parser(
        prog=program,
        description="Find the molecules of highest ionization energy among 1046 real ones "
        "without computing all of them: simulate some (GFN2-xTB), learn, simulate the most "
        "promising, learn again. Afterwards the rest is computed too, to see how many of the "
        "true best were found.",
        epilog="Run it again with the same checkpoint: what was computed is not computed again. "
        "The exit code is 1 if the search found less than --min-recall and --min-gain ask for, "
        "2 if it could not go on, 130 after Ctrl-C.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = options.add_argument
    add("--initial", type=_positive, default=20, metavar="N", help="molecules picked at random")
    add("--batch", type=_positive, default=20, metavar="N", help="molecules of each later batch")
    add("--evaluations", type=_positive, default=220, metavar="N", help="molecules in all")
    add("--chunks", type=_positive, default=16, metavar="N", help="tasks of one inference")
    add("--molecules", type=_positive, metavar="N", default=argparse.SUPPRESS,
        help="search only among the first N molecules (default: all)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="seed of the random pick")
    add("--workers", type=_positive, default=len(os.sched_getaffinity(0)), metavar="N",
        help="worker processes")  # fmt: skip
    add("--out", type=Path, default=Path("molecule-search"), metavar="DIR",
        help="folder for picture, graph and table")  # fmt: skip
    add("--checkpoint", type=Path, metavar="FILE", default=argparse.SUPPRESS,
        help="where results are kept for the next run "
        "(default: checkpoint.sqlite in the folder of --out)")  # fmt: skip
    add("--no-sweep", action="store_true", help="do not compute the molecules left out")
    add("--min-recall", type=float, default=0.60, metavar="X",
        help="share of the true top 5 %% that must be found")  # fmt: skip
    add("--min-gain", type=float, default=2.5, metavar="X",
        help="how many times better than a random pick it must be")  # fmt: skip
    return options


def _run(options: argparse.Namespace, engine: ssdag.Engine, outcome: Outcome) -> int:
    """Search, and sweep if wanted; `outcome` holds what was found however it ends."""
    plan = Plan(
        initial=options.initial,
        batch=options.batch,
        evaluations=options.evaluations,
        chunks=options.chunks,
        seed=options.seed,
    )
    try:
        with engine, View() as view:
            search = Search(plan, ssdag.Orchestrator(), outcome, view)
            search.run()
            if not options.no_sweep:
                search.sweep()
    except KeyboardInterrupt:
        print("interrupted: this is what was found so far", file=sys.stderr)
        return INTERRUPTED
    except (SearchError, ssdag.SsdagError) as error:
        print(f"{options.program}: {error}", file=sys.stderr)
        return STUCK
    return 0


def _good_enough(options: argparse.Namespace, outcome: Outcome) -> bool:
    """Say whether the search found what was asked for; True if nobody knows."""
    score = outcome.score()
    if score is None or score.recall == 1.0:  # nothing is left to find, whatever the gain
        return True
    if score.recall >= options.min_recall and score.gain >= options.min_gain:
        return True
    print(
        f"{options.program}: recall {score.recall:.2f}, {score.gain:.1f} times better than random: "
        f"less than --min-recall {options.min_recall:.2f} and --min-gain {options.min_gain:.1f} "
        "ask for; more --evaluations find more",
        file=sys.stderr,
    )
    return False


def main(argv: Sequence[str] | None = None, program: str = "molecule_search") -> int:
    """Run the search as the command line says; returns the exit code."""
    options = parser(program).parse_args(argv, argparse.Namespace(program=program))
    out: Path = options.out
    outcome = Outcome(load_molecules()[: getattr(options, "molecules", None)])
    usage = ssdag.Utilization()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"{program}: cannot make the folder {str(out)!r}: {error.strerror}; name another "
              "with --out DIR", file=sys.stderr)  # fmt: skip
        return STUCK
    try:
        engine = ssdag.load(
            ssdag.Config(
                executors=[LocalExecutor(max_workers=options.workers)],
                checkpoint=getattr(options, "checkpoint", out / "checkpoint.sqlite"),
                listeners=[usage],
            )
        )
    except ssdag.SsdagError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return STUCK
    print(f"{len(outcome.molecules)} molecules, {options.workers} workers, results in {out}")
    code = _run(options, engine, outcome)
    draw(outcome, [out / "search.png", out / "search.svg"])
    report.write_table(outcome, out / "energies.csv")
    print("\n".join(report.lines(outcome, usage, options.workers)))
    engine.draw(out / "graph.svg")
    print(f"written: {', '.join(sorted(path.name for path in out.iterdir()))} in {out}")
    if not _good_enough(options, outcome):
        code = code or TOO_LOW
    return code


if __name__ == "__main__":
    sys.exit(main())
