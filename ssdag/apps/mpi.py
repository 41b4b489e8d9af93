# SPDX-License-Identifier: BSD-3-Clause
"""What runs for an ``mpi_app``: a command, or a Python function, on every rank."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ssdag.apps.bodies import IO, Body, absolute, program_of, shell_argv, stage_in, stage_out
from ssdag.errors import AppDefinitionError, CommandError, UnsupportedError
from ssdag.executors.calls import mpi_program
from ssdag.wire.streams import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ssdag.executors.program import Call, Program

#: Options of ``mpi_app`` that no other decorator has.
OPTIONS = ("python", "returns")


def body_of(func: Callable[..., Any], name: str, options: Mapping[str, Any]) -> Body:
    """Return the body of an ``mpi_app``.

    Raises
    ------
    AppDefinitionError
        ``python`` or ``returns`` has a wrong value.
    """
    python, returns = options.get("python", False), options.get("returns")
    if not isinstance(python, bool):
        raise AppDefinitionError(f"python={python!r}: True or False is needed")
    if returns not in (None, "first", "all"):
        raise AppDefinitionError(f"returns={returns!r}: 'first' (rank 0) or 'all' is needed")
    if not python:
        if returns is not None:
            raise AppDefinitionError(
                "returns= is for mpi_app(python=True): a command returns its exit code"
            )
        return MpiCommand(func, name)
    return MpiFunctionAll(func, name) if returns == "all" else MpiFunction(func, name)


class MpiCommand(Body):
    """A body that returns a command, which is started once for each rank."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: only executors that start programs can run it."""
        raise UnsupportedError(f"mpi_app {self.name!r} can only run as a step")

    def __ssdag_program__(self, call: Call) -> Program:
        """Return the command as a program."""
        kwargs = dict(call.kwargs)
        io: Mapping[str, Any] = kwargs.pop(IO, {})
        io = stage_in(kwargs, io)
        command = self._call(*call.args, **kwargs)
        if isinstance(command, str):
            return program_of(command, shell_argv(command, self.name), io, self.name)
        if not isinstance(command, (list, tuple)) or not all(
            isinstance(word, (str, os.PathLike)) for word in command
        ):
            raise AppDefinitionError(
                f"mpi_app {self.name!r} must return the command as a str or a list of str, not "
                f"{command!r}" + (" (no return?)" if command is None else "")
            )
        argv = tuple(os.fspath(word) for word in command)
        if not argv or not argv[0] or any("\0" in word for word in argv):
            raise CommandError(f"{self.name}: the command {argv!r} cannot be run")
        return program_of(shlex.join(argv), argv, io, self.name)


class MpiFunction(Body):
    """A Python function that runs on every rank; its value is that of rank 0."""

    _returns: Any = "first"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: only executors that start programs can run it."""
        raise UnsupportedError(f"mpi_app {self.name!r} can only run as a step")

    def __ssdag_program__(self, call: Call) -> Program:
        """Return the interpreter that runs the function on a rank."""
        kwargs = dict(call.kwargs)
        io: Mapping[str, Any] = kwargs.pop(IO, {})
        io = stage_in(kwargs, io)
        program = mpi_program(replace(call, kwargs=kwargs), self.__wrapped__, self._returns)

        def finish(exit_code: int, stderr_tail: str) -> Any:
            value = program.finish(exit_code, stderr_tail)
            stage_out(self.name, io)
            return value

        return replace(
            program,
            finish=finish,
            stdout=absolute(parse(io.get("stdout"), "stdout")),
            stderr=absolute(parse(io.get("stderr"), "stderr")),
        )


class MpiFunctionAll(MpiFunction):
    """The same; its value is the list of the values of all ranks."""

    _returns = "all"
