# SPDX-License-Identifier: BSD-3-Clause
"""Cobalt of Theta, Mira and their kin (retired), after the source of its clients.

``qstat`` knows no job that has ended; how it ended is told by ``ID.cobaltlog`` alone.
Directives must follow the first line of a script without a gap, and take no quotes.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, ClassVar

from ssdag.errors import UnsupportedError
from ssdag.providers import hostlists, nodefile
from ssdag.providers.base import Allocation, JobSpec, JobStatus
from ssdag.providers.batch import BatchProvider, QueryError
from ssdag.providers.options import minutes_of
from ssdag.providers.records import ended
from ssdag.providers.script import one_line
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.providers.commands import Answer

_CODE = re.compile(r"completed normally with an exit code of (-?\d+)")
_OUT_OF_TIME = "maximum execution time exceeded"
_DELETED = re.compile(r"delete requested|initiating job termination")


class CobaltProvider(BatchProvider):
    """Jobs by Cobalt's ``qsub``; allocations by ``COBALT_NODEFILE`` or ``COBALT_PARTNAME``.

    Cobalt grants whole nodes and nothing smaller. ``constraint`` is text for ``--attrs``
    (``key=value:key=value``), a ``reservation`` is the queue of that name.
    See :class:`~ssdag.providers.batch.BatchProvider` for the parameters.
    """

    name = "cobalt"
    mark = "#COBALT"
    # Filters of a site may talk before the id, and it may have a message behind it.
    id_pattern = re.compile(r"^(?P<id>\d+)(?:[ \t].*)?$(?![\s\S]*^\d+(?:[ \t].*)?$)", re.MULTILINE)
    states: ClassVar[Mapping[str, JobState]] = {
        "queued": JobState.PENDING,
        "starting": JobState.PENDING,
        "running": JobState.RUNNING,
        "killing": JobState.RUNNING,
        "exiting": JobState.RUNNING,
        "done": JobState.RUNNING,  # gone at the next look; then its log tells
        "user_hold": JobState.HELD,
        "admin_hold": JobState.HELD,
        "maxrun_hold": JobState.HELD,
        "dep_hold": JobState.PENDING,
        "dep_fail": JobState.CANCELLED,  # it can never start; see parse
        "preempting": JobState.RUNNING,
        "preempted": JobState.HELD,
    }
    aliases: ClassVar[Mapping[str, str]] = {"project": "account"}
    own_id = "$COBALT_JOBID"
    redirect = True
    gone_pattern = re.compile(r"not found|[Nn]o such job|is not a valid jobid")
    unreachable_pattern = re.compile(r"[Ff]ailed to connect|[Cc]onnection refused")
    launcher_name = "AprunLauncher"

    def directives(self, job: JobSpec) -> list[str]:
        """See :meth:`BatchProvider.directives`."""
        for name in ("qos", "gpus_per_node", "memory_per_node_bytes"):
            if getattr(job, name):
                raise UnsupportedError(
                    f"cobalt: {name} cannot be asked for: it grants whole nodes as they are; "
                    "choose a queue or a constraint"
                )
        if job.queue and job.reservation:
            raise UnsupportedError("cobalt: a reservation is a queue; give one of both")
        options = [
            ("-n", str(job.nodes)),
            ("-t", str(minutes_of(job.walltime_s))),
            ("--mode", "script"),
            ("--jobname", re.sub(r"[^A-Za-z0-9_.+-]", "_", job.name)),
            ("-A", job.account),
            ("-q", job.queue or job.reservation),
            ("--attrs", job.constraint),
            ("--dependencies", ":".join(job.after)),
        ]
        return [f"{option} {_word(value)}" for option, value in options if value]

    def submit_command(self, job: JobSpec, path: str) -> list[str]:
        """See :meth:`Provider.submit_command`; folders may hold blanks, directives none.

        Variables are in the script: ``--env`` shows them to all, and ``:`` and ``=`` divide it.
        """
        return ["qsub", "--cwd", job.folder, path]

    def status_command(self, job_ids: Sequence[str]) -> list[str]:
        """See :meth:`BatchProvider.status_command`."""
        return ["qstat", "--header", "JobID:State:Location", *job_ids]

    def parse(self, answer: Answer, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """See :meth:`BatchProvider.parse`."""
        if answer.exit_code == 1 and not answer.stdout.strip() and not answer.stderr.strip():
            return {}  # as it says that it knows none of these
        header, _, rest = answer.stdout.partition("\n")
        rule, _, table = rest.partition("\n")
        if header.split() != ["JobID", "State", "Location"] or set(rule.strip()) != {"="}:
            raise QueryError(answer.summary)
        if table and not table.endswith("\n"):
            raise QueryError(f"qstat was cut short at {table[-80:]!r}")
        found = {}
        for line in table.splitlines():
            job_id, word, *location = line.split(maxsplit=2)
            where = location[0].strip() if location else "None"
            hosts = () if where == "None" else tuple(_nodes(where))
            reason = "" if word == "running" else word
            found[job_id] = JobStatus(self.state_of(word), reason=reason, hosts=hosts)
        return found

    def resolve(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Read the logs of jobs that have gone; see :meth:`BatchProvider.resolve`."""
        found = {}
        for job_id in job_ids:
            job = self._jobs.spec(job_id)
            if job is None:
                continue
            log = self.runner.read(f"{job.folder}/{job_id}.cobaltlog", self.timeout_s) or ""
            if _OUT_OF_TIME in log:
                found[job_id] = JobStatus(JobState.TIMEOUT, reason=_OUT_OF_TIME)
            elif codes := _CODE.findall(log):
                found[job_id] = ended(int(codes[-1]))
            elif _DELETED.search(log):
                found[job_id] = JobStatus(JobState.CANCELLED, reason="deleted, as its log says")
        return found

    def cancel_command(self, job_ids: Sequence[str]) -> list[str]:
        """See :meth:`BatchProvider.cancel_command`."""
        return ["qdel", *job_ids]

    def allocation(self, env: Mapping[str, str] = os.environ) -> Allocation | None:
        """Return the nodes of this job; None outside one.

        The process that asks is on a service node, which is none of them.
        """
        job_id = env.get("COBALT_JOBID")
        if not job_id:
            return None
        if path := env.get("COBALT_NODEFILE"):
            slots = nodefile.read(path)
        else:
            slots = dict.fromkeys(_nodes(env.get("COBALT_PARTNAME", "")), 0)
        end = env.get("COBALT_ENDTIME", "")
        nodes = nodefile.nodes(slots, env, self.options)
        return Allocation(self.name, job_id, nodes, float(end) if end.isdigit() else None)


def _nodes(text: str) -> list[str]:
    """Return the nodes of ``3-7,9``, which are node ids without a name in front."""
    return hostlists.parse(f"[{text}]") if re.fullmatch(r"[\d,-]+", text) else text.split(",")


def _word(text: str) -> str:
    """Return a value for a #COBALT line, which is split at blanks and knows no quotes."""
    if re.search(r"\s", one_line("a value", text)):
        raise UnsupportedError(f"cobalt: {text!r} holds a blank, which no directive can express")
    return text
