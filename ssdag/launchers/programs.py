# SPDX-License-Identifier: BSD-3-Clause
"""Program files of ``srun --multi-prog``: which ranks run which program, in one step.

Format: srun's manual, "MULTIPLE PROGRAM CONFIGURATION"; what its reader does with quotes
was tried: all in single quotes is literal (also %t), double quotes are no quotes, and a
line break always ends the line.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from typing import TYPE_CHECKING

from ssdag.errors import ConfigError
from ssdag.launchers.program import rank_command, read_rank_command
from ssdag.launchers.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.errors import UnsupportedError

#: What may differ between the programs of one step.
_OWN = {"argv", "wrapper", "ranks", "env", "cwd"}
_LINE = re.compile(r"(\d+)-(\d+) (.*)")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+=,-]+")


def fits_one_step(steps: Sequence[Step]) -> bool:
    """Whether several programs can be one step: the same layout, on any nodes."""
    first = steps[0]
    if first.het_group is not None or first.node_count is not None:
        return False
    return all(
        getattr(step, item.name) == getattr(first, item.name)
        for step in steps
        for item in fields(Step)
        if item.name not in _OWN
    )


def programs_text(
    steps: Sequence[Step], unsupported: Callable[[str, str], UnsupportedError]
) -> str:
    """Return the text of the file.

    Raises
    ------
    UnsupportedError
        A word holds a line break.
    """
    text, rank = "", 0
    for step in steps:
        words = rank_command(step, env=step.env, cwd=step.cwd, separated=False)
        if any(mark in word for word in words for mark in "\n\r"):
            raise unsupported("a line break in one of several programs", "put it into a script")
        text += f"{rank}-{rank + step.ranks - 1} {' '.join(map(_quote, words))}\n"
        rank += step.ranks
    return text


def read_programs(text: str) -> list[Step]:
    """Return the programs with their ranks, variables and folders.

    Raises
    ------
    ConfigError
        A line is none that :func:`programs_text` writes.
    """
    steps = []
    for line in text.split("\n")[:-1]:
        found = _LINE.fullmatch(line)
        if not found:
            raise ConfigError(f"{line}: no line of a program file of ours")
        env, cwd, _, argv = read_rank_command(shlex.split(found[3]))
        ranks = int(found[2]) - int(found[1]) + 1
        steps.append(Step(argv=tuple(argv), ranks=ranks, env=env, cwd=cwd))
    return steps


def _quote(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    return "'" + word.replace("'", "'\\''") + "'"
