# SPDX-License-Identifier: BSD-3-Clause
"""A task as a plain call, for engines that know nothing of tasks.

:func:`pack_call` makes bytes in the driver; :func:`run_call` runs them wherever the other
engine likes and returns bytes; :func:`unpack_answer` makes an outcome of these. So
functions of ``__main__``, lambdas and exceptions travel as they do to our own workers,
whatever the other engine's own serializer can do.
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
import time
from typing import TYPE_CHECKING, Any

from ssdag.errors import SerializationError
from ssdag.references import fetch_unresolved
from ssdag.wire import context
from ssdag.wire.functions import dump_function, load_function
from ssdag.wire.raised import dump_raised
from ssdag.wire.serialize import dump_error, dumps, load_error, loads, name_culprit

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.tasks import Task

#: Differs between drivers; a forked child of one has another process number.
_HERE = (os.urandom(8), os.getpid())


def pack_call(task: Task, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bytes:
    """Return a task's function and arguments as bytes.

    Raises
    ------
    SerializationError
        Something of it cannot be pickled; the text names what.
    """
    function = dump_function(task.app.func)
    try:
        arguments = dumps((args, kwargs or {}))
    except SerializationError as error:
        raise SerializationError(
            f"task {task.task_id} ({task.app.name}): {name_culprit(args, kwargs)} cannot be sent "
            f"to a worker: {error}",
            task_id=task.task_id,
        ) from error
    return pickle.dumps((_HERE, sys.path, function, arguments), 5)


def run_call(call: bytes) -> tuple[bool, bytes, float]:
    """Run a call that :func:`pack_call` made; never raises.

    Returns
    -------
    tuple of (bool, bytes, float)
        Whether it went well; its pickled value or error; the seconds that its body took.
    """
    started = time.monotonic()
    try:
        driver, path, function, arguments = pickle.loads(call)
        if driver != (_HERE[0], os.getpid()):
            context.enter_worker()
            sys.path += [folder for folder in path if folder not in sys.path]
        func = _function(function)
        args, kwargs = loads(arguments)
        started = time.monotonic()
        value = func(*args, **kwargs)
        took = time.monotonic() - started
        del args, kwargs
        fetch_unresolved()
        return True, dumps(value), took
    except SerializationError as error:
        wrapped = SerializationError(f"the task's result: {error}")
        return False, dump_error(wrapped), time.monotonic() - started
    except BaseException as error:  # user code, which may also raise SystemExit
        return False, dump_raised(error, __file__), time.monotonic() - started


@functools.lru_cache(maxsize=512)
def _function(blob: bytes) -> Callable[..., Any]:
    return load_function(blob)


def unpack_answer(answer: tuple[bool, bytes, float]) -> tuple[Any, BaseException | None, float]:
    """Return value, error and seconds of what :func:`run_call` returned; never raises."""
    good, data, took = answer
    if not good:
        return None, load_error(data), took
    try:
        return loads(data), None, took
    except BaseException as error:  # the classes of user values load themselves
        wrapped = SerializationError(
            f"a task's result cannot be loaded here: {type(error).__name__}: {error}"
        )
        wrapped.__cause__ = error
        return None, wrapped, took
