# SPDX-License-Identifier: BSD-3-Clause
"""What Slurm says of jobs: all its states, and its answers read. Pure but for warnings.

After the manual pages squeue(1), sacct(1) and scontrol(1) of 22.05 to 25.05.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ssdag.providers import hostlists
from ssdag.providers.base import JobStatus
from ssdag.providers.batch import QueryError
from ssdag.providers.records import ended
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.providers.commands import Answer

    StateOf = Callable[[str], JobState]

_P, _H, _R = JobState.PENDING, JobState.HELD, JobState.RUNNING
_C, _F, _T, _X = JobState.COMPLETED, JobState.FAILED, JobState.TIMEOUT, JobState.CANCELLED

# "JOB STATE CODES" of squeue(1) and sacct(1): (long, short), and what it is to us.
_STATES: tuple[tuple[str, str, JobState], ...] = (
    ("BOOT_FAIL", "BF", _F),
    ("CANCELLED", "CA", _X),
    ("COMPLETED", "CD", _C),
    ("COMPLETING", "CG", _R),  # nodes are still taken, the final state comes next
    ("CONFIGURING", "CF", _P),
    ("DEADLINE", "DL", _T),
    ("EXPEDITING", "EX", _P),
    ("FAILED", "F", _F),
    ("LAUNCH_FAILED", "LF", _F),
    ("NODE_FAIL", "NF", _F),
    ("OUT_OF_MEMORY", "OOM", _F),
    ("PENDING", "PD", _P),
    ("POWER_UP_NODE", "PO", _P),
    ("PREEMPTED", "PR", _F),
    ("RECONFIG_FAIL", "RC", _F),
    ("REQUEUED", "RQ", _P),
    ("REQUEUE_FED", "RF", _P),
    ("REQUEUE_HOLD", "RH", _H),
    ("RESIZING", "RS", _R),
    ("RESV_DEL_HOLD", "RD", _H),
    ("REVOKED", "RV", _F),
    ("RUNNING", "R", _R),
    ("SIGNALING", "SI", _R),
    ("SPECIAL_EXIT", "SE", _H),
    ("STAGE_OUT", "SO", _R),
    ("STOPPED", "ST", _H),
    ("SUSPENDED", "S", _H),
    ("TIMEOUT", "TO", _T),
)

#: What each word, long or short, means.
STATES: dict[str, JobState] = {
    word: state for long, short, state in _STATES for word in (long, short)
}

_HELD_REASON = re.compile(r"JobHeld(User|Admin)|[Hh]eld")

#: What squeue is asked for; `exit_code` is that of wait(2).
FIELDS = "JobArrayID:|,State:|,exit_code:|,NodeList:|,Reason:|"


def of_squeue(answer: Answer, state_of: StateOf) -> dict[str, JobStatus]:
    """Read an answer in the format :data:`FIELDS`.

    Raises
    ------
    QueryError
        It is none.
    """
    if answer.exit_code != 0:
        if "Invalid job id" in answer.stderr:
            return {}
        raise QueryError(answer.summary)
    found = {}
    for line in answer.stdout.splitlines():
        fields = line.rstrip().split("|")
        if len(fields) != 6 or not re.match(r"\d+", fields[0]):
            raise QueryError(f"squeue wrote {line[:200]!r}")
        job_id, word, raw, nodes, reason = (part.strip() for part in fields[:5])
        code, signal = int(raw) >> 8, int(raw) & 0x7F
        found[job_id] = status_of(state_of(word), word, code, signal, reason, nodes)
    return found


def of_scontrol(answer: Answer, state_of: StateOf) -> dict[str, JobStatus]:
    """Read an answer of ``scontrol show job -o``.

    Raises
    ------
    QueryError
        It is none.
    """
    if answer.exit_code != 0:
        raise QueryError(answer.summary)
    found = {}
    for line in answer.stdout.splitlines():
        facts: dict[str, str] = {}
        for key, value in re.findall(r"(?:^| )(\w+)=(\S*)", line):
            facts.setdefault(key, value)  # later ones may be part of a comment
        if "JobState" not in facts:
            if line.strip() in ("", "No jobs in the system"):
                continue
            raise QueryError(f"scontrol wrote {line[:200]!r}")
        job_id = facts["JobId"]
        if "ArrayTaskId" in facts:
            job_id = f"{facts['ArrayJobId']}_{facts['ArrayTaskId']}"
        word = facts["JobState"]
        code, signal = (int(part) for part in facts["ExitCode"].split(":"))
        nodes = facts.get("NodeList", "").replace("(null)", "")
        found[job_id] = status_of(state_of(word), word, code, signal, facts["Reason"], nodes)
    return found


def of_sacct(text: str, state_of: StateOf) -> dict[str, JobStatus]:
    """Read lines of ``sacct -n -X -P -o JobID,State,ExitCode,NodeList``."""
    found = {}
    for line in text.splitlines():
        job_id, word, ends, nodes = line.split("|")
        word = word.partition(" ")[0]  # "CANCELLED by 1000"
        code, signal = (int(part) for part in ends.split(":"))
        found[job_id] = status_of(state_of(word), word, code, signal, "", nodes)
    return found


def status_of(
    state: JobState, word: str, code: int, signal: int, reason: str, nodes: str
) -> JobStatus:
    """Return the status of a job that Slurm calls `word`."""
    reason = "" if reason == "None" else reason
    hosts = tuple(hostlists.parse(nodes)) if nodes and "None" not in nodes else ()
    if not state.final:
        if state is _P and _HELD_REASON.search(reason):
            state = _H
        return JobStatus(state, reason=reason, hosts=hosts)
    if state is _C:
        end = ended(code, signal)
        return JobStatus(end.state, end.exit_code, end.signal, end.reason, hosts)
    if signal and reason == "JobLaunchFailure":  # so it calls the end of a batch script
        reason = ""
    how = f"killed by signal {signal}" if signal else f"exit code {code}" if code else ""
    text = ", ".join(part for part in (word, reason, how) if part)
    return JobStatus(state, None if signal else code, signal or None, text, hosts)
