# SPDX-License-Identifier: BSD-3-Clause
"""Cobalt: answers as its clients' source (snapshot of 2021-03) words them.

Lenient, because it is not known: what ``qdel`` says of jobs that have gone, the words while
the queue manager is down, and ``Info:`` lines of the log other than the two quoted ones.
"""

from __future__ import annotations

import os
import time

from tests.simulators.cobalt import qstat, qsub
from tests.simulators.jobs import Cluster, Job, Stage
from tests.simulators.server import Answer, Request


class Dialect:
    """The commands of Cobalt."""

    HOST = "{}"
    COMMANDS = ("qsub", "qstat", "qdel", "aprun")
    QUEUES = ("default", "debug")

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.notice = False  # a filter of the site talks before the id comes
        cluster.on_start = self.start
        cluster.on_end = self.end

    def answer(self, request: Request) -> Answer:
        """Answer a command."""
        if request.argv[:1] == ["--version"]:
            return Answer(0, f"version: {request.command} $Revision: 406 $, Cobalt 1.0.36\n")
        if request.command == "qsub":
            return qsub.run(self, request)
        if request.command == "qstat":
            return qstat.run(self, request)
        return self._qdel(request)

    def down(self, request: Request) -> Answer:
        """Say that the queue manager cannot be reached."""
        return Answer(1, "", "Failed to connect to queue manager\n")

    def known(self, number: int) -> list[Job]:
        """Return a job; those that have ended are gone."""
        return [job for job in self.cluster.tasks(number) if job.stage is not Stage.ENDED]

    def log(self, job: Job, text: str) -> None:
        """Write a line of the job's log."""
        try:
            with open(job.facts["prefix"] + ".cobaltlog", "a") as file:
                file.write(text + "\n")
        except OSError:
            pass

    def start(self, job: Job) -> None:
        """Give a job its environment: it runs on a service node, not on one of its own."""
        nodefile = os.path.join(self.cluster.folder, "spool", f"{job.number}.nodes")
        with open(nodefile, "w") as file:
            file.writelines(f"{host}\n" for host in job.hosts)
        now = int(time.time())
        job.env = {
            **job.facts["env"],
            "COBALT_JOBID": str(job.number),
            "COBALT_PARTNAME": compact(job.hosts),
            "COBALT_PARTSIZE": str(job.nodes),
            "COBALT_JOBSIZE": str(job.nodes),
            "COBALT_NODEFILE": nodefile,
            "COBALT_PROJECT": job.facts["project"],
            "COBALT_QUEUE": job.facts["queue"],
            "COBALT_STARTTIME": str(now),
            "COBALT_ENDTIME": str(now + int(job.walltime_s or 0)),
        }

    def end(self, job: Job) -> None:
        """Write how a job ended: nothing else tells it."""
        if job.how == "walltime":
            self.log(job, "Info: maximum execution time exceeded; initiating job termination")
        elif job.how == "exit":
            code = job.exit_code if job.signal is None else 128 + job.signal
            self.log(
                job,
                f"Info: task completed normally with an exit code of {code}; "
                "initiating job cleanup and removal",
            )
        elif job.how == "cancelled":
            self.log(job, "Info: user delete requested; initiating job termination")

    def _qdel(self, request: Request) -> Answer:
        if not request.argv:
            return Answer(1, "", "No Jobid(s) given\n")
        deleted = [job for word in request.argv if word.isdigit() for job in self.known(int(word))]
        for job in deleted:
            self.cluster.cancel(job)
        rows = "".join(f"{job.number!s:<5}  root\n" for job in deleted)
        return Answer(0, f"      Deleted Jobs\nJobID  User\n============\n{rows}")


def compact(hosts: tuple[str, ...]) -> str:
    """Return a compact node list such as ``3,7-9``."""
    numbers = sorted(int(host) for host in hosts)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
