# SPDX-License-Identifier: BSD-3-Clause
"""Other engines as executors: the same checks on each real one, in a process of its own."""

from __future__ import annotations

import concurrent.futures as cf
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ssdag
from ssdag.errors import ConfigError, WorkerLostError
from ssdag.executors import DaskExecutor, FuturesExecutor
from tests.contract import bodies
from tests.contract.bodies import DEADLINE_S

SCRIPT = Path(__file__).with_name("adapter_script.py")


@pytest.mark.parametrize(
    "name", ["threads", "processes", "loky", "mpi4py", "dask", "ray", "dragon"]
)
def test_adapters(name: str, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "RAY_DEDUP_LOGS": "0"}
    starter = [sys.executable]
    if name == "dragon":  # its programs run beneath its own launcher
        dragon = Path(sys.executable).with_name("dragon")
        if not dragon.exists():
            pytest.skip("dragon is not installed")
        env["PATH"] = os.pathsep.join([str(dragon.parent), os.environ["PATH"]])
        starter = [str(dragon), "--single-node-override"]
    run = subprocess.run(
        [*starter, str(SCRIPT), name, str(tmp_path)],
        env=env, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    if run.returncode == 77:
        pytest.skip(f"{name} is not installed")
    assert run.returncode == 0, f"{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
    assert "all is well" in run.stdout


def test_a_pool_of_the_user_is_left_to_him() -> None:
    with cf.ThreadPoolExecutor(2) as pool:
        with ssdag.load(ssdag.Config(executors=[FuturesExecutor(pool)])) as engine:
            assert engine.submit(bodies.inc, 1).result(DEADLINE_S) == 2
        assert pool.submit(bodies.inc, 2).result(DEADLINE_S) == 3


def test_a_pool_that_the_user_shut_down() -> None:
    pool = cf.ThreadPoolExecutor(2)
    with ssdag.load(ssdag.Config(executors=[FuturesExecutor(pool)])) as engine:
        pool.shutdown()
        error = engine.submit(bodies.inc, 1).exception(DEADLINE_S)
        assert isinstance(error, WorkerLostError)
        assert "shutdown" in str(error)


def test_calls_that_end_at_once_do_not_nest() -> None:
    class Immediate(cf.Executor):
        """Runs everything where it is submitted."""

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> cf.Future[Any]:
            future: cf.Future[Any] = cf.Future()
            future.set_result(fn(*args, **kwargs))
            return future

    executor = FuturesExecutor(Immediate(), pickled=False, max_workers=1)
    with ssdag.load(ssdag.Config(executors=[executor])) as engine:
        gate: cf.Future[int] = cf.Future()
        future = engine.submit(bodies.inc, gate)
        for _ in range(3000):
            future = engine.submit(bodies.inc, future)
        gate.set_result(0)
        assert future.result(DEADLINE_S) == 3001


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="an executor is needed"):
        FuturesExecutor(cf.ThreadPoolExecutor)
    with pytest.raises(ConfigError, match="max_workers"):
        FuturesExecutor(cf.ThreadPoolExecutor(1), max_workers=0)
    with pytest.raises(ConfigError, match="n_workers"):
        DaskExecutor("127.0.0.1:8786", n_workers=3)
