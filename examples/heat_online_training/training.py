# SPDX-License-Identifier: BSD-3-Clause
"""The tasks: some simulate, one learns, all at the same time."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import ssdag
from ssdag import Orchestrator, python_app

from . import heat
from .network import Network, error

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

#: Samples that may lie in the stream before producers have to wait.
CAPACITY = 16
#: Fields for the test of what was learnt, which the network never learns from.
TESTS = 32
_BATCH = 16
_PIECE = 8  # samples between two looks at the error

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Produced:
    """What a producer did.

    Attributes
    ----------
    numbers : list of int
        Of the samples that it has put into the stream.
    times : list of (float, float)
        When each was computed, from and to, in seconds since 1970.
    stopped : bool
        It was told to stop before all were made.
    """

    numbers: list[int]
    times: list[tuple[float, float]]
    stopped: bool


@dataclass
class Learnt:
    """What the learner did.

    Attributes
    ----------
    numbers : list of int
        Of the samples, in the order in which they came.
    errors : list of (float, int, float)
        Time, samples until then, error on the test fields.
    times : list of (float, float)
        When it learnt, from and to.
    most_waiting : int
        Samples that lay in the stream, at most, when it looked.
    told_s : float or None
        When it said stop, in seconds since 1970.
    example : tuple of numpy.ndarray
        A test field, and what the network says.
    average_error : float
        Of the average of all fields, for comparison.
    """

    numbers: list[int] = field(default_factory=list)
    errors: list[tuple[float, int, float]] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)
    most_waiting: int = 0
    told_s: float | None = None
    example: tuple[Array, Array] | None = None
    average_error: float = float("nan")


@python_app
def produce(db: ssdag.Client, producer: int, producers: int, count: int) -> Produced:
    """Simulate one plate after the other and put each into the stream, until told to stop."""
    spots = heat.draw_spots(count * producers, seed=1)
    steering = db.steering()
    made: list[int] = []
    times: list[tuple[float, float]] = []
    stream = db.stream("samples", capacity=CAPACITY, policy="block", writers=producers)
    with stream.writer() as samples:
        for number in range(producer, len(spots), producers):
            steering.check()
            if steering.stopped:
                break
            began = time.time()
            plate = heat.solve(spots[number])
            times.append((began, time.time()))
            samples.append({"number": number, "spot": spots[number], "plate": plate})
            made.append(number)
    return Produced(made, times, steering.stopped)


@python_app
def learn(db: ssdag.Client, producers: int, goal: float, steps: int) -> Learnt:
    """Learn from what has come, `steps` times for each sample; say stop at the goal."""
    test_spots = heat.draw_spots(TESTS, seed=2)
    tests = np.array([heat.solve(spot).ravel() for spot in test_spots])
    network, random, learnt = Network(tests.shape[1]), np.random.default_rng(0), Learnt()
    spots: list[Array] = []
    plates: list[Array] = []
    samples = db.stream("samples", capacity=CAPACITY, policy="block", writers=producers)
    with db.stream("progress", policy="latest").writer() as progress:
        for sample in samples:
            learnt.numbers.append(sample["number"])
            spots.append(sample["spot"])
            plates.append(sample["plate"].ravel())
            if learnt.told_s is not None:
                continue  # what was on its way
            began = time.time()
            for _ in range(steps):
                some = random.integers(0, len(spots), _BATCH)
                network.learn(
                    np.array([spots[i] for i in some]), np.array([plates[i] for i in some])
                )
            learnt.times.append((began, time.time()))
            if len(spots) % _PIECE == 0:
                wrong = error(network(test_spots), tests)
                learnt.errors.append((time.time(), len(spots), wrong))
                learnt.most_waiting = max(learnt.most_waiting, len(samples))
                progress.append({"samples": len(spots), "error": wrong})
                if wrong < goal:
                    db.steer("stop")
                    learnt.told_s = time.time()
    side = heat.POINTS
    learnt.example = tests[0].reshape(side, side), network(test_spots[:1]).reshape(side, side)
    learnt.average_error = error(np.broadcast_to(np.mean(plates, axis=0), tests.shape), tests)
    return learnt


def run(
    producers: int, count: int, goal: float, steps: int, tell: Callable[[int, float], object]
) -> tuple[list[Produced], Learnt]:
    """Let producers and the learner work together; `tell` hears how it goes.

    Raises
    ------
    SsdagError
        A task failed.
    """
    db = Orchestrator()
    making = [produce(db, i, producers, count) for i in range(producers)]
    learning = learn(db, producers, goal, steps)
    tasks: list[Future[Any]] = [*making, learning]
    progress = db.client().stream("progress", policy="latest")
    failures: list[BaseException] = []

    def end_all(done: Future[Any]) -> None:
        # Where one is gone, killed perhaps, the others would wait for it for ever.
        failure = None if done.cancelled() else done.exception()
        if failure is not None:
            failures.append(failure)
            for future in tasks:
                future.cancel()
            with contextlib.suppress(ssdag.StoreError):  # it is the server that is gone
                progress.fail("another task has failed")

    for future in tasks:
        future.add_done_callback(end_all)
    try:
        with progress.reader("screen") as reader:
            for news in reader:
                tell(news["samples"], news["error"])
    except (ssdag.DataError, ssdag.StoreError) as failure:
        failures.append(failure)
    ssdag.wait(tasks)
    if failures:
        raise failures[0]  # the others follow from it
    return [one.result() for one in making], learning.result()
