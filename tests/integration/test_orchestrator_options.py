# SPDX-License-Identifier: BSD-3-Clause
"""Options of an orchestrator's servers, what is said of them, and who may come in."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import redis

from ssdag.client import Client
from ssdag.errors import ConfigError, ServiceStartError, StoreError
from ssdag.services.orchestrator import Orchestrator
from tests.conftest import wait_until
from tests.integration.servers import SERVERS

if TYPE_CHECKING:
    from pathlib import Path


def conf(db: Orchestrator, key: str) -> str:
    return str(db.client().redis.config_get(key)[key])


@pytest.mark.parametrize("server", SERVERS)
def test_options_reach_the_server(server: str | None) -> None:
    with Orchestrator(
        server=server,
        memory_limit_bytes=64 << 20,
        eviction="allkeys-lru",
        max_clients=77,
        max_message_bytes=2 << 20,
        config={"slowlog-max-len": 9},
    ) as db:
        assert conf(db, "maxmemory") == str(64 << 20)
        assert conf(db, "maxmemory-policy") == "allkeys-lru"
        assert conf(db, "maxclients") == "77"
        assert conf(db, "slowlog-max-len") == "9"
        client = db.client()
        with pytest.raises(Exception, match="larger than the server"):
            client.put_tensor("large", np.zeros(3 << 20, "u1"))
        for i in range(90):  # 90 MiB in all: those that were not used for long go
            client.put_tensor(f"t{i}", np.zeros(1 << 20, "u1"))
        assert db.telemetry()[0].evicted > 20
        assert sum(client.tensor_exists(f"t{i}") for i in range(90)) < 70


@pytest.mark.parametrize(
    "options",
    [
        {"eviction": "sometimes", "memory_limit_bytes": 1 << 20},
        {"eviction": "allkeys-lru"},
        {"persistence": "tape"},
        {"max_clients": 0},
        {"max_message_bytes": -1},
        {"config": {"": 1}},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Orchestrator(**options)


def test_memory_is_full() -> None:
    """A put that does not fit raises; what is there stays, and room can be made."""
    with Orchestrator(memory_limit_bytes=64 << 20) as db:
        client = db.client()
        client.put_tensor("a", np.zeros(20 << 20, "u1"))
        client.put_tensor("b", np.zeros(20 << 20, "u1"))
        with pytest.raises(StoreError, match="memory limit"):
            client.put_tensor("c", np.zeros(40 << 20, "u1"))
        assert not client.tensor_exists("c")
        assert client.get_tensor("b").size == 20 << 20
        db.set_db_conf("maxmemory", 128 << 20)
        client.put_tensor("c", [1])


def test_set_db_conf() -> None:
    with Orchestrator(restart=1) as db:
        db.set_db_conf("slowlog-max-len", "33")
        assert conf(db, "slowlog-max-len") == "33"
        with pytest.raises(ConfigError, match="no-such-option"):
            db.set_db_conf("no-such-option", "1")
        with pytest.raises(ConfigError, match="line end"):
            db.set_db_conf("save", "1\n2")
        first = db.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: db.pid != first and db.is_active(), 5)
        assert conf(db, "slowlog-max-len") == "33"


def test_telemetry(tmp_path: Path) -> None:
    path = tmp_path / "samples"
    with Orchestrator() as db:
        client = db.client()
        recording = db.record_telemetry(0.01, keep=50, path=path)
        for i in range(20):
            client.put_tensor(f"t{i}", np.zeros(1 << 20, "u1"))
        client.get_tensor("t0")
        (now,) = db.telemetry()
        assert now.serves
        assert now.answers
        assert now.keys == 20
        assert now.memory_bytes > 20 << 20
        assert now.received_bytes > 20 << 20
        assert now.clients >= 1
        assert now.hits >= 1
        wait_until(lambda: any(s.keys == 20 for s in recording.samples), 5)
        wait_until(lambda: len(recording.samples) == 50, 10)
        assert sorted(s.time_s for s in recording.samples) == [s.time_s for s in recording.samples]
        assert db.pid is not None
        os.kill(db.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            (silent,) = db.telemetry()
            assert not silent.answers
            health = db.health()
            assert not health.ok
            assert "silent" in health.detail
            assert time.monotonic() - began < 3
        finally:
            os.kill(db.pid, signal.SIGCONT)
        assert db.health().ok
        with pytest.raises(ConfigError):
            db.record_telemetry(0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) >= 50
    assert lines[-1]["server"] == 0


@pytest.mark.parametrize("server", SERVERS)
def test_open_access(server: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """For SmartRedis clients: nobody is asked for a password, but not everything is allowed."""
    with (
        caplog.at_level(logging.WARNING, "ssdag"),
        Orchestrator(server=server, open_access=True) as db,
    ):
        assert "asks nobody for a password" in caplog.text
        assert set(db.environment()) == {"SSDB", "SR_DB_TYPE"}
        with pytest.raises(ConfigError, match="no password"):
            _ = db.password_file
        db.client().put_tensor("a", [1])
        later = db.tensor("b")
        port = db.ports[0]
        with redis.Redis(port=port) as plain:
            assert plain.exists("a")
            assert plain.config_get("protected-mode")["protected-mode"] == "yes"
            assert plain.info()
            for forbidden in (
                "SHUTDOWN NOSAVE",
                "REPLICAOF 127.0.0.1 1",
                "ACL LIST",
                "CONFIG SET dir /",
                "CLUSTER RESET",
                "MODULE LIST",
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    plain.execute_command(*forbidden.split())
        with Client(f"127.0.0.1:{port}") as client:
            client.put_tensor("b", [2])
        assert later.result(5)[0] == 2
        assert db.health().ok
        assert db.telemetry()[0].answers
        with Orchestrator.attach(f"127.0.0.1:{port}") as other:
            assert other.client().get_tensor("a")[0] == 1
            assert other.health().ok


def knows_three_copies(port: int) -> bool:
    with redis.Redis(port=port) as node:
        lines = node.execute_command("CLUSTER NODES")
    flags = [facts["flags"] for facts in lines.values()]
    return sum("slave" in f and "fail" not in f for f in flags) == 3


def test_open_cluster_whose_copy_takes_over_by_itself() -> None:
    """A shard hangs until the others give it up; later its successor dies. Nothing is lost."""
    server = shutil.which("redis-server")
    with Orchestrator(3, replicas=1, open_access=True, server=server) as db:
        client = db.client()
        db.set_db_conf("cluster-node-timeout", 1500)
        client.put_tensor("c", [1])
        hung, copy = db.pids[1], db.pids[4]
        os.kill(hung, signal.SIGSTOP)
        try:
            client.put_tensor("c", [2])
        finally:
            os.kill(hung, signal.SIGCONT)
        with redis.Redis(port=db.ports[1]) as old:
            shown = old.config_get("masterauth")["masterauth"]
            copier = redis.Redis(port=db.ports[2], username="ssdag-copy", password=shown)
            with copier, pytest.raises(redis.exceptions.NoPermissionError):
                copier.get("c")
            wait_until(lambda: old.role()[0] == b"slave" and old.role()[3] == b"connected", 20)
        wait_until(lambda: all(knows_three_copies(port) for port in db.ports), 20)
        os.kill(copy, signal.SIGKILL)
        assert client.get_tensor("c")[0] == 2
        assert not db.losses


def outer_address() -> str | None:
    """An IPv4 address of this machine that is not loopback."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return str(address.address)
    return None


