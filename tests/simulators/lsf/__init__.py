# SPDX-License-Identifier: BSD-3-Clause
"""LSF 10.1: answers as its manual, its users' recordings and other projects' tests have them.

With ``-nnodes`` it behaves like a CSM system: the first host is the launch host. Lenient,
because it is known from memory only: the text in ERROR records, ``-ti``, the report in the
``-o`` file, exit codes of killed jobs.
"""

from __future__ import annotations

import os
import re

from tests.simulators.jobs import Cluster, Job, Stage
from tests.simulators.lsf import bjobs, bsub
from tests.simulators.server import Answer, Request


class Dialect:
    """The commands of LSF."""

    HOST = "a01n{:02d}"
    COMMANDS = ("bsub", "bjobs", "bkill", "lsid", "jsrun")
    LAUNCH_HOST = "batch1"
    QUEUES = ("normal", "debug")

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.consistent_exit_code = False  # LSB_BJOBS_CONSISTENT_EXIT_CODE
        self.clean_period_over = False  # finished jobs are forgotten
        cluster.on_start = self.start
        cluster.on_end = self.end

    def answer(self, request: Request) -> Answer:
        """Answer a command."""
        if request.command == "lsid":
            return Answer(0, "IBM Spectrum LSF Standard 10.1.0.13\nMy cluster name is test\n")
        if request.argv[:1] == ["-V"]:
            return Answer(0, "", "IBM Spectrum LSF Standard 10.1.0.13\n")
        if request.command == "bsub":
            return bsub.run(self, request)
        if request.command == "bjobs":
            return bjobs.run(self, request)
        return self._bkill(request)

    def down(self, request: Request) -> Answer:
        """Say that the master does not answer."""
        return Answer(255, "", "Cannot connect to LSF. Please wait ...\nLSF is down.\n")

    def find(self, word: str) -> list[Job]:
        """Return the tasks that ``12`` or ``12[3]`` names."""
        match = re.fullmatch(r"(\d+)(?:\[(\d+)\])?", word)
        if not match:
            return []
        tasks = self.cluster.tasks(int(match[1]))
        return [t for t in tasks if match[2] is None or t.index == int(match[2])]

    def host_slots(self, job: Job) -> list[tuple[str, int]]:
        """Return hosts and slots of a job, the launch host first where there is one."""
        slots = [(host, job.cores) for host in job.hosts]
        return [(self.LAUNCH_HOST, 1), *slots] if job.facts["csm"] else slots

    def start(self, job: Job) -> None:
        """Give a job its environment: the submitter's and LSF's own."""
        slots = self.host_slots(job)
        hostfile = os.path.join(self.cluster.folder, "spool", f"{job.number}.{job.index}.hosts")
        with open(hostfile, "w") as file:
            file.writelines(f"{host}\n" * count for host, count in slots)
        os.makedirs(job.cwd, exist_ok=True)
        job.env = {
            **job.facts["env"],
            "LSB_JOBID": str(job.number),
            "LSB_JOBINDEX": str(job.index or 0),
            "LSB_JOBNAME": job.name,
            "LSB_QUEUE": job.facts["queue"],
            "LSB_HOSTS": " ".join(host for host, count in slots for _ in range(count)),
            "LSB_MCPU_HOSTS": "".join(f"{host} {count} " for host, count in slots),
            "LSB_DJOB_HOSTFILE": hostfile,
            "LSB_DJOB_NUMPROC": str(sum(count for _, count in slots)),
        }

    def end(self, job: Job) -> None:
        """Append the report that LSF puts into the output file."""
        if not job.runs:
            return
        report = (
            f"\n------------------------------------------------------------\n"
            f"Sender: LSF System <lsfadmin@{job.hosts[0]}>\n"
            f"Subject: Job {job.number}: <{job.name}> in cluster <test> {bjobs.stat(job)}\n"
        )
        try:
            with open(job.stdout, "a") as file:
                file.write(report)
        except OSError:
            pass

    def _bkill(self, request: Request) -> Answer:
        words = [word for word in request.argv if word[:1].isdigit()]
        answer = Answer()
        for word in words:
            jobs = self.find(word)
            if not jobs or self.clean_period_over:
                answer.rc, answer.err = 255, f"{answer.err}Job <{word}>: No matching job found\n"
            elif all(job.stage is Stage.ENDED for job in jobs):
                said = f"Job <{word}>: Job has already finished\n"
                answer.rc, answer.err = 255, answer.err + said
            else:
                answer.out += f"Job <{word}> is being terminated\n"
                for job in jobs:
                    self.cluster.cancel(job)
        return answer
