# SPDX-License-Identifier: BSD-3-Clause
"""Answers of PBS, Torque, LSF, Cobalt and Flux: read right, or not believed at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ssdag.providers.auto import named
from ssdag.states import JobState
from tests.unit.answering import Answering

if TYPE_CHECKING:
    from ssdag.providers.base import JobStatus
    from ssdag.providers.batch import BatchProvider

S = JobState

PBS = (
    "Job Id: 1.pbs1|Job_Name=a|job_state=R|queue=workq|substate=42|"
    "Variable_List=A=x\\|job_state=F,B=2|comment=Job run at Sat Nov 21|"
    "exec_host=pbs1/0*2+pbs2/0*2|run_count=1\n"
    "Job Id: 2.pbs1|Job_Name=b|job_state=F|queue=workq|substate=93|comment=and failed|"
    "exec_host=pbs2/0|run_count=1|Exit_status=7\n"
)
TORQUE = (
    "Job Id: 1.torque1\n    Job_Name = a\n    job_state = R\n"
    "    exec_host = node001/0+node001/1+nod\n\te002/0+node002/1\n"
    "    Variable_List = PBS_O_HOME=/home/u,X=\n\n"
    "Job Id: 2.torque1\n    Job_Name = b\n    job_state = C\n    exec_host = node003/0\n"
    "    exit_status = 7\n\n"
)
RECORDS = [
    {
        "JOBID": "1",
        "JOBINDEX": "0",
        "STAT": "RUN",
        "EXIT_CODE": "",
        "EXIT_REASON": "",
        "EXEC_HOST": "batch3:a01n02:a01n02:a01n03:a01n03",
        "PEND_REASON": "",
    },
    {
        "JOBID": "2",
        "JOBINDEX": "0",
        "STAT": "EXIT",
        "EXIT_CODE": "7",
        "EXIT_REASON": "",
        "EXEC_HOST": "a01n04",
        "PEND_REASON": "",
    },
]
LSF = json.dumps({"COMMAND": "bjobs", "JOBS": 2, "RECORDS": RECORDS}, indent=2) + "\n"
COBALT = "JobID  State    Location\n========================\n1      running  3-5,9   \n"
FLUX = (
    "f1a|RUN|||16|tioga[10-11]||\n"
    "f2b|INACTIVE|FAILED|7|16|tioga12|exec|task 0 said a|b\n"
)  # fmt: skip

#: Provider, program that answers, ids, whole answer, states that it tells.
CASES: dict[str, tuple[str, list[str], str, list[JobState]]] = {
    "pbs": ("qstat", ["1.pbs1", "2.pbs1"], PBS, [S.RUNNING, S.FAILED]),
    "torque": ("qstat", ["1.torque1", "2.torque1"], TORQUE, [S.RUNNING, S.FAILED]),
    "lsf": ("bjobs", ["1", "2"], LSF, [S.RUNNING, S.FAILED]),
    "cobalt": ("qstat", ["1"], COBALT, [S.RUNNING]),
    "flux": ("env", ["f1a", "f2b"], FLUX, [S.RUNNING, S.FAILED]),
}


def asked(
    name: str, text: str, code: int = 0, stderr: str = "", **options: object
) -> BatchProvider:
    runner = Answering()
    runner.put(CASES[name][0], text, code, stderr)
    return named(name, runner=runner, **options)  # type: ignore[return-value]


def poll(name: str, text: str, code: int = 0, stderr: str = "") -> list[JobStatus]:
    ids = CASES[name][1]
    found = asked(name, text, code, stderr).poll(ids)
    return [found[job_id] for job_id in ids]


@pytest.mark.parametrize("name", CASES)
def test_a_whole_answer_is_read(name: str) -> None:
    _, _, text, states = CASES[name]
    found = poll(name, text)
    assert [status.state for status in found] == states
    hosts = {
        "pbs": ("pbs1", "pbs2"),
        "torque": ("node001", "node002"),
        "lsf": ("a01n02", "a01n03"),
        "cobalt": ("3", "4", "5", "9"),
        "flux": ("tioga10", "tioga11"),
    }
    assert found[0].hosts == hosts[name]
    if len(found) == 2:
        assert (found[1].exit_code, found[1].signal) == (7, None)
    # A return code of its own does not make good rows bad.
    if name in ("pbs", "torque", "lsf"):
        assert poll(name, text, 255 if name == "lsf" else 153) == found


@pytest.mark.parametrize("name", CASES)
def test_an_answer_that_is_cut_anywhere_tells_nothing_wrong(name: str) -> None:
    _, ids, text, states = CASES[name]
    for end in range(len(text.rstrip())):
        provider = asked(name, text)
        assert provider.poll(ids[:1])[ids[0]].state in (S.RUNNING, S.PENDING)
        before = [provider.poll(ids)[job_id] for job_id in ids]
        cut = asked(name, text[:end])
        for job_id, whole, status, state in zip(
            ids, before, cut.poll(ids).values(), states, strict=True
        ):
            assert status == whole or status.state is S.PENDING, (end, job_id)
            assert whole.state is state


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("code", [0, 1, 255])
def test_nonsense_changes_nothing(name: str, code: int) -> None:
    ids = CASES[name][1]
    for text in (
        "",
        "\n",
        "{}",
        "[1]",
        "null",
        '{"RECORDS": 1}',
        "\0\0",
        "Job Id: \n",
        "a|b\n" * 3,
    ):
        provider = asked(name, CASES[name][2], lost_after_s=1e-9)
        before = provider.poll(ids)
        runner = provider.runner
        assert isinstance(runner, Answering)
        runner.put(CASES[name][0], text, code, "something went wrong")
        for _ in range(2):
            assert provider.poll(ids) == before, text
        assert provider.trouble


def test_pbs_comments_and_codes() -> None:
    def end(row: str) -> JobStatus:
        text = f"Job Id: 1.pbs1|job_state=F|substate=93|comment=why|run_count=1|{row}\n"
        return asked("pbs", text).poll(["1.pbs1"])["1.pbs1"]

    assert end("Exit_status=0").state is S.COMPLETED
    assert end("Exit_status=265").signal == 9
    assert end("Exit_status=137").exit_code == 137
    late = end("Exit_status=-29")
    assert (late.state, late.reason) == (S.TIMEOUT, "exceeded its walltime (exit status -29): why")
    assert end("Exit_status=-20").reason == "its first node was lost (exit status -20): why"
    assert end("Exit_status=-99").reason == "ended by the scheduler (exit status -99): why"
    assert end("x=y").state is S.FAILED  # it ran, and nobody knows how it ended


@pytest.mark.parametrize(
    ("reason", "code", "state", "signal"),
    [
        ("TERM_OWNER: job killed by owner", "130", S.CANCELLED, 2),
        ("TERM_FORCE_ADMIN: killed", "", S.CANCELLED, None),
        ("TERM_RUNLIMIT: job killed after reaching LSF run time limit", "140", S.TIMEOUT, 12),
        ("TERM_MEMLIMIT: job killed after reaching LSF memory usage limit", "137", S.FAILED, 9),
        ("TERM_EXTERNAL_SIGNAL: by a signal", "139", S.FAILED, 11),
        ("", "139", S.FAILED, None),
        ("", "", S.FAILED, None),
    ],
)
def test_lsf_reasons(reason: str, code: str, state: JobState, signal: int | None) -> None:
    record = {**RECORDS[1], "EXIT_REASON": reason, "EXIT_CODE": code}
    text = json.dumps({"COMMAND": "bjobs", "JOBS": 1, "RECORDS": [record]})
    found = asked("lsf", f"Cannot connect to LSF. Please wait ...\n{text}").poll(["2"])["2"]
    assert (found.state, found.signal) == (state, signal)
    assert reason in found.reason
    assert found.reason


def test_lsf_array_tasks_in_both_forms() -> None:
    rows = [
        {**RECORDS[0], "JOBID": "7", "JOBINDEX": "1"},
        {**RECORDS[1], "JOBID": "7[2]", "JOBINDEX": "2"},
    ]
    found = asked("lsf", json.dumps({"RECORDS": rows})).poll(["7[1]", "7[2]"])
    assert [status.state for status in found.values()] == [S.RUNNING, S.FAILED]


def test_cobalt_rc_1_and_silence_means_that_it_knows_none() -> None:
    provider = asked("cobalt", "", 1, lost_after_s=1e-9)
    provider.poll(["1"])
    assert not provider.trouble
    assert provider.poll(["1"])["1"].state is S.FAILED


def test_flux_codes() -> None:
    def end(row: str) -> JobStatus:
        return asked("flux", f"f1a|INACTIVE|{row}\n").poll(["f1a"])["f1a"]

    assert end("COMPLETED|0|16|n1||").state is S.COMPLETED
    assert end("FAILED|-9|16|n1||").signal == 9
    never = end("CANCELED|-128|16||cancel|by u|v")
    assert (never.state, never.signal, never.reason) == (S.CANCELLED, None, "cancel: by u|v")
    held = asked("flux", "f1a|PRIORITY||-|0|||\n").poll(["f1a"])["f1a"]
    assert held.state is S.HELD
