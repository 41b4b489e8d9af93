# SPDX-License-Identifier: BSD-3-Clause
"""``python -m benchmarks.steps``: steps per second inside a Slurm allocation.

ssdag's ``AllocationExecutor`` against bare ``srun`` in a loop, one and eight at a time, in
the same allocation, turn by turn; and the same executor against bare ``Popen`` without a
scheduler. Uses the job that it is started in; else it starts a Slurm of its own on this
machine (root, Debian's slurm-wlm and munge).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import select
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

import ssdag
from benchmarks import machine
from ssdag import Config, Resources, bash_app
from ssdag.executors import AllocationExecutor
from ssdag.providers.base import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESULT = Path(__file__).parent / "results" / "steps.json"
SRUN = ["srun", "--nodes=1", "--ntasks=1", "--cpus-per-task=2", "--exact", "true"]


@bash_app
def true() -> str:
    """The program of every step."""
    return "true"


def bare(argv: list[str], count: int, at_a_time: int) -> float:
    """Start programs, so many at a time; return how many a second."""
    poll = select.poll()
    running: dict[int, subprocess.Popen[bytes]] = {}
    started = ended = 0
    begin = time.perf_counter()
    while ended < count:
        while len(running) < at_a_time and started < count:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
            fd = os.pidfd_open(process.pid)
            running[fd] = process
            poll.register(fd, select.POLLIN)
            started += 1
        for fd, _ in poll.poll():
            poll.unregister(fd)
            os.close(fd)
            if running.pop(fd).wait() != 0:
                raise RuntimeError(f"{argv} failed")
            ended += 1
    return count / (time.perf_counter() - begin)


def ours(executor: AllocationExecutor, count: int, at_a_time: int, cores: int) -> float:
    """Run steps by ssdag; return how many a second."""
    needs = Resources(cores=cores)
    with ssdag.load(Config(executors=[executor])):
        true(resources=needs).result()
        begin = time.perf_counter()
        if at_a_time == 1:
            for _ in range(count):
                true(resources=needs).result()
        else:
            ssdag.gather([true(resources=needs) for _ in range(count)])
        return count / (time.perf_counter() - begin)


@contextlib.contextmanager
def allocation() -> Iterator[None]:
    """Be inside a Slurm job with four nodes of four cores."""
    if "SLURM_JOB_ID" in os.environ:
        yield
        return
    from tests.clusters.cluster import SlurmCluster

    cluster = SlurmCluster(4)
    cluster.start()
    try:
        os.environ |= cluster.env
        said = subprocess.run(
            ["salloc", "--no-shell", "--nodes=4", "--exclusive", "--time=30"],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
        found = re.search(r"job allocation (\d+)", said)
        assert found is not None
        os.environ |= {
            "SLURM_JOB_ID": found[1],
            "SLURM_JOB_NODELIST": "n[1-4]",
            "SLURM_JOB_CPUS_PER_NODE": "4(x4)",
        }
        yield
    finally:
        cluster.stop()


def measure(rounds: int, count: int) -> dict[str, list[float]]:
    """Measure everything, turn by turn."""
    local = [Node("localhost", 8)]
    ways: dict[str, Callable[[], float]] = {
        "srun, 1 at a time: bare loop": lambda: bare(SRUN, count, 1),
        "srun, 1 at a time: ssdag": lambda: ours(AllocationExecutor("slurm"), count, 1, 2),
        "srun, 8 at a time: bare loop": lambda: bare(SRUN, count, 8),
        "srun, 8 at a time: ssdag": lambda: ours(AllocationExecutor("slurm"), count, 8, 2),
        "no scheduler, 8 at a time: bare Popen": lambda: bare(["true"], 5 * count, 8),
        "no scheduler, 8 at a time: ssdag": lambda: ours(
            AllocationExecutor("local", nodes=local), 5 * count, 8, 1
        ),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    with allocation():
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].append(way())
    return found


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round; writes nothing")
    args = parser.parse_args()
    found = measure(1 if args.quick else 5, 40 if args.quick else 120)
    table = Table("steps of `true`", "per second", "of bare")
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    names = list(medians)
    for i, name in enumerate(names):
        share = "" if i % 2 == 0 else f"{100 * medians[name] / medians[names[i - 1]]:.0f} %"
        table.add_row(name, f"{medians[name]:.1f}", share)
    Console().print(table)
    if not args.quick:
        content = {"machine": machine.facts(), "load": machine.load_average(), "per_s": found}
        RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
