# SPDX-License-Identifier: BSD-3-Clause
"""``qstat`` of Cobalt: only jobs that have not ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulators.jobs import Job, Stage
from tests.simulators.server import Answer, Request

if TYPE_CHECKING:
    from tests.simulators.cobalt import Dialect

_STATES = {
    Stage.QUEUED: ("queued", "Q"),
    Stage.WAITING: ("dep_hold", "H"),
    Stage.HELD: ("user_hold", "H"),
    Stage.RUNNING: ("running", "R"),
    Stage.ENDING: ("killing", "K"),
}
_DEFAULT = "JobID:User:WallTime:Nodes:State:Location"


def state(dialect: Dialect, job: Job) -> tuple[str, str]:
    """Return the word and the letter for a state."""
    if shown := job.facts.get("shown"):
        return str(shown), "H" if "hold" in str(shown) else "P"
    if job.stage is Stage.WAITING:
        parents = [p for number in job.after for p in dialect.cluster.tasks(number)]
        ended = [p for p in parents if p.stage is Stage.ENDED]
        if any(p.how != "exit" or p.exit_code != 0 for p in ended):
            return "dep_fail", "H"
    return _STATES[job.stage]


def field(dialect: Dialect, job: Job, name: str) -> str:
    """Return one field; names of fields have no case."""
    from tests.simulators.cobalt import compact

    minutes = int((job.walltime_s or 0) / dialect.cluster.minute_s)
    values: dict[str, str] = {
        "jobid": str(job.number),
        "user": "root",
        "walltime": f"{minutes // 60:02d}:{minutes % 60:02d}:00",
        "nodes": str(job.nodes),
        "state": state(dialect, job)[0],
        "s": state(dialect, job)[1],
        "location": compact(job.hosts) if job.hosts else "None",
        "jobname": job.name,
        "queue": job.facts["queue"],
    }
    return values.get(name.lower(), "-")


def run(dialect: Dialect, request: Request) -> Answer:
    """Answer ``qstat``."""
    argv = list(request.argv)
    header = request.env.get("QSTAT_HEADER", _DEFAULT)
    long_form = "-l" in argv
    if "--header" in argv:
        header = argv.pop(argv.index("--header") + 1)
    words = [word for word in argv if not word.startswith("-")]
    for word in words:
        if not word.isdigit():
            return Answer(1, "", f"{word} is not a valid jobid or queue name\n")
    if words:
        jobs = [job for word in words for job in dialect.known(int(word))]
        if not jobs:
            return Answer(1)
    else:
        jobs = [job for job in dialect.cluster.jobs.values() if job.stage is not Stage.ENDED]
    names = header.split(":")
    rows = [[field(dialect, job, name) for name in names] for job in jobs]
    if long_form:
        return Answer(0, "".join(_vertical(names, row) for row in rows))
    return Answer(0, _table(names, rows))


def _vertical(names: list[str], row: list[str]) -> str:
    lines = [f"{names[0]}: {row[0]}"]
    lines += [f"    {name:<10}: {value}" for name, value in zip(names[1:], row[1:], strict=True)]
    return "\n".join(lines) + "\n\n"


def _table(names: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [names, *rows]) for i in range(len(names))]
    lines = [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True))
        for row in [names, *rows]
    ]
    lines.insert(1, "=" * len(lines[0]))
    return "\n".join(lines) + "\n"
