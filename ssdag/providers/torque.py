# SPDX-License-Identifier: BSD-3-Clause
"""Torque, PBS's other descendant: ``-l nodes=N:ppn=C``, ``-t`` arrays, state C.

Written after the manual of 6.1; Moab or Maui stands behind qos and reservations. Jobs that
have ended are named for ``keep_completed`` seconds, then their files say how they ended.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ssdag.providers import pbs_answers
from ssdag.providers.base import JobStatus
from ssdag.providers.options import megabytes_of
from ssdag.providers.pbs import PBSProvider
from ssdag.providers.pbs_answers import quoted
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.providers.base import JobSpec


class TorqueProvider(PBSProvider):
    """Jobs by Torque's ``qsub``; allocations by ``PBS_NODEFILE``.

    ``memory_per_node_bytes`` is asked for as the memory of the whole job, as Torque counts;
    ``constraint`` is a node property; ``qos`` and ``reservation`` are Moab's.
    See :class:`~ssdag.providers.batch.BatchProvider` for the parameters.
    """

    name = "torque"
    states: ClassVar[Mapping[str, JobState]] = {
        "C": JobState.COMPLETED,  # has ended; exit_status says how
        "E": JobState.RUNNING,
        "H": JobState.HELD,
        "Q": JobState.PENDING,
        "R": JobState.RUNNING,
        "S": JobState.HELD,
        "T": JobState.PENDING,
        "W": JobState.PENDING,
    }
    own_index = "$PBS_ARRAYID"
    array_suffix = ".$PBS_ARRAYID"

    def directives(self, job: JobSpec) -> list[str]:
        """See :meth:`BatchProvider.directives`."""
        nodes = [f"nodes={job.nodes}"]
        if job.cores_per_node:
            nodes.append(f"ppn={job.cores_per_node}")
        if job.gpus_per_node:
            nodes.append(f"gpus={job.gpus_per_node}")
        if job.constraint:
            nodes.append(job.constraint)
        texts = [f"-l {quoted(':'.join(nodes))}"]
        if job.memory_per_node_bytes:
            texts.append(f"-l mem={megabytes_of(job.memory_per_node_bytes) * job.nodes}mb")
        for key, value in (("qos", job.qos), ("advres", job.reservation)):
            if value:
                texts.append(f"-l {key}={quoted(value)}")
        if job.exclusive:
            texts.append("-n")
        texts += self.common(job, job.queue)
        if job.array is not None:
            texts.append(f"-t 0-{job.array - 1}")
        return texts

    def status_command(self, job_ids: Sequence[str]) -> list[str]:
        """See :meth:`BatchProvider.status_command`."""
        return ["qstat", "-f", *job_ids]

    def rows(self, text: str) -> dict[str, dict[str, str]]:
        """See :meth:`PBSProvider.rows`."""
        return pbs_answers.full_rows(text)

    def resolve(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Find jobs that Torque deleted, without a trace, since one they waited for failed."""
        specs = {job_id: job for job_id in job_ids if (job := self._jobs.spec(job_id))}
        parents = list(dict.fromkeys(one for job in specs.values() for one in job.after))
        if not parents:
            return {}
        told = self.parse(self.runner.run(self.status_command(parents), self.timeout_s), parents)
        bad = {}
        for parent in parents:
            status = told.get(parent) or self.from_file(parent) or self._known(parent)
            if status.state.final and status.state is not JobState.COMPLETED:
                bad[parent] = f"it waited for job {parent}, which is {status.state}"
        return {
            job_id: JobStatus(JobState.CANCELLED, reason=bad[parent])
            for job_id, job in specs.items()
            for parent in job.after
            if parent in bad
        }

    def status(self, row: Mapping[str, str]) -> JobStatus | None:
        """See :meth:`PBSProvider.status`."""
        hosts = pbs_answers.hosts(row)
        reason = row.get("comment", "")
        state = self.state_of(row["job_state"])
        if not state.final:
            waits = state is JobState.HELD and "afterok" in row.get("depend", "")
            return JobStatus(JobState.PENDING if waits else state, reason=reason, hosts=hosts)
        if "exit_status" not in row:
            return JobStatus(JobState.CANCELLED, reason=reason or "it never ran")
        status = pbs_answers.torque_end(int(row["exit_status"]), reason, hosts)
        if status.signal == signal.SIGTERM:  # nothing else tells that somebody used qdel
            return replace(status, state=JobState.CANCELLED)
        return status
