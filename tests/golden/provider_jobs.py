# SPDX-License-Identifier: BSD-3-Clause
"""The table of jobs whose scripts are golden, and readers that take a script apart again.

The readers know each scheduler's own rules for directives, not how ours are made.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ssdag.providers.base import JobSpec
from tests.simulators.cobalt import qsub as cobalt_qsub
from tests.simulators.flux import read_options as flux_options
from tests.simulators.lsf import bsub
from tests.simulators.pbs import qsub as pbs_qsub
from tests.simulators.torque import LETTERS as TORQUE_LETTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GIB = 1 << 30
_PLAIN = JobSpec("sim", ("srun ./sim",), "/scratch/run")


def _job(**changes: Any) -> JobSpec:
    return replace(_PLAIN, **changes)


#: ``{id}`` becomes an id as the provider has them.
JOBS: dict[str, JobSpec] = {
    "plain": _PLAIN,
    "two nodes": _job(nodes=2),
    "cores": _job(nodes=2, cores_per_node=64),
    "cores, GPUs and memory": _job(
        nodes=2, cores_per_node=32, gpus_per_node=4, memory_per_node_bytes=64 * GIB
    ),
    "GPUs of whole nodes": _job(gpus_per_node=4),
    "memory of whole nodes": _job(memory_per_node_bytes=3 * GIB + 1),
    "account and queue": _job(account="proj123", queue="debug"),
    "qos": _job(qos="high"),
    "constraint": _job(constraint="knl"),
    "constraint and cores": _job(constraint="knl", cores_per_node=8),
    "reservation": _job(reservation="R123"),
    "queue and reservation": _job(queue="debug", reservation="R123"),
    "shared nodes": _job(exclusive=False, cores_per_node=4),
    "90 seconds": _job(walltime_s=90.0),
    "61.5 seconds": _job(walltime_s=61.5),
    "26 hours": _job(walltime_s=26 * 3600.0),
    "array": _job(array=3, cores_per_node=1),
    "array of one": _job(array=1),
    "after one": _job(after=("{id}",)),
    "after two": _job(after=("{id}", "{id}")),
    "may run twice": _job(rerunnable=True),
    "directives": _job(directives=("-x y", "{mark} --key=value", " --flag ")),
    "modules and init": _job(
        modules=("gcc/13", "cray mpich"), worker_init="source ~/venv/bin/activate\nulimit -s 1000"
    ),
    "environment": _job(env={"B": 'it\'s "$HOME"', "A": "1", "LINES": "a\nb"}),
    "awkward name": _job(name="my job/7 (ü)"),
    "awkward folder": _job(folder='/scratch/a b\'s "run" $x %j'),
    "several commands": _job(commands=("cd sub", "./a && ./b", "for i in 1 2; do ./c $i; done")),
    "everything": _job(
        nodes=4,
        cores_per_node=8,
        walltime_s=7200.0,
        account="proj123",
        queue="batch",
        rerunnable=False,
        after=("{id}",),
        worker_init="module purge",
        env={"OMP_NUM_THREADS": "8"},
    ),
}


def _clock(text: str) -> float:
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + float(part)
    return total


def _lines(script: str, mark: str) -> list[str]:
    return [line[len(mark) :] for line in script.splitlines() if line.startswith(mark + " ")]


def _slurm(script: str, argv: Sequence[str]) -> dict[str, Any]:
    words = [word for line in _lines(script, "#SBATCH") for word in shlex.split(line)]
    given = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    return {
        "nodes": int(given["nodes"]),
        "walltime_s": _clock(given["time"]),
        "queue": given.get("partition"),
        "account": given.get("account"),
        "array": int(given["array"].partition("-")[2]) + 1 if "array" in given else None,
        "after": tuple(given.get("dependency", "").split(":")[1:]),
        "exclusive": "exclusive" in given,
        "rerunnable": "requeue" in given and "no-requeue" not in given,
        "name": given["job-name"],
        "output": given["output"],
    }


def _gridengine(script: str, argv: Sequence[str]) -> dict[str, Any]:
    words = [word for line in _lines(script, "#$") for word in shlex.split(line)]
    given: dict[str, str] = {}
    for here, after in zip(words, [*words[1:], ""], strict=True):
        if re.fullmatch(r"-[A-Za-z_]+", here):
            key, _, value = after.partition("=") if here == "-l" else (here, "", after)
            given[key] = value or after
    return {
        "walltime_s": _clock(given["h_rt"]),
        "queue": given.get("-q"),
        "account": given.get("-P"),
        "array": int(given["-t"].partition("-")[2]) if "-t" in given else None,
        "after": tuple(given["-hold_jid"].split(",")) if "-hold_jid" in given else (),
        "exclusive": "exclusive" in given,
        "rerunnable": given["-r"] == "y",
    }


def _pbs_family(script: str, letters: str) -> tuple[dict[str, str], dict[str, str]]:
    options, rest = pbs_qsub.options_of(pbs_qsub.directives(script), letters)
    assert not rest, rest
    resources = [part for letter, v in options if letter == "-l" for part in v.split(",")]
    return dict(options), dict(part.partition("=")[::2] for part in resources)


def _common_pbs(given: dict[str, str], resources: dict[str, str]) -> dict[str, Any]:
    depend = given.get("-W", "")
    return {
        "walltime_s": _clock(resources["walltime"]),
        "account": given.get("-A"),
        "log": given["-o"],
        "after": tuple(depend.split(":")[1:]),
        # Arrays are so always, since PBS takes no others; their scripts refuse a second run.
        "rerunnable": given["-r"] == "y" and not given.keys() & {"-J", "-t"},
    }


def _pbs(script: str, argv: Sequence[str]) -> dict[str, Any]:
    given, resources = _pbs_family(script, pbs_qsub.LETTERS)
    match = re.fullmatch(r"0-(\d+)(:2)?", given["-J"]) if "-J" in given else None
    last = int(match[1]) + 1 if match else None
    return {
        **_common_pbs(given, resources),
        "nodes": int(resources["select"].partition(":")[0]),
        "queue or reservation": given.get("-q"),
        "array": 1 if match and match[2] else last,
        "exclusive": resources["place"].endswith(":exclhost"),
    }


def _torque(script: str, argv: Sequence[str]) -> dict[str, Any]:
    given, resources = _pbs_family(script, TORQUE_LETTERS)
    return {
        **_common_pbs(given, resources),
        "nodes": int(resources["nodes"].partition(":")[0]),
        "queue": given.get("-q"),
        "array": int(given["-t"].partition("-")[2]) + 1 if "-t" in given else None,
        "exclusive": "-n" in given,
    }


def _lsf(script: str, argv: Sequence[str]) -> dict[str, Any]:
    words = [word for line in _lines(script, "#BSUB") for word in shlex.split(line)]
    options, rest = bsub.parse(words)
    assert not rest, rest
    given = dict(options)
    array = re.search(r"\[1-(\d+)\]$", given["-J"])
    ptile = next((int(v[11:-1]) for key, v in options if v.startswith("span[ptile=")), 0)
    return {
        "nodes": int(given["-nnodes"]) if "-nnodes" in given else int(given["-n"]) // ptile,
        "minutes": int(given["-W"]),
        "queue": given.get("-q"),
        "account": given.get("-P"),
        "reservation": given.get("-U"),
        "log": given["-o"],
        "array": int(array[1]) if array else None,
        "after": tuple(re.findall(r"done\(([^)]*)\)", given.get("-w", ""))),
        "exclusive": "-x" in given or "-nnodes" in given,
        "rerunnable": "-r" in given,
    }


def _cobalt(script: str, argv: Sequence[str]) -> dict[str, Any]:
    given, rest = cobalt_qsub.read_options(cobalt_qsub.directives(script))
    assert not rest, rest
    on_line, _ = cobalt_qsub.read_options(list(argv[1:]))
    return {
        "nodes": int(given["nodecount"]),
        "minutes": int(given["time"]),
        "queue or reservation": given.get("queue"),
        "account": given.get("project"),
        "after": tuple(filter(None, given.get("dependencies", "").split(":"))),
        "folder": on_line["cwd"],
    }


def _flux(script: str, argv: Sequence[str]) -> dict[str, Any]:
    words = [w for line in _lines(script, "# flux:") for w in shlex.split(line, comments=True)]
    given, rest = flux_options(words)
    assert not rest, rest
    after = given.get("dependency", "")
    return {
        "nodes": int(given["nodes"]),
        "walltime_s": float(given["time-limit"].removesuffix("s")),
        "queue": given.get("queue"),
        "account": given.get("bank"),
        "after": tuple(one.removeprefix("afterok:") for one in after.split(",") if one),
        "exclusive": "exclusive" in given,
        "name": given["job-name"],
        "output": given["output"],
    }


#: What a scheduler would understand of a script and its submit line.
READERS: dict[str, Callable[[str, Sequence[str]], dict[str, Any]]] = {
    "slurm": _slurm,
    "gridengine": _gridengine,
    "pbs": _pbs,
    "torque": _torque,
    "lsf": _lsf,
    "cobalt": _cobalt,
    "flux": _flux,
}
