# SPDX-License-Identifier: BSD-3-Clause
"""Orchestrators on the nodes of an allocation of a real Slurm, and tasks there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

import ssdag
from ssdag import (
    Config,
    ConfigError,
    Orchestrator,
    ServiceStartError,
    StoreError,
    python_app,
)
from ssdag.executors import AllocationExecutor
from tests.conftest import wait_until
from tests.integration.slurm_jobs import DEADLINE_S, allocation, steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.client import Client
    from ssdag.services.servers.places import PlacedServer
    from tests.clusters.cluster import SlurmCluster


ROOT = Path(__file__).parents[2]


@pytest.fixture
def job(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with allocation(slurm, monkeypatch, 3) as job:
        yield job


@python_app
def put(i: int, db: Client) -> str:
    db.put_tensor(f"u{i}", np.full(1000, i))
    return os.environ["SLURMD_NODENAME"]


def test_a_cluster_on_the_nodes_with_tasks_beside_it(
    slurm: SlurmCluster, job: str, tmp_path: Path
) -> None:
    with ssdag.load(Config(executors=[AllocationExecutor()])):
        db = Orchestrator(nodes=3, restart=1)
        # Each task takes all cores of a node: the servers keep none from them.
        futures = [put(i, db, resources=ssdag.Resources(cores=4)) for i in range(3)]
        assert set(ssdag.gather(futures)) == {"n1", "n2", "n3"}
        assert sorted(db.hosts) == ["n1", "n2", "n3"]
        assert db.tensor("u2").result(DEADLINE_S).sum() == 2000
        folder = Path(db.password_file).parent
        assert folder.parent == tmp_path / ".ssdag"
        assert (folder.stat().st_mode & 0o777, os.stat(db.password_file).st_mode & 0o777) == (
            0o700,
            0o600,
        )
        pids = db.pids
        for pid in pids:  # the password is in no argument and no variable
            secret = Path(db.password_file).read_text().strip()
            process = psutil.Process(pid)
            assert secret not in " ".join([*process.cmdline(), *process.environ().values()])
        assert len(steps(slurm, job)) == 3
        # A node is lost, and with it what its server knew of the others.
        keeper = psutil.Process(pids[1]).parent()
        assert keeper is not None
        keeper.kill()
        wait_until(lambda: db.is_active() and db.pids[1] != pids[1], DEADLINE_S, "it is back")
        client = db.client()
        for i in range(30):
            client.put_tensor(f"u{i}", np.full(3, i))
        assert [client.get_tensor(f"u{i}")[0] for i in range(30)] == list(range(30))
        assert db.losses[0].restarted
        pids += db.pids
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert list(folder.parent.iterdir()) == []
    wait_until(lambda: not steps(slurm, job), DEADLINE_S, "the steps are over")


def test_one_server_is_where_all_nodes_reach_it_or_here(slurm: SlurmCluster, job: str) -> None:
    with Orchestrator() as db:
        assert db.hosts == ["n3"]  # tasks fill the nodes from the first
        db.client().put_tensor("x", np.arange(3))
    with Orchestrator(hosts=["n1"], single_cmd=True) as db:
        assert db.hosts == ["n1"]
    with Orchestrator(launcher=None) as db:
        assert steps(slurm, job) == []
        assert db.address.startswith("unix://")


def test_a_lost_node_is_started_again(slurm: SlurmCluster, job: str) -> None:
    """Its keeper is killed, as when the node's memory is full; the next one comes there."""
    with Orchestrator(restart=1) as db:
        db.client().put_tensor("x", np.arange(3))
        address, (pid,) = db.address, db.pids
        keeper = psutil.Process(pid).parent()
        assert keeper is not None
        keeper.kill()
        wait_until(lambda: db.is_active() and db.pids != [pid], DEADLINE_S, "it is back")
        assert (db.address, db.hosts) == (address, ["n3"])
        assert not db.client().tensor_exists("x")
        (loss,) = db.losses
        assert loss.restarted


