# SPDX-License-Identifier: BSD-3-Clause
"""Pilot blocks on simulated schedulers: tasks run, whatever becomes of blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ssdag.errors import BlockError
from tests.conftest import wait_until
from tests.integration.pilots import start
from tests.simulators.asking import provider_of

if TYPE_CHECKING:
    from pathlib import Path

    from ssdag.dataflow.engine import Engine
    from tests.simulators.simulator import Simulator

DEADLINE_S = 40.0
OWN_ID = {
    "pbs": "PBS_JOBID",
    "torque": "PBS_JOBID",
    "lsf": "LSB_JOBID",
    "cobalt": "COBALT_JOBID",
    "flux": "FLUX_URI",
}
every = pytest.mark.parametrize("simulator", OWN_ID, indirect=True)


def own_id(name: str) -> str:
    import os

    return os.environ[name]


def meet(name: str, doors: str, mine: int, count: int) -> str:
    """Return our block's id once `count` of us run at the same time."""
    import os
    import time

    os.mkdir(f"{doors}/{mine}")
    while len(os.listdir(doors)) < count:
        time.sleep(0.01)
    return os.environ[name]


def hold(on: str, go: str) -> int:
    import os
    import time

    open(on, "a").close()
    while not os.path.exists(go):
        time.sleep(0.01)
    return 5


def engine_on(simulator: Simulator, folder: Path, **options: Any) -> Engine:
    # Scripts of some systems do not run on their nodes: a launcher takes managers there.
    init = f"export PATH={simulator.bin}:$PATH"
    provider = provider_of(simulator, walltime_s=3600, worker_init=init, **options)
    return start(folder, 1, provider=provider, heartbeat_limit_s=10.0, address="127.0.0.1")[0]


def all_over(simulator: Simulator) -> None:
    wait_until(
        lambda: not simulator.jobs("QUEUED", "RUNNING", "ENDING", "HELD"), DEADLINE_S, "no block"
    )


@every
def test_tasks_run_in_blocks_and_blocks_end_with_the_engine(
    simulator: Simulator, tmp_path: Path
) -> None:
    doors = tmp_path / "doors"
    doors.mkdir()
    name = OWN_ID[simulator.kind]
    with engine_on(simulator, tmp_path, max_blocks=2) as engine:
        met = [engine.submit(meet, name, str(doors), index, 2) for index in range(2)]
        blocks = {future.result(DEADLINE_S) for future in met}
        assert len(blocks) == 2
        rest = [engine.submit(own_id, name) for _ in range(20)]
        assert {future.result(DEADLINE_S) for future in rest} <= blocks
        assert len(simulator.jobs("RUNNING")) == 2
    all_over(simulator)


@every
def test_a_block_that_somebody_ends_is_replaced(simulator: Simulator, tmp_path: Path) -> None:
    on, go = tmp_path / "on", tmp_path / "go"
    with engine_on(simulator, tmp_path, max_blocks=1) as engine:
        future = engine.submit(hold, str(on), str(go))
        wait_until(on.exists, DEADLINE_S, "it runs")
        on.unlink()
        simulator.control("cancel", number=simulator.jobs("RUNNING")[0]["number"])
        wait_until(on.exists, DEADLINE_S, "it runs again")
        go.touch()
        assert future.result(DEADLINE_S) == 5
    all_over(simulator)


@every
def test_a_queue_that_does_not_exist_fails_the_tasks_with_the_schedulers_words(
    simulator: Simulator, tmp_path: Path
) -> None:
    with engine_on(simulator, tmp_path, queue="nope") as engine:
        error = engine.submit(own_id, "HOME").exception(DEADLINE_S)
    assert isinstance(error, BlockError)
    assert "queue" in str(error)
    assert not simulator.jobs()


@every
def test_tasks_do_not_notice_a_scheduler_that_is_down(simulator: Simulator, tmp_path: Path) -> None:
    on, go = tmp_path / "on", tmp_path / "go"
    with engine_on(simulator, tmp_path, max_blocks=1) as engine:
        future = engine.submit(hold, str(on), str(go))
        wait_until(on.exists, DEADLINE_S, "it runs")
        simulator.fault("*", "down")
        go.touch()
        assert future.result(DEADLINE_S) == 5
        assert engine.submit(own_id, "HOME").result(DEADLINE_S)
        simulator.heal()
    all_over(simulator)
