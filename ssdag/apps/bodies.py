# SPDX-License-Identifier: BSD-3-Clause
"""What really runs for an app that is more than a plain function.

Bodies are small picklable objects around the user's function. They run in the worker;
what is special about one call comes in the keyword :data:`IO`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from ssdag.apps import staging
from ssdag.apps.command import run_command
from ssdag.apps.files import File
from ssdag.errors import AppDefinitionError, MissingOutputError
from ssdag.wire.context import in_worker
from ssdag.wire.functions import dump_function, load_function, runnable
from ssdag.wire.streams import OutputFile, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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
        _stage_in(kwargs)
        with _redirected(io):
            value = self._call(*args, **kwargs)
        _stage_out(self.name, io.get("outputs", ()))
        return value


class BashBody(Body):
    """A body that returns a command line, which is then run.

    The result is the exit code, 0: any other is an error.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> int:
        """Get the command from the function and run it to its end."""
        io: Mapping[str, Any] = kwargs.pop(IO, {})
        _stage_in(kwargs)
        command = self._call(*args, **kwargs)
        if not isinstance(command, str):
            raise AppDefinitionError(
                f"bash_app {self.name!r} must return the command as a str, not "
                f"{type(command).__name__}" + (" (no return?)" if command is None else "")
            )
        result = run_command(
            command,
            stdout=io.get("stdout"),
            stderr=io.get("stderr"),
            walltime_s=io.get("walltime_s"),
            label=self.name,
        )
        _stage_out(self.name, io.get("outputs", ()))
        return result.exit_code


def _stage_in(kwargs: dict[str, Any]) -> None:
    """Bring the files of ``inputs=`` here; they must exist."""
    inputs = kwargs.get("inputs")
    if isinstance(inputs, (list, tuple)) and any(isinstance(item, File) for item in inputs):
        kwargs["inputs"] = [
            staging.find(item).stage_in(item, None) if isinstance(item, File) else item
            for item in inputs
        ]


def _stage_out(name: str, files: Sequence[File]) -> None:
    """Put declared outputs in their places; raise one error for all that are missing."""
    missing: list[str] = []
    for file in files:
        try:
            staging.find(file, out=True).stage_out(file, None)
        except MissingOutputError as error:
            missing += error.missing
    if missing:
        raise MissingOutputError(
            f"{name} ended well, but did not make {', '.join(map(repr, missing))} "
            f"(in {os.getcwd()})",
            missing=tuple(missing),
        )


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
