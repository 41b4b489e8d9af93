# SPDX-License-Identifier: BSD-3-Clause
"""From slots to launch lines: what every launcher is told of the slots of a step."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from ssdag import Resources
from ssdag.executors.allocation.launching import Launch, Launching
from ssdag.executors.allocation.request import request_of
from ssdag.executors.allocation.slots import SlotTable
from ssdag.executors.program import Program, in_variable
from ssdag.launchers import (
    JsrunLauncher,
    Launcher,
    MpiexecLauncher,
    MpirunLauncher,
    PalsLauncher,
    SrunLauncher,
)
from ssdag.providers.base import Node

NODES = [Node("n1", 8, ("0", "1")), Node("n2", 8, ("0", "1"))]


def launch(
    launcher: Launcher, needs: Resources, nodes: list[Node] = NODES, *, taken: Any = (), **more: Any
) -> Launch:
    """Return how a step is started when others have taken slots before it."""
    table = SlotTable(nodes)
    for other in taken:
        assert table.place(request_of(other)) is not None
    request = request_of(needs)
    placement = table.place(request)
    assert placement is not None
    program = Program(("solver", "in put"), "solver", lambda code, tail: code, **more)
    here = Launching(nodes, launcher, here=False, pin=True)
    return here.launch(program, request, placement, "/folder")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the driver's own job has left in the environment."""
    for name in ("SLURM_NTASKS_PER_NODE", "SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_CPU"):
        monkeypatch.setenv(name, "3")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_srun_keeps_account_of_cores_itself() -> None:
    made = launch(SrunLauncher(), Resources(ranks=4, nodes=2, cores_per_rank=2, gpus_per_rank=1))
    line = shlex.join(made.argv)
    assert line.startswith(
        "srun --nodes=2 --ntasks=4 --ntasks-per-node=2 --cpus-per-task=2 --gpus-per-task=1 "
        "--nodelist=n1,n2 --exact --export=ALL,"
    )
    assert line.endswith("--kill-on-bad-exit=1 solver 'in put'")
    assert "cpu-bind" not in line
    assert made.env["SLURM_JOB_ID"] == "7"
    assert made.env["OMP_NUM_THREADS"] == "2"
    assert not {"SLURM_NTASKS_PER_NODE", "SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_CPU"} & set(made.env)


def test_srun_is_told_rank_by_rank_where_hosts_have_different_numbers() -> None:
    taken = [Resources(cores=7), Resources(cores=2)]
    made = launch(SrunLauncher(), Resources(ranks=7), [Node("b", 8), Node("a", 8)], taken=taken)
    assert made.argv[:4] == ["srun", "--nodes=2", "--ntasks=7", "--cpus-per-task=1"]
    assert "--distribution=arbitrary" in made.argv
    assert made.env["SLURM_HOSTFILE"] == "/folder/hosts"
    hosts = made.files["hosts"].split()
    assert len(hosts) == 7
    assert {host: hosts.count(host) for host in hosts} == {"a": 6, "b": 1}


def test_srun_gives_each_step_its_share_of_memory() -> None:
    """Else the first one had all of the job's, and the second would wait for it."""
    nodes = [Node("n1", 8, (), 64 << 30)]
    made = launch(SrunLauncher(), Resources(ranks=2), nodes)
    assert f"--mem={16 << 10}M" in made.argv
    asked = launch(SrunLauncher(), Resources(ranks=2, memory_bytes=5 << 30), nodes)
    assert f"--mem={5 << 10}M" in asked.argv


@pytest.mark.parametrize("launcher", [MpiexecLauncher(), PalsLauncher(), MpirunLauncher()])
def test_others_are_told_hosts_cores_and_gpus(launcher: Launcher) -> None:
    made = launch(launcher, Resources(ranks=4, nodes=2, cores_per_rank=2, gpus_per_rank=1))
    (step,) = launcher.parse(made.argv, made.files)
    assert (step.ranks, step.hosts, step.per_node) == (4, ("n1", "n2"), 2)
    assert step.cores_of_ranks == ((0, 1), (2, 3))
    assert step.gpus_per_rank == 1
    assert step.env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert step.argv == ("solver", "in put")


def test_the_next_step_gets_the_next_cores() -> None:
    made = launch(MpiexecLauncher(), Resources(ranks=2), NODES[:1], taken=[Resources(cores=3)])
    (step,) = MpiexecLauncher().parse(made.argv)
    assert step.binding == (3, 4)


def test_gpus_with_other_numbers_on_each_node_make_one_program_for_each() -> None:
    nodes = [Node("n1", 8, ("a",)), Node("n2", 8, ("b",))]
    made = launch(MpiexecLauncher(), Resources(ranks=2, nodes=2, gpus_per_rank=1), nodes)
    first, second = MpiexecLauncher().parse(made.argv)
    assert (first.hosts, first.env["CUDA_VISIBLE_DEVICES"]) == (("n1",), "a")
    assert (second.hosts, second.env["CUDA_VISIBLE_DEVICES"]) == (("n2",), "b")


def test_jsrun_chooses_nodes_itself() -> None:
    made = launch(JsrunLauncher(), Resources(ranks=4, cores_per_rank=2, gpus_per_rank=1))
    (step,) = JsrunLauncher().parse(made.argv, made.files)
    assert (step.ranks, step.cores_per_rank, step.gpus_per_rank) == (4, 2, 1)
    assert step.hosts == ()


def test_a_command_that_launches_itself_gets_the_line_in_a_variable() -> None:
    needs = Resources(ranks=4, nodes=2)
    made = launch(SrunLauncher(), needs, launches=True)
    assert made.argv == ["solver", "in put"]
    words = made.env["SSDAG_LAUNCH"].split()
    assert words == SrunLauncher().prefix(SrunLauncher().parse([*words, "x"])[0])
    assert words[:3] == ["srun", "--nodes=2", "--ntasks=4"]
    quoted = launch(MpiexecLauncher(options=("-env", "A", "b c")), needs, launches=True)
    assert quoted.env["SSDAG_LAUNCH"] == "sh /folder/launch.sh"
    assert "'b c'" in quoted.files["launch.sh"]
    with pytest.raises(Exception, match="without blanks"):
        in_variable(["a b"], "/a folder")
