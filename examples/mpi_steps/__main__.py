# SPDX-License-Identifier: BSD-3-Clause
"""The command line of the MPI steps."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import ssdag

from . import steps

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "mpi_steps"
HERE = Path(__file__).parent
STUCK, INTERRUPTED = 2, 130
#: What is imported beyond ssdag, and how it is installed.
NEEDS = {"matplotlib": "matplotlib", "mpi4py": "mpi4py mpich"}


def _numbers(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,2,4")
    return [int(word) for word in words]


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        PROGRAM,
        description="Solve Poisson's equation on grids of several sizes, each on several "
        "numbers of MPI ranks; the steps share the cores of this machine, or of the job that "
        "this is started in.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = options.add_argument
    add("--config", type=Path, default=HERE / "laptop.toml", metavar="FILE",
        help="has an executor 'steps'; slurm.toml beside it is for a job of Slurm")  # fmt: skip
    add("--sizes", type=_numbers, default=[64, 128, 256, 384, 512, 640], metavar="N,N,...",
        help="points along each side of the grids")  # fmt: skip
    add("--ranks", type=_numbers, default=argparse.SUPPRESS, metavar="N,...",
        help="numbers of ranks (default: 1, 2, 4, ... up to 16, as cores allow)")  # fmt: skip
    add("--out", type=Path, default=Path("mpi-steps"), metavar="DIR",
        help="folder for the picture and the program's output")  # fmt: skip
    return options


def _report(found: Sequence[steps.Solved], cores: int, printed: str) -> str:
    hosts = {host for one in found for host in one.hosts}
    return "\n".join(
        [
            f"steps: {len(found)} on {len(hosts)} host{'s' * (len(hosts) > 1)}",
            f"most cores busy at a time: {steps.cores_in_use(found)} of {cores}",
            f"order of convergence: {steps.order(found):.2f}",
            f"errors differ between numbers of ranks by: {steps.difference(found):.1e}",
            f"ring: {printed.strip().splitlines()[-1] if printed.strip() else 'no output'}",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps as the command line says; returns the exit code."""
    options = _parser().parse_args(argv)
    absent = [how for name, how in NEEDS.items() if importlib.util.find_spec(name) is None]
    if absent:
        print(f"{PROGRAM}: not installed: pip install {' '.join(absent)}", file=sys.stderr)
        return STUCK
    from .picture import draw

    out = options.out.absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with ssdag.load(options.config) as engine:
            cores = engine.executors[0].capacity
            counts = [2**i for i in range(5) if 2**i <= cores]
            ranks = getattr(options, "ranks", counts)
            total = len(options.sizes) * len(ranks)

            def tell(count: int, one: steps.Solved) -> None:
                print(f"{count:3}/{total}  {one.n:4} x {one.n:<4} on {one.ranks:2} ranks: "
                      f"{one.iterations:4} iterations, {one.ended_s - one.began_s:6.2f} s, "
                      f"error {one.error:.2e}", flush=True)  # fmt: skip

            found, printed = steps.run(options.sizes, ranks, str(out / "ring.txt"), tell)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; steps are ended", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        print(f"{PROGRAM}: {error.filename or out}: {error.strerror or error}", file=sys.stderr)
        return STUCK
    except ssdag.SsdagError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return STUCK
    print(_report(found, cores, printed))
    draw(found, cores, out / "steps.png")
    print(f"written: ring.txt, steps.png in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
