# SPDX-License-Identifier: BSD-3-Clause
"""The pilot executor at work: blocks, scaling, arrays, bindings, many managers."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ssdag
from ssdag.errors import ConfigError, UnsupportedError
from ssdag.executors import PilotExecutor
from ssdag.providers.local import LocalProvider
from ssdag.resources import Resources
from ssdag.tasks import AppSpec, Options
from tests.conftest import wait_until
from tests.integration import pilot_bodies as bodies
from tests.integration.pilots import DEADLINE_S, start, wait_for_managers

if TYPE_CHECKING:
    from pathlib import Path

    from ssdag.dataflow.engine import Engine
    from ssdag.tasks import AppFuture


def with_walltime(engine: Engine, func: Any, walltime_s: float, *args: Any) -> AppFuture[Any]:
    return engine.call(AppSpec(func, func.__name__, options=Options(walltime_s=walltime_s)), args)


def test_200_tasks_over_4_blocks_and_scale_in(tmp_path: Path) -> None:
    engine, executor = start(
        tmp_path, 1, blocks={"max_blocks": 4}, max_idle_s=0.5, address="127.0.0.7"
    )
    with engine:
        doors = [str(tmp_path / str(i)) for i in range(4)]
        met = [engine.submit(bodies.meet, door, doors) for door in doors]
        assert len({future.result(DEADLINE_S) for future in met}) == 4
        futures = [engine.submit(bodies.same, i) for i in range(200)]
        assert [future.result(DEADLINE_S) for future in futures] == list(range(200))
        assert executor._blocks is not None
        wait_until(lambda: not executor._blocks or not executor._blocks.job_ids(), DEADLINE_S)
        assert engine.submit(bodies.stay, 0).result(DEADLINE_S) == "5", "a new block"


def test_the_least_blocks_stay(tmp_path: Path) -> None:
    engine, executor = start(tmp_path, 1, blocks={"min_blocks": 1, "max_blocks": 2}, max_idle_s=0.3)
    with engine:
        wait_for_managers(executor, 1)
        doors = [str(tmp_path / str(i)) for i in range(2)]
        met = [engine.submit(bodies.meet, door, doors) for door in doors]
        assert [future.result(DEADLINE_S) for future in met] in (["1", "2"], ["2", "1"])
        assert executor._blocks is not None
        ids = executor._blocks.job_ids
        wait_until(lambda: len(ids()) == 1, DEADLINE_S, "one block goes")
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            assert len(ids()) == 1
            time.sleep(0.05)


def test_eight_managers(tmp_path: Path) -> None:
    engine, executor = start(
        tmp_path, 1, blocks={"init_blocks": 8, "max_blocks": 8}, heartbeat_limit_s=15.0
    )
    with engine:
        wait_for_managers(executor, 8)
        doors = [str(tmp_path / str(i)) for i in range(8)]
        met = [engine.submit(bodies.meet, door, doors) for door in doors]
        assert {future.result(DEADLINE_S) for future in met} == {str(i) for i in range(1, 9)}


def test_tasks_behind_a_slow_one_are_taken_back(tmp_path: Path) -> None:
    """They were given to one manager, as quick ones, and wait for one another."""
    engine, executor = start(tmp_path, 1, blocks={"init_blocks": 2, "max_blocks": 2})
    with engine:
        wait_for_managers(executor, 2)
        assert [f.result(DEADLINE_S) for f in [engine.submit(bodies.pid) for _ in range(3000)]]
        for turn in range(10):
            doors = [str(tmp_path / f"{turn}-{i}") for i in range(2)]
            met = [engine.submit(bodies.meet, door, doors) for door in doors]
            quick = [engine.submit(bodies.same, i) for i in range(20)]
            assert len({future.result(DEADLINE_S) for future in met}) == 2
            assert [future.result(DEADLINE_S) for future in quick] == list(range(20))


@pytest.mark.parametrize("encrypt", [False, True])
def test_arrays(tmp_path: Path, encrypt: bool) -> None:
    engine, _ = start(tmp_path, encrypt=encrypt)
    with engine:
        for size in (10, 5_000, 100_000, 3_000_000):
            array = np.arange(size, dtype=np.float64)
            back = engine.submit(bodies.same, engine.submit(bodies.same, array)).result(DEADLINE_S)
            assert np.array_equal(back, array)
            back[0] = 7.0
            assert array[0] == 0.0
        many = [np.full(30_000, i) for i in range(50)]
        futures = [engine.submit(bodies.same, [array, array[::2]]) for array in many]
        for array, future in zip(many, futures, strict=True):
            whole, half = future.result(DEADLINE_S)
            assert np.array_equal(whole, array)
            assert np.array_equal(half, array[::2])


def test_many_bytes_under_way(tmp_path: Path) -> None:
    """More than any buffer holds, both ways."""
    engine, _ = start(tmp_path, 1, heartbeat_limit_s=15.0)
    with engine:
        arrays = [np.full(2_000_000, i, dtype=np.uint8) for i in range(100)]
        futures = [engine.submit(bodies.same, array) for array in arrays]
        assert [int(future.result(DEADLINE_S)[-1]) for future in futures] == list(range(100))


def test_bindings_and_accelerators(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("one core")
    engine, executor = start(
        tmp_path, affinity=[[cores[0]], [cores[1]]], accelerators=["0.0", "0.1"], env={"X": "y"}
    )
    with engine:
        doors = [str(tmp_path / str(i)) for i in range(2)]
        met = [engine.submit(bodies.meet, door, doors) for door in doors]
        assert [future.result(DEADLINE_S) for future in met]
        names = ["ZE_AFFINITY_MASK", "OMP_NUM_THREADS", "SSDAG_WORKER_RANK", "X"]
        names += ["SSDAG_WORKER_COUNT", "SSDAG_NODE"]
        shown = Counter[str]()
        wait_until(lambda: not executor.outstanding)
        for turn in range(50):
            seen = engine.submit(bodies.seen, names).result(DEADLINE_S)
            rank = int(seen["SSDAG_WORKER_RANK"])
            shown[str(rank)] += 1
            assert seen["cores"] == {cores[rank]}
            assert seen["ZE_AFFINITY_MASK"] == f"0.{rank}"
            assert (seen["OMP_NUM_THREADS"], seen["X"], seen["SSDAG_WORKER_COUNT"]) == (
                "1", "y", "2",
            )  # fmt: skip
            assert seen["SSDAG_NODE"]
            if len(shown) == 2 and turn > 10:
                break


def test_a_task_too_long_for_what_is_left_of_a_block_waits_for_the_next(tmp_path: Path) -> None:
    engine, _ = start(tmp_path, 1, blocks={"init_blocks": 1, "max_blocks": 2, "walltime_s": 8.0})
    with engine:
        assert engine.submit(bodies.stay, 1.0).result(DEADLINE_S) == "1"
        assert with_walltime(engine, bodies.stay, 7.5, 0.0).result(DEADLINE_S) == "2"
        assert with_walltime(engine, bodies.stay, 1.0, 0.0).result(DEADLINE_S) in ("1", "2")
        with pytest.raises(UnsupportedError, match="blocks of 8 s"):
            with_walltime(engine, bodies.stay, 9.0, 0.0)


def test_an_idle_block_makes_room_for_one_that_lasts_long_enough(tmp_path: Path) -> None:
    engine, _ = start(
        tmp_path, 1, blocks={"min_blocks": 1, "max_blocks": 1, "walltime_s": 20.0}, max_idle_s=0.2
    )
    with engine:
        assert engine.submit(bodies.stay, 1.0).result(DEADLINE_S) == "1"
        assert with_walltime(engine, bodies.stay, 19.5, 0.0).result(DEADLINE_S) == "2"


def test_what_is_refused(tmp_path: Path) -> None:
    provider = LocalProvider()
    for options, word in (
        ({"heartbeat_s": 0}, "heartbeat_limit_s"),
        ({"heartbeat_s": 15.0}, "at least twice"),
        ({"drain_s": -1}, "drain_s"),
        ({"failures_allowed": 0}, "failures_allowed"),
        ({"workers_per_node": 0}, "workers_per_node"),
    ):
        with pytest.raises(ConfigError, match=word):
            PilotExecutor(provider, **options)
    (tmp_path / "file").touch()
    for wrong in (
        PilotExecutor(provider, run_dir=tmp_path / "file" / "in"),
        PilotExecutor(provider, address="192.0.2.1"),  # no address of ours
    ):
        with pytest.raises(ConfigError, match="cannot listen at"):
            ssdag.load(ssdag.Config(executors=[wrong]))
    nobody: Any = 3
    with pytest.raises(ConfigError, match="a Provider is needed"):
        PilotExecutor(nobody)
    assert PilotExecutor(LocalProvider(max_blocks=3), workers_per_node=4).capacity == 12


@pytest.mark.parametrize(
    ("options", "resources", "refusal"),
    [
        ({}, {"cores": 1, "nodes": 1, "ranks": 1, "priority": 3}, None),
        ({"cores_per_worker": 4}, {"cores": 4}, None),
        ({"cores_per_worker": 4}, {"cores": 5}, "cores=4 "),
        ({}, {"ranks": 2}, "ranks=1 "),
        ({}, {"gpus": 1}, "does not manage gpus"),
        ({"accelerators": 2}, {"gpus": 1}, None),
        ({"accelerators": 2}, {"gpus": 2}, "gpus=1 "),
        ({}, {"memory_bytes": 5}, "does not manage memory_bytes"),
        ({"memory_per_worker_bytes": 9}, {"memory_bytes": 9}, None),
        ({"memory_per_worker_bytes": 9}, {"memory_bytes": 10}, "memory_bytes=9 "),
        ({}, {"ranks_per_node": 1}, "does not manage ranks_per_node"),
    ],
)
def test_what_a_worker_can_give(
    options: dict[str, Any], resources: dict[str, int], refusal: str | None
) -> None:
    executor = PilotExecutor(LocalProvider(), **options)
    reason = executor.check(Options(resources=Resources(**resources)), "python")
    assert (refusal or "") in (reason or "")
    assert (refusal is None) == (reason is None)
