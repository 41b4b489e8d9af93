# SPDX-License-Identifier: BSD-3-Clause
"""Pilots on nodes that reach only a login host, and that host only by ssh: a tunnel."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import ssdag
from ssdag.errors import BlockError, ConfigError, EngineClosedError
from ssdag.executors import LocalExecutor, PilotExecutor
from ssdag.launchers import SingleLauncher, Wrapped
from ssdag.providers import LocalProvider, PBSProvider
from ssdag.services.orchestrator import Orchestrator
from tests.apart import is_ours
from tests.clusters.sshd import LoopbackSshd
from tests.conftest import wait_until
from tests.integration import namespaces, pilot_bodies, site_bodies
from tests.integration.bridged import BridgedHosts
from tests.simulators.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ssdag.dataflow.engine import Engine
    from ssdag.launchers import Launcher

DEADLINE_S = 60.0
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scheduler() -> Iterator[Simulator]:
    """A scheduler at the login host."""
    with Simulator("pbs", 2) as made:
        yield made


@pytest.fixture
def login(scheduler: Simulator) -> Iterator[LoopbackSshd]:
    made = LoopbackSshd({"PATH": scheduler.env()["PATH"]})
    yield made
    made.close()
    wait_until(lambda: not gateways(), DEADLINE_S, "nothing is left at the login host")


def programs(word: str) -> list[psutil.Process]:
    """Return the processes that have a word in one of their first arguments."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(word in argument for argument in (process.info["cmdline"] or [])[1:3])
        and is_ours(process)
    ]


def gateways() -> list[psutil.Process]:
    """Return the programs that pass connections on."""
    return programs("zlib.decompress")


def others(known: set[int]) -> set[int]:
    """Return those that are not known."""
    return {process.pid for process in gateways()} - known


def two_new(known: set[int]) -> bool:
    """Say whether there are two that are not known."""
    return len(others(known)) == 2


def far(login: LoopbackSshd, folder: Path, **options: Any) -> PilotExecutor:
    provider = PBSProvider(
        ssh=login.host,
        ssh_options=login.options,
        ssh_folder=str(folder / "scratch"),
        walltime_s=600,
        worker_init=f"export PYTHONPATH={ROOT}",
    )
    options = {
        "heartbeat_s": 0.5, "heartbeat_limit_s": 20.0, "python": sys.executable, **options
    }  # fmt: skip
    return PilotExecutor(
        provider, workers_per_node=2, cores_per_worker=0.1,
        run_dir=folder / "runs", tunnel=True, **options,
    )  # fmt: skip


