# SPDX-License-Identifier: BSD-3-Clause
"""The rows of the tables and the gates that the design sets for them.

A ratio is always "times better than the peer": ours / theirs where more is better,
theirs / ours where less is better.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One figure, how it is read, and what is asked of it."""

    #: ``measure.figure``
    key: str
    title: str
    unit: str
    more_is_better: bool = False
    #: What our figure must reach (at least or at most); None: nothing is asked.
    absolute: float | None = None
    #: Peer -> how many times better we must be.
    ratios: dict[str, float] = field(default_factory=dict)

    def ratio(self, ours: float, theirs: float) -> float:
        """How many times better `ours` is than `theirs`."""
        up, down = (ours, theirs) if self.more_is_better else (theirs, ours)
        return up / down if down > 0 else float("inf")

    def reached(self, ours: float) -> bool | None:
        """Whether the absolute gate is met; None if there is none."""
        if self.absolute is None:
            return None
        return ours >= self.absolute if self.more_is_better else ours <= self.absolute


def _peers(
    htex: float, ray: float, dask: float | None, pool: float | None, **more: float
) -> dict[str, float]:
    named = {"htex": htex, "ray": ray, "dask": dask, "processpool": pool, **more}
    return {name: value for name, value in named.items() if value is not None}


#: Processes: ours is the backend "ssdag".
PROCESS_ROWS = (
    Row("noop.tasks_per_s", "no-op tasks", "1/s", True, 100_000,
        _peers(75, 50, 150, 8, loky=10)),
    Row("map.tasks_per_s", "no-op tasks by map", "1/s", True, None, {"joblib": 0.4}),
    Row("noop.cpu_us", "CPU per task, all processes", "µs", False, 10,
        {"htex": 75, "ray": 60, "processpool": 8}),
    Row("latency.p50_us", "one task, p50", "µs", False, 200, _peers(7, 7, 50, 1)),
    Row("latency.p99_us", "one task, p99", "µs"),
    Row("chain.us_per_node", "chain, per node", "µs", False, 150, _peers(10, 8, 40, 1)),
    Row("fan.us_per_node", "fan-out and fan-in, per node", "µs", False, 12,
        _peers(80, 40, 90, 6)),
    Row("layered.us_per_node", "random layered graph, per node", "µs", False, 15,
        _peers(55, 30, 80, 4.5)),
    Row("array_1mb.mb_per_s", "1 MB array there and back", "MB/s", True, 2000,
        _peers(12, 5, 10, 6)),
    Row("array_10mb.mb_per_s", "100 arrays of 10 MB there and back", "MB/s", True, 3000,
        _peers(10, 3.5, 10, 5)),
    Row("array_64mb.mb_per_s", "64 MiB array there and back", "MB/s", True, None, {"ray": 5}),
    Row("pending.bytes_per_task", "memory per pending task", "B", False, 1000,
        _peers(8, 9, 6, 2)),
    Row("start.first_result_s", "start to first result", "s", False, 0.3,
        _peers(20, 10, 2, None)),
    Row("busy_1ms.slowdown", "1 ms tasks, time over ideal", "x"),
    Row("busy_10ms.slowdown", "10 ms tasks, time over ideal", "x"),
)  # fmt: skip

#: Threads: ours is the backend "ssdag-threads".
THREAD_ROWS = (
    Row("noop.tasks_per_s", "no-op tasks", "1/s", True),
    Row("noop.cpu_us", "CPU per task", "µs"),
    Row("latency.p50_us", "one task, p50", "µs"),
    Row("chain.us_per_node", "chain, per node", "µs"),
    Row("fan.us_per_node", "fan-out and fan-in, per node", "µs"),
    Row("layered.us_per_node", "random layered graph, per node", "µs", False, 25,
        {"parsl-threads": 8}),
    Row("pending.bytes_per_task", "memory per pending task", "B"),
    Row("start.first_result_s", "start to first result", "s"),
)  # fmt: skip

#: Starting programs: ours is "launch-ssdag".
LAUNCH_ROWS = (
    Row("true8.per_s", "launching `true`, 8 in flight", "1/s", True, 2000,
        {"launch-parsl": 1.8, "launch-popen": 0.65}),
    Row("echo50.s", "50 `echo` members, start to all finished", "s", False, 1.0),
    Row("echo1.s", "one `echo`", "s", False, 0.05),
    Row("orchestrator.ready_s", "orchestrator ready", "s", False, 0.5),
    Row("import.s", "`import ssdag`", "s", False, 0.15),
    Row("idle.core_percent", "idle engine and orchestrator", "% of a core", False, 1.0),
)  # fmt: skip

PROCESS_PEERS = ("htex", "ray", "dask", "processpool", "loky", "joblib")
THREAD_PEERS = ("parsl-threads", "threadpool")
LAUNCH_PEERS = ("launch-parsl", "launch-popen")
