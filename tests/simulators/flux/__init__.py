# SPDX-License-Identifier: BSD-3-Clause
"""Flux, from its manual pages only: ``flux batch``, ``jobs``, ``cancel`` and what scripts ask.

All of it is lenient: no broker was ever seen. It knows the options that are documented,
the states of RFC 21, and that ids are base 58 numbers behind an ƒ.
"""

from __future__ import annotations

import re
import shlex
import string
from typing import Any

from tests.simulators import f58
from tests.simulators.jobs import Cluster, Job, Stage
from tests.simulators.server import Answer, Request

_VALUED = {
    "-N": "nodes", "-n": "nslots", "-c": "cores-per-slot", "-g": "gpus-per-slot",
    "-t": "time-limit", "-q": "queue", "-B": "bank",
}  # fmt: skip
_LONG = {
    *_VALUED.values(), "job-name", "output", "error", "requires", "dependency", "urgency",
    "setattr", "cwd", "env", "time-limit",
}  # fmt: skip
_FLAGS = {"-x": "exclusive", "--exclusive": "exclusive", "--wrap": "wrap"}
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Refusal(Exception):
    """Words of a refusal."""


class Dialect:
    """The sub-commands of ``flux``."""

    HOST = "flux{}"
    COMMANDS = ("flux",)
    QUEUES = ("", "batch", "debug")

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.on_start = self.start

    def down(self, request: Request) -> Answer:
        """Say that there is no broker."""
        name = request.argv[0] if request.argv else "flux"
        said = "ERROR: Unable to connect to Flux: broker socket /run/flux/local was not found"
        return Answer(1, "", f"flux-{name}: {said}\n")

    def answer(self, request: Request) -> Answer:
        """Answer a command."""
        sub, *argv = request.argv or [""]
        commands = {
            "batch": self._batch,
            "jobs": self._jobs,
            "cancel": self._cancel,
            "getattr": self._getattr,
            "resource": self._resource,
            "job": self._job,
            "version": self._version,
        }
        if sub not in commands:
            return Answer(1, "", f"flux: `{sub}' is not a flux command.  See 'flux --help'\n")
        try:
            return commands[sub](request, argv)
        except Refusal as refusal:
            return Answer(1, "", f"flux-{sub}: ERROR: {refusal}\n")

    # -- ids -------------------------------------------------------------------------

    def f58(self, job: Job, request: Request) -> str:
        """Return an id as it is printed."""
        prefix = "f" if request.env.get("FLUX_F58_FORCE_ASCII") else "ƒ"
        return prefix + f58.digits(job.number * 58 + 1)

    def find(self, word: str) -> Job | None:
        """Return the job that an id in any form names."""
        value = int(word) if word.isdigit() else f58.value(word)
        if value is None:
            return None
        number, rest = divmod(value, 58)
        tasks = self.cluster.tasks(number) if rest == 1 else []
        return tasks[0] if tasks else None

    # -- commands --------------------------------------------------------------------

    def start(self, job: Job) -> None:
        """Give a job its environment: the submitter's, and the way to its own broker."""
        job.env = {
            **job.facts["env"],
            "FLUX_URI": f"local://{self.cluster.folder}/spool/{job.number}",
            "SSDAG_TEST_FLUX_JOB": str(job.number),
            "SSDAG_TEST_FLUX_HOSTS": ",".join(job.hosts),
        }

    def _version(self, request: Request, argv: list[str]) -> Answer:
        return Answer(0, "commands:    \t\t0.73.0\nlibflux-core:\t\t0.73.0\n")

    def _batch(self, request: Request, argv: list[str]) -> Answer:
        options, rest = read_options(argv)
        if not rest:
            raise Refusal("a script is needed here")
        try:
            with open(rest[0]) as file:
                text = file.read()
        except OSError as error:
            raise Refusal(f"{rest[0]}: {error.strerror}") from None
        marked = [m[1] for line in text.splitlines() if (m := re.match(r"# ?flux:(.*)", line))]
        in_script, _ = read_options(
            [w for line in marked for w in shlex.split(line, comments=True)]
        )
        options = {**in_script, **options}
        queue = options.get("queue", "")
        if queue not in self.QUEUES:
            raise Refusal(f"[Errno 22] Invalid queue '{queue}' specified")
        number = self.cluster.new_number()
        copy = f"{self.cluster.folder}/spool/{number}.sh"
        with open(copy, "w") as file:
            file.write(text)
        job = Job(
            number,
            options.get("job-name", rest[0].rpartition("/")[2]),
            ["/bin/bash", copy, *rest[1:]],
            options.get("cwd", request.cwd),
            {},
            "",
            "",
            nodes=int(options.get("nodes", "1")),
            cores=int(options.get("cores-per-slot", self.cluster.cores)),
            walltime_s=_duration(options["time-limit"]) if "time-limit" in options else None,
            after=self._after(options.get("dependency", "")),
            rerunnable=False,
            facts={"env": request.env, "queue": queue, "urgency": options.get("urgency", "16")},
        )
        name = self.f58(job, request)
        output = options.get("output", "flux-{{id}}.out").replace("{{id}}", name)
        job.stdout = output if output.startswith("/") else f"{request.cwd}/{output}"
        job.stderr = options.get("error", job.stdout)
        job.append = job.stdout == job.stderr
        if job.facts["urgency"] == "0":
            job.stage = Stage.HELD
        self.cluster.add(job)
        return Answer(0, f"{name}\n")

    def _after(self, text: str) -> tuple[int, ...]:
        found = []
        for item in text.split(",") if text else []:
            job = self.find(item.removeprefix("afterok:"))
            if job is None:
                raise Refusal(f"dependency {item}: invalid jobid")
            found.append(job.number)
        return tuple(found)

    def _jobs(self, request: Request, argv: list[str]) -> Answer:
        template, words, everything = "{id.f58} {state}", [], False
        rest = iter(argv)
        for word in rest:
            if word in ("-no", "-o"):
                template = next(rest)
            elif word == "-a":
                everything = True
            elif not word.startswith("-"):
                words.append(word)
        answer = Answer()
        jobs = []
        for word in words:
            job = self.find(word)
            if job is None:
                answer.rc = 1
                answer.err += f"flux-jobs: ERROR: JobID {word} unknown\n"
            else:
                jobs.append(job)
        if not words:
            jobs = [j for j in self.cluster.jobs.values() if everything or j.stage != Stage.ENDED]
        answer.out = "".join(_formatted(template, self._facts(j, request)) + "\n" for j in jobs)
        return answer

    def _facts(self, job: Job, request: Request) -> dict[str, str]:
        states = {
            Stage.QUEUED: "SCHED",
            Stage.WAITING: "DEPEND",
            Stage.HELD: "PRIORITY",
            Stage.RUNNING: "RUN",
            Stage.ENDING: "CLEANUP",
            Stage.ENDED: "INACTIVE",
        }
        results = {"walltime": "TIMEOUT", "cancelled": "CANCELED", "dependency": "CANCELED"}
        result = code = ""
        if job.stage is Stage.ENDED:
            good = job.how == "exit" and job.exit_code == 0
            result = results.get(job.how, "COMPLETED" if good else "FAILED")
            code = str(-job.signal if job.signal else job.exit_code) if job.runs else "-128"
        exceptions = {
            "walltime": ("timeout", "resource allocation expired"),
            "cancelled": ("cancel", ""),
            "lost": ("node-failure", "lost contact with job shell on flux1"),
            "dependency": ("dependency", "dependency/failure: job failed"),
        }
        kind, note = exceptions.get(job.how, ("", "")) if result else ("", "")
        return {
            "id.f58": self.f58(job, request),
            "name": job.name,
            "state": str(job.facts.get("shown") or states[job.stage]),
            "result": result,
            "returncode": code,
            "exception.type": kind,
            "exception.note": note,
            "urgency": "0" if job.stage is Stage.HELD else job.facts["urgency"],
            "nodelist": f"flux[{','.join(h[4:] for h in job.hosts)}]" if job.hosts else "",
            "queue": job.facts["queue"],
        }

    def _cancel(self, request: Request, argv: list[str]) -> Answer:
        answer = Answer()
        for word in argv:
            job = self.find(word)
            if job is None or job.stage is Stage.ENDED:
                why = "unknown job id" if job is None else "job is inactive"
                answer.rc, answer.err = 1, f"{answer.err}flux-cancel: ERROR: {word}: {why}\n"
            else:
                self.cluster.cancel(job)
        return answer

    # -- what scripts ask ------------------------------------------------------------

    def _own(self, request: Request) -> Job:
        tasks = self.cluster.tasks(int(request.env.get("SSDAG_TEST_FLUX_JOB", "0")))
        if not tasks:
            raise Refusal("no such attribute")
        return tasks[0]

    def _getattr(self, request: Request, argv: list[str]) -> Answer:
        if argv == ["size"]:
            return Answer(0, f"{len(self.cluster.hosts)}\n")
        job = self._own(request)
        values = {"jobid": self.f58(job, request), "hostlist": ",".join(job.hosts)}
        return Answer(0, values[argv[0]] + "\n")

    def _job(self, request: Request, argv: list[str]) -> Answer:
        if argv[0] == "id":
            job = self.find(argv[-1])
            if job is None:
                raise Refusal("invalid jobid")
            return Answer(0, self.f58(job, request).replace("ƒ", "f") + "\n")
        if argv[0] == "timeleft":
            return Answer(0, f"{int(self._own(request).walltime_s or 0)}\n")
        raise Refusal(f"unknown subcommand {argv[0]}")

    def _resource(self, request: Request, argv: list[str]) -> Answer:
        job = self._own(request)
        facts = {
            "nodelist": f"flux[{','.join(h[4:] for h in job.hosts)}]",
            "nnodes": str(len(job.hosts)),
            "ncores": str(job.cores * len(job.hosts)),
            "ngpus": "0",
            "state": "all",
        }
        return Answer(0, _formatted(argv[-1], facts) + "\n")


def _formatted(template: str, facts: dict[str, str]) -> str:
    parts = []
    for text, name, _, _ in string.Formatter().parse(template):
        parts.append(text)
        if name is not None:
            if name not in facts:
                raise Refusal(f"Unknown format field: {name}")
            parts.append(facts[name])
    return "".join(parts)


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not match:
        raise Refusal(f"invalid duration '{text}'")
    return float(match[1]) * (_UNITS[match[2]] if match[2] else 60.0)


def read_options(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return options by their long names, and the rest."""
    options: dict[str, Any] = {}
    position = 0
    while position < len(words) and words[position].startswith("-"):
        word, equals, value = words[position].partition("=")
        name = _VALUED.get(word[:2]) if not word.startswith("--") else word[2:]
        if word in _FLAGS:
            options[_FLAGS[word]] = "true"
        elif name in _LONG:
            if not word.startswith("--") and len(word) > 2:
                value = words[position][2:]
            elif not equals:
                position += 1
                value = words[position] if position < len(words) else ""
            options[name] = value
        else:
            raise Refusal(f"unrecognized arguments: {words[position]}")
        position += 1
    return options, words[position:]
