# SPDX-License-Identifier: BSD-3-Clause
"""The command line of the steered flow."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import ssdag
from ssdag.executors import LocalExecutor

from . import study
from .flow import Channel

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "lbm_steer"
STUCK, INTERRUPTED = 2, 130


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < study.PICTURE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {study.PICTURE} on")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        PROGRAM,
        description="Simulate the flow past a cylinder, watch its wake meanwhile, and stop as "
        "soon as it is known how often eddies leave.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    options.add_argument("--steps", type=_number, default=10_000, metavar="N",
                         help="steps at most")  # fmt: skip
    options.add_argument("--out", type=Path, default=Path("lbm-steer"), metavar="DIR",
                         help="folder for the picture")  # fmt: skip
    return options


def _tell(step: int, velocity: study.Array) -> None:
    fastest = float(np.hypot(*velocity).max())
    print(f"step {step:6,}  fastest {fastest:.3f} cells per step", flush=True)


def _report(run: study.Run, finding: study.Finding, again: float | None, planned: int) -> str:
    if finding.strouhal is None or again is None:
        return f"steps: {run.steps} of {planned}\nStrouhal number: not known yet; try more --steps"
    saved = 100 * (planned - run.steps) / planned
    return "\n".join(
        [
            f"steps: {run.steps} of {planned}, {saved:.0f} % saved",
            f"known at step: {finding.at_step}, stopped at: {run.steps}",
            f"samples: {len(run.samples)} taken, {finding.samples} analysed",
            f"Strouhal number: {finding.strouhal:.4f} while it ran",
            f"Strouhal number: {again:.4f} from the kept samples",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study as the command line says; returns the exit code."""
    options = _parser().parse_args(argv)
    if importlib.util.find_spec("matplotlib") is None:
        print(f"{PROGRAM}: the picture needs matplotlib: pip install matplotlib", file=sys.stderr)
        return STUCK
    from .picture import draw

    channel = Channel()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        # Both must run at the same time, however few cores there are.
        with ssdag.load(ssdag.Config(executors=[LocalExecutor(max_workers=2)])):
            run, finding = study.run(channel, options.steps, _tell)
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
    again = study.offline(run, channel, finding.at_step)
    print(_report(run, finding, again, options.steps))
    draw(channel, run, finding, options.steps, options.out / "wake.png")
    print(f"written: wake.png in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
