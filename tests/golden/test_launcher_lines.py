# SPDX-License-Identifier: BSD-3-Clause
"""Every launch line of a table of steps, as text that a reader can check against manuals.

Each file of ``launchers/`` holds the table for one launcher: the line as a shell would
take it, the files that belong to it, or why there is no such line. After a wanted
change, ``SSDAG_WRITE_GOLDEN=1 pytest tests/golden/test_launcher_lines.py`` writes them
anew.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from ssdag.errors import UnsupportedError
from ssdag.launchers import (
    AprunLauncher,
    FluxLauncher,
    JsrunLauncher,
    Launcher,
    MpiexecLauncher,
    MpirunLauncher,
    PalsLauncher,
    SingleLauncher,
    SrunLauncher,
    Step,
    Wrapped,
    container,
)

FOLDER = Path(__file__).parent / "launchers"
HOSTS = ("nid00001", "nid00002", "nid00003", "nid00004")
GIB = 1 << 30

SIM = Step(argv=("./sim", "in put.nml"))

STEPS: dict[str, tuple[Step, ...]] = {
    "one rank": (SIM,),
    "ranks": (Step(argv=("./sim",), ranks=8),),
    "ranks on nodes": (Step(argv=("./sim",), ranks=8, nodes=2),),
    "ranks on each node": (Step(argv=("./sim",), ranks=8, ranks_per_node=4),),
    "hosts": (Step(argv=("./sim",), ranks=8, ranks_per_node=4, hosts=HOSTS[:2]),),
    "uneven hosts": (Step(argv=("./sim",), ranks=5, hosts=HOSTS[:3]),),
    "cores": (Step(argv=("./sim",), ranks=8, ranks_per_node=4, cores_per_rank=3),),
    "gpus": (Step(argv=("./sim",), ranks=8, ranks_per_node=4, gpus_per_rank=1),),
    "no gpu": (Step(argv=("./sim",), gpus_per_rank=0),),
    "memory": (Step(argv=("./sim",), ranks=4, ranks_per_node=4, memory_per_node_bytes=8 * GIB),),
    "memory is not dropped at 0": (Step(argv=("./sim",), nodes=1, memory_per_node_bytes=0),),
    "bound to cores": (Step(argv=("./sim",), ranks=4, binding="core"),),
    "not bound": (Step(argv=("./sim",), ranks=4, binding="none"),),
    "named cores": (Step(argv=("./sim",), ranks=2, hosts=HOSTS[:1], binding=(0, 2)),),
    "named cores for each of two ranks": (
        Step(
            argv=("./sim",),
            ranks=4,
            ranks_per_node=2,
            hosts=HOSTS[:2],
            cores_per_rank=2,
            binding=(0, 1, 8, 9),
            gpus_per_rank=1,
        ),
    ),
    "folder": (Step(argv=("./sim",), cwd="/scratch/run 1"),),
    "environment": (
        Step(
            argv=("./sim",),
            env={"A": "1", "EMPTY": "", "LIST": "x,y", "TEXT": "two words", "EQ": "a=b"},
        ),
    ),
    "awkward environment": (Step(argv=("./sim",), env={"C": ":", "L": "1\n2", "D": "$HOME's"}),),
    "awkward arguments": (Step(argv=("./sim", "", ":", "-n", "$HOME", "it's", "*")),),
    "walltime": (Step(argv=("./sim",), walltime_s=26 * 3600 + 0.5),),
    "beside a service": (Step(argv=("./sim",), ranks=2, exclusive=True),),
    "a service": (Step(argv=("./server",), overlap=True),),
    "neither": (Step(argv=("./sim",), exclusive=False),),
    "options": (Step(argv=("./sim",), options=("--verbose", "--label=a b")),),
    "heterogeneous group": (Step(argv=("./sim",), het_group=1),),
    "two programs": (
        Step(argv=("./ocean",), ranks=2, env={"OMP_NUM_THREADS": "4"}),
        Step(argv=("./air", "-v"), ranks=4, env={"MODE": "a,b"}, cwd="/air"),
    ),
    "two programs on hosts of their own": (
        Step(argv=("./ocean",), ranks=4, ranks_per_node=2, hosts=HOSTS[:2]),
        Step(argv=("./air",), ranks=2, ranks_per_node=1, hosts=HOSTS[2:]),
    ),
    "two programs on one host, on cores of their own": (
        Step(argv=("./ocean",), ranks=2, ranks_per_node=2, hosts=HOSTS[:1], binding=(0, 1)),
        Step(argv=("./air",), ranks=1, ranks_per_node=1, hosts=HOSTS[:1], binding=(2,)),
    ),
    "two heterogeneous groups": (
        Step(argv=("./ocean",), ranks=2, het_group=0),
        Step(argv=("./air",), ranks=4, gpus_per_rank=1, het_group=1),
    ),
    "everything": (
        Step(
            argv=("./sim", "a"),
            ranks=8,
            ranks_per_node=4,
            cores_per_rank=2,
            hosts=HOSTS[:2],
            env={"A": "1"},
            cwd="/scratch",
            options=("--verbose",),
        ),
    ),
}

LAUNCHERS: dict[str, Launcher] = {
    "single": SingleLauncher(),
    "srun": SrunLauncher(),
    "srun-from-outside": SrunLauncher(mpi="pmi2", jobid="42", options=("--kill-on-bad-exit=1",)),
    "mpirun": MpirunLauncher(),
    "mpirun-5-root": MpirunLauncher(
        executable="prterun", version=5, allow_run_as_root=True, oversubscribe=True
    ),
    "mpiexec": MpiexecLauncher(),
    "pals": PalsLauncher(),
    "aprun": AprunLauncher(),
    "jsrun": JsrunLauncher(hosts=HOSTS),
    "jsrun-node": JsrunLauncher(hosts=HOSTS, share="node", threads_per_core=4),
    "flux": FluxLauncher(),
    "container-srun": Wrapped(SrunLauncher(), container("c f.sif", binds=["/scratch"])),
    "container-mpirun": Wrapped(MpirunLauncher(), container("c f.sif", binds=["/scratch"])),
    "container-jsrun": Wrapped(
        JsrunLauncher(hosts=HOSTS), container("c.sif", program="singularity", nvidia=True)
    ),
}


def shown(launcher: Launcher, steps: tuple[Step, ...]) -> str:
    """Return the line and files of a launch, as the golden files have them."""
    try:
        line, files = launcher.command(*steps), launcher.files(*steps)
    except UnsupportedError as error:
        return f"! {error}\n"
    text = shlex.join(line) + "\n"
    for name, content in files.items():
        text += f"{name}:\n" + "".join(f"    {row}\n" for row in content.splitlines())
    return text


def table(launcher: Launcher) -> str:
    return "\n".join(f"# {name}\n{shown(launcher, steps)}" for name, steps in STEPS.items())


@pytest.mark.parametrize("name", LAUNCHERS)
def test_lines_are_those_of_the_golden_file(name: str) -> None:
    path = FOLDER / f"{name}.txt"
    text = table(LAUNCHERS[name])
    if os.environ.get("SSDAG_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_each_golden_line_is_read_back_to_the_same_line(name: str) -> None:
    launcher = LAUNCHERS[name]
    entries = re.split(r"^# .*\n", (FOLDER / f"{name}.txt").read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) == len(STEPS)
    for entry in entries:
        if entry.startswith("! "):
            continue
        files: dict[str, str] = {}
        line, found, rows = (
            entry,
            re.search(r"^((?:erf|programs|rankfile)-\w+):\n", entry, re.MULTILINE),
            "",
        )
        if found:
            line, rows = entry[: found.start()], entry[found.end() :]
            files[found[1]] = re.sub(r"^    ", "", rows.rstrip("\n") + "\n", flags=re.MULTILINE)
        words = shlex.split(line)
        steps = launcher.parse(words, files)
        assert launcher.command(*steps) == words
        assert launcher.files(*steps) == files


def test_no_line_holds_a_float_and_no_value_is_lost() -> None:
    for name in LAUNCHERS:
        text = (FOLDER / f"{name}.txt").read_text()
        assert not re.search(r"\d\.0\b", text), name
