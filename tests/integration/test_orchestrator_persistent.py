# SPDX-License-Identifier: BSD-3-Clause
"""Orchestrators that outlive their driver, and data that outlive their servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ssdag.errors import CheckpointError, ServiceError, ServiceStartError, StoreError
from ssdag.services.checkpoint import ServerRecord
from ssdag.services.orchestrator import Orchestrator
from ssdag.services.servers.admin import Login
from ssdag.services.servers.watching import FoundServer
from ssdag.states import ServiceState
from tests.conftest import wait_until
from tests.integration.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Iterator


DRIVER = """
import os, signal, sys
from ssdag.services.servers.admin import Login
from ssdag.services.checkpoint import ServerRecord
from ssdag.services.orchestrator import Orchestrator
with Orchestrator(persistent=True) as db:
    db.client().put_tensor("a", [1, 2])
    print(db.checkpoint_file, flush=True)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def left() -> Iterator[list[Orchestrator]]:
    """What a test attaches to, ended after it."""
    made: list[Orchestrator] = []
    yield made
    for db in made:
        db.stop()


def driver(how: str) -> str:
    run = subprocess.run([sys.executable, "-c", DRIVER, how], stdout=subprocess.PIPE, text=True)
    assert run.returncode == (-signal.SIGKILL if how == "killed" else 0)
    return run.stdout.strip()


def test_outlives_its_driver(left: list[Orchestrator]) -> None:
    path = driver("killed")
    with Orchestrator.attach(path) as first:
        left.append(Orchestrator.attach(Path(path).parent))
        assert first.client().get_tensor("a").tolist() == [1, 2]
        assert first.num_shards == len(first.pids) == 1
        assert first.health().ok
        waiting = first.tensor("b")
    assert first.state is ServiceState.STOPPED
    assert isinstance(waiting.exception(5), StoreError)
    (second,) = left
    assert second.is_active()
    later = second.tensor("c")
    second.client().put_tensor("c", [3])
    assert later.result(5)[0] == 3
    processes = [psutil.Process(pid) for pid in second.pids]
    second.stop()
    assert not Path(path).parent.exists()
    wait_until(lambda: not any(p.is_running() for p in processes), 5)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Orchestrator.attach(path)


def test_checkpoint_file(left: list[Orchestrator]) -> None:
    db = Orchestrator(persistent=True, identifier="store", memory_limit_bytes=1 << 30).start()
    left.append(db)
    path = Path(db.checkpoint_file)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    record = json.loads(path.read_text())
    assert Path(db.password_file).read_text().strip() not in path.read_text()
    assert record["format"] == "ssdag orchestrator"
    assert record["servers"][0]["pid"] == db.pid
    with Orchestrator.attach(path) as other:
        assert other.environment() == db.environment()
        assert set(db.environment()) == {
            "SSDB_store",
            "SR_DB_TYPE_store",
            "SSDAG_PASSWORD_FILE_store",
        }
        assert other.identifier == "store"


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        Orchestrator.attach(tmp_path / "none.json")
    for text in ("no JSON", "[]", "{}", '{"format": "ssdag orchestrator", "version": 7}'):
        path = tmp_path / "some.json"
        path.write_text(text)
        with pytest.raises(CheckpointError, match="is no checkpoint"):
            Orchestrator.attach(path)
    path.write_text('{"format": "ssdag orchestrator", "version": 1, "servers": []}')
    with pytest.raises(CheckpointError, match="damaged"):
        Orchestrator.attach(path)


def test_server_has_ended_meanwhile(tmp_path: Path) -> None:
    db = Orchestrator(folder=tmp_path).start()
    path = db.checkpoint_file
    db.stop()
    shutil.copy(path, tmp_path / "old.json")
    (tmp_path / "password").write_text("x")
    with pytest.raises(ServiceStartError, match="has ended"):
        Orchestrator.attach(tmp_path / "old.json")


def test_attach_to_an_address() -> None:
    """Servers of others: they are not ours to end."""
    with Orchestrator(name="theirs") as db:
        db.client().put_tensor("a", [1])
        with pytest.raises(ServiceStartError, match="password"):
            Orchestrator.attach(db.address)
        other = Orchestrator.attach(db.get_address()[0], password_file=db.password_file)
        assert other.client().get_tensor("a")[0] == 1
        assert other.num_shards == 1
        assert sorted(other.pids) == sorted(db.pids)
        other.stop()
        assert db.health().ok
        again = Orchestrator.attach(db.address, password_file=db.password_file)
        waiting = again.tensor("b")
        for pid in db.pids:
            os.kill(pid, signal.SIGKILL)
        assert isinstance(waiting.exception(5), StoreError)
        wait_until(lambda: again.state is ServiceState.FAILED, 10.0)
        assert "has died" in again.health().detail


