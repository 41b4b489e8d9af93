# SPDX-License-Identifier: BSD-3-Clause
"""Tasks that share a dictionary: they wait for one another, die, and go on from a checkpoint."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ssdag
from ssdag import Config, DistributedDict, Orchestrator, python_app
from ssdag.connectors import DirectoryConnector, SharedMemoryConnector
from ssdag.errors import WorkerLostError
from ssdag.executors import LocalExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@python_app
def send(shared: DistributedDict[Any], name: str, to: str, size: int) -> float:
    """Put an array for another task, and wait for its own."""
    shared[to] = np.full(size, float(len(name)))
    return float(shared.get(name, timeout_s=60).sum())


@python_app
def step(shared: DistributedDict[Any], die: bool) -> int:
    """Go on from the last step; perhaps die in the middle of the next."""
    number = shared.get("step", 0)
    shared["field"] = np.full(100_000, number + 1)
    if die:
        os.kill(os.getpid(), 9)
    shared["step"] = number + 1
    return int(number) + 1


@python_app
def learn(shared: DistributedDict[Any], count: int) -> float:
    """Use samples as they come, each once."""
    total = 0.0
    for _ in range(count):
        total += float(shared.pop(shared.get("next", timeout_s=60)).sum())
        del shared["next"]
        shared["credit"] = True
    return total


@python_app
def produce(shared: DistributedDict[Any], count: int) -> None:
    """Put a sample at a time."""
    for i in range(count):
        shared["sample", i] = np.full((64, 64), i)
        shared["next"] = "sample", i
        shared.get("credit", timeout_s=60)
        del shared["credit"]


@pytest.fixture
def engine() -> Iterator[ssdag.dataflow.engine.Engine]:
    with ssdag.load(Config(executors=[LocalExecutor(max_workers=2)])) as made:
        yield made


@pytest.mark.parametrize("where", ["server", "memory", "folder"])
def test_tasks_meet(where: str, engine: Any, tmp_path: Path) -> None:
    stores: dict[str, Callable[[], Any]] = {
        "server": Orchestrator,
        "memory": SharedMemoryConnector,
        "folder": lambda: DirectoryConnector(tmp_path / "store"),
    }
    store = stores[where]()
    shared: DistributedDict[Any] = DistributedDict(store)
    sums = [send(shared, "a", "bb", 200_000), send(shared, "bb", "a", 200_000)]
    assert ssdag.gather(sums) == [400_000, 200_000]
    assert sorted(shared) == ["a", "bb"]
    shared.clear()
    producer, learner = produce(shared, 5), learn(shared, 5)
    assert learner.result(60) == 64 * 64 * 10
    producer.result(60)
    assert len(shared) == 0


def test_a_step_that_died_is_taken_back(engine: Any) -> None:
    shared: DistributedDict[Any] = DistributedDict(SharedMemoryConnector())
    assert step(shared, False).result(60) == 1
    shared.checkpoint("good")
    with pytest.raises(WorkerLostError):
        step(shared, True).result(60)
    assert shared["step"] == 1
    assert shared["field"][0] == 2
    shared.rollback("good")
    assert shared["field"][0] == 1
    assert step(shared, False).result(60) == 2
    assert shared["field"][0] == 2


def test_memory_goes_with_the_engine() -> None:
    with ssdag.load(Config(executors=[LocalExecutor(max_workers=1)])):
        connector = SharedMemoryConnector()
        shared: DistributedDict[Any] = DistributedDict(connector)
        assert step(shared, False).result(60) == 1
        array = shared["field"]
    assert not os.path.exists(connector.path)
    assert array.sum() == 100_000
