# SPDX-License-Identifier: BSD-3-Clause
"""Servers on nodes of a real Slurm: started, reached, lost in every way, ended."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from ssdag import ServiceStartError, StoreError, UnsupportedError
from ssdag.client import Client
from ssdag.launchers import PalsLauncher, SingleLauncher, SrunLauncher
from ssdag.services.keepers.on_nodes import open_places
from ssdag.services.servers.options import ServerOptions
from ssdag.services.servers.places import ServerRequest
from tests.conftest import is_live, wait_until
from tests.integration.slurm_jobs import DEADLINE_S, allocation, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ssdag.services.keepers.node_place import NodePlace
    from tests.clusters.cluster import SlurmCluster

PASSWORD = secrets.token_hex(16)
ROOT = Path(__file__).parents[2]


def request_of(**options: object) -> ServerRequest:
    lines = ServerOptions().lines(PASSWORD, shards=1, replicas=0)
    values = {"name": "a server", "lines": lines, "password": PASSWORD, "unix_socket": False}
    return ServerRequest(**{**values, **options})  # type: ignore[arg-type]


def value_of(address: str) -> object:
    with Client(address, password=PASSWORD, timeout_s=10) as client:
        client.call("SET", "k", "v")
        return client.call("GET", "k")


def keeper_of(server_pid: int) -> psutil.Process:
    """Return the keeper that has started a server; both are on this machine in truth."""
    keeper = psutil.Process(server_pid).parent()
    assert keeper is not None
    assert "keeper.py" in " ".join(keeper.cmdline())
    return keeper


def gone(*pids: int) -> bool:
    return not any(map(is_live, pids))


@pytest.fixture
def job(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with allocation(slurm, monkeypatch, 3) as job:
        yield job


@pytest.fixture
def open_on(job: str) -> Iterator[Callable[..., list[NodePlace]]]:
    """Open places; they are let go after the test."""
    opened: list[NodePlace] = []

    def make(*hosts: str, **options: object) -> list[NodePlace]:
        opened.extend(open_places(hosts, SrunLauncher(), **options))  # type: ignore[arg-type]
        return opened[-len(hosts) :]

    yield make
    for place in opened:
        place.close()


@pytest.mark.parametrize("single_cmd", [False, True])
def test_a_server_on_each_node_beside_other_steps(
    open_on: Callable[..., list[NodePlace]], slurm: SlurmCluster, job: str, single_cmd: bool
) -> None:
    places = open_on("n2", "n3", single_cmd=single_cmd)
    assert [place.hostname for place in places] == ["n2", "n3"]
    assert len(steps(slurm, job)) == (1 if single_cmd else 2)
    servers = [place.start(request_of()) for place in places]
    assert [value_of(server.address) for server in servers] == [b"v", b"v"]
    nodes = [psutil.Process(s.pid).environ()["SLURMD_NODENAME"] for s in servers]
    assert nodes == ["n2", "n3"]
    # They keep no core from others.
    assert slurm.run("srun", "--exact", "-N3", "-n12", "echo", "x").count("x") == 12
    for server in servers:
        server.end(0.0)
        assert server.wait(0) is not None
        server.clear()
        assert not Path(server.folder).exists()


def test_a_server_that_dies_is_seen_and_comes_back_where_it_was(
    open_on: Callable[..., list[NodePlace]],
) -> None:
    (place,) = open_on("n2")
    server = place.start(request_of())
    assert "Ready to accept connections" in server.log_tail()
    with pytest.raises(TimeoutError):
        server.wait(0.01)
    os.kill(server.pid, signal.SIGKILL)
    assert server.wait(DEADLINE_S) == -signal.SIGKILL
    assert not server.running()
    assert "Ready to accept connections" in server.log_tail()
    again = place.start(request_of(port=server.port, folder=server.folder))
    assert (again.address, again.folder) == (server.address, server.folder)
    assert value_of(again.address) == b"v"


def test_a_lost_keeper_takes_its_server_along_and_another_comes(
    open_on: Callable[..., list[NodePlace]],
) -> None:
    places = open_on("n1", "n2")
    here, there = (place.start(request_of()) for place in places)
    keeper_of(there.pid).kill()
    assert there.wait(DEADLINE_S) is None
    wait_until(lambda: gone(there.pid), DEADLINE_S, "the server is gone")
    wait_until(lambda: not Path(there.folder).exists(), DEADLINE_S, "its folder is gone")
    assert here.running()
    wait_until(lambda: places[1].keeper.is_lost, DEADLINE_S, "the launch is over")
    again = places[1].start(request_of(port=there.port, folder=there.folder))
    assert again.hostname == "n2"
    assert value_of(again.address) == b"v"
    again.end(0.0)
    again.clear()
    assert not Path(again.folder).exists()


def test_the_loss_of_one_keeper_of_a_launch_leaves_the_others(
    open_on: Callable[..., list[NodePlace]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssdag.services.keepers.launch.BEAT_S", 0.5)
    here, there = open_on("n1", "n2", single_cmd=True)
    servers = [place.start(request_of()) for place in (here, there)]
    keeper_of(servers[1].pid).kill()
    assert servers[1].wait(DEADLINE_S) is None
    assert "neither keeper nor server answer on n2" in servers[1].log_tail()
    assert value_of(servers[0].address) == b"v"
    assert servers[0].running()


def test_a_killed_launcher_ends_keeper_and_server(
    open_on: Callable[..., list[NodePlace]], slurm: SlurmCluster, job: str
) -> None:
    (place,) = open_on("n2")
    server = place.start(request_of())
    os.kill(place.keeper.launch.pid, signal.SIGKILL)
    assert server.wait(DEADLINE_S) is None
    wait_until(lambda: gone(server.pid), DEADLINE_S, "the server is gone")
    wait_until(lambda: not steps(slurm, job), DEADLINE_S, "the step is over")
    # All was killed at once; the next keeper there removes what that left.
    (again,) = open_on("n2")
    other = again.start(request_of())
    assert not Path(server.folder).exists()
    assert Path(other.folder).exists()


def test_a_keeper_that_hangs_holds_nobody_up(
    open_on: Callable[..., list[NodePlace]], slurm: SlurmCluster, job: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("ssdag.services.keepers.remote_server.SLACK_S", 0.5)
    (place,) = open_on("n2")
    server = place.start(request_of())
    keeper_of(server.pid).suspend()
    assert "Ready" not in server.log_tail()
    server.end(0.1)
    assert server.wait(DEADLINE_S) is None
    wait_until(lambda: gone(server.pid), DEADLINE_S, "the server is gone")
    wait_until(lambda: not steps(slurm, job), DEADLINE_S, "the step is over")


def test_a_node_that_says_nothing_is_lost(
    open_on: Callable[..., list[NodePlace]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its power fails, which the scheduler notices minutes later."""
    monkeypatch.setattr("ssdag.services.keepers.launch.BEAT_S", 0.1)
    monkeypatch.setattr("ssdag.services.keepers.launch.SILENT_S", 2.0)
    monkeypatch.setattr("ssdag.services.keepers.remote_server.SLACK_S", 0.5)
    here, there = open_on("n1", "n2", single_cmd=True)
    servers = [place.start(request_of()) for place in (here, there)]
    keeper = keeper_of(servers[1].pid)
    keeper.suspend()
    assert servers[1].wait(DEADLINE_S) is None
    assert re.search("nothing was heard of n2", servers[1].log_tail())
    assert servers[0].running()
    assert value_of(servers[0].address) == b"v"
    again = there.start(request_of())
    assert again.hostname == "n2"
    keeper.resume()  # its step is still there


