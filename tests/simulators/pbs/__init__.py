# SPDX-License-Identifier: BSD-3-Clause
"""OpenPBS 23.06.06: answers as recorded on a server with two execution hosts.

Lenient, because nothing was recorded: how a job is held back by ``qhold``, the exit status
of an array's parent (0 or 1, as the manual says) and what ``-x`` says beside the one
recorded line while the history is off.
"""

from __future__ import annotations

import os

from tests.simulators.jobs import Cluster, Job, Stage
from tests.simulators.pbs import qstat, qsub
from tests.simulators.server import Answer, Request


class Dialect:
    """The commands of PBS."""

    HOST = "pbs{}"
    COMMANDS = ("qsub", "qstat", "qdel")
    VERSION = "pbs_version = 23.06.06"
    SERVER = "pbs1"
    QUEUES = ("workq", "debug")

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.history = True
        cluster.on_start = self.start

    def answer(self, request: Request) -> Answer:
        """Answer a command."""
        if request.argv[:1] == ["--version"]:
            return Answer(0, self.VERSION + "\n")
        if request.command == "qsub":
            return qsub.run(self, request)
        if request.command == "qstat":
            return qstat.run(self, request)
        return self._qdel(request)

    def down(self, request: Request) -> Answer:
        """Say that the server is down, as recorded."""
        if request.command == "qdel":
            return Answer(
                162, "", f"Connection refused\nCouldn't connect to cluster: {self.SERVER}\n"
            )
        says = f"cannot connect to server {self.SERVER} (errno=15010)"
        return Answer(255, "", f"Connection refused\n{request.command}: {says}\n")

    # -- jobs ------------------------------------------------------------------------

    def find(self, word: str) -> list[Job]:
        """Return the tasks that an id such as ``3``, ``3[].pbs1`` or ``3[0].pbs1`` names."""
        number, _, rest = word.partition(".")[0].partition("[")
        if not number.isdigit():
            return []
        tasks = self.cluster.tasks(int(number))
        index = rest.rstrip("]")
        return [t for t in tasks if t.index == int(index)] if index.isdigit() else tasks

    def full_id(self, job: Job, parent: bool = False) -> str:
        """Return an id as PBS prints it."""
        if job.index is None:
            return f"{job.number}.{self.SERVER}"
        return f"{job.number}[{'' if parent else job.index}].{self.SERVER}"

    def start(self, job: Job) -> None:
        """Give a job the environment that PBS gives; the submitter's is not inherited."""
        ranks = job.facts.get("ranks_per_host", 1)
        nodefile = os.path.join(self.cluster.folder, "spool", f"{job.number}.{job.index}.nodes")
        with open(nodefile, "w") as file:
            file.writelines(f"{host}\n" * ranks for host in job.hosts)
        job.env = {
            **job.facts["env"],
            "PBS_JOBID": self.full_id(job),
            "PBS_JOBNAME": job.name,
            "PBS_NODEFILE": nodefile,
            "PBS_NODENUM": "0",
            "PBS_TASKNUM": "1",
            "PBS_QUEUE": job.facts["queue"],
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "NCPUS": str(job.cores),
        }
        if job.index is not None:
            job.env["PBS_ARRAY_INDEX"] = str(job.index)
            job.env["PBS_ARRAY_ID"] = self.full_id(job, parent=True)

    def _qdel(self, request: Request) -> Answer:
        words = [word for word in request.argv if not word.startswith("-") and word != "force"]
        answer = Answer()
        for word in words:
            jobs = self.find(word)
            if not jobs or (not self.history and all(j.stage is Stage.ENDED for j in jobs)):
                answer.err += f"qdel: Unknown Job Id {word}\n"
                answer.rc = 153
            elif all(job.stage is Stage.ENDED for job in jobs):
                answer.err += f"qdel: Job has finished {word}\n"
                answer.rc = 35
            for job in jobs:
                self.cluster.cancel(job)
        return answer