@pytest.fixture
def begin(login: LoopbackSshd, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Start engines whose pilot comes by the login host; closed after the test."""
    engines: list[Engine] = []

    def begin(**options: Any) -> Engine:
        engines.append(ssdag.load(ssdag.Config(executors=[far(login, tmp_path, **options)])))
        return engines[-1]

    yield begin
    for engine in engines:
        engine.close()


@pytest.fixture
def node(scheduler: Simulator) -> Iterator[tuple[LoopbackSshd, str]]:
    """A login host and the name of a node: the node's packets can go nowhere else."""
    if (reason := namespaces.refusal()) is not None:
        pytest.skip(reason)
    hosts = BridgedHosts(2)
    login = None
    try:
        login = LoopbackSshd(
            {"PATH": scheduler.env()["PATH"]},
            address=hosts.addresses[0],
            enter=("ip", "netns", "exec", hosts.names[0]),
        )
        yield login, hosts.names[1]
        wait_until(lambda: not gateways(), DEADLINE_S, "nothing is left at the login host")
    finally:
        if login is not None:
            login.close()
        hosts.remove()


def test_nodes_that_reach_only_the_login_host(
    node: tuple[LoopbackSshd, str], tmp_path: Path
) -> None:
    login, name = node
    enter = Wrapped(SingleLauncher(), ("ip", "netns", "exec", name))
    with ssdag.load(ssdag.Config(executors=[far(login, tmp_path, launcher=enter)])) as engine:
        echo = [engine.submit(pilot_bodies.namespace, i) for i in range(200)]
        found = {future.result(DEADLINE_S) for future in echo}
        assert {number for number, _ in found} == set(range(200))
        inside = os.stat(f"/run/netns/{name}").st_ino
        assert {place for _, place in found} == {inside}
        large = engine.submit(pilot_bodies.double, bytes(3 << 20)).result(DEADLINE_S)
        assert len(large) == 6 << 20
        listeners = {
            connection.laddr.ip
            for connection in psutil.Process().net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listeners == {"127.0.0.1"}, "nothing of ours is open to the network"


def without_files(node: str, db: Orchestrator) -> Launcher:
    """Return what starts managers on a node that does not see the files of a server."""
    hide = 'mount -t tmpfs none "$0" && exec "$@"'
    argv = ("ip", "netns", "exec", node, "sh", "-c", hide, str(Path(db.password_file).parent))
    return Wrapped(SingleLauncher(), argv)


@pytest.mark.parametrize("shards", [1, 3])
def test_data_of_an_orchestrator_here(
    node: tuple[LoopbackSshd, str], shards: int, tmp_path: Path
) -> None:
    """Its sockets and its password file are not to be seen on the node."""
    login, name = node
    with Orchestrator(shards) as db:
        executor = far(login, tmp_path, launcher=without_files(name, db))
        train = LocalExecutor(max_workers=1, label="train")
        with ssdag.load(ssdag.Config(executors=[executor, train])) as engine:
            simulate = ssdag.python_app(executors=["pilot"])(site_bodies.simulate_waiting)
            learn = ssdag.python_app(executors=["train"])(site_bodies.learn)
            fields = [simulate(x, db) for x in range(4)]
            means = [learn(db.tensor(f"field.{x}"), x, db) for x in range(4)]
            assert [mean.result(DEADLINE_S) for mean in means] == [0.0, 1.0, 2.0, 3.0]
            assert [field.result(DEADLINE_S) for field in fields] == [0.0, 2.0, 4.0, 6.0]
            with pytest.raises(ConfigError, match="no password file of a server of this run"):
                executor._entrance.answer("password", str(Path.home() / ".ssh/id_ed25519"))
            assert engine.submit(pilot_bodies.seen, ["SSDB"]).result(DEADLINE_S)["SSDB"] is None


def test_a_connection_that_is_cut_loses_nothing(
    begin: Callable[..., Engine], login: LoopbackSshd, tmp_path: Path
) -> None:
    engine = begin()
    log = tmp_path / "log"
    assert engine.submit(pilot_bodies.note, str(log), "first").result(DEADLINE_S)
    for turn in range(3):
        before = {process.pid for process in gateways()}
        futures = [engine.submit(pilot_bodies.note, str(log), f"{turn}.{i}") for i in range(200)]
        login.cut()
        assert all(future.result(DEADLINE_S) for future in futures)
        wait_until(partial(others, before), DEADLINE_S, "a new tunnel")
    expected = ["first", *(f"{turn}.{i}" for turn in range(3) for i in range(200))]
    assert sorted(log.read_text().split()) == sorted(expected), "each ran once"


def test_a_connection_that_is_cut_while_data_travel(
    node: tuple[LoopbackSshd, str], tmp_path: Path
) -> None:
    login, name = node
    with Orchestrator() as db:
        executor = far(login, tmp_path, launcher=without_files(name, db))
        with ssdag.load(ssdag.Config(executors=[executor])):
            exchange = ssdag.python_app(site_bodies.exchange)
            assert exchange("first", 1, db).result(DEADLINE_S) == 0
            futures = [exchange(f"t{i}", 30, db) for i in range(6)]
            for turn in range(2):
                stored = partial(db.client().tensor_exists, f"t{2 * turn}")
                wait_until(stored, DEADLINE_S, "data travel")
                before = {process.pid for process in gateways()}
                login.cut()
                wait_until(partial(two_new, before), DEADLINE_S, "new tunnels")
            assert [future.result(DEADLINE_S) for future in futures] == [29] * 6


def test_a_connection_that_says_nothing_is_made_again(
    begin: Callable[..., Engine], tmp_path: Path
) -> None:
    """As when a network drops everything: nobody is told that it is lost."""
    engine = begin(heartbeat_limit_s=12.0)
    log = tmp_path / "log"
    assert engine.submit(pilot_bodies.note, str(log), "first").result(DEADLINE_S)
    (gateway,) = gateways()
    server = next(process for process in gateway.parents() if "sshd" in process.name())
    server.suspend()
    try:
        future = engine.submit(pilot_bodies.note, str(log), "second")
        wait_until(partial(others, {gateway.pid}), DEADLINE_S, "a new tunnel")
    finally:
        server.resume()
    assert future.result(DEADLINE_S)


def test_a_host_that_forbids_it_says_so(scheduler: Simulator, tmp_path: Path) -> None:
    login = LoopbackSshd(
        {"PATH": scheduler.env()["PATH"]}, settings=["AllowStreamLocalForwarding no"]
    )
    try:
        with ssdag.load(ssdag.Config(executors=[far(login, tmp_path)])) as engine:
            error = engine.submit(pilot_bodies.note, str(tmp_path / "log"), "x").exception(
                DEADLINE_S
            )
        assert isinstance(error, BlockError)
        assert "AllowStreamLocalForwarding" in str(error)
    finally:
        login.close()


def test_a_host_without_the_interpreter_says_so(
    begin: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = begin(python="/opt/none/bin/python3")
    error = engine.submit(pilot_bodies.note, str(tmp_path / "log"), "x").exception(DEADLINE_S)
    assert isinstance(error, BlockError)
    assert "/opt/none/bin/python3" in str(error)


def test_a_host_that_comes_later(
    begin: Callable[..., Engine], login: LoopbackSshd, tmp_path: Path
) -> None:
    login.stop()
    engine = begin()
    future = engine.submit(pilot_bodies.note, str(tmp_path / "log"), "x")
    with pytest.raises(TimeoutError):
        future.result(1.0)
    login.start()
    assert future.result(DEADLINE_S)


def test_closing_does_not_wait_for_a_host_that_says_nothing(
    begin: Callable[..., Engine], login: LoopbackSshd, tmp_path: Path
) -> None:
    """Its connections are taken, and then nothing comes: ssh would wait for 20 s."""
    login.stop()
    with socket.create_server(("127.0.0.1", login.port)):
        engine = begin()
        future = engine.submit(pilot_bodies.note, str(tmp_path / "log"), "x")
        wait_until(lambda: waiting(login), DEADLINE_S, "ssh waits for the host")
        began = time.monotonic()
        engine.close()
        assert time.monotonic() - began < 15.0
        assert isinstance(future.exception(DEADLINE_S), EngineClosedError)
    assert not waiting(login)


def waiting(login: LoopbackSshd) -> list[psutil.Process]:
    """Return our processes that have a connection to the host."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if str(login.port) in process.cmdline() and "-R" in process.cmdline()
    ]


def test_what_makes_no_sense(login: LoopbackSshd, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reaches no host by ssh"):
        PilotExecutor(LocalProvider(), tunnel=True)
    with pytest.raises(ConfigError, match=r"address='10\.0\.0\.1'"):
        far(login, tmp_path, address="10.0.0.1")


SCRIPT = """
import json, os, sys
from pathlib import Path
import ssdag
from tests.clusters.sshd import LoopbackSshd
from tests.integration import pilot_bodies, test_tunnel

class Login:
    host, options = json.loads(sys.argv[1])

folder = Path(sys.argv[2])
engine = ssdag.load(ssdag.Config(executors=[test_tunnel.far(Login, folder, heartbeat_limit_s=6.0)]))
engine.submit(pilot_bodies.note, str(folder / "log"), "x").result(60)
print("ready", flush=True)
sys.stdin.read()
"""


def test_the_driver_is_killed(login: LoopbackSshd, tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps([login.host, login.options]), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"ready\n"
        assert len(gateways()) == 1
        driver.send_signal(signal.SIGKILL)
    wait_until(lambda: not gateways(), DEADLINE_S, "the tunnel has ended")
    wait_until(lambda: not programs("ssdag.executors.pilot.manager"), DEADLINE_S, "so has the rest")
    assert not list(Path("/tmp").glob("ssdag-*.sock"))
