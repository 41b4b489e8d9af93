# SPDX-License-Identifier: BSD-3-Clause
"""Colocated orchestrators: a server on each node, for the tasks of that node alone."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

import ssdag
from ssdag import (
    Config,
    ConfigError,
    Orchestrator,
    Resources,
    ServiceStartError,
    StoreError,
    UnsupportedError,
    python_app,
)
from ssdag.executors import AllocationExecutor, LocalExecutor
from ssdag.services.colocation.colocated import ColocatedOrchestrator
from tests.conftest import wait_until
from tests.integration.slurm_jobs import DEADLINE_S, allocation, steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.client import Client
    from tests.clusters.cluster import SlurmCluster

ROOT = Path(__file__).parents[2]


@pytest.fixture
def job(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with allocation(slurm, monkeypatch, 2) as job:
        yield job


@python_app
def put(i: int, db: Client) -> tuple[str, str]:
    """Put a tensor and return our node and its server's address."""
    db.put_tensor(f"u{i}", np.full(10, i))
    return os.environ.get("SLURMD_NODENAME", ""), db.address


@python_app
def names(db: Client, after: Any = None) -> tuple[str, list[str]]:
    return os.environ.get("SLURMD_NODENAME", ""), sorted(db.list_tensors())


@python_app
def total(array: Any) -> float:
    return float(np.sum(array))


def test_on_one_machine() -> None:
    """It is as any other, on a unix socket and on its core."""
    with ssdag.load(Config(executors=[LocalExecutor(max_workers=2)])):
        db = Orchestrator(colocated=True, cpus=1)
        assert isinstance(db, Orchestrator)
        assert total(db.tensor("u3")).done() is False
        found = {address for _, address in ssdag.gather([put(i, db) for i in range(4)])}
        assert found == {db.address}
        assert db.address.startswith("unix://")
        assert db.ports == [0]
        assert total(db.tensor("u3")).result() == 30.0
        assert db.pid is not None
        assert psutil.Process(db.pid).cpu_affinity() == [max(os.sched_getaffinity(0))]
        assert db.health().ok
        assert db.health().facts["servers"][0]["alive"]
        db.set_db_conf("maxmemory", "64mb")
        assert db.telemetry()[0].memory_limit_bytes == 64 << 20
        with pytest.raises(ConfigError, match="maxmemory='much' is refused"):
            db.set_db_conf("maxmemory", "much")
        folder = Path(db.password_file).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        code = "from ssdag.client import Client; print(Client().get_tensor('u1').sum())"
        env = {**os.environ, **db.environment(), "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True,
                              timeout=DEADLINE_S, check=True)  # fmt: skip
        assert done.stdout == "10\n"
        pid = db.pid
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


def test_by_loopback_and_for_all() -> None:
    with Orchestrator(colocated=True, unix_socket=False, open_access=True) as db:
        assert db.tcp_address == db.address
        assert db.address.startswith("127.0.0.1:")
        assert "SSDAG_PASSWORD_FILE" not in db.environment()
        with ssdag.Client(db.address) as client:
            client.ping()


def test_one_that_dies() -> None:
    with Orchestrator(colocated=True, restart=1) as db:
        waiting = db.tensor("x")
        address, pid = db.address, db.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: db.is_active() and db.pid != pid, DEADLINE_S, "it is back")
        assert db.address == address
        assert db.losses[0].restarted
        db.client().put_tensor("x", np.arange(3))
        assert waiting.result(DEADLINE_S).sum() == 3
        waiting = db.tensor("y")
        os.kill(db.pid, signal.SIGKILL)  # type: ignore[arg-type]
        with pytest.raises(StoreError, match=r"has died[^\n]* last words:\n(\(none\)|.*WARNING)"):
            waiting.result(DEADLINE_S)
        assert not db.is_active()


