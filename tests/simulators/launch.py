# SPDX-License-Identifier: BSD-3-Clause
"""``jsrun``, ``aprun`` and ``flux run``, simulated: they start ranks here, and check the sizes.

Lenient: options that bind or measure are taken and ignored. What runs is real: each rank is
a process with the variables of its launcher; ``SSDAG_TEST_HOST`` says where it would be.
Started as ``python -I -S launch.py NAME ARGUMENTS...``.
"""

from __future__ import annotations

import getopt
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field


class Refusal(Exception):
    """Words of a refusal."""


@dataclass
class Launch:
    """What is started: a host for each rank, and the program of each."""

    argv: list[str]
    hosts: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    names: tuple[str, str, str] = ("", "", "")  # rank, size, local rank


def _allocation() -> dict[str, int]:
    """Return hosts and cores of the job that we are in, as its scheduler tells."""
    if "LSB_MCPU_HOSTS" in os.environ:
        words = os.environ["LSB_MCPU_HOSTS"].split()
        slots = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        return {host: count for host, count in slots.items() if not host.startswith("batch")}
    if "COBALT_NODEFILE" in os.environ:
        with open(os.environ["COBALT_NODEFILE"]) as file:
            return dict.fromkeys(file.read().split(), 4)
    return dict.fromkeys(os.environ.get("SSDAG_TEST_FLUX_HOSTS", "flux1").split(","), 4)


def _spread(nodes: dict[str, int], ranks: int, per_node: int, cores: int) -> list[str]:
    """Put ranks on nodes, one after another; refuse what does not fit."""
    if per_node * cores > min(nodes.values()):
        raise Refusal(f"{per_node} ranks with {cores} cores do not fit on a node")
    if ranks > per_node * len(nodes):
        raise Refusal("claim exceeds reservation's node-count")
    return [host for host in nodes for _ in range(per_node)][:ranks]


def jsrun(words: list[str]) -> Launch:
    """Read a line of jsrun: resource sets, or a resource file."""
    long = "nrs= tasks_per_rs= cpu_per_rs= gpu_per_rs= rs_per_host= memory_per_rs= bind= chdir= "
    pairs, argv = getopt.getopt(words, "n:a:c:g:r:m:b:h:E:U:", [*long.split(), "erf_input="])
    given = dict(pairs)
    launch = Launch(argv, cwd=given.get("--chdir"))
    launch.names = ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK")
    launch.env = dict(value.partition("=")[::2] for name, value in pairs if name == "-E")
    nodes = _allocation()
    if "--erf_input" in given:
        with open(given["--erf_input"]) as file:
            numbers = re.findall(r"^rank: \d+: \{ host: (\d+);", file.read(), re.MULTILINE)
        launch.hosts = [list(nodes)[int(number) - 1] for number in numbers]
        return launch
    sets, tasks = int(given.get("--nrs", "1")), int(given.get("--tasks_per_rs", "1"))
    asked = given.get("--cpu_per_rs", "1")
    cores = min(nodes.values()) if asked == "ALL_CPUS" else int(asked)
    per_host = int(given.get("--rs_per_host", "0")) or min(sets, min(nodes.values()) // cores)
    homes = _spread(nodes, sets, per_host, cores)
    launch.hosts = [host for host in homes for _ in range(tasks)]
    return launch


def aprun(words: list[str]) -> Launch:
    """Read a line of aprun."""
    pairs, argv = getopt.getopt([_spelled(word) for word in words], "n:N:d:L:e:m:j:q:b", ["cc="])
    given = dict(pairs)
    launch = Launch(argv, names=("ALPS_APP_PE", "", ""))
    launch.env = dict(value.partition("=")[::2] for name, value in pairs if name == "-e")
    nodes = _allocation()
    if "-L" in given:
        nodes = {host: nodes[host] for host in given["-L"].split(",")}
    ranks, depth = int(given.get("-n", "1")), int(given.get("-d", "1"))
    per_node = int(given.get("-N", "0")) or min(ranks, min(nodes.values()) // depth)
    launch.hosts = _spread(nodes, ranks, per_node, depth)
    return launch


def _spelled(word: str) -> str:
    return "--cc" if word == "-cc" else word


def flux_run(words: list[str]) -> Launch:
    """Read a line of flux run."""
    long = "nodes= ntasks= tasks-per-node= cores-per-task= gpus-per-task= requires= env= cwd= "
    pairs, argv = getopt.getopt(words, "N:n:c:g:o:xt:", [*long.split(), "exclusive"])
    given = dict(pairs)
    launch = Launch(argv, cwd=given.get("--cwd"))
    launch.names = ("FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_TASK_LOCAL_ID")
    launch.env = dict(value.partition("=")[::2] for name, value in pairs if name == "--env")
    nodes = _allocation()
    per_node = int(given.get("--tasks-per-node", "0"))
    count = int(given.get("--nodes", "0"))
    ranks = int(given.get("--ntasks", given.get("-n", "0"))) or per_node * count or 1
    per_node = per_node or -(-ranks // (count or 1))
    launch.hosts = _spread(nodes, ranks, per_node, int(given.get("--cores-per-task", "1")))
    return launch


def run(launch: Launch) -> int:
    """Start all ranks and wait for them; return the largest code."""
    rank_name, size_name, local_name = launch.names
    seen: Counter[str] = Counter()
    ranks = []
    for rank, host in enumerate(launch.hosts):
        env = {**os.environ, **launch.env, "SSDAG_TEST_HOST": host, rank_name: str(rank)}
        env |= {size_name or "_": str(len(launch.hosts)), local_name or "_": str(seen[host])}
        seen[host] += 1
        ranks.append(subprocess.Popen(launch.argv, env=env, cwd=launch.cwd))

    def forward(number: int, frame: object) -> None:
        for process in ranks:
            process.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    codes = [process.wait() for process in ranks]
    return max(code if code >= 0 else 128 - code for code in codes)


def main() -> int:
    """Read the line, run it, say what aprun says."""
    name, *words = sys.argv[1:]
    try:
        code = run({"jsrun": jsrun, "aprun": aprun, "flux": flux_run}[name](words))
    except (Refusal, getopt.GetoptError, OSError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    if name == "aprun":  # into the output of the program, as the manual says
        sys.stdout.write("Application 4711 resources: utime ~0s, stime ~0s, Rss ~1\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
