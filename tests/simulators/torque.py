# SPDX-License-Identifier: BSD-3-Clause
"""Torque, from its manual: ``-l nodes=N:ppn=C``, ``-t`` arrays, state C, full text, XML.

Lenient: nothing of it was recorded here. Kept from PBS are what both descend from: return
codes 153 and 170, the wording of refusals, and full text that is wrapped at 80 columns.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from tests.simulators import pbs
from tests.simulators.jobs import Cluster, Job, Stage
from tests.simulators.pbs import qsub
from tests.simulators.pbs.qsub import Refusal
from tests.simulators.server import Answer, Request

LETTERS = "A:N:S:W:a:d:e:hj:k:l:m:M:no:p:q:r:t:v:V"

_STATES = {
    Stage.QUEUED: "Q",
    Stage.WAITING: "H",
    Stage.HELD: "H",
    Stage.RUNNING: "R",
    Stage.ENDING: "E",
    Stage.ENDED: "C",
}


class Dialect(pbs.Dialect):
    """The commands of Torque."""

    HOST = "torque{}"
    SERVER = "torque1"
    QUEUES = ("batch", "debug")
    VERSION = "Version: 6.1.2"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.history = True  # False: keep_completed has passed

    def answer(self, request: Request) -> Answer:
        """Answer a command."""
        if request.argv[:1] == ["--version"]:
            return Answer(0, "", self.VERSION + "\nCommit: 0000\n")
        if request.command == "qsub":
            try:
                return Answer(0, self._qsub(request) + "\n")
            except Refusal as refusal:
                return Answer(refusal.rc, "", refusal.words + "\n")
        if request.command == "qstat":
            return self._qstat(request)
        return self._delete(request)

    def start(self, job: Job) -> None:
        """Give a job its environment."""
        job.facts["ranks_per_host"] = job.cores
        super().start(job)
        job.env["PBS_VERSION"] = "TORQUE-6.1.2"
        job.env["PBS_NUM_PPN"] = str(job.cores)
        job.env["PBS_NUM_NODES"] = str(job.nodes)
        if job.index is not None:
            job.env["PBS_ARRAYID"] = str(job.index)
            del job.env["PBS_ARRAY_INDEX"], job.env["PBS_ARRAY_ID"]

    def _qsub(self, request: Request) -> str:
        given, rest = qsub.options_of(request.argv, LETTERS)
        text = qsub.read_script(request, rest)
        in_script, _ = qsub.options_of(qsub.directives(text), LETTERS)
        options = in_script + given
        job = qsub.make_job(self, request, text, options, rest[0])
        for resource in (part for letter, v in options if letter == "-l" for part in v.split(",")):
            key, _, value = resource.partition("=")
            if key == "walltime":
                job.walltime_s = qsub.seconds(value)
            elif key == "nodes":
                count, *properties = value.split(":")
                job.nodes = int(count)
                for part in properties:
                    if part.startswith("ppn="):
                        job.cores = int(part[4:])
            elif key not in ("mem", "qos", "advres", "naccesspolicy"):
                raise Refusal(168, f"qsub: submit error (Unknown resource type {key})")
        array = dict(options).get("-t")
        if array is None:
            self.cluster.add(job)
            return self.full_id(job)
        first, _, last = array.partition("-")
        for index in range(int(first), int(last or first) + 1):
            paths = {
                kind: getattr(job, kind).replace("$PBS_ARRAYID", str(index))
                for kind in ("stdout", "stderr")
            }
            self.cluster.add(Job(**{**vars(job), **paths, "index": index, "facts": {**job.facts}}))
        return f"{job.number}[].{self.SERVER}"

    # -- asking and ending -----------------------------------------------------------

    def exit_status(self, job: Job) -> int | None:
        """Return what Torque calls exit_status; -11 is the walltime, 271 a TERM."""
        if job.stage is not Stage.ENDED or not job.runs:
            return None
        if job.how == "walltime":
            return -11
        return job.exit_code if job.signal is None else 256 + job.signal

    def _row(self, job: Job) -> list[tuple[str, str]]:
        row = [
            ("Job_Name", job.name),
            ("Job_Owner", "root@login"),
            ("job_state", str(job.facts.get("shown") or _STATES[job.stage])),
            ("queue", job.facts["queue"]),
            ("server", self.SERVER),
            ("Output_Path", f"login:{job.stdout}"),
            ("Variable_List", ",".join(f"{n}={v}" for n, v in job.facts["env"].items())),
        ]
        if job.hosts:
            slots = [f"{host}/{core}" for host in job.hosts for core in range(job.cores)]
            row.append(("exec_host", "+".join(slots)))
        if (status := self.exit_status(job)) is not None:
            row.append(("exit_status", str(status)))
        return row

    def _qstat(self, request: Request) -> Answer:
        flags = {letter for word in request.argv if word.startswith("-") for letter in word[1:]}
        words = [word for word in request.argv if not word.startswith("-")]
        answer = Answer()
        jobs: list[Job] = []
        everything = [str(n) for n in dict.fromkeys(j.number for j in self.cluster.jobs.values())]
        for word in words or everything:
            found = self.find(word)
            # One whose parent failed is deleted and leaves no trace.
            found = [job for job in found if job.how != "dependency"]
            if not self.history:
                found = [job for job in found if job.stage is not Stage.ENDED]
            if not found:
                answer.err += f"qstat: Unknown Job Id Error {word}\n"
                answer.rc = 153
            jobs += found
        rows = [(self.full_id(job), self._row(job)) for job in jobs]
        if "x" in flags:
            answer.out = "".join(_xml(name, row) for name, row in rows)
            answer.out = f"<Data>{answer.out}</Data>\n" if rows else ""
        elif "f" in flags:
            answer.out = "".join(pbs.qstat.full_text(name, row) + "\n" for name, row in rows)
        elif rows:
            answer.out = pbs.qstat.HEADER + "".join(
                pbs.qstat.short(name, dict(row)) for name, row in rows
            )
        return answer

    def _delete(self, request: Request) -> Answer:
        answer = Answer()
        for word in request.argv:
            jobs = self.find(word)
            if not jobs:
                answer.rc, answer.err = 153, f"{answer.err}qdel: Unknown Job Id {word}\n"
            elif all(job.stage is Stage.ENDED for job in jobs):
                words = "qdel: Request invalid for state of job MSG=invalid state for job - "
                answer.rc, answer.err = 170, f"{answer.err}{words}COMPLETE {word}\n"
            for job in jobs:
                self.cluster.cancel(job)
        return answer


def _xml(name: str, row: list[tuple[str, str]]) -> str:
    fields = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in row)
    return f"<Job><Job_Id>{name}</Job_Id>{fields}</Job>"
