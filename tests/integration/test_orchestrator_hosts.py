# SPDX-License-Identifier: BSD-3-Clause
"""Orchestrators over hosts of their own: namespaces at one switch, by any launcher."""

from __future__ import annotations

import os
import shutil
import socket
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
    Orchestrator,
    ServiceStartError,
    StoreError,
    UnsupportedError,
    python_app,
)
from ssdag.executors import LocalExecutor
from ssdag.launchers import MpiexecLauncher
from tests.integration import namespaces
from tests.integration.bridged import BridgedHosts, NamespaceLauncher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.client import Client

DEADLINE_S = 60.0
ROOT = Path(__file__).parents[2]


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BridgedHosts]:
    if (refusal := namespaces.refusal()) is not None:
        pytest.skip(refusal)
    monkeypatch.setenv("HOME", str(tmp_path))
    made = BridgedHosts(3)
    yield made
    made.remove()


def listening(pid: int) -> set[str]:
    """Return the addresses at which anybody listens on the host of a process."""
    rows = Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    assert len(Path(f"/proc/{pid}/net/tcp6").read_text(encoding="ascii").splitlines()) == 1
    found = [row.split()[1] for row in rows if row.split()[3] == "0A"]  # see proc(5)
    return {".".join(map(str, reversed(bytes.fromhex(text[:8])))) for text in found}


@python_app
def put(i: int, db: Client) -> int:
    db.put_tensor(f"u{i}", np.full(100, i))
    return i


def test_three_shards_on_three_hosts(hosts: BridgedHosts) -> None:
    with ssdag.load(Config(executors=[LocalExecutor(max_workers=2)])):
        db = Orchestrator(nodes=3, hosts=hosts.names, launcher=NamespaceLauncher())
        assert sum(ssdag.gather([put(i, db) for i in range(12)])) == 66
        assert db.hosts == hosts.names
        assert [a.rpartition(":")[0] for a in db.get_address()] == hosts.addresses
        # No server listens anywhere but in the network that all share.
        for pid, address in zip(db.pids, hosts.addresses, strict=True):
            assert listening(pid) == {address}
        client = db.client()
        assert sorted(client.list_tensors()) == sorted(f"u{i}" for i in range(12))
        assert db.tensor("u7").result(DEADLINE_S).sum() == 700


def test_a_network_that_does_not_reach_us(hosts: BridgedHosts) -> None:
    with pytest.raises(ServiceStartError, match=r"(?s)but not at 127.*interface=.* has eth0, lo"):
        Orchestrator(hosts=hosts.names[:1], launcher=NamespaceLauncher(), interface="lo").start()
    with Orchestrator(hosts=hosts.names[:1], launcher=NamespaceLauncher(), interface="eth0") as db:
        assert db.get_address()[0].startswith(hosts.addresses[0])
        db.client().ping()


CODE = """
from ssdag.client import Client
client = Client()
before = client.call("GET", "host")
client.call("SET", "host", "@")
print(before, client.call("GET", "host"))
"""


def test_a_server_beside_the_tasks_of_each_host_is_reached_only_there(
    hosts: BridgedHosts,
) -> None:
    """By a port of loopback, as unmodified SmartRedis clients need it."""
    with socket.socket() as probe:
        probe.bind((hosts.ours, 0))
        port = probe.getsockname()[1]
    options: dict[str, Any] = {"hosts": hosts.names[:2], "launcher": NamespaceLauncher()}
    with Orchestrator(colocated=True, port=port, open_access=True, **options) as db:
        assert db.hosts == hosts.names[:2]
        env = db.environment()
        assert env == {"SSDB": f"127.0.0.1:{port}", "SR_DB_TYPE": "Standalone"}
        for pid in db.pids:
            assert listening(pid) == {"127.0.0.1"}
        for host in hosts.names[:2]:  # each is new to its own server
            argv = ["ip", "netns", "exec", host, sys.executable, "-c", CODE.replace("@", host)]
            whole = {**os.environ, **env, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(argv, env=whole, capture_output=True, timeout=60, check=True)
            assert done.stdout.decode().split() == ["None", f"b'{host}'"]
        with pytest.raises(StoreError, match="no server on"):
            db.client().ping()


def test_by_the_launcher_of_an_mpi() -> None:
    """Hydra, with host names that it does not look up, and all processes here."""
    found = shutil.which("mpiexec", path=os.path.dirname(sys.executable))
    if found is None:
        pytest.skip("no mpiexec beside our interpreter: pip install mpich")
    launcher = MpiexecLauncher(executable=found, options=("-launcher", "fork"))
    with Orchestrator(hosts=["h1"], launcher=launcher) as db:
        db.client().ping()
        (pid,) = db.pids
    assert not psutil.pid_exists(pid)
    with pytest.raises(UnsupportedError, match="hands its input to one rank only"):
        Orchestrator(nodes=3, hosts=["h1", "h2", "h3"], launcher=launcher, single_cmd=True).start()
