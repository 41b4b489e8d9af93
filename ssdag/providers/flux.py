# SPDX-License-Identifier: BSD-3-Clause
"""Flux, written after its manual pages (0.49 to 0.73); never run against a real broker.

None can be had where this is tested, so what is tested is that our commands and their
answers are as documented. Ids are asked for with an ASCII ``f`` in front, so that they are
the same in every locale.
"""

from __future__ import annotations

import math
import os
import re
import time
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

from ssdag.errors import ProviderError, UnsupportedError
from ssdag.providers import hostlists, nodefile
from ssdag.providers.base import Allocation, JobSpec, JobStatus, Node
from ssdag.providers.batch import BatchProvider, QueryError
from ssdag.providers.records import ended
from ssdag.providers.script import one_line, output_paths
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.providers.commands import Answer

_FLUX = ("env", "FLUX_F58_FORCE_ASCII=1", "flux")
# The note comes last: it may hold anything.
_FIELDS = "{id.f58}|{state}|{result}|{returncode}|{urgency}|{nodelist}|{exception.type}|"
_FORMAT = _FIELDS + "{exception.note}"
_NEVER_RAN = -128


class FluxProvider(BatchProvider):
    """Jobs by ``flux batch``; allocations by the instance that ``FLUX_URI`` names.

    Never run against a real broker. ``account`` is Flux's bank, ``constraint`` is text for
    ``--requires``; Flux runs no job a second time by itself.
    See :class:`~ssdag.providers.batch.BatchProvider` for the parameters.
    """

    name = "flux"
    mark = "# flux:"
    id_pattern = re.compile(r"^(?P<id>f[1-9A-HJ-NP-Za-km-z]+)\s*$", re.MULTILINE)
    states: ClassVar[Mapping[str, JobState]] = {
        "NEW": JobState.PENDING,
        "DEPEND": JobState.PENDING,
        "PRIORITY": JobState.PENDING,
        "SCHED": JobState.PENDING,
        "RUN": JobState.RUNNING,
        "CLEANUP": JobState.RUNNING,
        # Results of INACTIVE:
        "COMPLETED": JobState.COMPLETED,
        "FAILED": JobState.FAILED,
        "CANCELED": JobState.CANCELLED,
        "TIMEOUT": JobState.TIMEOUT,
    }
    aliases: ClassVar[Mapping[str, str]] = {"bank": "account"}
    own_id = "$(FLUX_F58_FORCE_ASCII=1 flux job id --to=f58plain $(flux getattr jobid))"
    cancel_is_told = True
    gone_pattern = re.compile(r"unknown job|job is inactive|invalid jobid|JobID \S+ unknown")
    unreachable_pattern = re.compile(r"[Uu]nable to connect to Flux|[Cc]onnection refused")
    launcher_name = "FluxLauncher"
    ids_per_query = 500  # flux jobs lists at most 1000 unless told otherwise

    # -- jobs ------------------------------------------------------------------------

    def directives(self, job: JobSpec) -> list[str]:
        """See :meth:`BatchProvider.directives`."""
        for name in ("qos", "reservation", "memory_per_node_bytes"):
            if getattr(job, name):
                raise UnsupportedError(f"flux: it has no {name}; choose a queue or a constraint")
        out, err = output_paths(job)
        options: list[tuple[str, object]] = [
            ("job-name", job.name),
            ("output", _plain(out)),
            ("error", _plain(err)),
            ("nodes", job.nodes),
            ("time-limit", f"{max(1, math.ceil(job.walltime_s))}s"),
            ("queue", job.queue),
            ("bank", job.account),
            ("requires", job.constraint),
            ("dependency", ",".join(f"afterok:{job_id}" for job_id in job.after)),
        ]
        if job.cores_per_node:  # a slot for each node
            options += [("nslots", job.nodes), ("cores-per-slot", job.cores_per_node)]
            options.append(("gpus-per-slot", job.gpus_per_node or None))
        elif job.gpus_per_node:
            raise UnsupportedError("flux: gpus_per_node needs cores_per_node too")
        texts = [f"--{key}={_quoted(str(value))}" for key, value in options if value]
        return [*texts, "--exclusive"] if job.exclusive else texts

    def submit_command(self, job: JobSpec, path: str) -> list[str]:
        """See :meth:`Provider.submit_command`."""
        return [*_FLUX, "batch", path]

    def status_command(self, job_ids: Sequence[str]) -> list[str]:
        """See :meth:`BatchProvider.status_command`."""
        return [*_FLUX, "jobs", "-a", "-no", _FORMAT, *job_ids]

    def parse(self, answer: Answer, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """See :meth:`BatchProvider.parse`."""
        found = {}
        for line in answer.stdout.splitlines(keepends=True):
            fields = line.split("|", 7)
            if len(fields) != 8 or not line.endswith("\n"):
                raise QueryError(f"flux jobs wrote {line[:200]!r}")
            fields[7] = fields[7].strip()
            found[fields[0]] = self._status(*fields[1:])
        told = answer.exit_code == 1 and self.gone_pattern.search(answer.stderr)
        if len(found) < len(job_ids) and not told:
            raise QueryError(answer.summary)
        return found

    def _status(
        self, word: str, result: str, code: str, urgency: str, nodes: str, kind: str, note: str
    ) -> JobStatus:
        hosts = tuple(hostlists.parse(nodes)) if nodes else ()
        state = self.state_of(result if word == "INACTIVE" else word)
        reason = ": ".join(part for part in (kind, note) if part)
        if not state.final:
            if state is JobState.PENDING and urgency == "0":
                state = JobState.HELD
            return JobStatus(state, reason=reason, hosts=hosts)
        number = int(code or 0)
        if number == _NEVER_RAN:
            return JobStatus(state, reason=reason or "it never ran", hosts=hosts)
        end = ended(number) if number >= 0 else ended(None, -number)
        text = reason or ("" if state is JobState.COMPLETED else end.reason)
        return JobStatus(state, end.exit_code, end.signal, text, hosts)

    def cancel_command(self, job_ids: Sequence[str]) -> list[str]:
        """See :meth:`BatchProvider.cancel_command`."""
        return [*_FLUX, "cancel", *job_ids]

    # -- where am I ------------------------------------------------------------------

    def allocation(self, env: Mapping[str, str] = os.environ) -> Allocation | None:
        """Return the nodes of the instance that ``FLUX_URI`` names; None outside one.

        Raises
        ------
        ProviderError
            The instance does not answer.
        """
        uri = env.get("FLUX_URI")
        if not uri:
            return None
        wanted = "{nodelist}|{nnodes}|{ncores}|{ngpus}"
        text = self._ask("resource", "list", "-n", "-s", "all", "-o", wanted)
        try:
            nodelist, _, cores, gpus = text.splitlines()[0].split("|")
            hosts = hostlists.parse(nodelist)
            each = int(cores) // len(hosts), int(gpus) // len(hosts)
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise ProviderError(f"flux resource list wrote {text[:200]!r}") from error
        found = nodefile.nodes(dict.fromkeys(hosts, each[0]), env, self.options)
        if not found[0].gpus and each[1]:
            ids = tuple(str(index) for index in range(each[1]))
            found = tuple(Node(n.host, n.cores, ids, n.memory_bytes) for n in found)
        try:
            job_id = self._ask("getattr", "jobid").strip()
            left = self._ask("job", "timeleft").strip()
        except ProviderError:  # an instance that is no job of another one
            job_id, left = urlsplit(uri).path, ""
        ends = time.time() + float(left) if left.isdigit() else None
        return Allocation(self.name, job_id, found, ends)

    def _ask(self, *argv: str) -> str:
        answer = self.runner.run([*_FLUX, *argv], self.timeout_s)
        if answer.exit_code != 0:
            raise ProviderError(answer.summary, command=answer.argv, exit_code=answer.exit_code)
        return answer.stdout


def _plain(path: str) -> str:
    """Return a path for --output, where double braces begin a replacement."""
    if "{{" in path:
        raise UnsupportedError(f"flux: {path!r}: Flux replaces what is between double braces")
    return path


def _quoted(text: str) -> str:
    """Quote a value for a directive, which is split as a shell would."""
    if re.fullmatch(r"[A-Za-z0-9_.,:+/@%-]+", one_line("a value", text)):
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"
