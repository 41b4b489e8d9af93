# SPDX-License-Identifier: BSD-3-Clause
"""Colocated servers on nodes of a pilot: started by the first task there, ended with it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

import ssdag
from ssdag import Orchestrator, ServiceStartError, StoreError, python_app
from ssdag.providers.slurm import SlurmProvider
from ssdag.services.colocation.colocated import ColocatedOrchestrator
from ssdag.services.keepers.lifeline import Lifeline, hold_on
from tests.conftest import is_live, wait_until
from tests.integration.pilots import start, wait_for_managers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.client import Client
    from tests.clusters.cluster import SlurmCluster

DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def empty(slurm: SlurmCluster) -> Iterator[None]:
    """Nothing stays in the scheduler's queue after a test."""
    yield
    wait_until(lambda: not slurm.run("squeue", "-h"), DEADLINE_S, "no job is left")


@python_app
def put(i: int, db: Client, folder: str = "", count: int = 0) -> tuple[str, str, int]:
    """Put a tensor; return our node, its server's address and pid.

    With a count: hold our worker until so many are here, so that all workers take part.
    """
    if count:
        Path(folder, str(i)).touch()
        wait_until(lambda: len(os.listdir(folder)) >= count, DEADLINE_S, "all are here")
    db.put_tensor(f"u{i}", np.full(10, i))
    pid = next(line for line in db.call("INFO").split() if line.startswith(b"process_id:"))
    return os.environ["SSDAG_NODE"], db.address, int(pid.partition(b":")[2])


@python_app
def names(db: Client) -> tuple[str, list[str]]:
    return os.environ["SSDAG_NODE"], sorted(db.list_tensors())


def on_two_nodes(folder: Path, **options: Any) -> Any:
    provider = SlurmProvider(walltime_s=600, nodes_per_block=2, init_blocks=1)
    engine, executor = start(folder, 2, provider=provider, heartbeat_limit_s=15.0, **options)
    wait_for_managers(executor, 2)
    return engine


def gone(pids: set[int]) -> bool:
    return not any(map(is_live, pids))


def test_each_node_gets_one_server_which_ends_with_the_service(
    tmp_path: Path, slurm: SlurmCluster
) -> None:
    (tmp_path / "met").mkdir()
    with on_two_nodes(tmp_path, affinity="block"):
        db = Orchestrator(colocated=True, cpus=1)
        door = str(tmp_path / "met")
        # Two workers on each of two nodes, all at once: each node must start just one.
        found = ssdag.gather([put(i, db, door, 4) for i in range(4)])
        nodes = sorted(node for node, _, _ in found)
        assert nodes == ["n1", "n1", "n2", "n2"]
        assert len({(node, address, pid) for node, address, pid in found}) == 2
        pids = {pid for _, _, pid in found}
        assert sorted(db.hosts) == sorted({socket.gethostname(), "n1", "n2"})
        for pid in pids:  # also where the worker that started it is bound to another core
            assert psutil.Process(pid).cpu_affinity() == [max(os.sched_getaffinity(0))]
        for node, there in ssdag.gather([names(db) for _ in range(4)]):
            assert there == sorted(f"u{i}" for i, f in enumerate(found) if f[0] == node)
        folders = [Path(address.removeprefix("unix://")).parent for _, address, _ in found]
        assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)
        db.stop()  # the pilot goes on
        wait_until(lambda: gone(pids), DEADLINE_S, "the servers are gone")
        wait_until(lambda: not any(f.exists() for f in folders), DEADLINE_S, "their folders too")
        wait_until(lambda: not _left(folders), DEADLINE_S, "and the files by which they are found")
        with Orchestrator(colocated=True) as again:
            assert put(9, again).result(DEADLINE_S)[2] not in pids
        # The engine ends while a server runs there.
        pid = put(1, Orchestrator(colocated=True)).result(DEADLINE_S)[2]
    wait_until(lambda: gone({pid}), DEADLINE_S, "the server went with the engine")


def _left(folders: list[Path]) -> list[Path]:
    return [path for f in folders if (path := f.with_name(f"{f.name}.json")).exists()]


def test_one_that_dies_or_cannot_reach_the_driver(tmp_path: Path, slurm: SlurmCluster) -> None:
    provider = SlurmProvider(walltime_s=600)
    engine, _ = start(tmp_path, 2, provider=provider, heartbeat_limit_s=15.0)
    with engine:
        db = Orchestrator(colocated=True)
        _, _, pid = put(1, db).result(DEADLINE_S)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: gone({pid}), DEADLINE_S, "it is dead")
        # Nobody puts an empty one in its place without a word.
        for error in [put(i, db).exception(DEADLINE_S) for i in range(4)]:
            assert isinstance(error, StoreError)
        with Orchestrator(colocated=True) as other:
            assert isinstance(other, ColocatedOrchestrator)
            assert other._lifeline is not None
            other._lifeline.close()
            failure = put(1, other).exception(DEADLINE_S)
            assert isinstance(failure, ServiceStartError)
            assert "share by interface=" in str(failure)


def test_strangers_get_no_hold_of_the_lifeline() -> None:
    lifeline = Lifeline("127.0.0.1")
    about = {"node": "n1", "pid": 7}
    with pytest.raises(OSError, match="hung up"):
        hold_on({**lifeline.plain, "token": "x"}, about)
    with socket.create_connection((lifeline.host, lifeline.port)) as stranger:
        stranger.sendall(b"nonsense\n")
        stranger.makefile().read()  # it hangs up
    line = hold_on(lifeline.plain, about)
    wait_until(lambda: lifeline.keepers() == [about], DEADLINE_S, "it is known")
    lifeline.close()
    with line:
        assert line.recv(1) == b""
    other = Lifeline("127.0.0.1")
    with pytest.raises(OSError, match=r"hung up|somebody else"):
        hold_on({**other.plain, "token": lifeline.plain["token"]}, about)
    other.close()
