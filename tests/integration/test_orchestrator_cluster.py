# SPDX-License-Identifier: BSD-3-Clause
"""Several servers as one orchestrator: how they find together, and what their deaths mean."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from ssdag.client import Client
from ssdag.errors import ConfigError, ServiceStartError, StoreError
from ssdag.services.orchestrator import Orchestrator
from ssdag.states import ServiceState
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Names whose slots are in the first, second and third of three shards.
IN_SHARD = ("b", "c", "a")


def kill(db: Orchestrator, index: int) -> psutil.Process:
    process = psutil.Process(db.pids[index])
    process.kill()
    return process


@pytest.fixture(scope="module")
def db() -> Iterator[Orchestrator]:
    with Orchestrator(3) as service:
        yield service


def test_facts(db: Orchestrator) -> None:
    assert db.num_shards == 3
    assert len(set(db.ports)) == len(set(db.pids)) == 3
    assert len(db.hosts) == 1
    assert db.is_active()
    assert db.get_address() == [f"127.0.0.1:{port}" for port in db.ports]
    assert db.address == ",".join(db.get_address())
    assert db.environment() == {
        "SSDB": db.address,
        "SR_DB_TYPE": "Clustered",
        "SSDAG_PASSWORD_FILE": db.password_file,
    }
    health = db.health()
    assert health.ok
    assert [facts["pid"] for facts in health.facts["servers"]] == db.pids


def test_data_are_spread(db: Orchestrator) -> None:
    client = db.client()
    for i in range(60):
        client.put_tensor(f"spread {i}", [i])
    assert all(client.get_tensor(f"spread {i}")[0] == i for i in range(60))
    password = Path(db.password_file).read_text().strip()
    for port in db.ports:
        with redis.Redis(port=port, password=password) as one:
            assert one.dbsize() > 5
    with redis.RedisCluster(host="127.0.0.1", port=db.ports[1], password=password) as peer:
        assert peer.exists("spread 7")


def test_futures_of_data(db: Orchestrator) -> None:
    futures = [db.tensor(f"later {i}") for i in range(12)]
    code = "from ssdag import Client\nfor i in range(12): Client().put_tensor(f'later {i}', [i])"
    environment = {**os.environ, **db.environment()}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [int(future.result(10)[0]) for future in futures] == list(range(12))


@pytest.mark.parametrize("how", ["checkpoint", "address"])
def test_attach(db: Orchestrator, how: str) -> None:
    if how == "checkpoint":
        other = Orchestrator.attach(db.checkpoint_file)
    else:
        other = Orchestrator.attach(db.get_address()[1] + ",", password_file=db.password_file)
    db.client().put_tensor("attached", [1])
    with other:
        assert sorted(other.pids) == sorted(db.pids)
        assert other.num_shards == 3
        assert other.health().ok
        assert other.client().get_tensor("attached")[0] == 1
    assert db.health().ok
    assert db.client().get_tensor("attached")[0] == 1


def test_tells_no_secret(db: Orchestrator) -> None:
    secret = Path(db.password_file).read_text().strip().encode()
    folder = Path(db.password_file).parent
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() or path.name in ("password", "server.conf", "server.log"):
            assert path.stat().st_mode & 0o077 == 0, path
        if path.is_file() and path.name != "password":
            assert secret not in path.read_bytes(), path
    for pid in db.pids:
        assert secret not in Path(f"/proc/{pid}/cmdline").read_bytes()
        addresses = {c.laddr.ip for c in psutil.Process(pid).net_connections("inet")}
        assert addresses == {"127.0.0.1"}
    with pytest.raises(StoreError):
        Client(db.address, password="wrong").ping()


def test_copies_take_over() -> None:
    """A primary is killed: its copy serves, and it comes back as a copy. Nothing is lost."""
    with Orchestrator(3, replicas=1, restart=1) as db:
        client = db.client()
        for i in range(60):
            client.put_tensor(f"t{i}", [i])
        first = db.pids
        assert len(first) == 6
        began = time.monotonic()
        kill(db, 1)
        client.put_tensor("c", [1])  # in the shard that was lost
        assert time.monotonic() - began < 10.0
        assert all(client.get_tensor(f"t{i}")[0] == i for i in range(60))
        wait_until(lambda: db.pids[1] != first[1] and db.is_active(), 15)
        assert not db.losses
        assert db.health().ok
        with redis.Redis(
            port=db.ports[1], password=Path(db.password_file).read_text().strip()
        ) as back:
            assert back.role()[0] == b"slave"
        # The restart is used up: this death leaves a shard without a copy.
        kill(db, 1)
        wait_until(lambda: db.state is ServiceState.DEGRADED, 5)
        assert "nothing is lost" in db.health().detail
        assert client.get_tensor("c")[0] == 1


def test_lost_shard() -> None:
    """Without copies a dead shard's data are gone, and it is said which; others stay."""
    db = Orchestrator(3, name="store 7").start()
    client = db.client()
    for name in IN_SHARD:
        client.put_tensor(name, [1])
    gone, stays = db.tensor("g"), db.tensor("f")
    kill(db, 1)
    wait_until(lambda: db.losses, 10.0, "the death is noticed")
    (loss,) = db.losses
    assert (loss.shard, loss.slots, loss.restarted) == (1, (5461, 10921), False)
    assert "SIGKILL" in loss.reason
    wait_until(lambda: db.state is ServiceState.DEGRADED, 5)
    assert not db.is_active()
    health = db.health()
    assert not health.ok
    assert "shard 1 of 'store 7'" in health.detail
    assert "slots 5461 to 10921" in health.detail
    error = gone.exception(5)
    assert isinstance(error, StoreError)
    assert "slots 5461 to 10921" in str(error)
    assert db.tensor("c").exception(5) is error
    client.put_tensor("f", [5])
    assert stays.result(5)[0] == 5
    assert client.get_tensor(IN_SHARD[0])[0] == client.get_tensor(IN_SHARD[2])[0] == 1
    with pytest.raises(StoreError):
        client.get_tensor(IN_SHARD[1])
    folder = Path(db.password_file).parent
    kill(db, 0)
    kill(db, 2)
    wait_until(lambda: db.state is ServiceState.FAILED, 5)
    wait_until(lambda: not folder.exists(), 5)
    with pytest.raises(StoreError, match="died"):
        db.client()


