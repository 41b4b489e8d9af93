# SPDX-License-Identifier: BSD-3-Clause
"""What Grid Engine says of jobs, and to them: all its states, and its answers read.

After the manual pages qstat(1), qacct(1) and sge_status(5) of 8.1.9.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from ssdag.errors import ProviderError
from ssdag.providers.base import JobStatus, Node
from ssdag.providers.batch import QueryError
from ssdag.providers.gpus import visible_gpus
from ssdag.providers.records import ended
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ssdag.providers.commands import Answer

# sge_status(5), "Job state"; `z` is not listed there for each product.
_STATES = {
    JobState.PENDING: "qw Rq Rqw Rwq",
    JobState.HELD: "hqw hRwq hRqw s ts S tS T tT Rs Rts RS RtS RT RtT",
    JobState.RUNNING: "r hr t Rr Rt hRr dr dt dRr dRt ds dS dT dRs dRS dRT",
    JobState.FAILED: "Eqw Ehqw EhRqw ERqw",
    JobState.COMPLETED: "z",
}
# sge_status(5), the "failed" codes after which the job runs again.
_RUNS_AGAIN = (24, 25)
_TIME_LIMIT = 37
_BY_SIGNAL = (17, 100)

#: What each word means.
STATES: dict[str, JobState] = {
    word: state for state, words in _STATES.items() for word in words.split()
}


def of_qstat(answer: Answer, state_of: Callable[[str], JobState]) -> dict[str, JobStatus]:
    """Read an answer of ``qstat -xml -g d``.

    Raises
    ------
    QueryError
        It is none.
    """
    if answer.exit_code != 0:
        raise QueryError(answer.summary)
    try:
        root = ElementTree.fromstring(answer.stdout)
    except ElementTree.ParseError as error:
        raise QueryError(f"qstat wrote no XML: {error}") from error
    if root.tag != "job_info":
        raise QueryError(f"qstat wrote XML of another kind: {root.tag}")
    found = {}
    for job in root.iter("job_list"):
        number, word = job.findtext("JB_job_number"), job.findtext("state")
        if not number or not word:
            raise QueryError("qstat wrote a job without number or state")
        task = job.findtext("tasks")
        host = (job.findtext("queue_name") or "").partition("@")[2]
        found[f"{number}.{task}" if task else number] = JobStatus(
            state_of(word),
            reason="" if word in ("r", "qw", "t") else f"state {word}",
            hosts=(host,) if host else (),
        )
    return found


def error_reason(text: str) -> str:
    """Return why a job is in an error state, from the answer of ``qstat -j``."""
    return " ".join(re.findall(r"^error reason\s+\d+:\s*(.*?)\s*$", text, re.MULTILINE))


def of_qacct(text: str) -> dict[str, JobStatus]:
    """Read the records of ``qacct -j``; those of slaves and of failed tries are left out."""
    found: dict[str, JobStatus] = {}
    for block in re.split(r"^={10,}\s*$", text, flags=re.MULTILINE):
        facts = dict(re.findall(r"^(\w+) +(.*?)\s*$", block, re.MULTILINE))
        if "jobnumber" not in facts:
            continue
        failed, words = re.match(r"(\d+)(?:\s*:\s*)?(.*)", facts["failed"]).groups()  # type: ignore[union-attr]
        code = int(facts["exit_status"].split()[0])
        task = facts.get("taskid", "undefined")
        job_id = facts["jobnumber"] if task == "undefined" else f"{facts['jobnumber']}.{task}"
        hosts = (facts.get("hostname", ""),)
        if int(failed) in _RUNS_AGAIN:
            continue
        if "pe_taskid" in facts and facts["pe_taskid"] not in ("NONE", "undefined"):
            continue  # a slave of a parallel job
        found[job_id] = _end(int(failed), words, code, hosts)
    return found


def _end(failed: int, words: str, code: int, hosts: tuple[str, ...]) -> JobStatus:
    signal = code - 128 if code > 128 and failed else None
    if failed == _TIME_LIMIT:
        return JobStatus(JobState.TIMEOUT, None, signal, words, hosts)
    if failed and failed not in _BY_SIGNAL:
        exit_code = None if signal else code
        return JobStatus(JobState.FAILED, exit_code, signal, f"failed {failed}: {words}", hosts)
    end = ended(None if signal else code, signal)
    return JobStatus(end.state, end.exit_code, end.signal, end.reason, hosts)


def nodes_of_job(env: Mapping[str, str]) -> tuple[str, tuple[Node, ...]] | None:
    """Return the id and the nodes of the job whose environment this is; None if it is none.

    Raises
    ------
    ProviderError
        The list of its hosts cannot be read.
    """
    job_id, slots = env.get("JOB_ID"), env.get("NSLOTS")
    if not job_id or not slots or "SGE_ROOT" not in env:
        return None
    gpus = visible_gpus(env) or ()
    if path := env.get("PE_HOSTFILE"):
        try:
            with open(path, encoding="utf-8") as file:
                rows = [line.split() for line in file if line.strip()]
            nodes = tuple(Node(row[0], int(row[1]), gpus) for row in rows)
        except (OSError, ValueError, IndexError) as error:
            raise ProviderError(f"the list of the job's hosts cannot be read: {error}") from error
    else:
        nodes = (Node(env.get("HOSTNAME") or os.uname().nodename, int(slots), gpus),)
    task = env.get("SGE_TASK_ID", "undefined")
    return job_id if task == "undefined" else f"{job_id}.{task}", nodes