def test_what_does_not_start_says_why(open_on: Callable[..., list[NodePlace]]) -> None:
    (place,) = open_on("n2")
    with pytest.raises(ServiceStartError, match=r"(?s)on n2: .*did not start.*no-such-option"):
        place.start(request_of(lines=("no-such-option 1",)))
    with pytest.raises(ServiceStartError, match=r"on n2: .*no such program"):
        place.start(request_of(program="/no/such/program"))
    with pytest.raises(ServiceStartError, match=r"on n2: .*cores 9999|on n2: .*only cores"):
        place.start(request_of(), cpus=[9999])
    with pytest.raises(ServiceStartError, match=r"on n2: .*no such interface"):
        place.start(request_of(interface="nope0"))
    server = place.start(request_of(), cpus=1)
    assert psutil.Process(server.pid).cpu_affinity() == [max(os.sched_getaffinity(0))]


def test_a_node_that_is_not_there_is_an_error_with_the_launchers_words(job: str) -> None:
    with pytest.raises(ServiceStartError, match=r"(?s)keepers on n4 is over.*srun: error"):
        open_places(["n1", "n4"], SrunLauncher())
    with pytest.raises(ServiceStartError, match="cannot be executed"):
        open_places(["n1"], SrunLauncher(executable="/no/such/srun"))
    with pytest.raises(UnsupportedError, match="starts nothing on other nodes"):
        open_places(["n1"], SingleLauncher())
    with pytest.raises(UnsupportedError, match="single_cmd=False"):
        open_places(["n1", "n2"], PalsLauncher(), single_cmd=True)


def test_an_end_in_the_middle_of_a_start_leaves_nothing(
    open_on: Callable[..., list[NodePlace]], slurm: SlurmCluster, job: str
) -> None:
    """The keepers' input ends while a server that never gets ready is awaited."""
    (place,) = open_on("n2")
    place.keeper.launch.send(
        {"do": "start", "id": "x", "cpus": None, "folder": None,
         "request": request_of(lines=("requirepass other",), start_timeout_s=0.7).plain()}
    )  # fmt: skip
    place.close()
    wait_until(lambda: not steps(slurm, job), DEADLINE_S, "the step is over")


DRIVER = """
import sys
from ssdag.launchers import SrunLauncher
from ssdag.services.keepers.on_nodes import open_places
from ssdag.services.servers.places import ServerRequest
places = open_places(["n1", "n2"], SrunLauncher())
outlives = sys.argv[1] == "outlives"
request = ServerRequest("a server", ("save ''",), unix_socket=False, outlives=outlives)
servers = [place.start(request) for place in places]
for server in servers:
    print(server.pid, server.address, server.folder, flush=True)
if sys.argv[1] == "killed":
    sys.stdin.readline()
for place in places:
    place.close()
"""


@pytest.mark.parametrize("end", ["killed", "outlives"])
def test_the_end_of_the_driver(slurm: SlurmCluster, job: str, end: str) -> None:
    """Killed, it takes its servers along; those that outlive it live until they end."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with driver:
        assert driver.stdout is not None
        lines = [driver.stdout.readline().split() for _ in range(2)]
        pids = [int(line[0]) for line in lines]
        if end == "killed":
            driver.kill()
        driver.wait(DEADLINE_S)
    if end == "outlives":
        assert len(steps(slurm, job)) == 2
        for _, address, _ in lines:
            with Client(address, timeout_s=10) as client:
                client.ping()
                with suppress(StoreError):  # its answer is to end
                    client.call("SHUTDOWN", "NOSAVE")
    wait_until(lambda: gone(*pids), DEADLINE_S, "the servers are gone")
    wait_until(lambda: not steps(slurm, job), DEADLINE_S, "the steps are over")
    wait_until(lambda: not any(Path(line[2]).exists() for line in lines), DEADLINE_S, "folders")
