# SPDX-License-Identifier: BSD-3-Clause
"""Large values between machines take the orchestrator that tasks are given, without a word."""

from __future__ import annotations

import concurrent.futures as cf
import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ssdag
from ssdag.connectors import storing
from ssdag.connectors.redis import RedisConnector
from ssdag.connectors.stored import StoredValue
from ssdag.errors import SsdagError
from ssdag.executors import FuturesExecutor, LocalExecutor
from tests.conftest import wait_until
from tests.integration import value_bodies as bodies
from tests.integration.servers import address_outside
from tests.integration.test_by_reference import N, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


DEADLINE_S = 60.0


@pytest.fixture
def outside() -> str:
    """An address of this machine that is not loopback."""
    return address_outside()


class Elsewhere(FuturesExecutor):
    """A pool that has workers on other machines, for all that the engine knows."""

    def __init__(self, begin: Callable[[], None] | None = None) -> None:
        super().__init__(lambda: cf.ProcessPoolExecutor(1, initializer=begin), label="elsewhere")

    def _open(self) -> None:
        super()._open()
        self.reach = "anywhere"


def use(engine: ssdag.Engine, db: ssdag.Orchestrator) -> None:
    """Have a task take it, and wait for that."""
    assert engine.submit(bodies.ping, db).result(DEADLINE_S)


def way(engine: ssdag.Engine) -> type:
    """Return what the driver has of a large result."""
    made = engine.submit(bodies.make, N)
    assert engine.submit(bodies.total, engine.submit(bodies.double, made)).result(
        DEADLINE_S
    ) == pytest.approx(2 * N)
    return type(made._result)


def test_only_once_it_is_known(outside: str) -> None:
    with load(None, Elsewhere()) as engine, ssdag.Orchestrator(interface=outside) as db:
        assert way(engine) is np.ndarray
        use(engine, db)
        assert way(engine) is StoredValue
        stored = engine.put(np.ones(N))
        assert type(stored._result) is StoredValue
        assert engine.submit(bodies.total, stored).result(DEADLINE_S) == N


def test_one_that_only_this_machine_reaches(outside: str) -> None:
    with load(None, Elsewhere()) as engine, ssdag.Orchestrator() as near:
        use(engine, near)
        assert way(engine) is np.ndarray
        with ssdag.Orchestrator(interface=outside) as db:
            use(engine, db)
            assert way(engine) is StoredValue


def test_what_the_user_says_counts(outside: str) -> None:
    with ssdag.Orchestrator(interface=outside) as db:
        with load(False, Elsewhere()) as engine:
            use(engine, db)
            assert way(engine) is np.ndarray
        with load(None, Elsewhere()) as engine:
            use(engine, db)
            made = ssdag.python_app(store=False)(bodies.make)(N)
            assert made.result(DEADLINE_S).sum() == N
            assert type(made._result) is np.ndarray


def test_workers_of_this_machine_share_memory_still(outside: str) -> None:
    near = FuturesExecutor(lambda: cf.ProcessPoolExecutor(1), label="near")
    with (
        ssdag.Orchestrator(interface=outside) as db,
        load(None, near, Elsewhere(), LocalExecutor(1)),
    ):
        ping = ssdag.python_app(executors=["elsewhere"])(bodies.ping)
        assert ping(db).result(DEADLINE_S)
        for label, kind in (("elsewhere", "redis"), ("near", "shared_memory")):
            made = ssdag.python_app(executors=[label])(bodies.make)(N)
            for reader in ("near", "elsewhere", "local"):
                total = ssdag.python_app(executors=[reader])(bodies.total)
                assert total(made).result(DEADLINE_S) == N
            assert made._result.place.connector.kind == kind


def test_stopped_before_the_engine(outside: str) -> None:
    """What futures hold is read before, and what comes later goes by the driver."""
    with load(None, Elsewhere()) as engine:
        with ssdag.Orchestrator(interface=outside) as db:
            use(engine, db)
            made = engine.submit(bodies.make, N)
            wait_until(made.done, DEADLINE_S)
            assert type(made._result) is StoredValue
            slow = engine.submit(bodies.pause_and_make, 0.5, N)
        assert made.result(DEADLINE_S).sum() == N
        assert engine.submit(bodies.total, made).result(DEADLINE_S) == N
        assert engine.submit(bodies.total, slow).result(DEADLINE_S) == N
        assert way(engine) is np.ndarray
        with ssdag.Orchestrator(interface=outside) as another:
            use(engine, another)
            assert way(engine) is StoredValue


def test_killed_under_its_values(outside: str) -> None:
    """They are made again where that is allowed; else the error says what was lost."""
    with load(None, Elsewhere()) as engine, ssdag.Orchestrator(interface=outside) as db:
        use(engine, db)
        again = ssdag.python_app(retries=1)(bodies.make)(N)
        never = ssdag.python_app(retries=0)(bodies.make)(N)
        ssdag.wait([again, never], timeout=DEADLINE_S)
        assert {type(again._result), type(never._result)} == {StoredValue}
        assert db.pid is not None
        os.kill(db.pid, signal.SIGKILL)
        assert engine.submit(bodies.total, again).result(DEADLINE_S) == N
        lost = engine.submit(bodies.total, never).exception(DEADLINE_S)
        assert isinstance(lost, SsdagError)
        assert "is lost from" in str(lost)


def test_workers_that_do_not_reach_it(
    outside: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first value tells; the others do not try."""
    with (
        load(None, Elsewhere(bodies.cut_off), LocalExecutor(1)),
        ssdag.Orchestrator(interface=outside) as db,
    ):
        there = partial(ssdag.python_app, executors=["elsewhere"])
        assert there(bodies.given)(db).result(DEADLINE_S)
        assert there(bodies.total)(np.ones(N)).result(DEADLINE_S) == N
        assert "did not get a value" in caplog.text
        written = []

        def write(self: RedisConnector, key: str, parts: Any) -> None:
            written.append(key)

        monkeypatch.setattr(RedisConnector, "write", write)
        made = there(bodies.make)(N)
        assert there(bodies.total)(np.ones(N)).result(DEADLINE_S) == N
        assert there(bodies.total)(made).result(DEADLINE_S) == N
        assert type(made._result) is np.ndarray
        assert not written


def test_a_store_that_fails_slowly_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    class Slow:
        def write(self, key: str, parts: Any) -> None:
            tries.append(key)
            raise OSError("nobody is there")

    monkeypatch.setattr(storing, "opened", lambda blob: Slow())
    monkeypatch.setattr(storing, "_AVOIDED_UNTIL", {})
    body = storing.Storing(bodies.make, b"place", "", 1000, None, always=True)
    assert body(N).sum() == N
    assert body(N).sum() == N
    assert len(tries) == 2  # it had said so at once
    monkeypatch.setattr(storing, "_SLOW_S", -1.0)
    for _ in range(3):
        assert body(N).sum() == N
    assert len(tries) == 3


def test_one_on_each_node_is_none(tmp_path: Path) -> None:
    with load(None, Elsewhere()) as engine:
        db: Any = ssdag.Orchestrator(colocated=True)
        use(engine, db)
        assert way(engine) is np.ndarray
