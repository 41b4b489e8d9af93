# SPDX-License-Identifier: BSD-3-Clause
"""Runs the command of a bash app, in a worker process or in a worker thread."""

from __future__ import annotations

import errno
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssdag.apps import shell
from ssdag.errors import CommandError, WalltimeExceededError
from ssdag.executors.program import EXIT_CODES
from ssdag.wire import guard
from ssdag.wire.process import Process, is_owned, spawn
from ssdag.wire.pump import StderrPump
from ssdag.wire.streams import OutputFile, StreamSpec, parse

if TYPE_CHECKING:
    from collections.abc import Callable

_SHOWN = 300  # characters of a command in an error message


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A command that ended well.

    Attributes
    ----------
    exit_code : int
        Always 0: anything else is a :class:`~ssdag.errors.CommandError`.
    stdout, stderr : str or None
        The files that the output went to; None where it was not redirected.
    elapsed_s : float
        From start to end, in seconds.
    """

    exit_code: int
    stdout: str | None
    stderr: str | None
    elapsed_s: float


def run_command(
    command: str,
    *,
    stdout: StreamSpec = None,
    stderr: StreamSpec = None,
    walltime_s: float | None = None,
    label: str = "command",
    on_start: Callable[[Process], None] | None = None,
) -> CommandResult:
    """Run a command to its end; blocks.

    Without shell syntax it is executed directly, else by bash. Its standard input is
    empty. In a worker (:func:`ssdag.wire.process.mark_owned`) it stays in the worker's
    session and ends with it; elsewhere it gets a session of its own, which is killed if
    this process ends.

    Parameters
    ----------
    command : str
        One or several shell commands.
    stdout, stderr : StreamSpec
        None leaves the stream ours. A path is appended to, ``(path, "w")`` replaced;
        missing folders are made. The same path for both gives one common file.
    walltime_s : float, optional
        Seconds after which the command and all that it started are killed.
    label : str
        Name in error messages: the app.
    on_start : callable, optional
        Called with the process once it runs, so that somebody else can kill it.

    Raises
    ------
    CommandError
        Exit code other than 0, or it could not be started.
    WalltimeExceededError
        It took too long.
    ConfigError
        `stdout` or `stderr` is not understood.
    OSError
        An output file cannot be opened.
    """
    out_spec, err_spec = parse(stdout, "stdout"), parse(stderr, "stderr")
    if not command.strip() or "\0" in command:
        what = "an empty command" if not command.strip() else "a command with a NUL character"
        raise CommandError(f"{label}: {what} cannot be run", command=command)
    with ExitStack() as stack:
        out = stack.enter_context(OutputFile(*out_spec)) if out_spec else None
        err: OutputFile | StderrPump
        if err_spec is None:
            err = StderrPump()
            stack.callback(err.close)
        elif out and out_spec and os.path.realpath(out_spec[0]) == os.path.realpath(err_spec[0]):
            err = out
        else:
            err = stack.enter_context(OutputFile(*err_spec))
        if not is_owned():
            guard.ensure()
        begin = time.monotonic()
        process = _start(command, out.fd if out else None, err.fd, label)
        try:
            code = _wait(process, err, walltime_s, on_start)
        except TimeoutError:
            raise WalltimeExceededError(
                f"{label} ran longer than its walltime of {walltime_s:g} s and was killed: "
                f"{_shorten(command)}",
                walltime_s=walltime_s or 0.0,
            ) from None
        if code != 0:
            raise failure(command, code, err.tail(), label)
    return CommandResult(
        exit_code=code,
        stdout=out_spec[0] if out_spec else None,
        stderr=err_spec[0] if err_spec else None,
        elapsed_s=time.monotonic() - begin,
    )


def _start(command: str, stdout: int | None, stderr: int, label: str) -> Process:
    argv = shell.split(command)
    if argv is not None:
        try:
            return spawn(argv, stdout=stdout, stderr=stderr, own_session=not is_owned())
        except OSError as error:
            # A script without a first line "#!" is the shell's to run, and a function
            # that BASH_ENV defines the shell's to find.
            code = EXIT_CODES.get(error.errno or 0)
            if code is None:  # no memory, too many processes, a command too long
                raise _not_started(command, error, label) from error
            if error.errno != errno.ENOEXEC and not (code == 127 and os.environ.get("BASH_ENV")):
                raise failure(command, code, "", label) from error
    argv = [shell.program(), "-c", command]
    try:
        return spawn(argv, stdout=stdout, stderr=stderr, own_session=not is_owned())
    except OSError as error:
        raise _not_started(command, error, label) from error


def _not_started(command: str, error: OSError, label: str) -> CommandError:
    text = f"{label}: the command cannot be started: {error.strerror}: {_shorten(command)}"
    return CommandError(text, command=command)


def _wait(
    process: Process,
    stderr: OutputFile | StderrPump,
    walltime_s: float | None,
    on_start: Callable[[Process], None] | None,
) -> int:
    """Return the exit code; whatever else happens, the command and its children die."""
    guarded = process.own_session
    try:
        if guarded:
            guard.session(process.pid)
        if on_start is not None:
            on_start(process)
        if isinstance(stderr, StderrPump):
            stderr.started()
            return stderr.wait(process, walltime_s)
        return process.wait(walltime_s)
    except BaseException:
        process.kill_session()
        if isinstance(stderr, StderrPump):
            stderr.started()
            stderr.finish()
        raise
    finally:
        if guarded:
            guard.release_session(process.pid)


def _shorten(command: str) -> str:
    return command if len(command) <= _SHOWN else f"{command[:_SHOWN]} ... ({len(command)} chars)"


def failure(command: str, code: int, tail: str, label: str) -> CommandError:
    """Return the error of a command that ended with `code`, and the last lines it wrote."""
    if code == 127:
        what = (
            "a program was not found (exit code 127): check its spelling and the PATH of the "
            "worker, give its full path, or load its module in the command"
        )
    elif code == 126:
        what = (
            "a program could not be executed (exit code 126): is it a program for this kind "
            "of machine, with the permission to execute it (chmod +x)?"
        )
    elif code < 0:
        what = f"killed by signal {-code}"
        if code == -9:
            what += " (perhaps the machine had no memory left)"
    else:
        what = f"exit code {code}"
    text = f"{label}: {what}: {_shorten(command)}"
    if tail:
        text += f"\nlast lines of stderr:\n{tail}"
    return CommandError(text, command=command, exit_code=code, stderr_tail=tail)
