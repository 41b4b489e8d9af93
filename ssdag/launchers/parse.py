# SPDX-License-Identifier: BSD-3-Clause
"""Reading launch lines back: what the inverses of all launchers share.

Each launcher's own inverse stands beside it (``parse``); :func:`parse` finds the launcher
of a line by its first word.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from ssdag.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ssdag.launchers.base import Launcher
    from ssdag.launchers.step import Step

#: An option as it stands in a line: its name and its values.
Option = tuple[str, tuple[str, ...]]


def after(prefix: Sequence[str], line: Sequence[str]) -> list[str]:
    """Return what follows the words that a line must begin with.

    Raises
    ------
    ConfigError
        It begins otherwise.
    """
    if list(line[: len(prefix)]) != list(prefix):
        raise ConfigError(f"{shlex.join(line)}: does not begin with {shlex.join(prefix)}")
    return list(line[len(prefix) :])


def segments(line: Sequence[str]) -> list[list[str]]:
    """Return the parts of a line that are separated by ``:`` alone."""
    parts: list[list[str]] = [[]]
    for word in line:
        if word == ":":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def split_options(
    words: Sequence[str], takes: Mapping[str, int]
) -> tuple[list[Option], tuple[str, ...], list[str]]:
    """Split the words of a segment into known options, others, and the command.

    Parameters
    ----------
    words : sequence of str
    takes : mapping of str to int
        Number of values of each known option. ``--name=value`` needs 1 here too.

    Returns
    -------
    known : list of Option
    others : tuple of str
        Words with a dash in front that are not known; one that takes its value from
        the next word cannot be told from a flag, write it as ``--name=value``.
    command : list of str
    """
    known: list[Option] = []
    others: list[str] = []
    i = 0
    while i < len(words) and words[i].startswith("-") and words[i] != "-":
        name, equals, value = words[i].partition("=")
        if equals and takes.get(name) == 1:
            known.append((name, (value,)))
            i += 1
        elif not equals and name in takes:
            count = takes[name]
            values = tuple(words[i + 1 : i + 1 + count])
            if len(values) < count:
                raise ConfigError(f"{shlex.join(words)}: {name} lacks its value")
            known.append((name, values))
            i += 1 + count
        else:
            others.append(words[i])
            i += 1
    if i == len(words):
        raise ConfigError(f"{shlex.join(words)}: no command in it")
    return known, tuple(others), list(words[i:])


def number(option: str, text: str) -> int:
    """Return the value of an option that counts.

    Raises
    ------
    ConfigError
        It is no number.
    """
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"{option} {text}: a number is needed")
    return int(text)


def numbers(option: str, text: str, separator: str = ",") -> tuple[int, ...]:
    """Return the numbers of a list."""
    return tuple(number(option, part) for part in text.split(separator))


def parse(
    line: str | Sequence[str],
    launchers: Sequence[Callable[[], Launcher]] | None = None,
    files: Mapping[str, str] | None = None,
) -> tuple[Step, ...]:
    """Return the steps of a launch line, by the first launcher that can read it.

    Parameters
    ----------
    line : str or sequence of str
        A shell line or an argument list.
    launchers : sequence of Launcher classes, optional
        What is tried, in this order; by default those of which the first word tells
        them apart (``mpiexec`` is read in Hydra's dialect, then in PALS's).
    files : mapping of str to str, optional
        Files that the line refers to.

    Raises
    ------
    ConfigError
        No launcher reads it.
    """
    from ssdag import launchers as known

    words = shlex.split(line) if isinstance(line, str) else list(line)
    chosen = launchers or (
        known.SrunLauncher,
        known.MpirunLauncher,
        known.MpiexecLauncher,
        known.PalsLauncher,
        known.AprunLauncher,
        known.JsrunLauncher,
        known.FluxLauncher,
    )
    for launcher in chosen:
        try:
            return launcher().parse(words, files)
        except ConfigError:
            continue
    raise ConfigError(f"{shlex.join(words)}: no launcher reads this line")
