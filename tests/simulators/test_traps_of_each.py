# SPDX-License-Identifier: BSD-3-Clause
"""What each scheduler does that its provider must not fall for."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ssdag.errors import ProviderError, SubmitError
from ssdag.states import JobState
from tests.simulators.asking import ended, on, provider_of, reach, running, sleeper

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.simulator import Simulator

# -- PBS and Torque ----------------------------------------------------------------------


@on("pbs")
def test_a_job_that_somebody_else_deleted_is_cancelled_though_its_exit_status_is_0(
    simulator: Simulator, tmp_path: Path
) -> None:
    provider = provider_of(simulator)
    job_id = provider.submit(sleeper(provider, tmp_path))
    running(provider, job_id)
    assert simulator.run("qdel", job_id).returncode == 0
    status = ended(provider, job_id)
    assert status.state is JobState.CANCELLED
    assert "terminated by" in status.reason


@on("pbs", "torque")
def test_without_history_files_tell_how_jobs_ended(
    simulator: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    simulator.control("set", name="history", value=False)
    provider = provider_of(simulator)
    job_id = provider.submit(sleeper(provider, tmp_path))
    running(provider, job_id)
    (tmp_path / "go").touch()
    status = ended(provider, job_id)
    assert (status.state, status.exit_code) == (JobState.FAILED, 4)
    killed = provider.submit(provider.job("cancelled", ["sleep 60"], tmp_path))
    running(provider, killed)
    provider.cancel([killed])
    assert ended(provider, killed).state is JobState.CANCELLED
    if simulator.kind == "pbs":
        assert sum("keeps no history" in text for text in caplog.messages) == 1


@on("pbs")
def test_a_job_of_a_lost_node_that_waits_again_is_pending_whatever_its_exit_status(
    simulator: Simulator, tmp_path: Path
) -> None:
    provider = provider_of(simulator, nodes_per_block=2)
    job_id = provider.submit(replace(sleeper(provider, tmp_path), rerunnable=True))
    running(provider, job_id)
    simulator.control("lose", host="pbs2")
    status = reach(provider, job_id, lambda status: status.state is not JobState.RUNNING)
    assert status.state is JobState.PENDING
    assert "Insufficient amount of resource: host" in status.reason
    (tmp_path / "go").touch()
    simulator.control("restore", host="pbs2")
    assert ended(provider, job_id).exit_code == 4


@on("pbs")
def test_what_can_never_run_says_so(simulator: Simulator, tmp_path: Path) -> None:
    provider = provider_of(simulator, nodes_per_block=99)
    job_id = provider.submit(provider.job("job", ["true"], tmp_path))
    status = provider.poll([job_id])[job_id]
    assert status.state is JobState.PENDING
    assert "Can Never Run" in status.reason


# -- LSF ---------------------------------------------------------------------------------


@on("lsf")
def test_the_id_is_found_among_what_a_site_adds(simulator: Simulator, tmp_path: Path) -> None:
    provider = provider_of(simulator)
    text = (
        "Cannot connect to LSF. Please wait ...\nProject ABC123: 77 jobs left\n"
        "Job <4711> is submitted to queue <debug>. Have a nice day\n"
    )
    simulator.fault("bsub", "answer", times=1, answer={"out": text})
    assert provider.submit(sleeper(provider, tmp_path)) == "4711"


@on("lsf")
def test_a_refusal_of_the_site_is_told_whole(simulator: Simulator, tmp_path: Path) -> None:
    provider = provider_of(simulator)
    words = (
        "Batch job not submitted. Please address the following and resubmit:\n------\n"
        "**  Walltime (-W) not specified\n------\nRequest aborted by esub. Job not submitted.\n"
    )
    simulator.fault("bsub", "answer", answer={"rc": 255, "err": words})
    with pytest.raises(SubmitError, match="not specified") as caught:
        provider.submit(sleeper(provider, tmp_path))
    assert not caught.value.transient


@on("lsf")
@pytest.mark.parametrize("consistent", [True, False])
def test_an_unknown_id_beside_others_spoils_nothing(
    simulator: Simulator, tmp_path: Path, consistent: bool
) -> None:
    simulator.control("set", name="consistent_exit_code", value=consistent)
    provider = provider_of(simulator, lost_after_s=0.1)
    job_id = provider.submit(sleeper(provider, tmp_path))
    running(provider, job_id)
    found = provider.poll(["998", job_id, "999"])  # rc 255, and records with an ERROR
    assert found[job_id].state is JobState.RUNNING
    assert ended(provider, "998").state is JobState.FAILED


@on("lsf")
def test_a_job_whose_host_is_silent_is_unknown_and_still_there(
    simulator: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider = provider_of(simulator)
    job_id = provider.submit(sleeper(provider, tmp_path))
    running(provider, job_id)
    for word in ("UNKWN", "ZOMBI"):
        simulator.control("show", number=int(job_id), state=word)
        assert provider.poll([job_id])[job_id].state is JobState.UNKNOWN
    assert not caplog.messages  # the table knows these words


@on("lsf")
def test_a_script_that_ends_with_a_code_like_a_signals_keeps_it(
    simulator: Simulator, tmp_path: Path
) -> None:
    provider = provider_of(simulator)
    by_itself = provider.submit(provider.job("code", ["exit 139"], tmp_path))
    by_signal = provider.submit(provider.job("signal", ["kill -SEGV $$"], tmp_path))
    assert (ended(provider, by_itself).exit_code, ended(provider, by_signal).signal) == (139, 11)


@on("lsf")
def test_the_launch_host_of_csm_systems_is_no_compute_node(
    simulator: Simulator, tmp_path: Path
) -> None:
    provider = provider_of(simulator, nodes_per_block=2)
    job_id = provider.submit(sleeper(provider, tmp_path))
    assert running(provider, job_id).hosts == ("a01n01", "a01n02")
    env = {"LSB_JOBID": "7", "LSB_MCPU_HOSTS": "batch3 1 a01n01 42 a01n02 42"}
    allocation = provider.allocation(env)  # type: ignore[call-arg]
    assert allocation is not None
    assert [(node.host, node.cores) for node in allocation.nodes] == [
        ("a01n01", 42),
        ("a01n02", 42),
    ]
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a01n01\n" * 4 + "a01n02\n" * 4)
    classic = provider.allocation({**env, "LSB_DJOB_HOSTFILE": str(hostfile)})  # type: ignore[call-arg]
    assert classic is not None
    assert [node.cores for node in classic.nodes] == [4, 4]


# -- Cobalt ------------------------------------------------------------------------------


@on("cobalt")
def test_the_id_is_found_behind_the_notices_of_a_filter(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.control("set", name="notice", value=True)
    provider = provider_of(simulator)
    job_id = provider.submit(provider.job("job", ["exit 3"], tmp_path))
    assert job_id == "1"
    assert ended(provider, job_id).exit_code == 3
    text = "2048 node hours are left\n12 of them this week\n4711 has been routed\n"
    simulator.fault("qsub", "answer", times=1, answer={"out": text})
    assert provider.submit(sleeper(provider, tmp_path)) == "4711"


@on("cobalt")
def test_a_job_that_has_vanished_is_looked_up_in_its_log(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.control("set", name="minute_s", value=0.5)
    provider = provider_of(simulator, walltime_s=60)
    late = provider.submit(provider.job("late", ["sleep 60"], tmp_path))
    bad = provider.submit(provider.job("bad", ["exit 3"], tmp_path))
    assert ended(provider, bad).exit_code == 3
    os.unlink(next(tmp_path.glob("bad.*.exit")))  # the log alone tells it as well
    again = provider_of(simulator)
    again._jobs.add(bad, provider.job("bad", ["exit 3"], tmp_path))
    assert ended(again, bad).exit_code == 3
    status = ended(provider, late)
    assert (status.state, status.reason) == (JobState.TIMEOUT, "maximum execution time exceeded")


# -- Flux --------------------------------------------------------------------------------


@on("flux")
def test_flux_tells_cancel_from_timeout_and_a_lost_node(
    simulator: Simulator, tmp_path: Path
) -> None:
    provider = provider_of(simulator)
    by_other = provider.submit(sleeper(provider, tmp_path, "cancelled"))
    running(provider, by_other)
    assert simulator.run("flux", "cancel", by_other).returncode == 0
    assert ended(provider, by_other).state is JobState.CANCELLED
    lost = provider.submit(sleeper(provider, tmp_path, "lost"))
    hosts = running(provider, lost).hosts
    simulator.control("lose", host=hosts[0])
    status = ended(provider, lost)
    assert status.state is JobState.FAILED
    assert status.reason.startswith("node-failure: lost contact")


@on("flux")
def test_a_flux_allocation_is_asked_for(simulator: Simulator, tmp_path: Path) -> None:
    provider = provider_of(simulator, nodes_per_block=2)
    assert provider.allocation({}) is None  # type: ignore[call-arg]
    simulator.fault("flux", "down")
    with pytest.raises(ProviderError, match="Unable to connect"):
        provider.allocation({"FLUX_URI": "local:///nowhere"})  # type: ignore[call-arg]
