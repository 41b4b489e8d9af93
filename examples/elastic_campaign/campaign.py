# SPDX-License-Identifier: BSD-3-Clause
"""The campaign: simulations in blocks that come and go, analyses beside the driver."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ssdag
from ssdag import python_app

from . import gray_scott

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np


@dataclass(frozen=True)
class Try:
    """One time that a simulation was begun.

    Attributes
    ----------
    case : int
    block : str
        Number of the block; "-" where there are none.
    worker : str
        Name of the worker on it.
    began_s, ended_s : float
        Seconds since 1970; None for the end of a try that was cut.
    """

    case: int
    block: str
    worker: str
    began_s: float
    ended_s: float | None = None


@dataclass
class Result:
    """What is known of one case at the end.

    Attributes
    ----------
    field : ndarray
        Concentration of v.
    kind : str
        What has formed.
    """

    case: int
    feed: float
    kill: float
    field: np.ndarray
    kind: str
    wavelength: float
    done: Try


@dataclass
class Outcome:
    """What a campaign has brought.

    Attributes
    ----------
    results : dict of int to Result
        By case; each is there once.
    tries : list of Try
        All, also those that the end of a block cut.
    """

    results: dict[int, Result] = field(default_factory=dict)
    tries: list[Try] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def cut(self) -> list[Try]:
        """Tries that did not come to their end."""
        return [one for one in self.tries if one.ended_s is None]

    @property
    def blocks(self) -> list[str]:
        """Blocks that have done something, in their order."""
        return sorted({one.block for one in self.tries}, key=lambda name: (len(name), name))

    @property
    def busy_s(self) -> float:
        """Seconds that simulations ran which came to their end, summed over workers."""
        return sum(one.ended_s - one.began_s for one in self.tries if one.ended_s is not None)

    @property
    def utilisation(self) -> float:
        """Part of their time that workers spent on simulations that came to their end."""
        spans = 0.0
        for key in {(one.block, one.worker) for one in self.tries}:
            mine = [one for one in self.tries if (one.block, one.worker) == key]
            last = max(one.ended_s or one.began_s for one in mine)
            spans += last - min(one.began_s for one in mine)
        return self.busy_s / spans if spans else 0.0


@python_app(executors=["simulations"])
def simulate(case: int, feed: float, kill: float, steps: int, log: str) -> Any:
    """Run one simulation; it says in the log when it begins."""
    began = Try(
        case,
        os.environ.get("SSDAG_BLOCK_ID", "-"),
        f"{socket.gethostname()}/{os.getpid()}",
        time.time(),
    )
    # A try that is cut cannot say so: what has begun and not ended was cut. One write of a
    # short line to a file that is opened for appending is whole, whoever else writes.
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps([began.case, began.block, began.worker, began.began_s]) + "\n")
    return gray_scott.simulate(feed, kill, steps), began, time.time()


@python_app(executors=["analysis"])
def analyse(case: int, feed: float, kill: float, simulated: Any) -> Result:
    """Say what has formed; runs as soon as its simulation is there."""
    values, began, ended_s = simulated
    kind, wavelength = gray_scott.kind_of(values)
    done = Try(began.case, began.block, began.worker, began.began_s, ended_s)
    return Result(case, feed, kill, values, kind, wavelength, done)


def run(
    feeds: np.ndarray,
    kills: np.ndarray,
    steps: int,
    log: Path,
    tell: Callable[[int, Result], None],
) -> Outcome:
    """Run all pairs of rates; returns when the last has been analysed.

    Parameters
    ----------
    feeds, kills : ndarray of float
        The rates.
    steps : int
        Time steps of each simulation.
    log : Path
        A file that all nodes see.
    tell : callable
        Gets the number of cases done and the last of them.
    """
    log.write_text("")
    outcome = Outcome()
    began = time.monotonic()
    futures = []
    for case, (feed, kill) in enumerate((float(f), float(k)) for f in feeds for k in kills):
        futures.append(analyse(case, feed, kill, simulate(case, feed, kill, steps, str(log))))
    for future in ssdag.as_completed(futures):
        result = future.result()
        assert result.case not in outcome.results
        outcome.results[result.case] = result
        tell(len(outcome.results), result)
    outcome.wall_s = time.monotonic() - began
    ends = {(one.done.case, one.done.began_s): one.done for one in outcome.results.values()}
    for line in log.read_text().splitlines():
        words = json.loads(line)
        outcome.tries.append(ends.get((words[0], words[3]), Try(*words)))
    outcome.tries.sort(key=lambda one: one.began_s)
    return outcome
