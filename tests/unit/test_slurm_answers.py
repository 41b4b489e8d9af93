# SPDX-License-Identifier: BSD-3-Clause
"""Slurm's answers, recorded from 22.05, and what is made of them."""

from __future__ import annotations

import logging

import pytest

from ssdag.errors import ProviderError, SubmitError, UnsupportedError
from ssdag.providers import SlurmProvider
from ssdag.providers.base import Allocation, JobStatus
from ssdag.providers.script import exit_path
from ssdag.states import JobState
from tests.conftest import wait_until
from tests.unit.answering import Answering

UNREACHABLE = "Unable to contact slurm controller (connect failure)"
RUNNING = JobStatus(JobState.RUNNING, hosts=("n1", "n2"))


@pytest.fixture
def runner() -> Answering:
    """Answers of a test."""
    return Answering()


@pytest.fixture
def provider(runner: Answering) -> SlurmProvider:
    """A provider that gets them."""
    return SlurmProvider(runner=runner, lost_after_s=0.001)


def row(word: str, raw: int = 0, nodes: str = "n1", reason: str = "None", job: str = "8") -> str:
    """Return a line of squeue."""
    return f"{job}|{word}|{raw}|{nodes}|{reason}|\n"


# Every code of squeue(1) and sacct(1), and what must be said of a job in it.
CODES = {
    JobState.PENDING: (
        "CONFIGURING CF EXPEDITING PENDING PD POWER_UP_NODE REQUEUED RQ REQUEUE_FED RF"
    ),
    JobState.HELD: ("REQUEUE_HOLD RH RESV_DEL_HOLD RD SPECIAL_EXIT SE STOPPED ST SUSPENDED S"),
    JobState.RUNNING: "COMPLETING CG RESIZING RS RUNNING R SIGNALING SI STAGE_OUT SO",
    JobState.COMPLETED: "COMPLETED CD",
    JobState.FAILED: (
        "BOOT_FAIL BF FAILED F LAUNCH_FAILED NODE_FAIL NF OUT_OF_MEMORY OOM PREEMPTED PR "
        "RECONFIG_FAIL REVOKED RV"
    ),
    JobState.TIMEOUT: "TIMEOUT TO DEADLINE DL",
    JobState.CANCELLED: "CANCELLED CA",
}


@pytest.mark.parametrize(
    ("word", "state"), [(word, state) for state, words in CODES.items() for word in words.split()]
)
def test_every_state_is_known(
    runner: Answering, provider: SlurmProvider, word: str, state: JobState
) -> None:
    runner.put("squeue", row(word))
    status = provider.poll(["8"])["8"]
    assert status.state is state
    if state.final and state is not JobState.COMPLETED:
        assert word in status.reason


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            row("FAILED", 7 << 8, reason="NonZeroExitCode"),
            JobStatus(JobState.FAILED, 7, None, "FAILED, NonZeroExitCode, exit code 7", ("n1",)),
        ),
        (
            row("FAILED", 11, reason="JobLaunchFailure"),
            JobStatus(JobState.FAILED, None, 11, "FAILED, killed by signal 11", ("n1",)),
        ),
        (
            row("OUT_OF_MEMORY", 9, "n[1-2]", "OutOfMemory"),
            JobStatus(
                JobState.FAILED,
                None,
                9,
                "OUT_OF_MEMORY, OutOfMemory, killed by signal 9",
                ("n1", "n2"),
            ),
        ),
        (
            row("TIMEOUT", 3 << 8, reason="TimeLimit"),
            JobStatus(JobState.TIMEOUT, 3, None, "TIMEOUT, TimeLimit, exit code 3", ("n1",)),
        ),
        (row("COMPLETED"), JobStatus(JobState.COMPLETED, 0, None, "", ("n1",))),
        (
            row("PENDING", nodes="", reason="Resources"),
            JobStatus(JobState.PENDING, reason="Resources"),
        ),
        (
            row("PENDING", nodes="", reason="JobHeldUser"),
            JobStatus(JobState.HELD, reason="JobHeldUser"),
        ),
        (row("RUNNING", nodes="n[1-2]"), RUNNING),
    ],
)
def test_codes_signals_and_reasons(
    runner: Answering, provider: SlurmProvider, line: str, expected: JobStatus
) -> None:
    runner.put("squeue", line)
    assert provider.poll(["8"])["8"] == expected


