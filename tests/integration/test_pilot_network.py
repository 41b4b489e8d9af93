# SPDX-License-Identifier: BSD-3-Clause
"""Managers on machines of their own (network namespaces), and cables that are pulled."""

from __future__ import annotations

import shlex
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from ssdag.errors import WorkerLostError
from ssdag.launchers import SingleLauncher, Wrapped
from ssdag.states import TaskState
from tests.conftest import wait_until
from tests.integration import namespaces, pilot_bodies
from tests.integration.pilots import DEADLINE_S, managers, start, wait_for_managers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ssdag.dataflow.engine import Engine
    from ssdag.executors import PilotExecutor
    from ssdag.tasks import AppFuture
    from tests.integration.namespaces import Namespace

REFUSAL = namespaces.refusal()
pytestmark = pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL))


@pytest.fixture
def machines() -> Iterator[list[Namespace]]:
    """Two machines."""
    made: list[Namespace] = []
    try:
        for number in range(2):
            made.append(namespaces.Namespace(number))
        yield made
    finally:
        for machine in made:
            machine.remove()


@pytest.fixture
def begin(tmp_path: Path, machines: list[Namespace]) -> Callable[..., tuple[Engine, PilotExecutor]]:
    """Start an engine with a block on each machine."""
    script = tmp_path / "on a machine.sh"
    lines = [
        f"mkdir {shlex.quote(str(tmp_path / m.name))} 2>/dev/null && "
        f'exec ip netns exec {m.name} "$@"'
        for m in machines
    ]
    script.write_text("\n".join([*lines, "exit 1", ""]))

    def begin(**options: object) -> tuple[Engine, PilotExecutor]:
        return start(
            tmp_path,
            workers=1,
            address=machines[0].ours,
            launcher=Wrapped(SingleLauncher(), ("sh", str(script))),
            blocks={"init_blocks": 2, "min_blocks": 2, "max_blocks": 2},
            **options,  # type: ignore[arg-type]
        )

    return begin


def is_running(future: AppFuture[Any]) -> bool:
    return future.state is TaskState.RUNNING


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_a_cable_that_is_pulled_for_five_seconds(
    tmp_path: Path,
    machines: list[Namespace],
    begin: Callable[..., tuple[Engine, PilotExecutor]],
) -> None:
    engine, executor = begin(heartbeat_limit_s=20.0)
    log = tmp_path / "log"
    with engine:
        wait_for_managers(executor, 2)
        before = {process.pid for process in managers()}
        futures = [engine.submit(pilot_bodies.note, str(log), f"a{i}") for i in range(500)]
        machines[0].unplug()
        futures += [engine.submit(pilot_bodies.note, str(log), f"b{i}") for i in range(500)]
        threading.Event().wait(5.0)
        machines[0].plug()
        assert all(future.result(DEADLINE_S) for future in futures)
        assert sorted(lines(log)) == sorted({f"{c}{i}" for c in "ab" for i in range(500)})
        assert {process.pid for process in managers()} == before


def test_a_machine_that_stays_away(
    tmp_path: Path,
    machines: list[Namespace],
    begin: Callable[..., tuple[Engine, PilotExecutor]],
) -> None:
    """Its task is lost, its other tasks go elsewhere, its manager ends itself."""
    engine, executor = begin(heartbeat_limit_s=3.0)
    with engine:
        wait_for_managers(executor, 2)
        logs = [tmp_path / "log0", tmp_path / "log1"]
        stuck = [engine.submit(pilot_bodies.hold_noted, str(log), "never") for log in logs]
        for future, log in zip(stuck, logs, strict=True):
            wait_until(partial(lines, log), DEADLINE_S, "it runs")
            wait_until(partial(is_running, future), DEADLINE_S, "the hub knows")
        machines[0].unplug()
        wait_until(lambda: any(f.done() for f in stuck), DEADLINE_S, "the loss is noticed")
        lost, kept = sorted(stuck, key=lambda future: not future.done())
        assert isinstance(lost.exception(), WorkerLostError)
        wait_until(lambda: len(managers()) <= 1, DEADLINE_S, "the manager has ended itself")
        assert not kept.done()
        assert kept.cancel()
