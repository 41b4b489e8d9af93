# SPDX-License-Identifier: BSD-3-Clause
"""What really runs for an app that is more than a plain function.

Bodies are small picklable objects around the user's function. They run in the worker;
what is special about one call comes in the keyword :data:`IO`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from ssdag.apps import shell, staging
from ssdag.apps.command import failure, run_command
from ssdag.apps.files import File
from ssdag.apps.staging import places
from ssdag.errors import AppDefinitionError, CommandError, MissingOutputError
from ssdag.executors.program import LAUNCH_VARIABLE, Program
from ssdag.wire.context import in_worker
from ssdag.wire.functions import dump_function, load_function, runnable
from ssdag.wire.streams import OutputFile, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ssdag.executors.program import Call

#: The keyword that carries streams and outputs of a call to its body.
IO = "_ssdag_io"


class Body(ABC):
    """A user's function and what is done around it.

    Parameters
    ----------
    func : callable
        The user's function.
    name : str
        The app's name, for messages.
    """

    def __init__(self, func: Callable[..., Any], name: str) -> None:
        self.__wrapped__ = func
        self.name = name
        self._call = runnable(func)

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (type(self), dump_function(self.__wrapped__), self.name)

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work of one call."""


def _load(cls: type[Body], blob: bytes, name: str) -> Body:
    return cls(load_function(blob), name)


class PythonBody(Body):
    """A Python body with redirected streams or declared outputs."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function; its outputs must exist afterwards."""
        io: Mapping[str, Any] = kwargs.pop(IO, {})
        io = stage_in(kwargs, io)
        with _redirected(io):
            value = self._call(*args, **kwargs)
        stage_out(self.name, io)
        return value


class BashBody(Body):
    """A body that returns a command line, which is then run.

    The result is the exit code, 0: any other is an error.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> int:
        """Get the command from the function and run it to its end."""
        io: Mapping[str, Any] = kwargs.pop(IO, {})
        io = stage_in(kwargs, io)
        command = self._command(args, kwargs)
        result = run_command(
            command,
            stdout=io.get("stdout"),
            stderr=io.get("stderr"),
            walltime_s=io.get("walltime_s"),
            label=self.name,
        )
        stage_out(self.name, io)
        return result.exit_code

    def __ssdag_program__(self, call: Call) -> Program:
        """Return the command as a program, for executors that start those themselves."""
        kwargs = dict(call.kwargs)
        io: Mapping[str, Any] = kwargs.pop(IO, {})
        io = stage_in(kwargs, io)
        command = self._command(call.args, kwargs)
        return program_of(command, shell_argv(command, self.name), io, self.name)

    def _command(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        command = self._call(*args, **kwargs)
        if not isinstance(command, str):
            raise AppDefinitionError(
                f"bash_app {self.name!r} must return the command as a str, not "
                f"{type(command).__name__}" + (" (no return?)" if command is None else "")
            )
        return command


def shell_argv(command: str, name: str) -> tuple[str, ...]:
    """Return what executes a command: itself if it needs no shell, else bash."""
    if not command.strip() or "\0" in command:
        what = "an empty command" if not command.strip() else "a command with a NUL character"
        raise CommandError(f"{name}: {what} cannot be run", command=command)
    return tuple(shell.split(command) or (shell.program(), "-c", command))


def program_of(command: str, argv: tuple[str, ...], io: Mapping[str, Any], name: str) -> Program:
    """Return the program of a command, whose value is the exit code 0."""

    def finish(exit_code: int, stderr_tail: str) -> int:
        if exit_code != 0:
            raise failure(command, exit_code, stderr_tail, name)
        stage_out(name, io)
        return 0

    return Program(
        argv=argv,
        shown=command,
        finish=finish,
        stdout=absolute(parse(io.get("stdout"), "stdout")),
        stderr=absolute(parse(io.get("stderr"), "stderr")),
        walltime_s=io.get("walltime_s"),
        launches=LAUNCH_VARIABLE in command,
    )


def absolute(stream: tuple[str, str] | None) -> tuple[str, str] | None:
    """Return a stream's path and mode, for a program that may run in another folder."""
    return None if stream is None else (os.path.abspath(stream[0]), stream[1])


def stage_in(kwargs: dict[str, Any], io: Mapping[str, Any]) -> Mapping[str, Any]:
    """Bring the files of ``inputs=`` here, and give outputs that go elsewhere a path here.

    Parameters
    ----------
    kwargs : dict
        Keywords of the body; its files are replaced.
    io : mapping
        What is special about the call.

    Returns
    -------
    mapping
        The same for :func:`stage_out`.
    """
    stagings = io.get("stagings", ())
    inputs = kwargs.get("inputs")
    if isinstance(inputs, (list, tuple)) and any(isinstance(item, File) for item in inputs):
        kwargs["inputs"] = [
            staging.find(item, stagings=stagings).stage_in(item, None)
            if isinstance(item, File)
            else item
            for item in inputs
        ]
    outputs = io.get("outputs", ())
    if all(file.scheme == "file" for file in outputs):
        return io
    own = places.own()
    here = [
        file if file.scheme == "file" else file.at(os.path.join(own, str(number), file.filename))
        for number, file in enumerate(outputs)
    ]
    for number in range(len(here)):
        os.mkdir(os.path.join(own, str(number)))
    if isinstance(kwargs.get("outputs"), (list, tuple)):
        kwargs["outputs"] = here
    return {**io, "outputs": here, "own": own}


def stage_out(name: str, io: Mapping[str, Any]) -> None:
    """Put declared outputs in their places; raise one error for all that are missing."""
    missing: list[str] = []
    for file in io.get("outputs", ()):
        try:
            found = staging.find(file, out=True, stagings=io.get("stagings", ()))
            found.stage_out(file, None)
        except MissingOutputError as error:
            missing += error.missing
    if missing:
        raise MissingOutputError(
            f"{name} ended well, but did not make {', '.join(map(repr, missing))} "
            f"(in {os.getcwd()})",
            missing=tuple(missing),
        )
    if "own" in io:
        shutil.rmtree(io["own"], ignore_errors=True)


@contextlib.contextmanager
def _redirected(io: Mapping[str, Any]) -> Iterator[None]:
    """Send the streams to files while a Python body runs.

    In a worker process the descriptors themselves are redirected, so that output of
    libraries and child processes goes along. Threads of a driver share them with all
    others, so there ``sys.stdout`` and ``sys.stderr`` are all that can be changed.
    """
    with contextlib.ExitStack() as stack:
        for name, fd in (("stdout", 1), ("stderr", 2)):
            spec = parse(io.get(name), name)
            if spec is None:
                continue
            file = stack.enter_context(OutputFile(*spec))
            if in_worker():
                getattr(sys, name).flush()
                saved = os.dup(fd)
                stack.callback(_restore, fd, saved, name)
                os.dup2(file.fd, fd)
            else:
                stream = stack.enter_context(os.fdopen(os.dup(file.fd), "w"))
                redirect = contextlib.redirect_stdout if fd == 1 else contextlib.redirect_stderr
                stack.enter_context(redirect(stream))
        yield


def _restore(fd: int, saved: int, name: str) -> None:
    getattr(sys, name).flush()
    os.dup2(saved, fd)
    os.close(saved)