@pytest.mark.skipif(outer_address() is None, reason="no network but loopback")
def test_interface() -> None:
    host = outer_address()
    assert host is not None
    name = next(
        n for n, all_ in psutil.net_if_addrs().items() if any(a.address == host for a in all_)
    )
    with Orchestrator(interface=name) as db:
        assert all(address.startswith(f"{host}:") for address in db.get_address())
        assert db.address == ",".join(db.get_address())
        db.client().put_tensor("a", [1])
        for pid in db.pids:
            bound = {c.laddr.ip for c in psutil.Process(pid).net_connections("inet")}
            assert bound == {host}
        with pytest.raises(StoreError):
            Client(db.address, password="wrong").ping()


@pytest.mark.skipif(outer_address() is None, reason="no network but loopback")
def test_open_access_on_a_network() -> None:
    host = outer_address()
    assert host is not None
    with (
        Orchestrator(interface=host, open_access=True) as db,
        redis.Redis(host, db.ports[0]) as plain,
    ):
        plain.ping()
        assert plain.config_get("protected-mode")["protected-mode"] == "no"


def test_no_such_interface() -> None:
    with pytest.raises(ServiceStartError, match="no such interface"):
        Orchestrator(interface="nosuch0").start()


def test_several_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Orchestrator(identifier="one") as one, Orchestrator(identifier="two") as two:
        for key, value in {**one.environment(), **two.environment()}.items():
            monkeypatch.setenv(key, value)
        Client(identifier="one").put_tensor("a", [1])
        Client(identifier="two").put_tensor("a", [2])
        assert one.client().get_tensor("a")[0] == 1
        assert two.client().get_tensor("a")[0] == 2


def test_lost_data_are_explained() -> None:
    """A task that takes data of a server that died meanwhile is told so."""
    with Orchestrator(restart=1) as db:
        future = db.tensor("a")
        db.client().put_tensor("a", [1])
        assert future.exception(5) is None
        first = db.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: db.pid != first and db.is_active(), 5)
        error = future.exception(0)
        with pytest.raises(Exception, match=r"its server died at .*SIGKILL.*slots 0 to 16383"):
            future.result()
        assert error is None
