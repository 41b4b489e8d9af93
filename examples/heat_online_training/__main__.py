# SPDX-License-Identifier: BSD-3-Clause
"""The command line of the online training."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import ssdag
from ssdag.executors import LocalExecutor

from . import training

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "heat_online_training"
STUCK, INTERRUPTED = 2, 130
#: Each task computes on one core.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        PROGRAM,
        description="Simulate heated plates, learn from them while they come, and stop the "
        "simulations when the network is good enough.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = options.add_argument
    add("--producers", type=_number, default=2, metavar="N", help="tasks that simulate")
    add("--count", type=_number, default=400, metavar="N", help="plates of each, at most")
    add("--goal", type=_positive, default=0.07, metavar="E", help="relative error to stop at")
    add("--steps", type=_number, default=4, metavar="N", help="steps of the learner per sample")
    add("--out", type=Path, default=Path("heat-online-training"), metavar="DIR",
        help="folder for the picture")  # fmt: skip
    return options


def _tell(samples: int, error: float) -> None:
    print(f"{samples:5} samples  error on unseen plates {error:.3f}", flush=True)


def overlap(made: Sequence[training.Produced], learnt: training.Learnt) -> float:
    """Return the part of the learner's time in which producers were at work too."""
    begin = min(times[0][0] for times in (one.times for one in made) if times)
    end = max(times[-1][1] for times in (one.times for one in made) if times)
    total = learnt.times[-1][1] - learnt.times[0][0]
    both = min(end, learnt.times[-1][1]) - max(begin, learnt.times[0][0])
    return max(0.0, both) / total if total > 0 else 0.0


def _report(made: Sequence[training.Produced], learnt: training.Learnt) -> str:
    numbers = sorted(n for one in made for n in one.numbers)
    once = "each of them once" if sorted(learnt.numbers) == numbers else "NOT each of them once"
    late = 0
    if learnt.told_s is not None:
        late = max(sum(begin > learnt.told_s for begin, _ in one.times) for one in made)
    stopped, wrong = sum(one.stopped for one in made), learnt.errors[-1][2]
    lines = [
        f"samples: {len(numbers)} made, {len(learnt.numbers)} learnt from, {once}",
        f"in the stream: {learnt.most_waiting} at most (capacity {training.CAPACITY})",
        f"overlap: {100 * overlap(made, learnt):.0f} % of the learner's time",
        f"stopped: {stopped} of {len(made)} producers, each after at most {late} more",
        f"error: {wrong:.3f} on unseen plates, {learnt.average_error:.3f} for their average",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the training as the command line says; returns the exit code."""
    options = _parser().parse_args(argv)
    if importlib.util.find_spec("matplotlib") is None:
        print(f"{PROGRAM}: the picture needs matplotlib: pip install matplotlib", file=sys.stderr)
        return STUCK
    from .picture import draw

    try:
        options.out.mkdir(parents=True, exist_ok=True)
        # All must run at the same time, however few cores there are.
        workers = LocalExecutor(max_workers=options.producers + 1, env=_ONE_THREAD)
        with ssdag.load(ssdag.Config(executors=[workers])):
            made, learnt = training.run(
                options.producers, options.count, options.goal, options.steps, _tell
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
    print(_report(made, learnt))
    draw(made, learnt, options.goal, options.out / "training.png")
    print(f"written: training.png in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
