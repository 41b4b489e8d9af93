# SPDX-License-Identifier: BSD-3-Clause
"""The two tasks, and what goes between them: samples one way, a word the other."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import ssdag
from ssdag import Orchestrator, python_app

from .flow import Channel, Flow
from .strouhal import Wake

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

#: Steps between two samples of the probe, between two messages, between two pictures.
SAMPLE, MESSAGE, PICTURE = 5, 50, 250

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Run:
    """What the simulation did.

    Attributes
    ----------
    steps : int
        How far it came.
    stopped : bool
        It was told to.
    samples : numpy.ndarray
        All that the probe has seen, shape (n, 2): step, velocity.
    velocity : numpy.ndarray
        At the end, shape (2, length, width).
    """

    steps: int
    stopped: bool
    samples: Array
    velocity: Array


@dataclass(frozen=True)
class Finding:
    """What the analysis found while the simulation ran.

    Attributes
    ----------
    strouhal : float or None
        None: too few eddies have left.
    at_step : int
        The last sample that it is made of.
    samples : int
        How many have come, also after it was known.
    """

    strouhal: float | None
    at_step: int
    samples: int


@python_app
def simulate(db: ssdag.Client, channel: Channel, steps: int) -> Run:
    """Compute, tell what the probe sees, and look for commands between steps."""
    flow = Flow(channel)
    steering = db.steering()
    seen: list[tuple[int, float]] = []
    with (
        db.stream("probe", capacity=20).writer() as probe,
        db.stream("pictures", policy="latest").writer() as pictures,
    ):
        while flow.step < steps and not steering.stopped:
            flow.advance(SAMPLE)
            seen.append((flow.step, flow.probe()))
            if flow.step % MESSAGE == 0:
                probe.append(np.array(seen[-MESSAGE // SAMPLE :]))
                steering.check(flow.step)
            if flow.step % PICTURE == 0:
                pictures.append({"step": flow.step, "velocity": flow.velocity()})
    return Run(flow.step, steering.stopped, np.array(seen), flow.velocity())


@python_app
def analyse(db: ssdag.Client, channel: Channel) -> Finding:
    """Follow the wake; say "stop" as soon as its frequency is known."""
    wake = Wake(channel.diameter, channel.speed)
    finding: Finding | None = None
    count = last = 0
    for samples in db.stream("probe"):
        count += len(samples)
        last = int(samples[-1, 0])
        if finding is None:
            wake.add(map(tuple, samples))
            if wake.steady:
                finding = Finding(wake.strouhal, last, count)
                db.steer("stop")
    return Finding(
        finding.strouhal if finding else wake.strouhal, finding.at_step if finding else last, count
    )


def offline(run: Run, channel: Channel, until: int) -> float | None:
    """Return what the analysis finds in the kept samples up to a step."""
    wake = Wake(channel.diameter, channel.speed)
    wake.add((step, value) for step, value in run.samples if step <= until)
    return wake.strouhal


def run(channel: Channel, steps: int, tell: Callable[[int, Array], object]) -> tuple[Run, Finding]:
    """Let both work together; `tell` gets a picture now and then, never all of them.

    Raises
    ------
    SsdagError
        A task failed.
    """
    db = Orchestrator()
    computing, looking = simulate(db, channel, steps), analyse(db, channel)
    streams = [db.client().stream(name) for name in ("probe", "pictures")]

    failures: list[BaseException] = []

    def end_all(done: Future[Any]) -> None:
        # Where one is gone, killed perhaps, the other would wait for it for ever.
        error = None if done.cancelled() else done.exception()
        if error is not None:
            failures.append(error)
            computing.cancel()
            with contextlib.suppress(ssdag.StoreError):  # it is the server that is gone
                for stream in streams:
                    stream.fail("the other task has failed")

    computing.add_done_callback(end_all)
    looking.add_done_callback(end_all)
    try:
        with streams[1].reader("screen") as reader:
            for picture in reader:
                tell(picture["step"], picture["velocity"])
    except (ssdag.DataError, ssdag.StoreError) as error:
        failures.append(error)
    ssdag.wait([computing, looking])
    if failures:
        raise failures[0]  # the others follow from it
    return computing.result(), looking.result()