def test_an_unknown_state_is_unknown_with_one_warning(
    runner: Answering, provider: SlurmProvider, caplog: pytest.LogCaptureFixture
) -> None:
    runner.put("squeue", row("DREAMING"))
    for _ in range(3):
        status = provider.poll(["8"])["8"]
    assert status.state is JobState.UNKNOWN
    assert not status.state.final
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "DREAMING" in caplog.text


@pytest.mark.parametrize(
    ("stdout", "exit_code", "stderr"),
    [
        ("", None, "no answer within 60 s"),
        ("", 1, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"),
        (row("FAILED"), 1, "slurm_load_jobs error: Socket timed out on send/recv operation"),
        ("8|COMP", 0, ""),
        ("8|COMPLETED|x|n1|None|\n", 0, ""),
        ("8|COMPLETED|0|n[1|None|\n", 0, ""),
        ("motd: welcome\n", 0, ""),
        ("\x00\x01\x02", 0, ""),
    ],
)
def test_a_failed_or_garbled_answer_changes_nothing(
    runner: Answering,
    provider: SlurmProvider,
    caplog: pytest.LogCaptureFixture,
    stdout: str,
    exit_code: int | None,
    stderr: str,
) -> None:
    runner.put("squeue", row("RUNNING", nodes="n[1-2]"))
    assert provider.poll(["8"])["8"] == RUNNING
    runner.put("squeue", stdout, exit_code, stderr)
    for _ in range(3):
        assert provider.poll(["8"])["8"] == RUNNING
    assert len(caplog.messages) == 1
    assert provider.trouble
    runner.put("squeue", row("RUNNING", nodes="n[1-2]"))
    assert provider.poll(["8"])["8"] == RUNNING
    assert caplog.messages[1:] == ["slurm answers again"]
    assert not provider.trouble


def test_a_final_state_stays_whatever_comes_later(
    runner: Answering, provider: SlurmProvider
) -> None:
    runner.put("squeue", row("FAILED", 7 << 8))
    first = provider.poll(["8"])["8"]
    runner.put("squeue", row("COMPLETED"))
    assert provider.poll(["8"])["8"] == first
    runner.put("squeue", "")
    assert provider.poll(["8"])["8"] == first


DISABLED = "Slurm accounting storage is disabled"


def test_without_accounting_a_vanished_job_is_unknown_then_failed(
    runner: Answering, provider: SlurmProvider
) -> None:
    runner.put("sacct", "", 1, DISABLED)
    runner.put("squeue", row("RUNNING"))
    provider.poll(["8"])
    runner.put("squeue", "", 1, "slurm_load_jobs error: Invalid job id specified")
    assert provider.poll(["8"])["8"].state is JobState.UNKNOWN
    wait_until(lambda: provider.poll(["8"])["8"].state.final)
    status = provider.poll(["8"])["8"]
    assert status.state is JobState.FAILED
    assert "told nowhere" in status.reason
    assert sum(argv[0] == "sacct" for argv in runner.asked) == 1  # one probe is enough


def test_a_vanished_job_is_known_by_what_its_script_wrote(
    runner: Answering, provider: SlurmProvider, tmp_path: object
) -> None:
    runner.put("sacct", "", 1, DISABLED)
    runner.put("sbatch", "8\n")
    job = provider.job("a", ["exit 3"], str(tmp_path))
    assert provider.submit(job) == "8"
    runner.put("squeue", "")
    runner.files[exit_path(job, "8")] = "3\n"
    assert provider.poll(["8"])["8"] == JobStatus(JobState.FAILED, 3, None, "exit code 3")


def test_accounting_knows_vanished_jobs(runner: Answering, provider: SlurmProvider) -> None:
    runner.put("squeue", row("RUNNING", job="9"))
    # Recorded with slurmdbd.
    runner.put(
        "sacct",
        "1|FAILED|7:0|n1\n3|CANCELLED by 0|0:0|n1\n2_0|FAILED|0:9|n1\n4|COMPLETED|0:0|n[1-2]\n"
        "5|TIMEOUT|0:0|n1\n6|PENDING|0:0|None assigned\n",
    )
    found = provider.poll(["1", "2_0", "3", "4", "5", "6", "9"])
    states = {job: status.state for job, status in found.items()}
    assert states == {
        "1": JobState.FAILED,
        "2_0": JobState.FAILED,
        "3": JobState.CANCELLED,
        "4": JobState.COMPLETED,
        "5": JobState.TIMEOUT,
        "6": JobState.PENDING,
        "9": JobState.RUNNING,
    }
    assert (found["1"].exit_code, found["2_0"].signal) == (7, 9)
    assert found["4"].hosts == ("n1", "n2")


def test_accounting_that_does_not_answer_changes_nothing_but_what_squeue_knows(
    runner: Answering, provider: SlurmProvider
) -> None:
    runner.put("squeue", row("RUNNING") + row("RUNNING", job="9"))
    provider.poll(["8", "9"])
    runner.put("squeue", row("COMPLETED", job="9"))
    runner.put("sacct", "", 1, "sacct: error: Problem talking to the database: Connection refused")
    for _ in range(2):
        found = provider.poll(["8", "9"])
        assert found["8"].state is JobState.RUNNING
        assert found["9"].state is JobState.COMPLETED


@pytest.mark.parametrize(
    ("stdout", "job_id"),
    [("123\n", "123"), ("123;cluster\n", "123"), ("sbatch: some notice\n77\n", "77")],
)
def test_ids_are_found(
    runner: Answering, provider: SlurmProvider, stdout: str, job_id: str
) -> None:
    runner.put("sbatch", stdout)
    assert provider.submit(provider.job("a", ["true"], "/tmp")) == job_id


@pytest.mark.parametrize(
    ("stdout", "exit_code", "stderr", "transient"),
    [
        ("", 1, "sbatch: error: invalid partition specified: nope", False),
        (
            "",
            1,
            (
                "sbatch: error: Batch job submission failed: "
                "Unable to contact slurm controller (connect failure)"
            ),
            True,
        ),
        ("", None, "no answer within 60 s", False),  # it may have been taken
        ("Submitted batch job 12\n", 0, "", False),
    ],
)
def test_a_refusal_is_told_in_the_schedulers_words(
    runner: Answering,
    provider: SlurmProvider,
    stdout: str,
    exit_code: int | None,
    stderr: str,
    transient: bool,
) -> None:
    runner.put("sbatch", stdout, exit_code, stderr)
    with pytest.raises(SubmitError) as caught:
        provider.submit(provider.job("a", ["true"], "/tmp"))
    assert (stderr or stdout).strip() in str(caught.value)
    assert caught.value.transient is transient
    assert caught.value.exit_code == exit_code


def test_cancel_fails_loudly_but_not_for_what_is_gone(
    runner: Answering, provider: SlurmProvider
) -> None:
    runner.put("squeue", row("RUNNING"))
    provider.poll(["8"])
    error = "scancel: error: Kill job error on job id 8: "
    runner.put("scancel", "", 1, error + "Access/permission denied")
    with pytest.raises(ProviderError, match="permission denied"):
        provider.cancel(["8"])
    runner.put("scancel", "", 1, error + "Invalid job id specified")
    provider.cancel(["8"])
    runner.put("squeue", "")
    runner.put("sacct", "", 1, DISABLED)
    assert provider.poll(["8"])["8"].state is JobState.CANCELLED


def test_het_and_other_clusters_ids_in_one_answer_disturb_nobody(
    runner: Answering, provider: SlurmProvider
) -> None:
    runner.put(
        "squeue", row("RUNNING", job="14+0") + row("PENDING", job="9_[3-5]") + row("RUNNING")
    )
    assert provider.poll(["8"])["8"].state is JobState.RUNNING


def test_an_old_squeue_is_replaced_by_scontrol(runner: Answering, provider: SlurmProvider) -> None:
    runner.put("squeue", "", 1, "squeue: error: Invalid job format specification: JobArrayID:|")
    assert provider.poll(["1"])["1"].state is JobState.PENDING
    # Recorded, and shortened.
    runner.put(
        "scontrol",
        "JobId=1 JobName=wrap Account=(null) JobState=FAILED Reason=NonZeroExitCode "
        "Requeue=1 ExitCode=7:0 NodeList=n1 BatchHost=n1 Comment=a JobState=b\n"
        "JobId=5 ArrayJobId=4 ArrayTaskId=0 JobName=wrap JobState=RUNNING Reason=None "
        "ExitCode=0:0 NodeList=n[1-2]\n"
        "JobId=6 JobName=wrap JobState=PENDING Reason=JobHeldUser ExitCode=0:0 NodeList=(null)\n",
    )
    found = provider.poll(["1", "4_0", "6"])
    assert (found["1"].state, found["1"].exit_code) == (JobState.FAILED, 7)
    assert (found["4_0"].state, found["4_0"].hosts) == (JobState.RUNNING, ("n1", "n2"))
    assert (found["6"].state, found["6"].hosts) == (JobState.HELD, ())
    runner.put("scontrol", "garbled\n")
    assert provider.poll(["4_0"])["4_0"].state is JobState.RUNNING


def test_the_allocation_is_read_from_the_environment(provider: SlurmProvider) -> None:
    env = {
        "SLURM_JOB_ID": "12",
        "SLURM_JOB_NODELIST": "n[1-2],n7",
        "SLURM_JOB_CPUS_PER_NODE": "2(x2),4",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_MEM_PER_NODE": "4096",
        "SLURM_JOB_END_TIME": "1700000000",
    }
    found = provider.allocation(env)
    assert isinstance(found, Allocation)
    assert (found.provider, found.job_id, found.ends_s) == ("slurm", "12", 1.7e9)
    assert [(n.host, n.cores, n.gpus) for n in found.nodes] == [
        ("n1", 2, ("0", "1")),
        ("n2", 2, ("0", "1")),
        ("n7", 4, ("0", "1")),
    ]
    assert found.nodes[0].memory_bytes == 4096 << 20
    visible = provider.allocation({**env, "CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-bb"})
    assert visible is not None
    assert visible.nodes[0].gpus == ("GPU-aa", "GPU-bb")
    none = provider.allocation({**env, "CUDA_VISIBLE_DEVICES": "NoDevFiles"})
    assert none is not None
    assert none.nodes[0].gpus == ()
    by_id = {k: v for k, v in env.items() if k != "SLURM_GPUS_ON_NODE"} | {"SLURM_JOB_GPUS": "3,5"}
    third = provider.allocation(by_id)
    assert third is not None
    assert third.nodes[0].gpus == ("3", "5")
    assert provider.allocation({}) is None


def test_the_end_of_the_allocation_is_asked_for_where_the_environment_lacks_it(
    runner: Answering, provider: SlurmProvider
) -> None:
    env = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n1", "SLURM_MEM_PER_CPU": "100"}
    for text, known in (("2026-11-21T12:00:00\n", True), ("N/A\n", False), ("", False)):
        runner.put("squeue", text)
        found = provider.allocation(env)
        assert found is not None
        assert (found.ends_s is not None) is known


def test_directives_say_what_was_asked_for(provider: SlurmProvider) -> None:
    asked = SlurmProvider(
        partition="gpu",
        account="proj",
        qos="high",
        constraint="a100&nvme",
        reservation="r 1",
        nodes_per_block=2,
        cores_per_node=8,
        gpus_per_node=4,
        memory_per_node_bytes=3 << 30,
        walltime="1-00:00:00",
        directives=("--mail-type=NONE", "#SBATCH --nice=5"),
    )
    text = asked.script(asked.job('a "b" \\c', ["true"], "/tmp/x y%z"))
    head = [line[8:] for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert head == [
        '--job-name="a \\"b\\" \\\\c"',
        '--output="/tmp/x y%%z/a \\"b\\" _c.out"',
        '--error="/tmp/x y%%z/a \\"b\\" _c.err"',
        "--nodes=2",
        "--time=24:00:00",
        "--ntasks-per-node=8",
        "--gpus-per-node=4",
        "--mem=3072M",
        "--partition=gpu",
        "--account=proj",
        "--qos=high",
        '--constraint="a100&nvme"',
        '--reservation="r 1"',
        "--exclusive",
        "--no-requeue",
        "--mail-type=NONE",
        "--nice=5",
    ]
    with pytest.raises(UnsupportedError, match="backslash"):
        provider.script(provider.job("a", ["true"], "/tmp/a\\b"))
