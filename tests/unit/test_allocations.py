# SPDX-License-Identifier: BSD-3-Clause
"""Where am I: the nodes that PBS, Torque, LSF, Cobalt and Flux leave word of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ssdag.errors import ProviderError
from ssdag.launchers import (
    AprunLauncher,
    FluxLauncher,
    JsrunLauncher,
    MpiexecLauncher,
    MpirunLauncher,
    PalsLauncher,
)
from ssdag.providers import (
    CobaltProvider,
    FluxProvider,
    LSFProvider,
    PBSProvider,
    TorqueProvider,
)
from tests.unit.answering import Answering

if TYPE_CHECKING:
    from pathlib import Path

    from ssdag.providers.base import Allocation

OWN = len(os.sched_getaffinity(0))


def listed(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def cores(allocation: Allocation | None) -> list[tuple[str, int]]:
    assert allocation is not None
    return [(node.host, node.cores) for node in allocation.nodes]


def test_outside_a_job_there_is_none() -> None:
    for cls in (PBSProvider, TorqueProvider, LSFProvider, CobaltProvider, FluxProvider):
        assert cls().allocation({}) is None


def test_pbs_nodes_are_those_of_its_file_in_their_order(tmp_path: Path) -> None:
    path = listed(tmp_path / "nodes", "pbs2", "pbs2", "pbs1", "pbs1", "")
    env = {"PBS_JOBID": "1.pbs1", "PBS_NODEFILE": path, "NCPUS": "2"}
    found = PBSProvider().allocation(env)
    assert cores(found) == [("pbs2", 2), ("pbs1", 2)]
    assert found is not None
    assert (found.provider, found.job_id, found.ends_s) == ("pbs", "1.pbs1", None)
    assert cores(TorqueProvider().allocation(env)) == [("pbs2", 2), ("pbs1", 2)]
    # NCPUS without mpiprocs: one line a node, and still all cores.
    one = listed(tmp_path / "one", "pbs1", "pbs2")
    assert cores(PBSProvider().allocation({**env, "PBS_NODEFILE": one, "NCPUS": "32"})) == [
        ("pbs1", 32),
        ("pbs2", 32),
    ]


def test_a_whole_node_that_was_asked_for_by_one_slot_has_all_cores(tmp_path: Path) -> None:
    env = {
        "PBS_JOBID": "1.pbs1",
        "PBS_NODEFILE": listed(tmp_path / "nodes", "pbs1", "pbs2"),
        "NCPUS": "1",
    }
    assert cores(PBSProvider().allocation(env)) == [("pbs1", OWN), ("pbs2", OWN)]
    told = PBSProvider(cores_per_node=64, gpus_per_node=2, memory_per_node_bytes=1 << 30)
    found = told.allocation(env)
    assert cores(found) == [("pbs1", 64), ("pbs2", 64)]
    assert found is not None
    assert (found.nodes[1].gpus, found.nodes[1].memory_bytes) == (("0", "1"), 1 << 30)
    visible = told.allocation({**env, "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c"})
    assert visible is not None
    assert visible.nodes[0].gpus == ("GPU-a", "GPU-b", "GPU-c")


def test_a_list_that_cannot_be_read_or_is_empty_is_an_error(tmp_path: Path) -> None:
    env = {"PBS_JOBID": "1.pbs1", "PBS_NODEFILE": str(tmp_path / "none")}
    with pytest.raises(ProviderError, match=r"cannot be read: .*none: No such file"):
        PBSProvider().allocation(env)
    with pytest.raises(ProviderError, match="is empty"):
        PBSProvider().allocation({**env, "PBS_NODEFILE": listed(tmp_path / "empty", "", " ")})


def test_lsf_nodes_without_the_launch_host() -> None:
    csm = {"LSB_JOBID": "7", "LSB_MCPU_HOSTS": "batch3 1 a01n01 42 a01n02 42 "}
    assert cores(LSFProvider().allocation(csm)) == [("a01n01", 42), ("a01n02", 42)]
    for text, nodes in [
        ("n1 4 n2 4", [("n1", 4), ("n2", 4)]),
        ("n1 1", [("n1", OWN)]),  # the only host is no launch host
        ("n1 1 n2 1", [("n1", OWN), ("n2", OWN)]),
        ("n1 4", [("n1", 4)]),
    ]:
        found = LSFProvider().allocation({"LSB_JOBID": "7", "LSB_MCPU_HOSTS": text})
        assert cores(found) == nodes


def test_cobalt_nodes_by_file_or_by_number(tmp_path: Path) -> None:
    env = {"COBALT_JOBID": "5", "COBALT_PARTNAME": "3-5,9", "COBALT_ENDTIME": "1700000000"}
    found = CobaltProvider(cores_per_node=64).allocation(env)
    assert cores(found) == [("3", 64), ("4", 64), ("5", 64), ("9", 64)]
    assert found is not None
    assert found.ends_s == 1_700_000_000.0
    path = listed(tmp_path / "nodes", "vm-1", "vm-2")
    by_file = CobaltProvider().allocation({**env, "COBALT_NODEFILE": path})
    assert [host for host, _ in cores(by_file)] == ["vm-1", "vm-2"]


def test_flux_nodes_are_asked_for() -> None:
    runner = Answering()
    runner.put("env", "tioga[10-11]|2|128|16\n")
    found = FluxProvider(runner=runner).allocation({"FLUX_URI": "local:///run/flux"})
    assert cores(found) == [("tioga10", 64), ("tioga11", 64)]
    assert found is not None
    assert found.nodes[0].gpus == tuple("01234567")
    for text in ("", "no such thing\n", "|0|0|0\n", "a[1-2|2|4|0\n"):
        runner.put("env", text)
        with pytest.raises(ProviderError, match="flux resource list wrote"):
            FluxProvider(runner=runner).allocation({"FLUX_URI": "local:///run/flux"})


def test_launchers_are_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pals = tmp_path / "pals" / "bin"
    pals.mkdir(parents=True)
    for name in ("mpiexec", "jsrun"):
        (pals / name).write_text("#!/bin/sh\n")
        (pals / name).chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    assert isinstance(PBSProvider().launcher(), MpiexecLauncher)
    assert isinstance(LSFProvider().launcher(), MpirunLauncher)
    assert isinstance(CobaltProvider().launcher(), AprunLauncher)
    assert isinstance(FluxProvider().launcher(), FluxLauncher)
    monkeypatch.setenv("PATH", str(pals))
    assert isinstance(PBSProvider().launcher(), PalsLauncher)
    assert isinstance(LSFProvider().launcher(), JsrunLauncher)
    own = MpirunLauncher()
    assert PBSProvider(launcher=own).launcher() is own
    assert LSFProvider(launcher=own).launcher() is own