def sizes(db: Orchestrator) -> list[int]:
    """Return the number of keys that each server has."""
    found = []
    for address in db.get_address():
        with ssdag.Client(address, password_file=db.password_file, cluster=False) as client:
            found.append(int(client.call("DBSIZE")))
    return found


def test_a_node_that_is_lost_has_its_shard_served_by_a_copy_on_another(
    slurm: SlurmCluster, job: str
) -> None:
    """Its keeper takes a primary and a copy along; both come back, as copies."""
    with Orchestrator(nodes=3, replicas=1, restart=4) as db:
        client = db.client()
        for i in range(30):
            client.put_tensor(f"u{i}", np.full(3, i))
        servers = db._servers()
        # A shard and its copy are on different nodes.
        assert all(servers[i].hostname != servers[i + 3].hostname for i in range(3))
        # Copies are behind by moments; what was not copied yet would be lost.
        wait_until(lambda: sizes(db)[:3] == sizes(db)[3:], DEADLINE_S, "all is copied")
        keeper = psutil.Process(servers[1].pid).parent()
        assert keeper is not None
        keeper.kill()
        assert [client.get_tensor(f"u{i}")[0] for i in range(30)] == list(range(30))
        wait_until(lambda: _whole(db, servers), DEADLINE_S, "all are back, and copied")
        assert [client.get_tensor(f"u{i}")[0] for i in range(30)] == list(range(30))
        assert db.losses == ()


def _whole(db: Orchestrator, lost: list[PlacedServer]) -> bool:
    """Say whether there are six servers again, each shard on two of them."""
    try:
        counts = sizes(db)
    except StoreError:
        return False
    pids = {server.pid for server in lost}
    renewed = sum(pid not in pids for pid in db.pids)
    return db.is_active() and renewed == 2 and counts[:3] == counts[3:]


DRIVER = """
import sys
import numpy as np
from ssdag import Orchestrator
db = Orchestrator(hosts=["n2"], persistent=True, folder=sys.argv[1], single_cmd=True)
db.client().put_tensor("x", np.arange(3))
print(db.checkpoint_file, flush=True)
"""


def test_one_that_outlives_its_driver_is_found_again(
    slurm: SlurmCluster, job: str, tmp_path: Path
) -> None:
    folder = str(tmp_path / "db")
    done = subprocess.run([sys.executable, "-c", DRIVER, folder], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=DEADLINE_S,
                          check=True)  # fmt: skip
    assert len(steps(slurm, job)) == 1
    with Orchestrator.attach(done.stdout.strip()) as db:
        assert db.hosts == ["n2"]
        assert list(db.client().get_tensor("x")) == [0, 1, 2]
    assert len(steps(slurm, job)) == 1
    db = Orchestrator.attach(folder)
    pids = db.pids
    db.stop()
    wait_until(lambda: not steps(slurm, job), DEADLINE_S, "the step is over")
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_detached_here_it_is_no_concern_of_ours(
    slurm: SlurmCluster, job: str, tmp_path: Path
) -> None:
    db = Orchestrator(persistent=True, folder=tmp_path / "db").start()
    db.detach()
    assert len(steps(slurm, job)) == 1
    Orchestrator.attach(tmp_path / "db").stop()
    wait_until(lambda: not steps(slurm, job), DEADLINE_S, "the step is over")


def test_what_cannot_be(job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="n9; the allocation has n1, n2, n3"):
        Orchestrator(hosts=["n9"]).start()
    # A folder that only this machine has.
    monkeypatch.setattr("ssdag.services.keepers.keeper.__file__", str(_blind_keeper(tmp_path)))
    with pytest.raises(ServiceStartError, match=r"n3 does not see .*by folder="):
        Orchestrator().start()
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(ConfigError, match="in no allocation; name what starts servers"):
        Orchestrator(hosts=["n1"]).start()


def _blind_keeper(folder: Path) -> Path:
    """Return a keeper that sees no file, as on a node that does not share the folder."""
    path = folder / "blind.py"
    root = Path(__file__).parents[2]
    path.write_text(
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from ssdag.services.keepers import keeper\n"
        "keeper._digest = lambda path: None\n"
        "sys.exit(keeper.main())\n"
    )
    return path
