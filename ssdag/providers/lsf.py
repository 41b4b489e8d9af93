# SPDX-License-Identifier: BSD-3-Clause
"""IBM Spectrum LSF 10.1, classic and CSM (Summit and its kin).

``bjobs`` ends with 255 beside rows that are right, puts records with an ERROR among the
others, and may print nothing at all on a bad day: rows count, return codes do not.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from ssdag.errors import UnsupportedError
from ssdag.launchers import JsrunLauncher, MpirunLauncher
from ssdag.providers import nodefile
from ssdag.providers.base import Allocation, JobSpec, JobStatus
from ssdag.providers.batch import BatchProvider, QueryError
from ssdag.providers.options import megabytes_of, minutes_of
from ssdag.providers.records import ended
from ssdag.providers.script import base_path, one_line
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.launchers.base import Launcher
    from ssdag.providers.commands import Answer

_FIELDS = "jobid jobindex stat exit_code exit_reason exec_host pend_reason"
_REASONS = (
    (re.compile(r"TERM_(FORCE_)?(OWNER|ADMIN)\b|TERM_ORPHAN_SYSTEM"), JobState.CANCELLED),
    (re.compile(r"TERM_(RUNLIMIT|DEADLINE|WINDOW)\b"), JobState.TIMEOUT),
)


class LSFProvider(BatchProvider):
    """Jobs by ``bsub``; allocations by ``LSB_DJOB_HOSTFILE`` or ``LSB_MCPU_HOSTS``.

    Without ``cores_per_node``, whole nodes are asked for (``-nnodes``), as CSM systems
    take it, with the GPUs and memory that they have; with it, cores (``-n``).
    ``constraint`` is text for ``select[]``; what LSF itself has to say is in ``NAME.log``.
    See :class:`~ssdag.providers.batch.BatchProvider` for the parameters.
    """

    name = "lsf"
    mark = "#BSUB"
    id_pattern = re.compile(r"Job <(?P<id>\d+)> is submitted")
    states: ClassVar[Mapping[str, JobState]] = {
        "PEND": JobState.PENDING,
        "PROV": JobState.PENDING,  # its hosts are powered up
        "WAIT": JobState.PENDING,  # member of a chunk of jobs
        "PSUSP": JobState.HELD,
        "RUN": JobState.RUNNING,
        "USUSP": JobState.HELD,
        "SSUSP": JobState.HELD,
        "DONE": JobState.COMPLETED,
        "EXIT": JobState.FAILED,  # exit_reason says whether it was cancelled
        "UNKWN": JobState.UNKNOWN,  # its host does not answer: it may still run
        "ZOMBI": JobState.UNKNOWN,  # killed, but its host does not answer
    }
    aliases: ClassVar[Mapping[str, str]] = {"project": "account"}
    own_id = "$LSB_JOBID"
    own_member_id = "${LSB_JOBID}[${LSB_JOBINDEX}]"
    own_index = "$((LSB_JOBINDEX - 1))"
    redirect = True
    gone_pattern = re.compile(r"No matching job found|Job has already finished|is not found")
    unreachable_pattern = re.compile(r"Cannot connect to LSF|(LSF|LIM) is down|not responding")

    def directives(self, job: JobSpec) -> list[str]:
        """See :meth:`BatchProvider.directives`."""
        if job.qos:
            raise UnsupportedError("lsf: no qos; choose a queue, or write a directive (-sla)")
        name = re.sub(r"[^\w.+-]", "_", job.name, flags=re.ASCII)[:200]
        log = f"{base_path(job)}{'.%I' if job.array is not None else ''}.log"
        if re.search(r'%[IJ]|["\\$`]', base_path(job)):  # what no directive can express
            log = os.devnull
        texts = [
            f"-J {_quoted(name if job.array is None else f'{name}[1-{job.array}]')}",
            f"-o {_quoted(log)}",
            f"-W {minutes_of(job.walltime_s)}",
            "-r" if job.rerunnable else "-rn",
            *self._size(job),
        ]
        for letter, value in (("P", job.account), ("q", job.queue), ("U", job.reservation)):
            if value:
                texts.append(f"-{letter} {_quoted(value)}")
        if job.after:  # -ti: else it would pend for ever after one that failed
            conditions = " && ".join(f"done({job_id})" for job_id in job.after)
            texts += [f"-w {_quoted(conditions)}", "-ti"]
        return texts

    def script(self, job: JobSpec) -> str:
        """See :meth:`Provider.script`."""
        text = super().script(job)
        directives = len(self.directives(job)) + len(job.directives)
        if len(re.findall(r"^\s*#BSUB", text, re.MULTILINE)) != directives:
            raise UnsupportedError(f"lsf: job {job.name!r}: a #BSUB among its commands")
        return text

    @staticmethod
    def _size(job: JobSpec) -> list[str]:
        if not (cores := job.cores_per_node):  # whole nodes, and nothing else can be said
            if job.memory_per_node_bytes or job.constraint:
                raise UnsupportedError("lsf: memory and constraint need cores_per_node too")
            return [f"-nnodes {job.nodes}"]
        texts = [f"-n {job.nodes * cores}", f"-R {_quoted(f'span[ptile={cores}]')}"]
        if job.gpus_per_node:
            texts.append(f"-gpu num={job.gpus_per_node}/host")
        if size := job.memory_per_node_bytes:
            texts.append(f"-R {_quoted(f'rusage[mem={megabytes_of(size)}MB/host]')}")
        if job.constraint:
            texts.append(f"-R {_quoted(f'select[{job.constraint}]')}")
        return [*texts, "-x"] if job.exclusive else texts

    def submit_command(self, job: JobSpec, path: str) -> list[str]:
        """See :meth:`Provider.submit_command`; directives count on stdin everywhere."""
        return ["sh", "-c", 'exec bsub <"$1"', "bsub", path]

    def status_command(self, job_ids: Sequence[str]) -> list[str]:
        """See :meth:`BatchProvider.status_command`."""
        return ["bjobs", "-a", "-json", "-o", _FIELDS, *job_ids]

    def parse(self, answer: Answer, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """See :meth:`BatchProvider.parse`."""
        begin = answer.stdout.find("{")
        if begin < 0:
            if re.search(r"Job <[^>]*> is not found", answer.stderr + answer.stdout):
                return {}
            raise QueryError(answer.summary)
        found = {}
        for record in json.loads(answer.stdout[begin:])["RECORDS"]:
            if "ERROR" not in record:
                job_id, index = record["JOBID"].partition("[")[0], record["JOBINDEX"]
                job_id += f"[{index}]" if index not in ("", "0") else ""
                found[job_id] = self._status(record)
        return found

    def _status(self, record: Mapping[str, str]) -> JobStatus:
        state, reason = self.state_of(record["STAT"]), record["EXIT_REASON"]
        hosts = tuple(_compute(Counter(filter(None, record["EXEC_HOST"].split(":")))))
        if not state.final:
            return JobStatus(state, reason=record["PEND_REASON"].rstrip(";"), hosts=hosts)
        if state is JobState.COMPLETED:
            return JobStatus(state, 0, hosts=hosts)
        for pattern, other in _REASONS:
            state = other if pattern.search(reason) else state
        # Shells end with 128 + N too: a signal for sure only where LSF says so.
        code = int(record["EXIT_CODE"] or 0)
        end = ended(None, code - 128) if code > 128 and "TERM_" in reason else ended(code or None)
        text = f"{end.reason}: {reason}".strip(": ") or "EXIT"
        return JobStatus(state, end.exit_code, end.signal, text, hosts)

    def cancel_command(self, job_ids: Sequence[str]) -> list[str]:
        """See :meth:`BatchProvider.cancel_command`."""
        return ["bkill", *job_ids]

    def member_id(self, job_id: str, index: int) -> str:
        """See :meth:`BatchProvider.member_id`; LSF counts from 1."""
        return f"{job_id}[{index + 1}]"

    def allocation(self, env: Mapping[str, str] = os.environ) -> Allocation | None:
        """Return the nodes of this job; None outside one."""
        job_id = env.get("LSB_JOBID")
        if not job_id:
            return None
        if path := env.get("LSB_DJOB_HOSTFILE"):
            slots = nodefile.read(path)
        else:
            words = env.get("LSB_MCPU_HOSTS", "").split()
            slots = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        return Allocation(self.name, job_id, nodefile.nodes(_compute(slots), env, self.options))

    def launcher(self) -> Launcher:
        """Return jsrun's launcher where there is one, or else that of ``mpirun``."""
        if not self._launcher:
            hosts = tuple(node.host for node in here.nodes) if (here := self.allocation()) else ()
            found = shutil.which("jsrun")
            self._launcher = JsrunLauncher(hosts=hosts) if found else MpirunLauncher()
        return self._launcher


def _compute(slots: Mapping[str, int]) -> dict[str, int]:
    """Leave out the launch host of CSM systems: it comes first, with a single slot."""
    first, *others = slots.values() or [0]
    csm = first == 1 and others and min(others) > 1
    return dict(list(slots.items())[1 if csm else 0 :])


def _quoted(text: str) -> str:
    """Quote a value for a #BSUB line, which is split as a shell would."""
    if re.fullmatch(r"[A-Za-z0-9_.,:=+/@%-]+", one_line("a value", text)):
        return text
    if re.search(r'["\\$`]', text):
        raise UnsupportedError(f"lsf: {text!r} cannot be written into a directive")
    return f'"{text}"'
