# SPDX-License-Identifier: BSD-3-Clause
"""The command line of the elastic campaign."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import ssdag

from . import campaign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .campaign import Outcome, Result

PROGRAM = "elastic_campaign"
HERE = Path(__file__).parent
STUCK, INTERRUPTED = 2, 130


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        PROGRAM,
        description="Simulate a reaction at many pairs of rates, on blocks that end while they "
        "work, and draw which patterns form and which block computed them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = options.add_argument
    add("--config", type=Path, default=HERE / "laptop.toml", metavar="FILE",
        help="has executors 'simulations' and 'analysis'; slurm.toml: for a cluster")  # fmt: skip
    add("--feeds", type=_number, default=6, metavar="N", help="values of the rate F")
    add("--kills", type=_number, default=10, metavar="N", help="values of the rate k")
    add("--steps", type=_number, default=5000, metavar="N", help="time steps of a simulation")
    add("--out", type=Path, default=Path("elastic-campaign"), metavar="DIR",
        help="folder for the picture and the log; nodes must see it")  # fmt: skip
    return options


def _report(outcome: Outcome) -> str:
    kinds: dict[str, int] = {}
    for one in outcome.results.values():
        kinds[one.kind] = kinds.get(one.kind, 0) + 1
    return "\n".join(
        [
            f"simulations: {len(outcome.results)}, each of them once in the results",
            f"blocks: {len(outcome.blocks)}",
            f"cut by the end of a block and run again: {len(outcome.cut)}",
            f"busy: {outcome.busy_s:.1f} s of workers in {outcome.wall_s:.1f} s",
            f"utilisation: {100 * outcome.utilisation:.0f} % of the workers' time",
            "patterns: " + ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaign as the command line says; returns the exit code."""
    options = _parser().parse_args(argv)
    if importlib.util.find_spec("matplotlib") is None:
        print(f"{PROGRAM}: the picture needs matplotlib: pip install matplotlib", file=sys.stderr)
        return STUCK
    from .picture import draw

    feeds = np.linspace(0.018, 0.060, options.feeds)
    kills = np.linspace(0.052, 0.065, options.kills)
    total = len(feeds) * len(kills)
    out = options.out.absolute()

    def tell(count: int, result: Result) -> None:
        if count % max(1, total // 10) == 0 or count == total:
            print(f"{count:4}/{total}  block {result.done.block}: F={result.feed:.3f} "
                  f"k={result.kill:.4f} {result.kind}", flush=True)  # fmt: skip

    try:
        out.mkdir(parents=True, exist_ok=True)
        with ssdag.load(options.config):
            outcome = campaign.run(feeds, kills, options.steps, out / "tries.log", tell)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; blocks are cancelled", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        print(f"{PROGRAM}: {error.filename or out}: {error.strerror or error}", file=sys.stderr)
        return STUCK
    except ssdag.SsdagError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return STUCK
    print(_report(outcome))
    draw(outcome, feeds, kills, out / "campaign.png")
    print(f"written: campaign.png in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
