# SPDX-License-Identifier: BSD-3-Clause
"""The pilot's hub alone: how many tasks a second one core can hand out and take back.

The real hub, over real connections, against managers that only answer. They live in a
process of their own; the engine is a counter. So the figure is the hub's: its thread's
CPU time per task, and, beside it, that of all threads of its process (ZeroMQ's too).
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ssdag.executors.pilot.hub import PilotHub
from ssdag.executors.pilot.security import Keys
from ssdag.states import TaskState
from ssdag.tasks import AppSpec, Options, Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.tasks import Outcome

_FILES = 8192


class _Counter:
    """Stands where the engine is."""

    def __init__(self) -> None:
        self.done = 0

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """Count."""
        self.done += len(outcomes)

    def running(self, tasks: Sequence[Task]) -> None:
        """Ignore it."""


class _OneBlock:
    """Stands where blocks are managed: there is one, for ever."""

    unproved: frozenset[int] = frozenset()
    walltime_s = float("inf")

    def deadline(self, number: int) -> float:
        """Return a time that never comes."""
        return float("inf")

    def arrived(self, number: int, workers: int) -> None:
        """Ignore it."""

    def wake(self) -> None:
        """Ignore it."""

    def look(self) -> None:
        """Ignore it."""


def _tasks(count: int) -> list[Task]:
    app, options = AppSpec(abs, "abs"), Options()
    nobody: Any = None
    tasks = []
    for i in range(count):
        task = Task(app, (i,), None, options, nobody)
        task.task_id, task.simple, task.state = i, True, TaskState.READY
        tasks.append(task)
    return tasks


def measure(managers: int, per_message: int, count: int, *, encrypt: bool) -> dict[str, float]:
    """Return tasks per second of wall time, and microseconds of CPU per task.

    Parameters
    ----------
    managers : int
        Connections.
    per_message : int
        Workers that each manager says it has: with slow tasks so many go in a message.
    count : int
        Tasks.
    encrypt : bool
        With CurveZMQ.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, _FILES), hard), hard))
    keys, counter = Keys.make(encrypt), _Counter()
    hub = PilotHub("load", keys, counter, 2.0, 60.0, 0.0)
    blocks: Any = _OneBlock()
    hub.blocks = blocks
    port = hub.switchboard.bind("127.0.0.1")
    hub.start()
    crowd = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.hubload", str(port), str(managers), str(per_message)],
        stdin=subprocess.PIPE,
    )
    try:
        assert crowd.stdin is not None
        crowd.stdin.write(pickle.dumps(asdict(keys)))
        crowd.stdin.close()
        while len(hub.peers) < managers:
            time.sleep(0.05)
        hub.put_many(_tasks(20 * managers))  # the first round trip of each connection
        while counter.done < 20 * managers:
            time.sleep(0.01)
        tasks, counter.done = _tasks(count), 0
        assert hub.ident is not None
        thread = time.pthread_getcpuclockid(hub.ident)
        begin, cpu, all_cpu = time.perf_counter(), time.clock_gettime(thread), time.process_time()
        hub.put_many(tasks)
        while counter.done < count:
            time.sleep(0.01)
        wall_s = time.perf_counter() - begin
        cpu_s, all_cpu_s = time.clock_gettime(thread) - cpu, time.process_time() - all_cpu
    finally:
        crowd.kill()
        crowd.wait()
        hub.stop()
    return {
        "n": count,
        "tasks_per_s": count / wall_s,
        "hub_cpu_us": cpu_s / count * 1e6,
        "process_cpu_us": all_cpu_s / count * 1e6,
        "tasks_per_core_s": count / all_cpu_s,
    }


def _serve(port: int, managers: int, workers: int) -> None:
    """Play the managers until somebody ends us."""
    from benchmarks.simulated import Crowd

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, hard), hard))
    keys = Keys(**pickle.load(sys.stdin.buffer))
    parent = os.getppid()
    crowd = Crowd(f"tcp://127.0.0.1:{port}", keys, managers, workers)
    beat = time.monotonic()
    while os.getppid() == parent:
        crowd.turn(0.5)
        if time.monotonic() - beat > 2.0:
            beat = time.monotonic()
            for one in crowd.managers:
                one.beat()


if __name__ == "__main__":
    if len(sys.argv) == 4:
        _serve(*map(int, sys.argv[1:]))
    else:
        options = json.loads(sys.argv[1])
        print(json.dumps(measure(**options)))
