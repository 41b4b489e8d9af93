# SPDX-License-Identifier: BSD-3-Clause
"""Writes a call into a folder, and reads what its ranks have written there."""

from __future__ import annotations

import os
import pickle
import sys
from typing import TYPE_CHECKING, Any, Literal

from ssdag.errors import LauncherError, SerializationError, WorkerLostError
from ssdag.executors.calls import runner
from ssdag.executors.program import HasProgram, Program
from ssdag.wire.functions import dump_function
from ssdag.wire.serialize import dumps, load_error, loads, name_culprit

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.executors.program import Call
    from ssdag.tasks import Task

Returns = Literal["first", "all"]


def maker_of(task: Task) -> Callable[[Call], Program]:
    """Return what makes the program of a task: its body, if that can, or an interpreter."""
    func: Any = task.app.func
    if isinstance(func, HasProgram) and not isinstance(func, type):
        return func.__ssdag_program__
    return lambda call: python_program(call, func)


def python_program(call: Call, func: Callable[..., Any]) -> Program:
    """Return the program that runs a Python function in a new interpreter.

    Raises
    ------
    SerializationError
        The function or an argument cannot be sent.
    """
    return _program(call, func, mpi=False, returns="first")


def mpi_program(call: Call, func: Callable[..., Any], returns: Returns) -> Program:
    """Return the program that runs a Python function on every rank.

    Its value is that of rank 0 (``returns="first"``), or the list of all.

    Raises
    ------
    SerializationError
        The function or an argument cannot be sent.
    """
    return _program(call, func, mpi=True, returns=returns)


def _program(call: Call, func: Callable[..., Any], *, mpi: bool, returns: Returns) -> Program:
    folder = call.make_folder()
    write_call(folder, call, func, mpi=mpi, returns=returns)

    def finish(exit_code: int, stderr_tail: str) -> Any:
        return read_end(folder, call, exit_code, stderr_tail, mpi=mpi, returns=returns)

    argv = (sys.executable, "-P", runner.__file__, folder)
    return Program(argv, f"Python function {call.name}", finish)


def write_call(
    folder: str, call: Call, func: Callable[..., Any], *, mpi: bool, returns: Returns
) -> None:
    """Write a call for :mod:`ssdag.executors.calls.runner`."""
    try:
        arguments = dumps((call.args, call.kwargs))
    except SerializationError as error:
        culprit = name_culprit(call.args, call.kwargs)
        raise SerializationError(
            f"task {call.task_id} ({call.name}): {culprit} cannot be sent to a worker: {error}",
            task_id=call.task_id,
        ) from error
    except BaseException as error:  # __reduce__ is user code, and may even exit
        raise SerializationError(
            f"task {call.task_id} ({call.name}) cannot be sent to a worker: pickling it raised "
            f"{type(error).__name__}",
            task_id=call.task_id,
        ) from error
    here = os.getcwd()
    content = {
        "path": [os.path.join(here, entry) if entry else here for entry in sys.path],
        "argv": sys.argv,
        "cwd": here,
        "name": call.name,
        "function": dump_function(func),
        "arguments": arguments,
        "ranks": call.ranks if mpi else 0,
        "all": returns == "all",
    }
    path = os.path.join(folder, runner.CALL)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        pickle.dump(content, file, 5)


def read_end(
    folder: str, call: Call, exit_code: int, stderr_tail: str, *, mpi: bool, returns: Returns
) -> Any:
    """Return the value that the ranks have written, or raise their error.

    Raises
    ------
    BaseException
        What the body raised; of several ranks the first, with a note on the others.
    WorkerLostError
        A process ended without a word.
    """
    ends = _read_all(folder)
    errors = [(when, rank, data) for rank, (kind, data, when) in ends.items() if kind == "error"]
    if errors:
        raise _first(sorted(errors), call, mpi)
    wanted = range(call.ranks) if mpi and returns == "all" else range(1)
    missing = [rank for rank in wanted if rank not in ends]
    if exit_code != 0 or missing:
        raise _lost(call, exit_code, stderr_tail, missing if mpi else [])
    try:
        values = [loads(ends[rank][1]) for rank in wanted]
    except BaseException as error:  # classes of the value are user code
        raise SerializationError(
            f"the result of task {call.task_id} ({call.name}) cannot be loaded here: "
            f"{type(error).__name__}: {error}",
            task_id=call.task_id,
        ) from error
    return values if mpi and returns == "all" else values[0]


def _read_all(folder: str) -> dict[int, tuple[str, bytes, float]]:
    ends = {}
    for entry in os.scandir(folder):
        name, _, rank = entry.name.partition("-")
        if name == runner.END and rank.isdigit():
            with open(entry.path, "rb") as file:
                ends[int(rank)] = pickle.load(file)
    return ends


def _first(errors: list[tuple[float, int, bytes]], call: Call, mpi: bool) -> BaseException:
    error = load_error(errors[0][2])
    if isinstance(error, SerializationError):
        error.task_id = call.task_id
    if mpi and not isinstance(error, LauncherError):
        others = [f"rank {rank} {type(load_error(data)).__name__}" for _, rank, data in errors[1:]]
        also = f"; also {', '.join(others[:8])}" if others else ""
        error.add_note(f"raised on rank {errors[0][1]} of {call.ranks}{also}")
    return error


def _lost(call: Call, exit_code: int, stderr_tail: str, missing: list[int]) -> WorkerLostError:
    how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with code {exit_code}"
    text = f"task {call.task_id} ({call.name}): its process {how} without a result"
    if missing:
        shown = ", ".join(map(str, missing[:8])) + (" ..." if len(missing) > 8 else "")
        text += f" of rank {shown} (of {call.ranks})"
    if stderr_tail:
        text += f"\nlast lines of stderr:\n{stderr_tail}"
    return WorkerLostError(text, exit_code=exit_code, task_id=call.task_id)
