# SPDX-License-Identifier: BSD-3-Clause
"""Grid Engine: Sun's, Son of, Univa, Altair, Open Cluster. Written after 8.1.9's pages.

``qstat`` forgets a job as soon as it has ended; ``qacct`` knows it some seconds later. It
knows slots and no nodes: more than one core needs a parallel environment of the site.
Exit codes 99 and 100 would make Grid Engine run a job again, or keep it in an error state:
the script then ends with 98, and its own code is read from the file that it wrote.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING, ClassVar

from ssdag.errors import UnsupportedError
from ssdag.launchers.mpiexec import MpiexecLauncher
from ssdag.providers import gridengine_answers as answers
from ssdag.providers import script as scripts
from ssdag.providers.base import Allocation, JobSpec, JobStatus
from ssdag.providers.batch import BatchProvider
from ssdag.providers.options import clock_of, megabytes_of
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.launchers.base import Launcher
    from ssdag.providers.commands import Answer

_HIDDEN_EXIT_CODE = 98


class GridEngineProvider(BatchProvider):
    """Jobs by ``qsub``; allocations by ``PE_HOSTFILE``.

    Parameters
    ----------
    parallel_environment : str, optional
        The site's name of a parallel environment. It must put ``cores_per_node`` slots on
        each host. Needed for more than one node or core.
    **options
        See :class:`~ssdag.providers.batch.BatchProvider`. ``exclusive`` is False by
        default, since it needs a resource called "exclusive" that not every site has.
    """

    name = "gridengine"
    mark = "#$"
    id_pattern = re.compile(r"^(?P<id>\d+)(?:\.\d+-\d+:\d+)?\s*$", re.MULTILINE)
    states = answers.STATES
    defaults: ClassVar[Mapping[str, object]] = {"exclusive": False}
    own_id = "$JOB_ID"
    own_member_id = "$JOB_ID.$SGE_TASK_ID"
    own_index = "$((SGE_TASK_ID - 1))"
    redirect = True
    at_exit = f'case "$ssdag_code" in 99|100) exit {_HIDDEN_EXIT_CODE};; esac'
    gone_pattern = re.compile(r"does not exist|already in deletion|has (deleted|registered)")
    unreachable_pattern = re.compile(r"commlib error|unable to contact qmaster|got select error")
    launcher_name = "SingleLauncher"

    def __init__(self, *, parallel_environment: str | None = None, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._environment = parallel_environment

    def directives(self, job: JobSpec) -> list[str]:
        """See :meth:`BatchProvider.directives`."""
        for name in ("qos", "constraint"):
            if getattr(job, name):
                raise UnsupportedError(f"Grid Engine has no {name}; use directives=('-l ...',)")
        if job.gpus_per_node:
            raise UnsupportedError(
                "Grid Engine sites have names of their own for GPUs: use "
                "directives=('-l gpu=1',) or what yours has"
            )
        slots = job.nodes * (job.cores_per_node or 1)
        if slots > 1 and not self._environment:
            raise UnsupportedError(
                f"{job.nodes} nodes with {job.cores_per_node or 1} cores: Grid Engine needs "
                "parallel_environment=, one of those that `qconf -spl` lists"
            )
        # A name is a label there, with few letters allowed; our files keep the real one.
        label = re.sub(r"[^\w.+-]|^(?=\d)", "_", scripts.one_line("the name", job.name), flags=re.A)
        per_slot = -(-(job.memory_per_node_bytes or 0) // (job.cores_per_node or 1))
        texts = [
            "-S /bin/bash",
            f"-N {label}",
            "-o /dev/null",
            "-e /dev/null",
            f"-l h_rt={clock_of(job.walltime_s)}",
            f"-r {'y' if job.rerunnable else 'n'}",
        ]
        for mark, value in (
            (f"-pe {self._environment}", slots if slots > 1 else None),
            ("-q", job.queue),
            ("-P", job.account),
            ("-ar", job.reservation),
            ("-t", f"1-{job.array}" if job.array is not None else None),
            ("-hold_jid", ",".join(job.after)),
        ):
            if value:
                texts.append(f"{mark} {_word(mark, str(value))}")
        if per_slot:
            texts.append(f"-l h_vmem={megabytes_of(per_slot)}M")
        if job.exclusive:
            texts.append("-l exclusive=true")
        return texts

    def first_lines(self, job: JobSpec) -> list[str]:
        """Look how jobs ended that must end *well*: -hold_jid lets go in any case."""
        if re.search(r"^\s*#\$", "\n".join((*job.commands, job.worker_init)), re.MULTILINE):
            raise UnsupportedError(
                f"job {job.name!r}: a line begins with #$, which Grid Engine takes for options "
                "wherever it stands; use directives="
            )
        lines = []
        for job_id in job.after:
            spec = self._jobs.spec(job_id)
            if spec is None or spec.array is not None:
                raise UnsupportedError(
                    f"after={job_id!r}: Grid Engine does not tell a job how another one ended; "
                    "only single jobs that this provider submitted can be waited for"
                )
            path = quote(scripts.exit_path(spec, job_id))
            lines.append(
                f'if [ "$(cat {path})" != 0 ]; then echo "ssdag: job {job_id}, which must end '
                'well first, did not" >&2; exit 1; fi'
            )
        return lines

    def submit_command(self, job: JobSpec, path: str) -> list[str]:
        """See :meth:`Provider.submit_command`."""
        return ["qsub", "-terse", path]

    def status_command(self, job_ids: Sequence[str]) -> list[str]:
        """See :meth:`BatchProvider.status_command`."""
        return ["qstat", "-xml", "-g", "d"]

    def parse(self, answer: Answer, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """See :meth:`BatchProvider.parse`."""
        return answers.of_qstat(answer, self.state_of)

    def follow_up(self, found: dict[str, JobStatus]) -> dict[str, JobStatus]:
        """Ask why jobs are in an error state, and remove them, or they would stay for ever."""
        told = {}
        for job_id, status in found.items():
            if status.state is JobState.FAILED:
                number = job_id.partition(".")[0]
                answer = self.runner.run(["qstat", "-j", number], self.timeout_s)
                why = answers.error_reason(answer.stdout)
                told[job_id] = replace(status, reason=f"{status.reason}: {why}".rstrip(": "))
                self.runner.run(self.cancel_command([job_id]), self.timeout_s)
        return told

    def resolve(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Look at what scripts have written down, then ask ``qacct``, which is late.

        See :meth:`BatchProvider.resolve`.
        """
        written = {job_id: self.from_file(job_id) for job_id in job_ids}
        found = {job_id: status for job_id, status in written.items() if status is not None}
        rest = [job_id for job_id in job_ids if job_id not in found]
        for number in dict.fromkeys(job_id.partition(".")[0] for job_id in rest):
            answer = self.runner.run(["qacct", "-j", number], self.timeout_s)
            # One that was not written yet, or no accounting: both end with code 1.
            if answer.exit_code == 0:
                found = answers.of_qacct(answer.stdout) | found
        return found

    def cancel_command(self, job_ids: Sequence[str]) -> list[str]:
        """See :meth:`BatchProvider.cancel_command`."""
        return ["qdel", *job_ids]

    def member_id(self, job_id: str, index: int) -> str:
        """See :meth:`BatchProvider.member_id`: tasks count from 1 there."""
        return f"{job_id}.{index + 1}"

    def allocation(self, env: Mapping[str, str] = os.environ) -> Allocation | None:
        """Return the hosts of ``PE_HOSTFILE``, or this one; None outside a job.

        Grid Engine tells a job neither its memory nor its end.
        """
        found = answers.nodes_of_job(env)
        return None if found is None else Allocation(self.name, *found)

    def launcher(self) -> Launcher:
        """See :meth:`Provider.launcher`: over several hosts it is Hydra, which uses qrsh."""
        if self._launcher is None and self.options.nodes_per_block > 1:
            self._launcher = MpiexecLauncher()
        return super().launcher()


def _word(mark: str, text: str) -> str:
    if not re.fullmatch(r"[\w.,:=+/@*-]+", scripts.one_line(mark, text), re.ASCII):
        raise UnsupportedError(f"Grid Engine cannot take {text!r} for {mark}")
    return text
