# SPDX-License-Identifier: BSD-3-Clause
"""``bsub``: a script on stdin, or a command."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

from tests.simulators.jobs import Job
from tests.simulators.server import Answer, Request

if TYPE_CHECKING:
    from tests.simulators.lsf import Dialect

_VALUED = {
    "-J", "-o", "-oo", "-e", "-eo", "-W", "-P", "-q", "-nnodes", "-n", "-R", "-w", "-U", "-gpu",
    "-cwd", "-sla", "-app", "-alloc_flags", "-M", "-L", "-G", "-core",
}  # fmt: skip
_FLAGS = {"-x", "-r", "-rn", "-ti", "-H", "-core_isolation", "-csm", "-N", "-B"}


class Refusal(Exception):
    """Words of a refusal."""


def parse(words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Split options from the command; -R may come several times."""
    options = []
    position = 0
    while position < len(words) and words[position].startswith("-"):
        word = words[position]
        if word in _FLAGS:
            options.append((word, ""))
        elif word in _VALUED:
            position += 1
            if position >= len(words):
                raise Refusal(f"{word}: option requires an argument")
            options.append((word, words[position]))
        else:
            raise Refusal(f"{word}: Illegal option")
        position += 1
    return options, words[position:]


def run(dialect: Dialect, request: Request) -> Answer:
    """Answer ``bsub``."""
    try:
        given, command = parse(request.argv)
        if not command and request.stdin is None:
            return Answer(wants_stdin=True)
        text = request.stdin or ""
        marked = [line[5:] for line in text.splitlines() if re.match(r"#BSUB\s", line)]
        in_script, extra = parse([word for line in marked for word in shlex.split(line)])
        if extra:
            raise Refusal(f"{extra[0]}: Illegal option")
        return _submit(dialect, request, in_script + given, command)
    except Refusal as refusal:
        said = f"{refusal}. Job not submitted.\n"
        return Answer(255, "", said)


def _minutes(text: str) -> float:
    hours, colon, minutes = text.rpartition(":")
    if not re.fullmatch(r"(\d+:)?\d+(/.*)?", text):
        raise Refusal(f"Invalid run limit {text}")
    return float(hours or 0) * 60 * bool(colon) + float(minutes)


def _submit(
    dialect: Dialect, request: Request, options: list[tuple[str, str]], command: list[str]
) -> Answer:
    last = dict(options)
    queue = last.get("-q", dialect.QUEUES[0])
    if queue not in dialect.QUEUES:
        raise Refusal(f"{queue}: No such queue")
    if "-n" in last and "-nnodes" in last:
        raise Refusal("Cannot specify -n with -nnodes")
    cluster = dialect.cluster
    number = cluster.new_number()
    spooled = os.path.join(cluster.folder, "spool", f"{number}.sh")
    with open(spooled, "w") as file:  # a command's words are joined and read by a shell
        file.write(request.stdin or " ".join(command) + "\n")
    match = re.fullmatch(r"(.*?)(?:\[(\d+)-(\d+)\](%\d+)?)?", last.get("-J", ""))
    assert match is not None
    cwd = last.get("-cwd", request.cwd)
    out, err = (last.get(f"{o}o", last.get(o, os.devnull)) for o in ("-o", "-e"))
    spans = [re.search(r"ptile=(\d+)", value) for letter, value in options if letter == "-R"]
    ptile = next((int(span[1]) for span in spans if span), cluster.cores)
    slots = int(last.get("-n", "1"))
    job = Job(
        number,
        match[1] or os.path.basename(spooled),
        ["/bin/bash", spooled],
        cwd,
        {},
        os.path.join(cwd, out),
        os.path.join(cwd, err if err != os.devnull else out),
        nodes=int(last["-nnodes"]) if "-nnodes" in last else -(-slots // ptile),
        cores=cluster.cores if "-nnodes" in last else min(slots, ptile),
        walltime_s=_minutes(last["-W"]) * cluster.minute_s if "-W" in last else None,
        after=tuple(int(n) for n in re.findall(r"done\((\d+)\)", last.get("-w", ""))),
        rerunnable="-r" in last,
        append=True,
        orphan_ends="-ti" in last,
        facts={
            "env": request.env,
            "queue": queue,
            "csm": "-nnodes" in last,
            "project": last.get("-P", "default"),
        },
    )
    first, final = int(match[2] or 0), int(match[3] or 0)
    for index in range(first, final + 1) if match[2] else [None]:
        paths = {
            kind: getattr(job, kind).replace("%J", str(number)).replace("%I", str(index or 0))
            for kind in ("stdout", "stderr")
        }
        cluster.add(Job(**{**vars(job), **paths, "index": index, "facts": dict(job.facts)}))
    kind = "queue" if "-q" in last else "default queue"
    return Answer(0, f"Job <{number}> is submitted to {kind} <{queue}>.\n")
