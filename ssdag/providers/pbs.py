# SPDX-License-Identifier: BSD-3-Clause
"""PBS Professional and OpenPBS, with or without job history.

``Exit_status`` says nothing of a job that was cancelled (it is 0 then) or that is not F,
so states come from ``job_state`` and ``substate``. ``qstat -F json`` names only the first
of several ids; ``-F dsv`` names all.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING, ClassVar

from ssdag.errors import UnsupportedError
from ssdag.launchers.pals import PalsLauncher
from ssdag.providers import nodefile, pbs_answers
from ssdag.providers.base import Allocation, JobSpec, JobStatus
from ssdag.providers.batch import BatchProvider, QueryError
from ssdag.providers.options import clock_of, megabytes_of
from ssdag.providers.pbs_answers import quoted
from ssdag.providers.script import base_path
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.launchers.base import Launcher
    from ssdag.providers.commands import Answer

_DEPENDENCY_SUBSTATE = "22"  # held until another job has ended
_TERMINATED_SUBSTATE = "91"  # ended by qdel


class PBSProvider(BatchProvider):
    """Jobs by ``qsub``; allocations by ``PBS_NODEFILE``.

    Output goes into the job's files while it runs; what PBS itself has to say (it delivers
    that at the end) is in ``NAME.log``. ``constraint`` is added to the chunk that is
    selected (``model=abc``); a ``reservation`` is PBS's queue of that name.
    See :class:`~ssdag.providers.batch.BatchProvider` for the parameters.
    """

    name = "pbs"
    mark = "#PBS"
    id_pattern = re.compile(r"^(?P<id>\d+(?:\[\])?\.\S+)[ \t]*$", re.MULTILINE)
    states: ClassVar[Mapping[str, JobState]] = {
        "B": JobState.RUNNING,  # an array that has begun
        "E": JobState.RUNNING,  # exiting: its nodes are still taken
        "F": JobState.COMPLETED,  # finished: Exit_status and substate say how
        "H": JobState.HELD,
        "M": JobState.UNKNOWN,  # moved to another server
        "Q": JobState.PENDING,
        "R": JobState.RUNNING,
        "S": JobState.HELD,  # suspended
        "T": JobState.PENDING,  # on its way to another place
        "U": JobState.HELD,  # suspended: somebody uses the workstation
        "W": JobState.PENDING,  # waits for its time
        "X": JobState.COMPLETED,  # a task of an array has ended; how, is told with the array
    }
    aliases: ClassVar[Mapping[str, str]] = {"project": "account"}
    own_id = "$PBS_JOBID"
    own_member_id = "$PBS_JOBID"
    own_index = "$PBS_ARRAY_INDEX"
    redirect = True
    array_suffix = ".^array_index^"
    gone_pattern = re.compile(r"Job has finished|Unknown Job Id|[Ii]nvalid state for job")
    unreachable_pattern = re.compile(
        r"cannot connect to server|Connection refused|Couldn't connect|errno=150(10|31)"
    )
    launcher_name = "MpiexecLauncher"

    _history = True

    # -- jobs ------------------------------------------------------------------------

    def directives(self, job: JobSpec) -> list[str]:
        """See :meth:`BatchProvider.directives`."""
        if job.qos:
            raise UnsupportedError(f"{self.name}: no qos; choose a queue, or write a directive")
        if job.queue and job.reservation:
            raise UnsupportedError(f"{self.name}: a reservation is a queue; give one of both")
        chunk = [f"select={job.nodes}"]
        if job.cores_per_node:  # as many lines in PBS_NODEFILE, for the slots of mpiexec
            chunk.append(f"ncpus={job.cores_per_node}:mpiprocs={job.cores_per_node}")
        if job.gpus_per_node:
            chunk.append(f"ngpus={job.gpus_per_node}")
        if job.memory_per_node_bytes:
            chunk.append(f"mem={megabytes_of(job.memory_per_node_bytes)}mb")
        if job.constraint:
            chunk.append(job.constraint)
        place = "scatter:exclhost" if job.exclusive else "scatter"
        texts = [
            f"-l {quoted(':'.join(chunk))}",
            f"-l place={place}",
            *self.common(job, job.queue or job.reservation),
        ]
        if job.array is not None:
            # A range of one is refused, a step that leaves one is not.
            texts.append(f"-J 0-{job.array - 1}" if job.array > 1 else "-J 0-1:2")
        return texts

    def common(self, job: JobSpec, queue: str | None) -> list[str]:
        """Return the directives that PBS and Torque have in common."""
        log = f"{base_path(job)}{self.array_suffix if job.array is not None else ''}.log"
        if re.search(r"[:\"'\\\\^$]", base_path(job)):  # what no directive can express
            log = os.devnull
        texts = [
            f"-N {re.sub(r'[^A-Za-z0-9_.+-]', '_', job.name)[:200]}",
            "-S /bin/bash",
            "-j oe",
            f"-o {quoted(log)}",
            f"-l walltime={clock_of(job.walltime_s)}",
            # Arrays that are not rerunnable are refused; scripts know a second run themselves.
            f"-r {'y' if job.rerunnable or job.array is not None else 'n'}",
            "-m n",
        ]
        for letter, value in (("A", job.account), ("q", queue)):
            if value:
                texts.append(f"-{letter} {quoted(value)}")
        if job.after:
            texts.append(f"-W depend=afterok:{':'.join(job.after)}")
        return texts

    def submit_command(self, job: JobSpec, path: str) -> list[str]:
        """See :meth:`Provider.submit_command`."""
        return ["qsub", path]

    def status_command(self, job_ids: Sequence[str]) -> list[str]:
        """See :meth:`BatchProvider.status_command`."""
        return ["qstat", *(["-x"] if self._history else []), "-f", "-F", "dsv", *job_ids]

    def parse(self, answer: Answer, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """See :meth:`BatchProvider.parse`."""
        if "not configured to maintain job history" in answer.stderr:
            self._history = False  # from now on, the files of jobs say how they ended
            raise QueryError("the server keeps no history of jobs; it is asked without from now on")
        unknown = answer.stderr.count("Unknown Job Id")
        rows = self.rows(answer.stdout)
        if len(rows) + unknown < len(job_ids):  # it names each that it does not know
            raise QueryError(answer.summary)
        found = {}
        for job_id, row in rows.items():
            status = self.status(row)
            if status is not None:
                found[job_id] = status
        return found

    def rows(self, text: str) -> dict[str, dict[str, str]]:
        """Return attributes by id from what the status command has written."""
        return pbs_answers.dsv_rows(text)

    def status(self, row: Mapping[str, str]) -> JobStatus | None:
        """Return what a job's attributes say; None if not enough."""
        word, substate = row["job_state"], row.get("substate", "")
        state = self.state_of(word)
        reason = row.get("comment", "")
        hosts = pbs_answers.hosts(row)
        if not state.final:
            if state is JobState.HELD and substate == _DEPENDENCY_SUBSTATE:
                state = JobState.PENDING
            return JobStatus(state, reason=reason, hosts=hosts)
        if substate == _TERMINATED_SUBSTATE:
            return JobStatus(JobState.CANCELLED, reason=reason or "qdel", hosts=hosts)
        if "Exit_status" not in row:
            if word == "X":
                return None
            if row.get("run_count", "0") == "0":
                return JobStatus(JobState.CANCELLED, reason=reason or "it never ran")
            return JobStatus(JobState.FAILED, reason=reason or "no exit status", hosts=hosts)
        return pbs_answers.pbs_end(int(row["Exit_status"]), reason, hosts)

    def cancel_command(self, job_ids: Sequence[str]) -> list[str]:
        """See :meth:`BatchProvider.cancel_command`."""
        return ["qdel", *job_ids]

    def member_id(self, job_id: str, index: int) -> str:
        """See :meth:`BatchProvider.member_id`."""
        return job_id.replace("[]", f"[{index}]")

    # -- where am I ------------------------------------------------------------------

    def allocation(self, env: Mapping[str, str] = os.environ) -> Allocation | None:
        """Return the nodes of ``PBS_NODEFILE``; None outside a job."""
        job_id, path = env.get("PBS_JOBID"), env.get("PBS_NODEFILE")
        if not job_id or not path:
            return None
        cores = int(text) if (text := env.get("NCPUS", "")).isdigit() else 0
        slots = {host: max(lines, cores) for host, lines in nodefile.read(path).items()}
        return Allocation(self.name, job_id, nodefile.nodes(slots, env, self.options))

    def launcher(self) -> Launcher:
        """Return PALS's launcher where ``mpiexec`` is that of PALS, or else Hydra's."""
        if not self._launcher and "/pals/" in os.path.realpath(shutil.which("mpiexec") or ""):
            self._launcher = PalsLauncher()
        return super().launcher()