def test_shards_are_restarted() -> None:
    """All die at once, and come back empty where clients know them."""
    with Orchestrator(3, restart=3) as db:
        client, address, before = db.client(), db.address, db.pids
        for name in IN_SHARD:
            client.put_tensor(name, [1])
        waiting = db.tensor("g")
        for index in range(3):
            kill(db, index)
        wait_until(lambda: not set(db.pids) & set(before) and db.is_active(), 20)
        assert db.address == address
        wait_until(lambda: {loss.shard for loss in db.losses} == {0, 1, 2}, 5)
        assert all(loss.restarted for loss in db.losses)
        assert not any(client.tensor_exists(name) for name in IN_SHARD)
        client.put_tensor("g", [3])
        assert waiting.result(10)[0] == 3


@pytest.mark.parametrize(
    "options",
    [
        {"nodes": 2},
        {"nodes": 0},
        {"replicas": 1},
        {"nodes": 3, "replicas": -1},
        {"nodes": 3, "unix_socket": True},
        {"nodes": 3, "port": 0},
        {"nodes": 3, "port": 55534},
        {"identifier": "a b"},
        {"restart": -1},
        {"restart": True},
    ],
)
def test_bad_options(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Orchestrator(**options)  # type: ignore[arg-type]


def test_one_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Orchestrator() as other:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        port = int((other.tcp_address or "").split(":")[1])
        db = Orchestrator(3, port=port - 1)
        with pytest.raises(ServiceStartError, match="in use"):
            db.start()
        assert db.state is ServiceState.FAILED
        assert not db.health().ok
        assert not list(tmp_path.iterdir())


def test_stopped_while_it_forms() -> None:
    db = Orchestrator(3)
    ready = db.start_in_background()
    db.stop()
    assert isinstance(ready.exception(10), Exception)


DRIVER = """
import time
from ssdag.services.orchestrator import Orchestrator
db = Orchestrator(3)
db.start_in_background()
while len(db.pids) < 3:
    time.sleep(0.001)
print(*db.pids, flush=True)
time.sleep(60)
"""


def test_driver_is_killed_while_it_forms(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as driver:
        assert driver.stdout is not None
        pids = driver.stdout.readline().split()
        assert len(pids) == 3
        driver.kill()
    wait_until(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids), 5)
    wait_until(lambda: not list(tmp_path.iterdir()), 5, "the folder is gone")
