# SPDX-License-Identifier: BSD-3-Clause
"""``qsub`` of PBS: options, directives of the script, refusals."""

from __future__ import annotations

import getopt
import os
import re
from typing import TYPE_CHECKING

from tests.simulators.jobs import Job, Stage
from tests.simulators.server import Answer, Request

if TYPE_CHECKING:
    from tests.simulators.pbs import Dialect

LETTERS = "A:J:N:P:S:W:a:c:e:hj:k:l:m:M:o:p:q:r:u:v:V"


class Refusal(Exception):
    """The words and the return code of a refusal."""

    def __init__(self, rc: int, words: str) -> None:
        super().__init__(words)
        self.rc = rc
        self.words = words


def split(line: str) -> list[str]:
    """Split a directive as PBS does: blanks, and quotes that group; no escapes."""
    words = re.findall(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""", line)
    return [re.sub(r"""(["'])(.*?)\1""", r"\2", word) for word in words]


def directives(text: str, mark: str = "#PBS") -> list[str]:
    """Return the words of all directives before the first line that is a command."""
    words: list[str] = []
    for line in text.splitlines():
        if line.startswith(mark) and line[len(mark) : len(mark) + 1] in (" ", "\t", ""):
            words += split(line[len(mark) :])
        elif line.strip() and not line.lstrip().startswith(("#", ":")):
            break
    return words


def seconds(text: str) -> float:
    """Return the seconds of ``HH:MM:SS``, or of a plain number."""
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + float(part)
    return total


def options_of(words: list[str], letters: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Parse options; a wrong one is refused."""
    try:
        return getopt.getopt(words, letters)
    except getopt.GetoptError as error:
        raise Refusal(2, f"qsub: {error}\nusage: qsub [options] [script]") from None


def run(dialect: Dialect, request: Request) -> Answer:
    """Answer ``qsub``."""
    try:
        return Answer(0, _submit(dialect, request) + "\n")
    except Refusal as refusal:
        return Answer(refusal.rc, "", refusal.words + "\n")


def read_script(request: Request, rest: list[str]) -> str:
    """Return the text of the script that is named."""
    if not rest:
        raise Refusal(2, "qsub: a script is needed here")
    try:
        with open(os.path.join(request.cwd, rest[0])) as file:
            return file.read()
    except OSError:
        raise Refusal(1, "qsub: script file:: No such file or directory") from None


def environment(request: Request, options: list[tuple[str, str]]) -> dict[str, str]:
    """Return what a job inherits: nothing but PBS_O_* and what -v or -V forwards."""
    home = request.env.get("HOME", "/")
    env = {
        "HOME": home,
        "PATH": "/usr/bin:/bin",
        "SHELL": "/bin/bash",
        "PBS_O_WORKDIR": request.cwd,
        "PBS_O_HOST": "login",
        "PBS_O_HOME": home,
        "PBS_O_PATH": request.env.get("PATH", ""),
    }
    for letter, value in options:
        if letter == "-V":
            env = {**request.env, **env}
        elif letter == "-v":
            if '"' in value or "'" in value:
                raise Refusal(1, "qsub: cannot send environment with the job")
            for item in value.split(","):
                name, equals, text = item.partition("=")
                env[name] = text if equals else request.env.get(name, "")
    return env


def make_job(
    dialect: Dialect, request: Request, text: str, options: list[tuple[str, str]], script: str
) -> Job:
    """Return a job with all that does not depend on how resources are asked for."""
    last = dict(options)
    cluster = dialect.cluster
    queue = last.get("-q", dialect.QUEUES[0])
    if queue not in dialect.QUEUES:
        raise Refusal(170, "qsub: Unknown queue")
    number = cluster.new_number()
    copy = os.path.join(cluster.folder, "spool", f"{number}.SC")  # the script of that moment
    with open(copy, "w") as file:
        file.write(text)
    name = last.get("-N", os.path.basename(script))
    env = environment(request, options)
    job = Job(
        number,
        name,
        [last.get("-S", "/bin/bash"), copy],
        env["HOME"],
        {},
        _path(last.get("-o"), request.cwd, f"{name}.o{number}"),
        _path(last.get("-e"), request.cwd, f"{name}.e{number}"),
        rerunnable=last.get("-r", "y") != "n",
        spool=True,
        facts={"env": env, "queue": queue, "argv": request.argv, "account": last.get("-A", "")},
    )
    if last.get("-j", "n") in ("oe", "eo"):
        job.stderr = job.stdout
    attributes = [part for letter, value in options if letter == "-W" for part in [value]]
    for attribute in attributes:
        key, _, value = attribute.partition("=")
        if key == "depend":
            parents = value.removeprefix("afterok:").split(":")
            job.after = tuple(int(parent.partition(".")[0].rstrip("[]")) for parent in parents)
    if "-h" in last:
        job.stage = Stage.HELD
    return job


def _path(given: str | None, cwd: str, default: str) -> str:
    """Return where output goes; what stands before a colon would be a host."""
    path = (given or default).partition(":")[2] or given or default
    path = os.path.join(cwd, path)
    return os.path.join(path, default) if os.path.isdir(path) else path


def _submit(dialect: Dialect, request: Request) -> str:
    given, rest = options_of(request.argv, LETTERS)
    text = read_script(request, rest)
    in_script, _ = options_of(directives(text), LETTERS)
    options = in_script + given  # the command line wins
    job = make_job(dialect, request, text, options, rest[0])
    for resource in (part for letter, v in options if letter == "-l" for part in _parts(v)):
        key, _, value = resource.partition("=")
        if key == "walltime":
            job.walltime_s = seconds(value)
        elif key == "select":
            _select(job, value)
        elif key != "place":
            raise Refusal(1, f"qsub: Unknown resource: {key}")
    return add(dialect, job, dict(options).get("-J"))


def _parts(value: str) -> list[str]:
    return value.split(",")


def _select(job: Job, value: str) -> None:
    count, _, chunk = value.partition(":")
    job.nodes = int(count)
    for part in chunk.split(":") if chunk else []:
        key, _, number = part.partition("=")
        if key == "ncpus":
            job.cores = int(number)
        elif key == "mpiprocs":
            job.facts["ranks_per_host"] = int(number)
    job.facts["select"] = value


def add(dialect: Dialect, job: Job, array: str | None) -> str:
    """Queue a job or the tasks of an array; return the id that is printed."""
    if array is None:
        dialect.cluster.add(job)
        return dialect.full_id(job)
    if not job.rerunnable:
        raise Refusal(1, "qsub: cannot submit non-rerunable Array Job")
    match = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?", array.partition("%")[0])
    if not match or int(match[1]) >= int(match[2]):
        raise Refusal(1, "qsub: illegal -J value")
    for index in range(int(match[1]), int(match[2]) + 1, int(match[3] or 1)):
        files = {}
        for kind in ("stdout", "stderr"):
            # As recorded for folders; for a file, each task writes its own.
            files[kind] = getattr(job, kind).replace("^array_index^", str(index))
        values = {**vars(job), **files, "index": index, "facts": dict(job.facts)}
        dialect.cluster.add(Job(**values))
    job.index = 0
    return dialect.full_id(job, parent=True)
