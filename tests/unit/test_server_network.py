# SPDX-License-Identifier: BSD-3-Clause
"""At which addresses servers listen, on which nodes and cores: pure choices."""

from __future__ import annotations

from typing import Any

import pytest

from ssdag import ConfigError, UnsupportedError
from ssdag.launchers import (
    AprunLauncher,
    FluxLauncher,
    JsrunLauncher,
    Launcher,
    MpiexecLauncher,
    MpirunLauncher,
    PalsLauncher,
    SingleLauncher,
    SrunLauncher,
)
from ssdag.providers.base import Allocation, Node
from ssdag.services.keepers import on_nodes
from ssdag.services.keepers.on_nodes import choose_hosts
from ssdag.services.keepers.opening import launch_environment, service_step
from ssdag.services.servers.network import choose_addresses
from ssdag.services.servers.node_facts import (
    addresses_here,
    choose_cores,
    is_here,
    machine,
    node_name,
)
from ssdag.services.servers.places import LocalPlace


def facts(number: int, **interfaces: str) -> dict[str, Any]:
    """Return a node whose addresses end in its number."""
    addresses = {name: [f"{start}.{number}/24"] for name, start in interfaces.items()}
    return {
        "host": f"h{number}",
        "machine": f"m{number}",
        "addresses": {"lo": ["127.0.0.1/8"], **addresses},
    }


def test_one_machine_is_reached_by_loopback() -> None:
    node = facts(1, eth0="10.0.0")
    assert choose_addresses([node, node], node) == ["127.0.0.1", "127.0.0.1"]


def test_the_fastest_network_that_all_share() -> None:
    nodes = [facts(i, eth0="10.0.0", ib0="10.1.0", hsn0="10.2.0") for i in (1, 2)]
    assert choose_addresses(nodes, facts(9, eth0="10.0.0", ib0="10.1.0")) == [
        "10.1.0.1",
        "10.1.0.2",
    ]
    assert choose_addresses(nodes, facts(9, eth0="10.0.0")) == ["10.0.0.1", "10.0.0.2"]
    # Also under other names; and a node that is the driver's machine uses it too.
    named = [facts(1, eno1="10.0.0"), facts(9, eth0="10.0.0")]
    assert choose_addresses(named, facts(9, eth0="10.0.0")) == ["10.0.0.1", "10.0.0.9"]


def test_networks_of_containers_are_not_shared() -> None:
    nodes = [facts(i, docker0="172.17.0", eth0="10.0.0") for i in (1, 2)]
    driver = facts(9, docker0="172.17.0", eth0="10.0.0")
    assert choose_addresses(nodes, driver) == ["10.0.0.1", "10.0.0.2"]
    # The same address on two machines is no address by which to tell them apart.
    twins = [{**facts(1, x0="10.3.0", eth0="10.0.0"), "machine": m} for m in ("a", "b")]
    other = facts(9, x0="10.3.0")
    assert choose_addresses(twins, other) == ["10.0.0.1", "10.0.0.1"]


def test_routed_networks_and_none() -> None:
    nodes = [facts(1, eth0="10.0.1"), facts(2, eth0="10.0.2")]
    assert choose_addresses(nodes, facts(9, eth0="192.168.7")) == ["10.0.1.1", "10.0.2.2"]
    with pytest.raises(ValueError, match="h2 has no IPv4 address but loopback"):
        choose_addresses([nodes[0], facts(2)], facts(9, eth0="192.168.7"))


def test_hosts() -> None:
    there = ("n1", "n2", "n3", "n4")
    assert choose_hosts(3, None, there) == ("n2", "n3", "n4")
    assert choose_hosts(None, None, there) == there
    assert choose_hosts(3, ["n4", "n1"], there) == ("n4", "n1")
    assert choose_hosts(1, ["x"], ()) == ("x",)
    with pytest.raises(ConfigError, match="n5; the allocation has n1, n2"):
        choose_hosts(1, ["n1", "n5"], there)
    with pytest.raises(ConfigError, match="each once"):
        choose_hosts(2, ["n1", "n1"], there)
    with pytest.raises(ConfigError, match="the allocation has 4"):
        choose_hosts(5, None, there)


