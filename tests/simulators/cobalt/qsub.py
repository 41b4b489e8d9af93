# SPDX-License-Identifier: BSD-3-Clause
"""``qsub`` of Cobalt."""

from __future__ import annotations

import getopt
import os
import re
import time
from typing import TYPE_CHECKING

from tests.simulators.jobs import Job, Stage
from tests.simulators.server import Answer, Request

if TYPE_CHECKING:
    from tests.simulators.cobalt import Dialect

_LETTERS = "n:t:A:q:O:o:e:hM:"
_WORDS = [
    "nodecount=", "time=", "project=", "queue=", "env=", "outputprefix=", "cwd=", "mode=",
    "dependencies=", "attrs=", "jobname=", "held", "debuglog=", "output=", "error=", "proccount=",
]  # fmt: skip
_SHORT = {"-n": "nodecount", "-t": "time", "-A": "project", "-q": "queue", "-O": "outputprefix"}


class Refusal(Exception):
    """Words of a refusal."""


def split_pairs(text: str) -> dict[str, str]:
    """Split ``A=1:B=2``; a backslash takes colon and equals sign their meaning."""
    pairs = {}
    for item in re.findall(r"(?:\\.|[^:\\])+", text):
        match = re.match(r"((?:\\.|[^=\\])+)=(.*)", item, re.DOTALL)
        if not match:
            raise Refusal(f"'{item}' is not a key=value pair")
        pairs[match[1]] = re.sub(r"\\(.)", r"\1", match[2])
    return pairs


def directives(text: str) -> list[str]:
    """Return the words of the directives that follow the first line directly."""
    words = []
    for line in text.splitlines()[1:]:
        if not line.startswith("#COBALT"):
            break
        words += line[len("#COBALT") :].split()
    return words


def run(dialect: Dialect, request: Request) -> Answer:
    """Answer ``qsub``."""
    try:
        number = _submit(dialect, request)
    except Refusal as refusal:
        return Answer(1, "", f"{refusal}\n")
    notice = "Memory mode set to flat quad for queue default\n" if dialect.notice else ""
    return Answer(0, f"{notice}{number}\n")


def read_options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return options by their long names, and the rest."""
    try:
        pairs, rest = getopt.getopt(words, _LETTERS, _WORDS)
    except getopt.GetoptError as error:
        raise Refusal(f"Usage: qsub ...\nqsub: error: {error}") from None
    return {_SHORT.get(name, name.lstrip("-")): value for name, value in pairs}, rest


def _minutes(text: str) -> float:
    parts = [float(part) for part in text.split(":")]
    if len(parts) == 1:
        return parts[0]
    hours, minutes, *seconds = parts
    return hours * 60 + minutes + (seconds[0] / 60 if seconds else 0)


def _submit(dialect: Dialect, request: Request) -> int:
    given, rest = read_options(request.argv)
    if not rest:
        raise Refusal("No command/executable supplied")
    script = os.path.join(request.cwd, rest[0])
    if not os.path.isfile(script):
        raise Refusal(f"command {rest[0]} not found, or is not a file")
    if not os.access(script, os.X_OK) or not os.stat(script).st_mode & 0o100:
        raise Refusal(f"command {rest[0]} is not executable")
    with open(script) as file:
        text = file.read()
    in_script, extra = read_options(directives(text))
    if extra:
        raise Refusal(f"qsub: error: unexpected {extra[0]}")
    options = {**in_script, **given}
    for name in ("time", "nodecount"):
        if name not in options:
            raise Refusal(f"'{name}' not provided")
    queue = options.get("queue", dialect.QUEUES[0])
    if queue not in dialect.QUEUES:
        raise Refusal("failed to create the job.  Maybe a queue isn't there?")
    cluster = dialect.cluster
    number = cluster.new_number()
    cwd = options.get("cwd", request.cwd)
    prefix = os.path.join(cwd, options.get("outputprefix", str(number)))
    after = tuple(int(word) for word in re.findall(r"\d+", options.get("dependencies", "")))
    home = request.env.get("HOME", "/")
    job = Job(
        number,
        options.get("jobname", "N/A"),
        [script, *rest[1:]],
        cwd,
        {},
        options.get("output", f"{prefix}.output"),
        options.get("error", f"{prefix}.error"),
        nodes=int(options["nodecount"]),
        cores=cluster.cores,
        walltime_s=_minutes(options["time"]) * cluster.minute_s,
        after=after,
        orphan_ends=False,
        facts={
            "env": {"HOME": home, "PATH": "/usr/bin:/bin", **split_pairs(options.get("env", ""))},
            "queue": queue,
            "prefix": prefix,
            "project": options.get("project", ""),
            "attrs": split_pairs(options.get("attrs", "")),
        },
    )
    if "held" in options or "h" in options:
        job.stage = Stage.HELD
    dialect.log(job, f"Jobid: {number}")
    dialect.log(job, f"qsub {' '.join(request.argv)}")
    now = time.strftime("%a %b %d %H:%M:%S %Y +0000 (UTC)", time.gmtime())
    dialect.log(job, f"{now} submitted with cwd set to: {cwd}")
    cluster.add(job)
    return number
