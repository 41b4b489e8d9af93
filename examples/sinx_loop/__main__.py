# SPDX-License-Identifier: BSD-3-Clause
"""The command line of the loop."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import ssdag
from ssdag.executors import AllocationExecutor, LocalExecutor

from . import loop, model

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "sinx_loop"
NEEDS = {"matplotlib": "matplotlib", "mpi4py": "mpi4py"}
STUCK, INTERRUPTED = 2, 130


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        PROGRAM,
        description="Ask a model for sines, check it by a cheap simulation on some ranks, and "
        "teach it by a dear one where it was wrong, until it is right often enough.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = options.add_argument
    add("--successes", type=_number, default=5, metavar="N", help="right answers in a row")
    add("--tolerance", type=float, default=0.05, metavar="E", help="what is right")
    add("--most", type=_number, default=50, metavar="N", help="questions at most")
    add("--seed", type=int, default=4, metavar="N", help="of the questions")
    add("--out", type=Path, default=Path("sinx-loop"), metavar="DIR",
        help="folder for the picture")  # fmt: skip
    return options


def _tell(one: loop.Check, good: bool) -> None:
    verdict = "right" if good else "wrong: a lesson follows"
    print(f"x = {one.x:.3f}  model {one.version} says {one.said:+.4f}, it is {one.true:+.4f}  "
          f"{verdict}", flush=True)  # fmt: skip


def _report(outcome: loop.Outcome) -> str:
    grid = np.linspace(0.0, model.SPAN, 1001)
    worst = float(np.abs(model.predict(outcome.models[-1], grid) - np.sin(grid)).max())
    return "\n".join(
        [
            f"questions: {len(outcome.checks)}, lessons: {len(outcome.places)}",
            f"points: {outcome.points}",
            f"largest error: {worst:.4f} on {len(grid)} places",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the loop as the command line says; returns the exit code."""
    options = _parser().parse_args(argv)
    absent = [how for name, how in NEEDS.items() if importlib.util.find_spec(name) is None]
    if absent:
        print(f"{PROGRAM}: not installed: pip install {' '.join(absent)}", file=sys.stderr)
        return STUCK
    from .picture import draw

    try:
        options.out.mkdir(parents=True, exist_ok=True)
        executors = [LocalExecutor(1, "tasks"), AllocationExecutor(label="ranks", pin=False)]
        with ssdag.load(ssdag.Config(executors=executors)):
            outcome = loop.run(
                options.successes, options.tolerance, options.most, options.seed, _tell
            )
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; nothing is left running", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        print(f"{PROGRAM}: {error.filename or options.out}: {error.strerror or error}",
              file=sys.stderr)  # fmt: skip
        return STUCK
    except ssdag.SsdagError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return STUCK
    print(_report(outcome))
    draw(outcome, options.tolerance, options.out / "loop.png")
    print(f"written: loop.png in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
