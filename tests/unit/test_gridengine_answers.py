# SPDX-License-Identifier: BSD-3-Clause
"""Grid Engine's answers, recorded from 8.1.9, and what is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ssdag.errors import ProviderError, SubmitError, UnsupportedError
from ssdag.providers import GridEngineProvider
from ssdag.providers.base import JobStatus
from ssdag.states import JobState
from tests.unit.answering import Answering

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "<?xml version='1.0'?>\n<job_info  xmlns:xsd=\"http://arc.liv.ac.uk/qstat.xsd\">\n"

# sge_status(5)
CODES = {
    JobState.PENDING: "qw Rq",
    JobState.HELD: "hqw hRwq s ts S tS T tT Rs Rts RS RtS RT RtT",
    JobState.RUNNING: "r hr t Rr Rt dr dt dRr dRt ds dS dT dRs dRS dRT",
    JobState.FAILED: "Eqw Ehqw EhRqw",
    JobState.COMPLETED: "z",
}


@pytest.fixture
def runner() -> Answering:
    """Answers of a test."""
    return Answering()


@pytest.fixture
def provider(runner: Answering) -> GridEngineProvider:
    """A provider that gets them."""
    return GridEngineProvider(runner=runner, parallel_environment="mpi")


def job(word: str, number: str = "4", task: str = "", queue: str = "all.q@sge1") -> str:
    """Return a job as qstat writes it."""
    tasks = f"<tasks>{task}</tasks>" if task else ""
    return (
        f'<job_list state="running"><JB_job_number>{number}</JB_job_number>'
        f"<JB_name>a</JB_name><state>{word}</state><queue_name>{queue}</queue_name>"
        f"<slots>1</slots>{tasks}</job_list>"
    )


def page(running: str = "", pending: str = "") -> str:
    """Return an answer of qstat."""
    body = f"<queue_info>{running}</queue_info><job_info>{pending}</job_info>"
    return f"{HEAD}{body}</job_info>\n"


def account(number: str, failed: str, exit_status: str, task: str = "undefined") -> str:
    """Return a record of qacct."""
    return (
        f"{'=' * 62}\nqname        all.q               \nhostname     sge1                \n"
        f"jobnumber    {number}                   \ntaskid       {task}\n"
        f"failed       {failed}    \nexit_status  {exit_status}                   \n"
    )


@pytest.mark.parametrize(
    ("word", "state"), [(word, state) for state, words in CODES.items() for word in words.split()]
)
def test_every_state_is_known(
    runner: Answering, provider: GridEngineProvider, word: str, state: JobState
) -> None:
    runner.put("qstat", page(job(word)))
    status = provider.poll(["4"])["4"]
    assert status.state is state
    assert status.hosts == ("sge1",)
    if state is JobState.FAILED:
        assert word in status.reason


def test_a_job_in_an_error_state_is_told_and_removed(
    runner: Answering, provider: GridEngineProvider
) -> None:
    runner.put("qstat", page(pending=job("Eqw", queue="")))
    # Recorded.
    why = '11/21/2026 16:33:14 [0:123]: unable to find shell "/no/such/shell"'
    runner.put(
        "qstat -j", f"job_number: 4\nerror reason    1:          {why}\nscheduling info: x\n"
    )
    runner.put("qdel", "root has deleted job 4\n")
    status = provider.poll(["4"])["4"]
    assert status.state is JobState.FAILED
    assert why in status.reason
    assert ("qdel", "4") in runner.asked
    count = len(runner.asked)
    assert provider.poll(["4"])["4"] == status
    assert len(runner.asked) == count


def test_an_unknown_state_is_unknown_with_one_warning(
    runner: Answering, provider: GridEngineProvider, caplog: pytest.LogCaptureFixture
) -> None:
    runner.put("qstat", page(pending=job("xyz", queue="")))
    for _ in range(3):
        assert provider.poll(["4"])["4"].state is JobState.UNKNOWN
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("stdout", "exit_code", "stderr"),
    [
        ("", None, "no answer within 60 s"),
        ("", 1, "error: commlib error: got select error (Connection refused)"),
        ("", 0, ""),
        (page(job("r"))[:-20], 0, ""),
        ("<html/>", 0, ""),
        (page("<job_list><state>r</state></job_list>"), 0, ""),
    ],
)
def test_a_failed_or_garbled_answer_changes_nothing(
    runner: Answering,
    provider: GridEngineProvider,
    stdout: str,
    exit_code: int | None,
    stderr: str,
) -> None:
    runner.put("qstat", page(job("r")))
    before = provider.poll(["4"])["4"]
    runner.put("qstat", stdout, exit_code, stderr)
    assert provider.poll(["4"])["4"] == before
    assert provider.trouble


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (account("4", "0", "0"), (JobState.COMPLETED, 0, None)),
        (account("4", "0", "3"), (JobState.FAILED, 3, None)),
        (account("4", "0", "137"), (JobState.FAILED, 137, None)),
        (
            account("4", "100 : assumedly after job", "139                  (Segmentation fault)"),
            (JobState.FAILED, None, 11),
        ),
        (
            account(
                "4",
                "37  : qmaster enforced h_rt, h_cpu, or h_vmem limit",
                "137                  (Killed)",
            ),
            (JobState.TIMEOUT, None, 9),
        ),
        (account("4", "26  : opening output file", "0"), (JobState.FAILED, 0, None)),
        (
            account("4", "25  : rescheduling", "99") + account("4", "0", "5"),
            (JobState.FAILED, 5, None),
        ),
    ],
)
def test_accounting_tells_how_a_job_ended(
    runner: Answering,
    provider: GridEngineProvider,
    text: str,
    expected: tuple[JobState, int | None, int | None],
) -> None:
    runner.put("qstat", page())
    runner.put("qacct", text)
    status = provider.poll(["4"])["4"]
    assert (status.state, status.exit_code, status.signal) == expected


def test_accounting_of_an_array_and_of_slaves(
    runner: Answering, provider: GridEngineProvider
) -> None:
    runner.put("qstat", page(job("r", "4", "3")))
    slave = account("5", "0", "1") + "pe_taskid    1.sge2\n"
    runner.put("qacct", account("4", "0", "0", "1") + account("4", "0", "2", "2") + slave)
    found = provider.poll(["4.1", "4.2", "4.3", "5"])
    assert [found[one].state for one in ("4.1", "4.2", "4.3", "5")] == [
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.RUNNING,
        JobState.PENDING,
    ]


def test_a_job_that_accounting_does_not_know_yet_is_unknown(
    runner: Answering, provider: GridEngineProvider
) -> None:
    runner.put("qstat", page(job("r")))
    provider.poll(["4"])
    runner.put("qstat", page())
    runner.put("qacct", "", 1, "error: job id 4 not found")
    assert provider.poll(["4"])["4"].state is JobState.UNKNOWN
    runner.put("qacct", account("4", "0", "3"))
    assert provider.poll(["4"])["4"] == JobStatus(
        JobState.FAILED, 3, None, "exit code 3", ("sge1",)
    )


@pytest.mark.parametrize(("stdout", "job_id"), [("12\n", "12"), ("13.1-3:1\n", "13")])
def test_ids_are_found(
    runner: Answering, provider: GridEngineProvider, stdout: str, job_id: str
) -> None:
    runner.put("qsub", stdout)
    assert provider.submit(provider.job("a", ["true"], "/tmp")) == job_id


def test_a_refusal_is_told_in_the_schedulers_words(
    runner: Answering, provider: GridEngineProvider
) -> None:
    runner.put("qsub", "", 1, 'Unable to run job: unknown resource "nope"\nExiting.\n')
    with pytest.raises(SubmitError, match='unknown resource "nope"') as caught:
        provider.submit(provider.job("a", ["true"], "/tmp"))
    assert not caught.value.transient


def test_cancel_takes_what_is_gone(runner: Answering, provider: GridEngineProvider) -> None:
    runner.put("qdel", 'denied: job "4" does not exist\nroot has deleted job 5\n', 1)
    provider.cancel(["4", "5"])


def test_directives_and_what_cannot_be_said(provider: GridEngineProvider) -> None:
    asked = GridEngineProvider(
        parallel_environment="mpi",
        queue="all.q",
        account="proj",
        nodes_per_block=2,
        cores_per_node=4,
        memory_per_node_bytes=8 << 30,
        exclusive=True,
        directives=["-l gpu=1"],
    )
    text = asked.script(asked.job("1 b'c", ["true"], "/tmp/x y"))
    head = [line[3:] for line in text.splitlines() if line.startswith("#$ ")]
    assert head == [
        "-S /bin/bash",
        "-N _1_b_c",
        "-o /dev/null",
        "-e /dev/null",
        "-l h_rt=01:00:00",
        "-r n",
        "-pe mpi 8",
        "-q all.q",
        "-P proj",
        "-l h_vmem=2048M",
        "-l exclusive=true",
        "-l gpu=1",
    ]
    cases: tuple[tuple[dict[str, object], str], ...] = (
        ({"qos": "x"}, "qos"),
        ({"constraint": "x"}, "constraint"),
        ({"gpus_per_node": 1}, "names of their own"),
        ({"queue": "a b"}, "-q"),
    )
    for options, words in cases:
        bad = GridEngineProvider(**options)  # type: ignore[arg-type]
        with pytest.raises(UnsupportedError, match=words):
            bad.script(bad.job("a", ["true"], "/tmp"))
    alone = GridEngineProvider(nodes_per_block=2)
    with pytest.raises(UnsupportedError, match="parallel_environment"):
        alone.script(alone.job("a", ["true"], "/tmp"))
    with pytest.raises(UnsupportedError, match="#\\$"):
        provider.script(provider.job("a", ["true\n#$ -pe mpi 99"], "/tmp"))


def test_the_allocation_is_read_from_the_host_file(
    provider: GridEngineProvider, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("sge1 4 all.q@sge1 UNDEFINED\nsge2 2 all.q@sge2 <NULL>\n")
    env = {"JOB_ID": "7", "SGE_ROOT": "/x", "NSLOTS": "6", "SGE_TASK_ID": "undefined"}
    found = provider.allocation({**env, "PE_HOSTFILE": str(hosts)})
    assert found is not None
    assert found.job_id == "7"
    assert [(node.host, node.cores) for node in found.nodes] == [("sge1", 4), ("sge2", 2)]
    alone = provider.allocation({**env, "SGE_TASK_ID": "3", "HOSTNAME": "sge9"})
    assert alone is not None
    assert (alone.job_id, alone.nodes[0].host, alone.nodes[0].cores) == ("7.3", "sge9", 6)
    assert provider.allocation({"JOB_ID": "7"}) is None
    with pytest.raises(ProviderError, match="cannot be read"):
        provider.allocation({**env, "PE_HOSTFILE": str(tmp_path / "none")})


def test_steps_over_several_hosts_are_started_by_hydra(provider: GridEngineProvider) -> None:
    assert provider.launcher().name == "single"
    several = GridEngineProvider(nodes_per_block=2, parallel_environment="mpi")
    assert several.launcher().name == "mpiexec"
    own = GridEngineProvider(nodes_per_block=2, launcher=provider.launcher())
    assert own.launcher() is provider.launcher()
