# SPDX-License-Identifier: BSD-3-Clause
"""Steps check themselves; what stands in front of a program works in a real shell."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ssdag.errors import ConfigError, UnsupportedError
from ssdag.launchers import (
    JsrunLauncher,
    MpiexecLauncher,
    MpirunLauncher,
    SingleLauncher,
    SrunLauncher,
    Step,
    Wrapped,
)
from ssdag.launchers.parse import parse, split_options

if TYPE_CHECKING:
    from pathlib import Path

SIM = Step(argv=("./sim",))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"argv": ()}, "an executable is needed"),
        ({"argv": ("",)}, "an executable is needed"),
        ({"argv": "sim"}, "a tuple of str"),
        ({"argv": ("-n", "sim")}, "cannot be an executable"),
        ({"argv": ("a\0b",)}, "null"),
        ({"argv": (1,)}, "no text"),
        ({"ranks": 0}, "at least 1"),
        ({"ranks": 2.0}, "an int is needed"),
        ({"ranks": True}, "an int is needed"),
        ({"ranks": None}, "an int is needed"),
        ({"nodes": 0}, "at least 1"),
        ({"gpus_per_rank": -1}, "at least 0"),
        ({"cores_per_rank": "2"}, "an int is needed"),
        ({"ranks": 9, "nodes": 2, "ranks_per_node": 4}, "more than 2 nodes x 4"),
        ({"ranks": 4, "nodes": 2, "ranks_per_node": 4}, "empty"),
        ({"ranks": 1, "nodes": 2}, "empty"),
        ({"ranks": 4, "nodes": 2, "hosts": ("a", "b", "c")}, "3 hosts"),
        ({"hosts": ("a,b",)}, "no name of a host"),
        ({"hosts": ("-x",)}, "no name of a host"),
        ({"hosts": "n1"}, "a tuple of str"),
        ({"env": {"A": 1}}, "must be str"),
        ({"env": {"": "1"}}, "cannot be a variable"),
        ({"env": {"A=": "1"}}, "cannot be a variable"),
        ({"env": {"-i": "1"}}, "cannot be a variable"),
        ({"env": {"A": "\0"}}, "cannot be a variable"),
        ({"env": ["A=1"]}, "a mapping"),
        ({"cwd": ""}, "path of a folder"),
        ({"cwd": ":"}, "path of a folder"),
        ({"binding": "cores"}, "'default', 'none', 'core' or core numbers"),
        ({"binding": ()}, "1 cores for each rank"),
        ({"binding": (0, 1, 2), "cores_per_rank": 2}, "2 cores for each rank"),
        ({"binding": (0, -1)}, "at least 0"),
        ({"walltime_s": 0}, "positive"),
        ({"walltime_s": float("inf")}, "leave it out"),
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Step(**{"argv": ("./sim",)} | wrong)


def test_values_of_numpy_and_paths_are_taken_as_they_are_meant(tmp_path: Path) -> None:
    step = Step(argv=(tmp_path / "sim",), ranks=np.int64(4), binding=(np.int32(1),), cwd=tmp_path)  # type: ignore[arg-type]
    line = SrunLauncher().command(step)
    assert line == [
        "srun",
        "--ntasks=4",
        f"--chdir={tmp_path}",
        "--cpu-bind=map_cpu:1",
        "--exact",
        "--export=ALL",
        f"{tmp_path}/sim",
    ]


def test_a_step_is_a_value() -> None:
    env = {"A": "1"}
    step = Step(argv=("a",), env=env)
    env["A"] = "2"
    assert step.env == {"A": "1"}
    assert pickle.loads(pickle.dumps(step)) == step
    assert replace(step, overlap=True).exclusive is False


def _environment_of(step: Step, **env: str) -> str:
    line = SingleLauncher().command(step)
    answer = subprocess.run(line, env=os.environ | env, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or f"{answer.returncode} {answer.stderr.strip()}"


@pytest.mark.parametrize(
    ("gpus", "place", "visible", "mine"),
    [
        (1, 0, None, "0"),
        (2, 1, None, "2,3"),
        (1, 2, "4,7,GPU-x", "GPU-x"),
        (3, 0, "4,7,GPU-x", "4,7,GPU-x"),
        (0, 0, "4", "[]"),
        (0, 0, None, "[]"),
    ],
)
def test_each_rank_takes_its_share_of_the_gpus(
    gpus: int, place: int, visible: str | None, mine: str
) -> None:
    show = ("sh", "-c", 'echo "${CUDA_VISIBLE_DEVICES:-[]}"')
    env = {"MPI_LOCALRANKID": str(place)}
    if visible is not None:
        env["CUDA_VISIBLE_DEVICES"] = visible
    assert _environment_of(Step(argv=show, gpus_per_rank=gpus), **env) == mine


def test_the_share_is_that_of_every_maker_whose_variable_is_set() -> None:
    show = (
        "sh",
        "-c",
        'echo "${CUDA_VISIBLE_DEVICES-unset} $ROCR_VISIBLE_DEVICES $ZE_AFFINITY_MASK"',
    )
    env = {"MPI_LOCALRANKID": "1", "ROCR_VISIBLE_DEVICES": "4,5", "ZE_AFFINITY_MASK": "0.0,0.1"}
    assert _environment_of(Step(argv=show, gpus_per_rank=1), **env) == "unset 5 0.1"


def test_a_rank_without_enough_gpus_fails_and_says_so() -> None:
    for visible in ("4,7,8", ""):
        answer = _environment_of(
            Step(argv=("true",), gpus_per_rank=2),
            MPI_LOCALRANKID="1",
            CUDA_VISIBLE_DEVICES=visible,
        )
        assert answer == (f"1 local rank 1 needs 2 GPUs of its own: CUDA_VISIBLE_DEVICES={visible}")


def test_choosing_gpus_leaves_no_variable_and_no_argument_changed() -> None:
    code = "import os, sys; print(sorted(os.environ), sys.argv[1:])"
    words = ("a  b", "*", "", ":", "$HOME", "l1\nl2")
    step = Step(argv=(sys.executable, "-c", code, *words), gpus_per_rank=1)
    names = sorted({*os.environ, "CUDA_VISIBLE_DEVICES"} - {"_", "PWD", "SHLVL", "OLDPWD"})
    shown = _environment_of(step)
    assert shown.endswith(str(list(words)))
    left = set(eval(shown[: shown.index("]") + 1])) - {"_", "PWD", "SHLVL", "OLDPWD", "LC_CTYPE"}
    assert left == set(names) - {"LC_CTYPE"}


def test_single_runs_in_its_folder_on_its_cores_with_its_variables(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    core = min(os.sched_getaffinity(0))
    code = "import os; print(os.getcwd(), sorted(os.sched_getaffinity(0)), ascii(os.environ['A']))"
    step = Step(
        argv=(sys.executable, "-c", code), cwd=str(folder), binding=(core,), env={"A": "x,\ny"}
    )
    assert _environment_of(step) == f"{folder} [{core}] 'x,\\ny'"


def test_srun_itself_is_not_changed_by_what_its_ranks_get() -> None:
    env = {"PATH": "/a b:/c", "LD_PRELOAD": "x y", "PATH_TO": "a b", "F,%%": "1"}
    line = SrunLauncher().command(replace(SIM, env=env))
    assert line == [
        *("env", "PATH_TO=a b", "F,%%=1"),
        *("srun", "--ntasks=1", "--exact", "--export=ALL,PATH_TO"),
        *("env", "PATH=/a b:/c", "LD_PRELOAD=x y", "./sim"),
    ]
    assert SrunLauncher().parse(line) == (replace(SIM, env=env),)


def test_mpirun_says_what_it_takes_only_once() -> None:
    launcher = MpirunLauncher()
    with pytest.raises(UnsupportedError, match="walltime_s that differs"):
        launcher.command(SIM, replace(SIM, walltime_s=5.0))
    with pytest.raises(UnsupportedError, match="name the hosts of each step"):
        launcher.command(SIM, replace(SIM, hosts=("n1",)))
    with pytest.raises(UnsupportedError, match="name the hosts of each step"):
        launcher.command(SIM, replace(SIM, ranks_per_node=1))
    with pytest.raises(UnsupportedError, match="share host n1"):
        launcher.command(
            replace(SIM, ranks=4, hosts=("n1", "n2")), replace(SIM, ranks=2, hosts=("n1",))
        )
    with pytest.raises(UnsupportedError, match="name hosts and cores"):
        launcher.command(replace(SIM, binding=(0,)))
    with pytest.raises(UnsupportedError, match="each rank of a node"):
        launcher.command(replace(SIM, ranks=2, hosts=("n1",), binding=(0,)))


def test_jsrun_names_what_its_file_cannot_hold() -> None:
    launcher = JsrunLauncher(hosts=("n1",))
    placed = replace(SIM, hosts=("n1",), binding=(0,))
    with pytest.raises(UnsupportedError, match="host n2"):
        launcher.command(replace(placed, hosts=("n2",)))
    with pytest.raises(UnsupportedError, match="line break"):
        launcher.command(replace(placed, env={"A": "1\n2"}), placed)
    with pytest.raises(UnsupportedError, match="memory"):
        launcher.command(replace(placed, memory_per_node_bytes=1))


def test_lines_are_found_by_their_first_word() -> None:
    assert parse("srun --ntasks=2 --exact ./sim 'a b'") == (Step(("./sim", "a b"), ranks=2),)
    assert parse("mpiexec -n 3 ./sim") == (Step(("./sim",), ranks=3),)
    for line in ("", "ls -l", "srun --ntasks", "srun --ntasks=x a"):
        with pytest.raises(ConfigError):
            parse(line)
    with pytest.raises(ConfigError, match="lacks its value"):
        split_options(["-env", "A"], {"-env": 2})


def test_a_wrapper_needs_words_and_is_missed_where_it_does_not_stand() -> None:
    with pytest.raises(ConfigError, match="a list of words"):
        Wrapped(SrunLauncher(), "apptainer exec x.sif")  # type: ignore[arg-type]
    launcher = Wrapped(MpiexecLauncher(), ("numactl", "-l"))
    with pytest.raises(ConfigError, match="does not begin with"):
        launcher.parse(["mpiexec", "-n", "1", "./sim"])
    assert launcher.prefix(SIM) == ["mpiexec", "-n", "1", "numactl", "-l"]
    assert launcher.name == "mpiexec"
