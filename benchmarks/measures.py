# SPDX-License-Identifier: BSD-3-Clause
"""The measures of the engine benchmark, each a function of a started backend.

Sizes adapt to the backend: a calibration run is followed by one of about `budget_s`
seconds, so that a slow peer takes no longer than a fast one. What size was used is part
of each result.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import tree
from benchmarks.work import add_one, busy, combine, hold, identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.peers.contract import Backend

#: What a measure gives: figures by name, ``n`` among them.
Figures = dict[str, float]

LAYER, PARENTS = 200, 3
#: Float64 values in a page of memory.
_PAGE = 512


def _clamp(n: float, low: int, high: int) -> int:
    return max(low, min(high, int(n)))


def _check_pages(array: Any, want: float) -> None:
    """Read one value of every page: an array that is only promised costs what it costs."""
    if not (array[::_PAGE] == want).all():
        raise AssertionError("wrong array")


def _timed(run: Callable[[], None]) -> float:
    gc.collect()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Measures:
    """All measures of one backend; `budget_s` is the time of the main run of each."""

    def __init__(self, backend: Backend, budget_s: float, *, quick: bool) -> None:
        self.backend = backend
        self.budget_s = budget_s
        self.quick = quick
        self.rate = 0.0

    def names(self) -> list[str]:
        """The measures that make sense for this backend, in the order to run them."""
        arrays = ["array_1mb", "array_10mb", "array_64mb"] if self.backend.processes else []
        graph = ["chain", "fan", "layered"] if self.backend.graph else []
        return ["noop", "map", "latency", *graph, *arrays, "busy_1ms", "busy_10ms"]

    def run(self, name: str) -> Figures:
        """Take the measure `name`; raises what the backend raises."""
        if not self.rate and name not in ("noop", "pending"):
            self._calibrate()
        method: Callable[[], Figures] = getattr(self, name)
        return method()

    def _bulk(self, n: int) -> float:
        return _timed(lambda: self._check_bulk(n))

    def _check_bulk(self, n: int) -> None:
        if sum(self.backend.bulk(identity, range(n))) != n * (n - 1) // 2:
            raise AssertionError("wrong results")

    def _calibrate(self) -> None:
        n = 100
        self._bulk(n)  # starts lazy workers, ships the function
        while True:
            elapsed = self._bulk(n)
            self.rate = n / elapsed
            if elapsed > 0.1 * self.budget_s or n >= 50_000:
                return
            n *= 4

    def noop(self) -> Figures:
        """Submit n no-ops, then gather: tasks/s, and CPU of all processes per task."""
        self._calibrate()
        n = _clamp(self.rate * self.budget_s, 200, 200_000)
        cpu = tree.cpu_s()
        elapsed = self._bulk(n)
        cpu = tree.cpu_s() - cpu
        self.rate = n / elapsed
        return {"n": n, "tasks_per_s": n / elapsed, "cpu_us": cpu / n * 1e6}

    def map(self) -> Figures:
        """No-ops over a list, by the backend's own call for that, in one piece."""
        items = range(_clamp(2 * self.rate * self.budget_s, 200, 400_000))
        want = len(items) * (len(items) - 1) // 2

        def run() -> None:
            if sum(self.backend.map(identity, items)) != want:
                raise AssertionError("wrong results")

        return {"n": len(items), "tasks_per_s": len(items) / _timed(run)}

    def latency(self) -> Figures:
        """One task after the other, each result awaited before the next submit."""
        backend = self.backend
        times: list[float] = []
        end = time.monotonic() + self.budget_s
        gc.collect()
        while len(times) < 20 or (time.monotonic() < end and len(times) < 2000):
            start = time.perf_counter()
            backend.result(backend.submit(identity, 1))
            times.append(time.perf_counter() - start)
        cuts = statistics.quantiles(times, n=100, method="inclusive")
        return {"n": len(times), "p50_us": cuts[49] * 1e6, "p99_us": cuts[98] * 1e6}

    def chain(self) -> Figures:
        """A chain of up to 1000 nodes, submitted at once."""

        def run(n: int) -> None:
            future = self.backend.submit(identity, 0)
            for _ in range(n):
                future = self.backend.submit(add_one, future)
            if self.backend.result(future) != n:
                raise AssertionError("wrong result")

        trial = _timed(lambda: run(20)) / 20
        n = _clamp(self.budget_s / trial, 50, 1000)
        return {"n": n, "us_per_node": _timed(lambda: run(n)) / n * 1e6}

    def fan(self) -> Figures:
        """One node, then up to 2000 that take it, then one that takes them all."""
        width = _clamp(2 * self.budget_s * self.rate, 200, 2000)

        def run() -> None:
            submit = self.backend.submit
            source = submit(identity, 1)
            middle = [submit(combine, source, i) for i in range(width)]
            want = (1 + sum(2 + i for i in range(width))) % 1_000_003
            if self.backend.result(submit(combine, *middle)) != want:
                raise AssertionError("wrong result")

        return {"n": width + 2, "us_per_node": _timed(run) / (width + 2) * 1e6}

    def layered(self) -> Figures:
        """A random graph in layers of 200, 3 parents a node, up to 10,000 nodes."""
        layers = _clamp(2 * self.budget_s * self.rate / LAYER, 5, 10_000 // LAYER)
        rng = random.Random(7)
        plan = [
            [rng.sample(range(LAYER), PARENTS) for _ in range(LAYER)] for _ in range(layers - 1)
        ]
        values = list(range(LAYER))
        for layer in plan:
            values = [combine(*(values[p] for p in parents)) for parents in layer]

        def run() -> None:
            submit = self.backend.submit
            futures = [submit(identity, i) for i in range(LAYER)]
            for layer in plan:
                futures = [submit(combine, *(futures[p] for p in parents)) for parents in layer]
            if self.backend.gather(futures) != values:
                raise AssertionError("wrong results")

        nodes = layers * LAYER
        return {"n": nodes, "us_per_node": _timed(run) / nodes * 1e6}

    def array_1mb(self) -> Figures:
        """Float64 arrays of 1 MB, one task after the other; both directions counted."""
        return self._round_trips(125_000, limit=500)

    def array_64mb(self) -> Figures:
        """Arrays of 64 MiB, one after the other, and what memcpy does in the same process."""
        size = 8 * 1024 * 1024
        figures = self._round_trips(size, limit=10)
        source, target = np.ones(size), np.zeros(size)
        copies = [_timed(lambda: np.copyto(target, source)) for _ in range(5)]
        figures["memcpy_mb_per_s"] = source.nbytes / statistics.median(copies) / 1e6
        return figures

    def _round_trips(self, size: int, limit: int) -> Figures:
        arrays = [np.full(size, float(i)) for i in range(4)]
        backend = self.backend
        for array in arrays[:2]:  # warm, and checked in full
            back = backend.result(backend.submit(identity, array))
            if not np.array_equal(back, array):
                raise AssertionError("wrong array")
            del back
        done = 0
        end = time.monotonic() + self.budget_s
        start = time.perf_counter()
        while done < 3 or (done < limit and time.monotonic() < end):
            array = arrays[done % 4]
            back = backend.result(backend.submit(identity, array))
            _check_pages(back, array[0])
            done += 1
        elapsed = time.perf_counter() - start
        return {"n": done, "mb_per_s": 2 * done * arrays[0].nbytes / elapsed / 1e6}

    def array_10mb(self) -> Figures:
        """Up to 100 arrays of 10 MB, all submitted, then taken one by one."""
        arrays = [np.full(1_250_000, float(i)) for i in range(4)]

        def run(n: int) -> None:
            if not self.backend.graph:
                self.backend.bulk(identity, (arrays[i % 4] for i in range(n)))
                return
            futures = [self.backend.submit(identity, arrays[i % 4]) for i in range(n)]
            for i in range(n):
                future, futures[i] = futures[i], None
                _check_pages(self.backend.result(future), arrays[i % 4][0])

        trial = _timed(lambda: run(4)) / 4
        n = _clamp(self.budget_s / trial, 8, 100)
        return {"n": n, "mb_per_s": 2 * n * arrays[0].nbytes / _timed(lambda: run(n)) / 1e6}

    def busy_1ms(self) -> Figures:
        """Tasks of 1 ms of CPU time against the ideal on two workers."""
        return self._busy(0.001)

    def busy_10ms(self) -> Figures:
        """Tasks of 10 ms of CPU time against the ideal on two workers."""
        return self._busy(0.010)

    def _busy(self, seconds: float) -> Figures:
        n = _clamp(self.budget_s / seconds, 40, 2000)

        def run() -> None:
            if len(self.backend.bulk(busy, [seconds] * n)) != n:
                raise AssertionError("wrong results")

        elapsed = _timed(run)
        return {"n": n, "slowdown": elapsed / (n * seconds / 2)}

    def pending(self) -> Figures:
        """Memory of the whole tree per task that waits for an unfinished parent.

        For a process that measures nothing else: memory freed by earlier measures would
        be filled first, and not seen. The tasks are let go, but not awaited.
        """
        n = self.backend.pending // (4 if self.quick else 1)
        fifo = os.path.join(tempfile.mkdtemp(), "hold")
        os.mkfifo(fifo)
        self._bulk(100)
        futures: list[Any] = [self.backend.submit(hold, fifo)]
        tree.settle()
        gc.collect()
        before = tree.pss_bytes()
        futures.extend(self.backend.submit(combine, futures[0], i) for i in range(n))
        tree.settle()
        gc.collect()
        grown = tree.pss_bytes() - before
        with contextlib.suppress(OSError):  # nobody reads if the task has not begun yet
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return {"n": n, "bytes_per_task": grown / n}
