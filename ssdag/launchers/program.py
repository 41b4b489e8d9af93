# SPDX-License-Identifier: BSD-3-Clause
"""What stands directly in front of an executable where a launcher has no option for it.

Every function here has its inverse, so that a launch line can be read back. All that is
used is ``sh`` and ``env``, which stand on every node. (A variable whose name no shell can
write, such as a function that bash exports, does not get through ``sh``.)
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.launchers.step import Step

#: Names and values that every launcher's own option for variables carries unharmed.
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./:@%+=~^-]*")

#: ``sh -c CHANGE_FOLDER FOLDER command...``
_CHANGE_FOLDER = 'cd "$0" && exec "$@"'

_GPU_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
)

#: ``sh -c SELECT_GPUS gpus COUNT VARIABLE command...``: the rank's share of the GPUs that
#: the variables of all makers name, by the rank's place in its node; VARIABLE counts from 0
#: where none of them is set.
_SELECT_GPUS = "; ".join(
    [
        "ssdag_n=$1 ssdag_v=$2",
        "shift 2",
        "ssdag_l=${MPI_LOCALRANKID:-${SLURM_LOCALID:-0}}",
        "ssdag_l=${OMPI_COMM_WORLD_LOCAL_RANK:-${PALS_LOCAL_RANKID:-$ssdag_l}}",
        "ssdag_first=$((ssdag_l * ssdag_n)) ssdag_any= ssdag_ifs=$IFS",
        "set -f",
        f"for ssdag_o in {' '.join(_GPU_VARIABLES)}",
        'do eval "ssdag_all=\\${$ssdag_o-unset}"',
        '[ "$ssdag_all" = unset ] && continue',
        "ssdag_any=1 ssdag_i=0 ssdag_got=0 ssdag_mine= IFS=,",
        "for ssdag_g in $ssdag_all",
        "do if [ $ssdag_i -ge $ssdag_first ] && [ $ssdag_got -lt $ssdag_n ]",
        "then ssdag_mine=$ssdag_mine${ssdag_mine:+,}$ssdag_g ssdag_got=$((ssdag_got + 1))",
        "fi",
        "ssdag_i=$((ssdag_i + 1))",
        "done",
        "IFS=$ssdag_ifs",
        "if [ $ssdag_got -lt $ssdag_n ]",
        'then echo "local rank $ssdag_l needs $ssdag_n GPUs of its own: $ssdag_o=$ssdag_all" >&2',
        "exit 1",
        "fi",
        'export "$ssdag_o=$ssdag_mine"',
        "done",
        'if [ -z "$ssdag_any" ]',
        "then ssdag_mine= ssdag_got=0",
        "while [ $ssdag_got -lt $ssdag_n ]",
        "do ssdag_mine=$ssdag_mine${ssdag_mine:+,}$((ssdag_first + ssdag_got))",
        "ssdag_got=$((ssdag_got + 1))",
        "done",
        'export "$ssdag_v=$ssdag_mine"',
        "fi",
        'exec "$@"',
    ]
)


def is_plain(name: str, value: str) -> bool:
    """Whether any launcher's option for variables carries this one unharmed."""
    return bool(_PLAIN_NAME.fullmatch(name) and _PLAIN_VALUE.fullmatch(value) and value != ":")


def split_env(env: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the plain variables, and those that need another way."""
    plain = {name: value for name, value in env.items() if is_plain(name, value)}
    return plain, {name: value for name, value in env.items() if name not in plain}


def with_env(env: Mapping[str, str], argv: Sequence[str]) -> list[str]:
    """Return a command that sets variables first, by ``env``."""
    if not env:
        return list(argv)
    return ["env", *(f"{name}={value}" for name, value in env.items()), *argv]


def without_env(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables that a command sets first, and the rest of it."""
    rest = list(argv)
    env: dict[str, str] = {}
    if rest[:1] == ["env"] and len(rest) > 2 and "=" in rest[1]:
        del rest[0]
        while len(rest) > 1 and "=" in rest[0].lstrip("="):
            name, _, value = rest.pop(0).partition("=")
            env[name] = value
    return env, rest


def rank_command(
    step: Step,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    gpus: str | None = None,
    separated: bool = True,
) -> list[str]:
    """Return what a rank executes, with what the launcher has no option for in front.

    Parameters
    ----------
    step : Step
    env : mapping, optional
        Variables that the launcher cannot carry itself.
    cwd : str, optional
        The working directory, if the launcher cannot set it.
    gpus : str, optional
        Name of the variable that hides GPUs, if each rank must choose its own.
    separated : bool
        Whether a colon alone would separate two programs.
    """
    argv = list(step.program)
    if (separated and ":" in argv) or (env and "=" in argv[0]):
        # env would take a command that is called "a=b" as a variable.
        argv = ["sh", "-c", "exec " + shlex.join(argv)]
    if gpus is not None and step.gpus_per_rank is not None:
        argv = ["sh", "-c", _SELECT_GPUS, "gpus", str(step.gpus_per_rank), gpus, *argv]
    argv = with_env(env or {}, argv)
    if cwd is not None:
        argv = ["sh", "-c", _CHANGE_FOLDER, cwd, *argv]
    return argv


def read_rank_command(
    argv: Sequence[str],
) -> tuple[dict[str, str], str | None, int | None, list[str]]:
    """Return variables, folder, GPUs of a rank and command: inverse of :func:`rank_command`."""
    rest = list(argv)
    cwd: str | None = None
    gpus: int | None = None
    if rest[:3] == ["sh", "-c", _CHANGE_FOLDER] and len(rest) > 4:
        cwd = rest[3]
        del rest[:4]
    env, rest = without_env(rest)
    if rest[:4] == ["sh", "-c", _SELECT_GPUS, "gpus"] and len(rest) > 6:
        gpus = int(rest[4])
        del rest[:6]
    if len(rest) == 3 and rest[:2] == ["sh", "-c"] and rest[2].startswith("exec "):
        words = shlex.split(rest[2])[1:]
        if ":" in words or "=" in words[0]:
            rest = words
    return env, cwd, gpus, rest
