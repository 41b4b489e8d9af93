# SPDX-License-Identifier: BSD-3-Clause
"""A task as a program of its own: what executors start that have no workers.

A body with a method ``__ssdag_program__(call)`` says what to execute in its place, and
what the end of it means; any other body is executed by an interpreter of its own (see
:mod:`ssdag.executors.calls`).
"""

from __future__ import annotations

import errno
import os
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ssdag.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: The launch prefix of a task's slots, for commands that compose their own launch.
LAUNCH_VARIABLE = "SSDAG_LAUNCH"

#: What bash says where a program cannot be executed.
EXIT_CODES = {
    errno.ENOENT: 127,
    errno.EACCES: 126,
    errno.EPERM: 126,
    errno.ENOTDIR: 126,
    errno.ENOEXEC: 126,
    errno.ELOOP: 126,
    errno.EISDIR: 126,
}


@dataclass(frozen=True)
class Call:
    """One call of a body.

    Attributes
    ----------
    args, kwargs
        Its arguments, with all futures and references resolved.
    name : str
        Of the app, for messages.
    task_id : int
        Number of the task.
    ranks : int
        Processes that it is started with.
    make_folder : callable
        Makes and returns a private folder for its files, which those processes see too.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str
    task_id: int
    ranks: int
    make_folder: Callable[[], str]


@dataclass(frozen=True)
class Program:
    """What is executed for a call.

    Attributes
    ----------
    argv : tuple of str
        Executable and arguments.
    shown : str
        The command as the user knows it, for messages.
    finish : callable
        ``finish(exit_code, stderr_tail)`` returns the task's value, or raises its error.
        The exit code is negative where a signal ended it.
    stdout, stderr : (str, str), optional
        Path and mode (a, w, x) of where output goes; None leaves the stream ours.
    walltime_s : float, optional
        Seconds after which it is killed; None leaves it to the task's options.
    launches : bool
        It starts the ranks itself, by ``$SSDAG_LAUNCH``.
    env : mapping of str to str
        Added to its environment.
    """

    argv: tuple[str, ...]
    shown: str
    finish: Callable[[int, str], Any]
    stdout: tuple[str, str] | None = None
    stderr: tuple[str, str] | None = None
    walltime_s: float | None = None
    launches: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


def in_variable(prefix: Sequence[str], folder: str) -> tuple[str, dict[str, str]]:
    """Return what :data:`LAUNCH_VARIABLE` holds for a launch line.

    A shell splits the variable at blanks and reads no quotes in it, so a line with such
    words goes into a script.

    Parameters
    ----------
    prefix : sequence of str
        The launch line, without the program.
    folder : str
        Where the caller writes the files; it need not exist yet.

    Returns
    -------
    tuple
        The value, and the texts of files by their names.

    Raises
    ------
    UnsupportedError
        The path of the folder itself has blanks or quotes.
    """
    if all(shlex.quote(word) == word for word in prefix):
        return " ".join(prefix), {}
    if shlex.quote(folder) != folder:
        raise UnsupportedError(
            f"${LAUNCH_VARIABLE} cannot hold the path {folder!r}: use a folder without blanks "
            "and quotes"
        )
    name = "launch.sh"
    text = f'#!/bin/sh\nexec {shlex.join(prefix)} "$@"\n'
    return f"sh {os.path.join(folder, name)}", {name: text}


@runtime_checkable
class HasProgram(Protocol):
    """A body that is a program."""

    def __ssdag_program__(self, call: Call) -> Program:
        """Return what is executed for one call; may raise what the task then ends with."""