def test_attached_server_is_restarted(left: list[Orchestrator]) -> None:
    path = driver("ended")
    db = Orchestrator.attach(path, restart=1)
    left.append(db)
    first = db.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: db.pid != first and db.is_active(), 5)
    assert not db.client().tensor_exists("a")
    with Orchestrator.attach(path) as other:
        assert other.pid == db.pid


def test_detach() -> None:
    db = Orchestrator().start()
    process = psutil.Process(db.pid)
    db.detach()  # is not persistent
    wait_until(lambda: not process.is_running(), 5)
    with pytest.raises(ServiceError):
        db.client()


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("how", ["rdb", "aof"])
def test_data_on_disk(server: str | None, how: Any, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    options: dict[str, Any] = {"persistence": how, "folder": folder, "server": server}
    with Orchestrator(**options) as db:
        db.client().put_tensor("a", [1, 2, 3])
        with pytest.raises(ServiceStartError, match="running orchestrator"):
            Orchestrator(**options).start()
        secret = Path(db.password_file)
    assert not secret.exists()
    with pytest.raises(ServiceStartError, match="1 shards"):
        Orchestrator(3, **options).start()
    with Orchestrator(restart=1, **options) as db:
        assert db.client().get_tensor("a").tolist() == [1, 2, 3]
        if how == "rdb":
            return
        db.client().put_tensor("b", [4])
        first = db.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: db.pid != first and db.is_active(), 10)
        assert db.client().get_tensor("b").tolist() == [4]
        assert db.losses[0].restarted


def test_cluster_on_disk(tmp_path: Path) -> None:
    for value in (1, 2):
        with Orchestrator(3, persistence="aof", folder=tmp_path) as db:
            client = db.client()
            for i in range(30):
                if value == 2:
                    assert client.get_tensor(f"t{i}")[0] == i
                client.put_tensor(f"t{i}", [i])


def test_disk_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Data that cannot be stored at the end are not lost silently."""
    db = Orchestrator(persistence="rdb", folder=tmp_path).start()
    db.client().put_tensor("a", [1])
    (tmp_path / "0" / "dump.rdb").mkdir()
    began = time.monotonic()
    db.stop()
    assert time.monotonic() - began < 10
    assert "has not stored its data" in caplog.text
    assert db.state is ServiceState.STOPPED


def found_elsewhere(db: Orchestrator) -> FoundServer:
    """The server as a driver on another node sees it: nothing but its address."""
    record = ServerRecord(0, "elsewhere", "127.0.0.1", db.ports[0], None, "", 0, 0)
    login = Login(Path(db.password_file).read_text().strip())
    return FoundServer(record, login, ours=True)


def test_server_elsewhere_ends() -> None:
    """Its end is seen by its connection; one that is cut for other reasons is no end."""
    with Orchestrator() as db:
        server = found_elsewhere(db)
        ended = threading.Event()

        def wait_for_it() -> None:
            server.wait()
            ended.set()

        watch = threading.Thread(target=wait_for_it)
        watch.start()
        redis = db.client().redis
        wait_until(lambda: len(redis.client_list(_type="normal")) > 1, 5, "it is connected")
        redis.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(TimeoutError):
            found_elsewhere(db).wait(0.7)  # longer than its beat
        assert not ended.is_set()
        assert server.running()
        assert db.pid is not None
        os.kill(db.pid, signal.SIGKILL)
        assert ended.wait(20)
        assert not server.running()
        watch.join()


def test_server_elsewhere_is_ended() -> None:
    with Orchestrator() as db:
        server = found_elsewhere(db)
        watch = threading.Thread(target=server.wait)
        watch.start()
        server.let_go()
        watch.join(5)
        assert not watch.is_alive()
        other = found_elsewhere(db)
        process = psutil.Process(db.pid)
        other.end(0.0)
        wait_until(lambda: not process.is_running() or db.state is ServiceState.FAILED, 5)
