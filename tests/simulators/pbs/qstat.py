# SPDX-License-Identifier: BSD-3-Clause
"""``qstat`` of PBS: short, full, json and dsv forms, with the traps that were recorded."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from tests.simulators.jobs import Job, Stage
from tests.simulators.server import Answer, Request

if TYPE_CHECKING:
    from tests.simulators.pbs import Dialect

_LETTERS = {
    Stage.QUEUED: ("Q", 10),
    Stage.WAITING: ("H", 22),
    Stage.HELD: ("H", 20),
    Stage.RUNNING: ("R", 42),
    Stage.ENDING: ("E", 50),
}

HEADER = (
    "Job id            Name             User              Time Use S Queue\n"
    "----------------  ---------------- ----------------  -------- - -----\n"
)


def exit_status(job: Job) -> int | None:
    """Return what PBS calls Exit_status."""
    if job.stage is not Stage.ENDED:
        return -20 if job.facts.get("after_loss") and job.stage is Stage.QUEUED else None
    if job.how == "cancelled":
        return 0 if job.runs else None  # as recorded: a killed job has 0
    if job.how in ("walltime", "lost", "dependency"):
        return {"walltime": -29, "lost": -20}.get(job.how)
    return job.exit_code if job.signal is None else 256 + job.signal


def letter(job: Job) -> tuple[str, int]:
    """Return state and substate."""
    if shown := job.facts.get("shown"):
        return str(shown), 0
    if job.stage is Stage.ENDED:
        if job.how == "cancelled":
            return "F", 91
        return "F", 92 if exit_status(job) == 0 else 93
    return _LETTERS[job.stage]


def comment(job: Job, hosts: int) -> str:
    """Return the comment that the server keeps."""
    ran = time.strftime("Job run at %a %b %d at %H:%M", time.localtime(job.started_s))
    where = "+".join(f"({host}:ncpus={job.cores})" for host in job.hosts)
    if job.stage is Stage.QUEUED and job.facts.get("after_loss"):
        return "Not Running: Insufficient amount of resource: host"
    if job.stage is Stage.QUEUED and job.nodes > hosts:
        return "Can Never Run: Insufficient amount of resource: ncpus (R: 99 A: 8 T: 8)"
    if not job.runs:
        return ""
    if job.stage is not Stage.ENDED:
        return f"{ran} on {where}"
    ends = {
        "walltime": "and exceeded resource walltime",
        "cancelled": "and terminated by root@pbs1",
        "lost": "",
    }
    default = "and finished" if exit_status(job) == 0 else "and failed"
    return f"{ran} on {where} {ends.get(job.how, default)}".rstrip()


def attributes(dialect: Dialect, job: Job) -> dict[str, Any]:
    """Return all attributes of a job, nested as in json."""
    state, substate = letter(job)
    found: dict[str, Any] = {
        "Job_Name": job.name,
        "Job_Owner": "root@pbs1",
        "job_state": state,
        "queue": job.facts["queue"],
        "server": dialect.SERVER,
        "ctime": time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(job.submitted_s)),
        "Output_Path": f"pbs1:{job.stdout}",
        "Error_Path": f"pbs1:{job.stderr}",
        "Priority": 0,
        "Resource_List": {"nodect": job.nodes, "select": job.facts.get("select", "1:ncpus=1")},
        "substate": substate,
        "Variable_List": job.facts["env"],
        "comment": comment(job, len(dialect.cluster.hosts)),
        "run_count": job.runs,
        "Exit_status": exit_status(job),
        "Account_Name": job.facts["account"],
        "Submit_arguments": " ".join(job.facts["argv"]),
        "project": "_pbs_project_default",
    }
    if job.hosts:
        found["exec_host"] = "+".join(f"{host}/0*{job.cores}" for host in job.hosts)
        found["exec_vnode"] = "+".join(f"({host}:ncpus={job.cores})" for host in job.hosts)
    return {key: value for key, value in found.items() if value not in (None, "")}


def parent(dialect: Dialect, tasks: list[Job]) -> dict[str, Any]:
    """Return the attributes of the parent of an array."""
    ended = all(task.stage is Stage.ENDED for task in tasks)
    begun = any(task.runs for task in tasks)
    found = attributes(dialect, tasks[0])
    for key in ("exec_host", "exec_vnode", "Exit_status", "comment"):
        found.pop(key, None)
    shown = tasks[0].facts.get("shown")
    waiting = letter(tasks[0])[0]
    cancelled = any(task.how == "cancelled" for task in tasks)
    found["job_state"] = shown or ("F" if ended else "B" if begun else waiting)
    found["substate"] = (91 if cancelled else 92) if ended else 10
    found["array"] = "True"
    queued = sum(task.stage is Stage.QUEUED for task in tasks)
    running = sum(task.stage is Stage.RUNNING for task in tasks)
    found["array_state_count"] = f"Queued:{queued} Running:{running} Exiting:0 Expired:0 "
    if ended:
        found["Exit_status"] = int(any(exit_status(task) for task in tasks))
    return found


def run(dialect: Dialect, request: Request) -> Answer:
    """Answer ``qstat``."""
    argv = list(request.argv)
    form = ""
    if "-F" in argv:
        form = argv.pop(argv.index("-F") + 1)
        argv.remove("-F")
    flags = {letter for word in argv if word.startswith("-") for letter in word[1:]}
    words = [word for word in argv if not word.startswith("-")]
    answer = Answer()
    if "x" in flags and not dialect.history:
        return Answer(1, "", "qstat: PBS is not configured to maintain job history\n")
    rows = _rows(dialect, words, flags, answer)
    if "f" in flags and form == "json":
        # As recorded: of several ids, only the first one comes back.
        answer.out = _json(rows[:1] if len(words) > 1 else rows)
    elif "f" in flags and form == "dsv":
        answer.out = "".join(_dsv(name, row) + "\n" for name, row in rows)
    elif "f" in flags:
        answer.out = "".join(full_text(name, _flat(row)) + "\n" for name, row in rows)
    elif rows:
        answer.out = HEADER + "".join(short(name, row) for name, row in rows)
    return answer


def _rows(
    dialect: Dialect, words: list[str], flags: set[str], answer: Answer
) -> list[tuple[str, dict[str, Any]]]:
    rows = []
    numbers = dict.fromkeys(job.number for job in dialect.cluster.jobs.values())
    for word in words or [str(number) for number in numbers]:
        jobs = dialect.find(word)
        whole = dialect.cluster.tasks(jobs[0].number) if jobs else []
        ended = bool(jobs) and all(job.stage is Stage.ENDED for job in whole)
        if not jobs or (ended and not dialect.history):
            if words:
                answer.err += f"qstat: Unknown Job Id {word}\n"
                answer.rc = 153
        elif ended and "x" not in flags and "H" not in flags:
            if words:
                answer.err += (
                    f"qstat: {word} Job has finished, "
                    "use -x or -H to obtain historical job information\n"
                )
                answer.rc = 35
        elif jobs[0].index is not None and not re.search(r"\[\d+\]", word):
            rows.append((dialect.full_id(jobs[0], parent=True), parent(dialect, jobs)))
            if "t" in flags:
                rows += [(dialect.full_id(job), _task(dialect, job)) for job in jobs]
        else:
            rows += [(dialect.full_id(job), _task(dialect, job)) for job in jobs]
    return rows


def _task(dialect: Dialect, job: Job) -> dict[str, Any]:
    """A task of an array that still runs is X(pired) and does not tell its exit status."""
    found = attributes(dialect, job)
    siblings = dialect.cluster.tasks(job.number)
    if job.stage is Stage.ENDED and any(task.stage is not Stage.ENDED for task in siblings):
        found["job_state"] = "X"
        found.pop("Exit_status", None)
    return found


def _json(rows: list[tuple[str, dict[str, Any]]]) -> str:
    found: dict[str, Any] = {
        "timestamp": int(time.time()),
        "pbs_version": "23.06.06",
        "pbs_server": "pbs1",
    }
    if rows:
        found["Jobs"] = {name: _numbered(row) for name, row in rows}
    return json.dumps(found, indent="\t") + "\n"


def _numbered(row: dict[str, Any]) -> dict[str, Any]:
    """Values of the environment that look like numbers become numbers, as recorded."""
    env = {}
    for name, value in row["Variable_List"].items():
        try:
            env[name] = float(value) if "e" in value or "." in value else int(value)
        except ValueError:
            env[name] = value.replace("\\", "\\\\").replace('"', '\\"')
    return {**row, "Variable_List": env}


def _flat(row: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = []
    for key, value in row.items():
        if key == "Variable_List":
            pairs.append((key, ",".join(f"{name}={text}" for name, text in value.items())))
        elif isinstance(value, dict):
            pairs += [(f"{key}.{name}", str(text)) for name, text in value.items()]
        else:
            pairs.append((key, str(value)))
    return pairs


def _dsv(name: str, row: dict[str, Any]) -> str:
    fields = [f"{key}={value}".replace("|", "\\|") for key, value in _flat(row)]
    return "|".join([f"Job Id: {name}", *fields]).replace("\n", "\\n")


def full_text(name: str, pairs: list[tuple[str, str]]) -> str:
    """Return the full form of a job."""
    lines = [f"Job Id: {name}"]
    for key, value in pairs:
        line = f"    {key} = {value}"
        lines.append(line[:79])
        for start in range(79, len(line), 71):  # wrapped, also in the middle of a word
            lines.append("\t" + line[start : start + 71])
    return "\n".join(lines) + "\n"


def short(name: str, row: dict[str, Any]) -> str:
    """Return the line of a job in the default form."""
    return (
        f"{name:<17.17} {row['Job_Name']:<16.16} {'root':<16.16}  {'00:00:00':>8} "
        f"{row['job_state']} {row['queue']:<5}\n"
    )
