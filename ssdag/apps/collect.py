# SPDX-License-Identifier: BSD-3-Clause
"""Wait for many futures: gather, wait, as_completed."""

from __future__ import annotations

import concurrent.futures as cf
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import ssdag.arguments as arguments
from ssdag.apps.gate import completed, wait_for
from ssdag.errors import SsdagError
from ssdag.monitoring.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_COMPLETED = cf.FIRST_COMPLETED
FIRST_EXCEPTION = cf.FIRST_EXCEPTION
ALL_COMPLETED = cf.ALL_COMPLETED


def gather(
    futures: Any,
    *,
    progress: bool = False,
    timeout: float | None = None,
    return_exceptions: bool = False,
    description: str = "tasks",
) -> Any:
    """Return the results of many futures; blocks until all are there.

    Parameters
    ----------
    futures : future or container
        A list, tuple, set, dictionary or any iterable of futures; containers may nest
        and may hold other values too.
    progress : bool, optional
        Show a progress bar; plain lines where stderr is no terminal.
    timeout : float, optional
        Seconds to wait at most.
    return_exceptions : bool, optional
        Put exceptions in place of missing results instead of raising the first.
    description : str, optional
        Name on the progress bar.

    Returns
    -------
    object
        The same structure with results in place of the futures; a list for other
        iterables.

    Raises
    ------
    TimeoutError
        The time is over; the tasks go on.
    BaseException
        The error of the first future (in order) that failed, as soon as one failed.
    """
    structure = futures
    if not isinstance(futures, (list, tuple, set, frozenset, dict, cf.Future)):
        try:
            structure = list(futures)
        except TypeError:
            raise SsdagError(f"gather() takes futures, not a {type(futures).__name__}") from None
    found, _, _ = arguments.find((structure,), None)
    if not found and structure is not futures and structure:
        raise SsdagError(f"gather() found no futures in a {type(futures).__name__}")
    watched = Progress(found, description) if progress else None
    try:
        if watched is not None:
            watched.start()
        when = ALL_COMPLETED if return_exceptions else FIRST_EXCEPTION
        done, waiting = wait_for(found, timeout, when)
    finally:
        if watched is not None:
            watched.close()
    if not return_exceptions:
        for future in found:
            if future in done and (future.cancelled() or future.exception() is not None):
                future.result()
    if waiting:
        raise TimeoutError(f"{len(waiting)} of {len(found)} futures are not done in {timeout} s")
    return _collect(structure, return_exceptions)


def _collect(value: Any, return_exceptions: bool) -> Any:
    if isinstance(value, cf.Future):
        if not return_exceptions:
            return value.result()
        if value.cancelled():
            return cf.CancelledError()
        error = value.exception()
        return value.result() if error is None else error
    if isinstance(value, dict):
        return {
            _collect(key, return_exceptions): _collect(item, return_exceptions)
            for key, item in value.items()
        }
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make([_collect(item, return_exceptions) for item in value])
    if type(value) in (list, tuple, set, frozenset):
        return type(value)([_collect(item, return_exceptions) for item in value])
    return value


def wait(
    futures: Iterable[cf.Future[Any]],
    timeout: float | None = None,
    return_when: str = ALL_COMPLETED,
) -> tuple[set[cf.Future[Any]], set[cf.Future[Any]]]:
    """Block until futures are done; ``concurrent.futures.wait``.

    Parameters
    ----------
    futures : iterable of futures
        What to wait for.
    timeout : float, optional
        Seconds to wait at most.
    return_when : str, optional
        ``FIRST_COMPLETED``, ``FIRST_EXCEPTION`` or ``ALL_COMPLETED`` of
        :mod:`concurrent.futures`.

    Returns
    -------
    tuple of two sets
        Those that are done, and the others.
    """
    return wait_for(_listed("wait", futures), timeout, return_when)


def _listed(name: str, futures: Any) -> list[cf.Future[Any]]:
    if not isinstance(futures, Iterable):
        raise SsdagError(f"{name}() takes a list of futures, not a {type(futures).__name__}")
    found = list(futures)
    for item in found:
        if not isinstance(item, cf.Future):
            raise SsdagError(f"{name}() takes a list of futures, not of {type(item).__name__}")
    return found


def as_completed(
    futures: Iterable[cf.Future[Any]],
    timeout: float | None = None,
    *,
    progress: bool = False,
    description: str = "tasks",
) -> Iterator[Any]:
    """Yield futures as they end; ``concurrent.futures.as_completed``, with a progress bar.

    Parameters
    ----------
    futures : iterable of futures
        What to wait for.
    timeout : float, optional
        Seconds from now until TimeoutError is raised.
    progress : bool, optional
        Show a progress bar.
    description : str, optional
        Its name.

    Raises
    ------
    TimeoutError
        The time is over.
    SsdagError
        There is something else than futures among them.
    """
    return _completed(_listed("as_completed", futures), timeout, description if progress else None)


def _completed(
    futures: list[cf.Future[Any]], timeout: float | None, description: str | None
) -> Iterator[Any]:
    watched = None if description is None else Progress(futures, description)
    try:
        if watched is not None:
            watched.start()
        yield from completed(futures, timeout)
    finally:
        if watched is not None:
            watched.close()
