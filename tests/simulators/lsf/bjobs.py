# SPDX-License-Identifier: BSD-3-Clause
"""``bjobs``: the table, ``-o`` fields with a delimiter, and ``-json``."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests.simulators.jobs import Job, Stage
from tests.simulators.server import Answer, Request

if TYPE_CHECKING:
    from tests.simulators.lsf import Dialect

_STATES = {
    Stage.QUEUED: "PEND",
    Stage.WAITING: "PEND",
    Stage.HELD: "PSUSP",
    Stage.RUNNING: "RUN",
    Stage.ENDING: "RUN",  # it says so for a while after bkill
}


def stat(job: Job) -> str:
    """Return the word for a job's state."""
    if shown := job.facts.get("shown"):
        return str(shown)
    if job.stage is Stage.ENDED:
        return "DONE" if job.how == "exit" and job.exit_code == 0 else "EXIT"
    return _STATES[job.stage]


def exit_code(job: Job) -> str:
    """Return EXIT_CODE, empty where there is none."""
    if job.stage is not Stage.ENDED or stat(job) == "DONE":
        return ""
    if job.how in ("cancelled", "walltime") and not job.runs:
        return ""
    if job.how == "walltime":
        return "140"
    return str(128 + job.signal if job.signal else job.exit_code or 0)


def exit_reason(job: Job) -> str:
    """Return EXIT_REASON, empty where there is none."""
    if job.stage is not Stage.ENDED or job.how == "exit":
        external = job.stage is Stage.ENDED and job.signal
        return "TERM_EXTERNAL_SIGNAL: job killed by a signal external to LSF" if external else ""
    return {
        "cancelled": "TERM_OWNER: job killed by owner",
        "walltime": "TERM_RUNLIMIT: job killed after reaching LSF run time limit",
        "lost": "TERM_UNKNOWN: LSF cannot determine a termination reason",
        "dependency": "TERM_ORPHAN_SYSTEM: orphan job terminated automatically by LSF",
    }[job.how]


def field(dialect: Dialect, job: Job, name: str) -> str:
    """Return one field."""
    slots = dialect.host_slots(job) if job.hosts else []
    pending = {
        Stage.WAITING: "Job dependency condition not satisfied;",
        Stage.HELD: "The job was suspended by the user while pending;",
        Stage.QUEUED: "New job is waiting for scheduling;",
    }
    values: dict[str, str] = {
        "jobid": str(job.number),
        "jobindex": str(job.index or 0),
        "stat": stat(job),
        "exit_code": exit_code(job),
        "exit_reason": exit_reason(job),
        "exec_host": ":".join(host for host, count in slots for _ in range(count)),
        "pend_reason": pending.get(job.stage, ""),
        "job_name": job.name,
        "queue": job.facts["queue"],
        "proj_name": job.facts["project"],
        "user": "root",
    }
    return values[name]


def run(dialect: Dialect, request: Request) -> Answer:
    """Answer ``bjobs``."""
    argv = list(request.argv)
    fields, delimiter = [], ""
    if "-o" in argv:
        wanted = argv.pop(argv.index("-o") + 1)
        match = re.search(r"delimiter='(.)'", wanted)
        delimiter = match[1] if match else ""
        fields = re.sub(r"delimiter='.'", "", wanted).split()
    if "-json" in argv and (not fields or "-noheader" in argv):
        return Answer(255, "", "Illegal option: -json\n")
    words = [word for word in argv if word[:1].isdigit()]
    everything = "-a" in argv
    jobs: list[Job] = []
    unknown = []
    for word in words:
        found = [] if dialect.clean_period_over else dialect.find(word)
        jobs += found
        if not found:
            unknown.append(word)
    if not words:
        jobs = [j for j in dialect.cluster.jobs.values() if everything or j.stage != Stage.ENDED]
    answer = Answer(0)
    if unknown and (jobs or dialect.consistent_exit_code):
        answer.rc = 255
    if "-json" in argv:
        answer.out = _json(dialect, jobs, unknown, fields)
        return answer
    answer.err = "".join(f"Job <{word}> is not found\n" for word in unknown)
    if not jobs and not words:
        answer.err = "No unfinished job found\n"
    elif jobs:
        answer.out = _text(dialect, jobs, fields, delimiter, "-noheader" not in argv)
    return answer


def _json(dialect: Dialect, jobs: list[Job], unknown: list[str], fields: list[str]) -> str:
    records = [{name.upper(): field(dialect, job, name) for name in fields} for job in jobs]
    records += [{"JOBID": word, "ERROR": f"Job <{word}> is not found"} for word in unknown]
    return json.dumps({"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records}) + "\n"


def _text(
    dialect: Dialect, jobs: list[Job], fields: list[str], delimiter: str, header: bool
) -> str:
    names = fields or ["jobid", "user", "stat", "queue", "exec_host", "job_name"]
    rows = [[field(dialect, job, name) or "-" for name in names] for job in jobs]
    if header:
        rows.insert(0, [name.upper() for name in names])
    if delimiter:
        return "".join(delimiter.join(row) + "\n" for row in rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
    return "".join(
        " ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() + "\n"
        for row in rows
    )