def test_cores() -> None:
    assert choose_cores(None, {3, 5}) == {3, 5}
    assert choose_cores(2, {3, 5, 8, 9}) == {8, 9}  # tasks fill a node from its first core
    assert choose_cores([3], {3, 5}) == {3}
    with pytest.raises(ValueError, match=r"cpus=3, but only 2 cores may be used \(3,5\)"):
        choose_cores(3, {3, 5})
    with pytest.raises(ValueError, match="only cores 3,5 may be used"):
        choose_cores([0, 3], {3, 5})


def test_this_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    assert node_name() == "n7"
    monkeypatch.setenv("SSDAG_NODE", "n8")
    assert node_name() == "n8"
    assert is_here("n8")
    assert is_here("n8.cluster.example.org")
    assert not is_here("n9")
    assert "SSDAG_NODE" not in launch_environment(MpiexecLauncher())  # it would reach all nodes
    assert machine() == machine()
    assert any(text.startswith("127.0.0.1/") for text in addresses_here()["lo"])


@pytest.mark.parametrize(
    "launcher",
    [SrunLauncher(), MpirunLauncher(), MpiexecLauncher(), PalsLauncher(), JsrunLauncher(),
     FluxLauncher(), AprunLauncher()],
    ids=lambda launcher: launcher.name,
)  # fmt: skip
def test_launchers_start_keepers(launcher: Launcher) -> None:
    argv = ("python", "-P", "keeper.py")
    line = launcher.command(service_step(launcher, ["nid00023"], argv, None))
    assert line[-3:] == list(argv)
    if launcher.name == "srun":  # beside all other steps, and no rank of MPI
        assert {"--overlap", "--mpi=none"} <= set(line)
        both = launcher.command(service_step(launcher, ["n1", "n2"], argv, 2))
        assert {"--ntasks=2", "--ntasks-per-node=1", "--nodelist=n1,n2"} <= set(both)
    else:
        with pytest.raises(UnsupportedError, match="single_cmd=False"):
            service_step(launcher, ["n1", "n2"], argv, None)


def test_a_launch_leaves_the_jobs_options_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_NTASKS", "SLURM_CPUS_PER_TASK", "PMI_RANK"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    env = launch_environment(SrunLauncher())
    assert env["SLURM_JOB_ID"] == "5"
    assert not {"SLURM_NTASKS", "SLURM_CPUS_PER_TASK", "PMI_RANK"} & set(env)
    with pytest.raises(UnsupportedError, match="starts nothing on other nodes"):
        service_step(SingleLauncher(), ["n1"], ("x",), None)


class _Provider:
    """A provider of an allocation of three nodes."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def allocation(self) -> Allocation:
        return Allocation("some", "1", tuple(Node(f"n{i}", 4) for i in range(3)))

    def launcher(self) -> Launcher:
        return self._launcher


@pytest.mark.parametrize("launcher", [JsrunLauncher(), FluxLauncher(), SingleLauncher()])
def test_no_server_takes_cores_from_tasks_unasked(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A step of the whole node would wait for the end of the server."""
    monkeypatch.setattr(on_nodes, "provider_here", lambda: _Provider(launcher))
    (place,) = on_nodes.find_places(3)
    assert isinstance(place, LocalPlace)
    assert "stays on this machine" in caplog.text
    assert isinstance(on_nodes.find_places(3, launcher=None)[0], LocalPlace)
    with pytest.raises(UnsupportedError, match="no servers on n0, n1, n2"):
        on_nodes.find_places(None)
    monkeypatch.setattr(on_nodes, "provider_here", lambda: None)
    assert isinstance(on_nodes.find_places(None)[0], LocalPlace)
