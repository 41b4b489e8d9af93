# SPDX-License-Identifier: BSD-3-Clause
"""A script with all kinds of apps, to be planned; see ``two_systems.txt``."""

import sys
from typing import Any

import ssdag
from ssdag import Orchestrator, Resources, bash_app, join_app, mpi_app, python_app


@python_app(executors=["simulations"], retries=2, walltime_s=60)
def simulate(x: int, db: Any) -> Any:
    raise AssertionError("a plan runs no task")


@python_app(executors=["simulations"])
def train(field: Any) -> Any:
    raise AssertionError("a plan runs no task")


@mpi_app(executors=["steps"], resources=Resources(ranks=8, ranks_per_node=4, gpus_per_rank=1))
def solve(case: int, start: float) -> list[str]:
    return ["solver", "--case", str(case), f"--start={start}"]


@mpi_app(python=True, executors=["steps"], resources=Resources(ranks=2))
def reduce_all() -> float:
    raise AssertionError("a plan runs no task")


@bash_app(executors=["steps"], resources=Resources(nodes=1))
def own_launch() -> str:
    return "$SSDAG_LAUNCH hostname > hosts.txt"


@join_app
def refine(n: int) -> list[Any]:
    return [simulate(i, None) for i in range(n)]


with ssdag.load():
    db = Orchestrator()
    peaks = [simulate(x, db) for x in range(20)]
    model = train(db.tensor("u.3"))
    ends = [solve(i, peaks[i]["peak"]) for i in range(5)]
    ssdag.gather([reduce_all(), own_launch(), refine(2), *ends])
    print("model", model.result().loss, sys.argv[1:])  # noqa: T201
    db.client().put_tensor("x", 1)
    if max(ssdag.gather(peaks)) > 0.5:
        simulate(99, db)
