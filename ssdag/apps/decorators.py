# SPDX-License-Identifier: BSD-3-Clause
"""The decorators that make apps of functions.

Each is usable bare (``@python_app``) or with options (``@python_app(retries=2)``).
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ssdag.apps import mpi
from ssdag.apps.app import App
from ssdag.config import near
from ssdag.errors import AppDefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R")

_OPTIONS = (
    "executors",
    "cache",
    "ignore_for_cache",
    "retries",
    "walltime_s",
    "resources",
    "priority",
    "after",
    "store",
    "lazy",
)


@overload
def python_app(func: Callable[..., R], /) -> App[R]: ...
@overload
def python_app(**options: Any) -> Callable[[Callable[..., R]], App[R]]: ...
def python_app(func: Any = None, /, **options: Any) -> Any:
    """Make an app of a Python function.

    Parameters
    ----------
    func : callable
        The body; ``async def`` works too. It runs in another process or thread, so it
        should take what it needs as arguments.
    executors : str or list of str, optional
        Labels of executors that may run it; by default any that can.
    cache : bool, optional
        Remember results: a call with equal arguments (by content) and the same source
        is not run again. With ``Config(checkpoint=...)`` also in later runs.
    ignore_for_cache : list of str, optional
        Parameters that do not tell calls apart.
    retries : int or RetryPolicy, optional
        How often a failed task is tried again; by default as the engine's ``Config``.
    walltime_s : float, optional
        Seconds after which a running task is killed.
    resources : Resources, optional
        What it needs.
    priority : int, optional
        Higher runs sooner; the default is 0.
    store : Connector, Orchestrator, str or path, optional
        Where its large results and arguments go, instead of ``Config(store=...)``, also
        where workers share memory with the driver; False sends them by the driver.
    lazy : bool, optional
        Arguments that travel by reference arrive as proxies, which are fetched when the
        body first uses them.
    after : list of futures, optional
        Must end well before any task of the app begins. A call takes ``after=`` too,
        for itself alone.

    Returns
    -------
    App
        Call it to get an :class:`~ssdag.AppFuture`.

    Notes
    -----
    The parameters ``outputs``, ``stdout``, ``stderr``, ``walltime`` and ``label`` of a call
    (or of the function's signature) have a meaning of their own, as in Parsl: files that
    must exist at the end, where output goes, seconds until the task is killed, and a
    name. ``inputs`` is an ordinary parameter: futures in it are waited for. A body that
    itself has a parameter ``after`` keeps it.

    Raises
    ------
    AppDefinitionError, ConfigError
        An unknown option, or one of a wrong type.
    """
    return _decorate("python", func, options)


@overload
def bash_app(func: Callable[..., str], /) -> App[int]: ...
@overload
def bash_app(**options: Any) -> Callable[[Callable[..., str]], App[int]]: ...
def bash_app(func: Any = None, /, **options: Any) -> Any:
    """Make an app of a function that returns a command line.

    The command runs where the body ran. Without shell syntax it is executed directly,
    else by bash. The future's result is the exit code 0; any other is a
    :class:`~ssdag.CommandError` with the command, the exit code and the last lines of
    stderr.

    Parameters
    ----------
    func : callable
        Returns the command as a str.
    **options
        As for :func:`python_app`.

    Raises
    ------
    AppDefinitionError, ConfigError
        An unknown option, or one of a wrong type.
    """
    return _decorate("bash", func, options)


@overload
def mpi_app(func: Callable[..., Any], /) -> App[Any]: ...
@overload
def mpi_app(**options: Any) -> Callable[[Callable[..., Any]], App[Any]]: ...
def mpi_app(func: Any = None, /, **options: Any) -> Any:
    """Make an app of a function that returns a command with ranks, or that is run by ranks.

    It runs on an :class:`~ssdag.executors.AllocationExecutor` (or a ``BatchExecutor``),
    which starts the command once for each rank, by the launcher of the system, on slots
    of its own. How many ranks, and where, is in ``resources``, of the decorator or of a
    call: ``solve(mesh, resources=Resources(ranks=64, ranks_per_node=16))``. The default
    is one rank with one core.

    Parameters
    ----------
    func : callable
        Returns the command, as a str (for the shell if it needs one) or as a list of
        arguments. The future's result is the exit code 0; any other is a
        :class:`~ssdag.CommandError`.
    python : bool, optional
        True: the function itself runs on every rank, where ``mpi4py.MPI.COMM_WORLD`` is
        their world; its arguments come to each of them. If a rank raises, the others
        are ended, and the future has that error with a note that names the rank.
    returns : str, optional
        With ``python=True``: "first" for the value of rank 0 (the default), "all" for the
        list of the values of all ranks.
    **options
        As for :func:`python_app`.

    Raises
    ------
    AppDefinitionError, ConfigError
        An unknown option, or one of a wrong type.

    Examples
    --------
    >>> @mpi_app(resources=Resources(ranks=4))  # doctest: +SKIP
    ... def solve(mesh):
    ...     return ["solver", mesh]
    """
    return _decorate("mpi", func, options)


@overload
def join_app(func: Callable[..., R], /) -> App[Any]: ...
@overload
def join_app(**options: Any) -> Callable[[Callable[..., R]], App[Any]]: ...
def join_app(func: Any = None, /, **options: Any) -> Any:
    """Make an app of a function that calls other apps and returns their futures.

    The body runs in a thread of the driver. Its task ends when all futures that it
    returned (also deep in lists, tuples, sets and dictionaries) have ended, with their
    values in place of them. It holds no worker, and no thread, while it waits.

    Parameters
    ----------
    func : callable
        Calls apps; should not wait for them.
    **options
        As for :func:`python_app`, but for ``executors`` and ``walltime_s``.

    Raises
    ------
    AppDefinitionError, ConfigError
        An unknown option, or one of a wrong type.
    """
    if options.get("executors") is not None:
        raise AppDefinitionError("a join_app runs beside the engine: it takes no executors")
    return _decorate("join", func, options)


def _decorate(kind: str, func: Any, options: dict[str, Any]) -> Any:
    known = (*_OPTIONS, *mpi.OPTIONS) if kind == "mpi" else _OPTIONS
    for name in options:
        if name not in known:
            raise AppDefinitionError(
                f"{kind}_app has no option {name!r}{near(name, known)}; "
                f"there are {', '.join(known)}"
            )

    def decorate(body: Callable[..., Any]) -> App[Any]:
        if isinstance(body, App):
            raise AppDefinitionError(f"{body!r} is an app already")
        if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
            raise AppDefinitionError(
                f"{body.__name__} is a generator; a task has one result, so return a list"
            )
        return App(body, kind, options)

    return decorate if func is None else decorate(func)