def test_a_server_on_each_node_reached_only_there(slurm: SlurmCluster, job: str) -> None:
    with ssdag.load(Config(executors=[AllocationExecutor()])):
        db = Orchestrator(colocated=True, cpus=1)
        whole = Resources(cores=4)
        found = ssdag.gather([put(i, db, resources=whole) for i in range(2)])
        by_node: dict[str, set[str]] = {}
        for node, address in found:
            by_node.setdefault(node, set()).add(address)
        assert sorted(by_node) == ["n1", "n2"] == sorted(db.hosts)
        assert [len(addresses) for addresses in by_node.values()] == [1, 1]
        assert by_node["n1"] != by_node["n2"]
        assert all(address.startswith("unix://") for _, address in found)
        # The servers have outlived the tasks, and each has its node's data and no other.
        for node, there in ssdag.gather([names(db, resources=whole) for _ in range(2)]):
            assert there == [f"u{i}" for i, (where, _) in enumerate(found) if where == node]
        assert len(steps(slurm, job)) == 2
        for pid in db.pids:
            assert psutil.Process(pid).cpu_affinity() == [max(os.sched_getaffinity(0))]
        # Also what is asked of all goes through their keepers.
        assert [sample.keys for sample in db.telemetry()] == [1, 1]
        db.set_db_conf("maxmemory", "64mb")
        assert [sample.memory_limit_bytes for sample in db.telemetry()] == [64 << 20] * 2
        with pytest.raises(ConfigError, match="maxmemory='much' is refused"):
            db.set_db_conf("maxmemory", "much")
        assert db.health().ok
        # The driver is on no node of the job.
        with pytest.raises(StoreError, match=r"no server on .*; it has on n1, n2"):
            db.client().get_tensor("u0")
        assert pickle.loads(pickle.dumps(db.client())) is db.client()
        with pytest.raises(UnsupportedError, match="wait inside a task"):
            db.tensor("u0").result(DEADLINE_S)
        with pytest.raises(UnsupportedError, match="not the same address"):
            db.environment()
        folders = [server.folder for server in db._servers()]
        pids = db.pids
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not any(Path(folder).exists() for folder in folders)
    wait_until(lambda: not steps(slurm, job), DEADLINE_S, "the steps are over")


@pytest.mark.parametrize("who", ["server", "keeper"])
def test_a_lost_server_of_a_node_comes_back_and_the_other_goes_on(
    slurm: SlurmCluster, job: str, who: str
) -> None:
    with Orchestrator(colocated=True, restart=1) as db:
        assert isinstance(db, ColocatedOrchestrator)
        first, second = db.pids
        db.set_db_conf("maxmemory", "64mb")
        addresses = db._reference
        victim = psutil.Process(second)
        if who == "keeper":
            keeper = victim.parent()
            assert keeper is not None
            victim = keeper
        victim.kill()
        wait_until(lambda: db.is_active() and db.pids[1] != second, DEADLINE_S, "it is back")
        assert db.pids[0] == first
        # What was set is set there again.
        assert {sample.memory_limit_bytes for sample in db.telemetry()} == {64 << 20}
        assert db._reference == addresses
        for beside in db._beside:
            _, address, password_file = beside.ways
            with ssdag.Client(address, password_file=password_file) as client:
                client.ping()
        folders = [server.folder for server in db._servers()]
    assert not any(Path(folder).exists() for folder in folders)


def test_what_cannot_be(job: str) -> None:
    for options in ({"nodes": 3}, {"folder": "x"}, {"persistence": "aof"}, {"cpus": 0},
                    {"cpus": ()}, {"cpus": "x"}):  # fmt: skip
        with pytest.raises(ConfigError, match=r"colocated=True takes no|cpus="):
            Orchestrator(colocated=True, **options)
    with pytest.raises(ConfigError, match="only a colocated server"):
        Orchestrator(cpus=1)
    with pytest.raises(ServiceStartError, match=r"on n\d: .*cores"):
        Orchestrator(colocated=True, cpus=9999).start()
    with pytest.raises(ServiceStartError, match="cores"):
        Orchestrator(colocated=True, cpus=9999, launcher=None).start()
