# SPDX-License-Identifier: BSD-3-Clause
"""Slurm, with or without accounting.

``squeue -t all`` names jobs for MinJobAge (300 s by default) after their end, with their
exit code; ``sacct`` is asked for older ones, where a first try shows that it is there.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, ClassVar

from ssdag.errors import UnsupportedError
from ssdag.providers import hostlists
from ssdag.providers import slurm_answers as answers
from ssdag.providers.base import Allocation, JobSpec, JobStatus, Node
from ssdag.providers.batch import BatchProvider, QueryError
from ssdag.providers.gpus import visible_gpus
from ssdag.providers.options import clock_of, megabytes_of
from ssdag.providers.script import one_line, output_paths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.providers.commands import Answer


class SlurmProvider(BatchProvider):
    """Jobs by ``sbatch``; allocations by ``SLURM_JOB_*``. ``partition`` is the queue.

    See :class:`~ssdag.providers.batch.BatchProvider` for the parameters.
    """

    name = "slurm"
    mark = "#SBATCH"
    id_pattern = re.compile(r"^(?P<id>\d+)(?:;\S+)?\s*$", re.MULTILINE)
    states = answers.STATES
    aliases: ClassVar[Mapping[str, str]] = {"partition": "queue"}
    own_id = "$SLURM_JOB_ID"
    own_member_id = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    own_index = "$SLURM_ARRAY_TASK_ID"
    cancel_is_told = True
    gone_pattern = re.compile(r"Invalid job id|already completing or completed")
    # Not "Socket timed out": the controller may have taken the job, and answered too late.
    unreachable_pattern = re.compile(r"Unable to contact slurm controller|Connection refused")
    # What an allocation that we are in, or a user's habit, would change in our commands.
    foreign_variables = re.compile(
        r"(SLURM_(?!CONF$|JWT$|CLUSTERS$)|SLURMD_|SRUN_|SQUEUE_|SACCT_|PMI_|PMIX_)"
    )
    launcher_name = "SrunLauncher"

    _is_old = False
    _has_accounting: bool | None = None

    def directives(self, job: JobSpec) -> list[str]:
        """See :meth:`BatchProvider.directives`."""
        out, err = output_paths(job)
        stem = ".%a" if job.array is not None else ""
        options: list[tuple[str, object]] = [
            ("job-name", job.name),
            ("output", _pattern(out.removesuffix(".out")) + stem + ".out"),
            ("error", _pattern(err.removesuffix(".err")) + stem + ".err"),
            ("nodes", job.nodes),
            ("time", clock_of(job.walltime_s)),
            ("ntasks-per-node", job.cores_per_node),
            ("gpus-per-node", job.gpus_per_node or None),
            ("mem", f"{megabytes_of(m)}M" if (m := job.memory_per_node_bytes) else None),
            ("partition", job.queue),
            ("account", job.account),
            ("qos", job.qos),
            ("constraint", job.constraint),
            ("reservation", job.reservation),
            ("array", f"0-{job.array - 1}" if job.array is not None else None),
            ("dependency", "afterok:" + ":".join(job.after) if job.after else None),
        ]
        texts = [f"--{key}={_quoted(key, str(value))}" for key, value in options if value]
        if job.after:  # else it would pend for ever after one that failed
            texts.append("--kill-on-invalid-dep=yes")
        if job.exclusive:
            texts.append("--exclusive")
        texts.append("--requeue" if job.rerunnable else "--no-requeue")
        return texts

    def submit_command(self, job: JobSpec, path: str) -> list[str]:
        """See :meth:`Provider.submit_command`."""
        return ["sbatch", "--parsable", path]

    def status_command(self, job_ids: Sequence[str]) -> list[str]:
        """See :meth:`BatchProvider.status_command`."""
        if self._is_old:
            return ["scontrol", "show", "job", "-o"]
        ids = list(dict.fromkeys(job_id.partition("_")[0] for job_id in job_ids))
        # One unknown id alone is an error, among several it is left out: ask for two.
        return ["squeue", "-h", "-r", "-t", "all", "-O", answers.FIELDS, "-j", ",".join(ids * 2)]

    def parse(self, answer: Answer, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """See :meth:`BatchProvider.parse`."""
        if self._is_old:
            return answers.of_scontrol(answer, self.state_of)
        if answer.exit_code and "format specification" in answer.stderr:
            self._is_old = True  # before 20.11: ask scontrol from now on
        return answers.of_squeue(answer, self.state_of)

    def resolve(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Ask ``sacct``, if there is accounting; see :meth:`BatchProvider.resolve`."""
        if self._has_accounting is False:
            return {}
        argv = ["sacct", "-n", "-X", "-P", "-o", "JobID,State,ExitCode,NodeList", "-j"]
        answer = self.runner.run([*argv, ",".join(job_ids)], self.timeout_s)
        if answer.exit_code != 0:
            if "is disabled" in answer.stderr or "No such file" in answer.stderr:
                self._has_accounting = False
                return {}
            raise QueryError(answer.summary)
        self._has_accounting = True
        return answers.of_sacct(answer.stdout, self.state_of)

    def cancel_command(self, job_ids: Sequence[str]) -> list[str]:
        """See :meth:`BatchProvider.cancel_command`."""
        return ["scancel", *job_ids]

    def member_id(self, job_id: str, index: int) -> str:
        """See :meth:`BatchProvider.member_id`."""
        return f"{job_id}_{index}"

    def allocation(self, env: Mapping[str, str] = os.environ) -> Allocation | None:
        """Return the nodes of ``SLURM_JOB_NODELIST``; None outside a job.

        All nodes are taken to have the GPUs of this one, since Slurm tells no more.
        """
        job_id, hosts = env.get("SLURM_JOB_ID"), env.get("SLURM_JOB_NODELIST")
        if not job_id or not hosts:
            return None
        names = hostlists.parse(hosts)
        cores = hostlists.repeated(env.get("SLURM_JOB_CPUS_PER_NODE", "1"))
        cores += cores[-1:] * (len(names) - len(cores))
        gpus = visible_gpus(env)
        if gpus is None:
            count = env.get("SLURM_GPUS_ON_NODE", "")
            ids = tuple(i for i in env.get("SLURM_JOB_GPUS", "").split(",") if i)
            gpus = tuple(str(i) for i in range(int(count))) if count.isdigit() else ids
        nodes = (
            Node(name, n, gpus, _memory(env, n)) for name, n in zip(names, cores, strict=False)
        )
        return Allocation(self.name, job_id, tuple(nodes), self._ends(job_id, env))

    def _ends(self, job_id: str, env: Mapping[str, str]) -> float | None:
        if env.get("SLURM_JOB_END_TIME", "").isdigit():
            return float(env["SLURM_JOB_END_TIME"])
        answer = self.runner.run(["squeue", "-h", "-o", "%e", "-j", job_id], self.timeout_s)
        try:
            text = answer.stdout.strip() if answer.exit_code == 0 else ""
            return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
        except (ValueError, OverflowError):  # no answer, or "N/A"
            return None


def _memory(env: Mapping[str, str], cores: int) -> int | None:
    for name, times in (("SLURM_MEM_PER_NODE", 1), ("SLURM_MEM_PER_CPU", cores)):
        if (text := env.get(name, "")).isdigit() and int(text):
            return int(text) * times << 20
    return None


def _pattern(path: str) -> str:
    """Escape a path for --output, where % begins a replacement and \\ turns them off."""
    if "\\" in path:
        raise UnsupportedError(f"Slurm cannot write output into {path!r}: it holds a backslash")
    return path.replace("%", "%%")


def _quoted(option: str, text: str) -> str:
    """Quote a value for an #SBATCH line: in double quotes, the only kind that takes all."""
    if re.fullmatch(r"[A-Za-z0-9_.,:=+/@%-]+", one_line(f"--{option}", text)):
        return text
    return '"' + re.sub(r'[\\"]', r"\\\g<0>", text) + '"'
