# SPDX-License-Identifier: BSD-3-Clause
"""Any ``concurrent.futures.Executor`` as an executor of tasks."""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import logging
import os
import signal
import time
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from ssdag.arguments import localize
from ssdag.errors import ConfigError
from ssdag.executors.adapters.calls import pack_call, run_call, unpack_answer
from ssdag.executors.adapters.foreign import ForeignExecutor
from ssdag.wire.functions import runnable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.tasks import Outcome, Task

_log = logging.getLogger("ssdag.executors")

#: A pool that breaks so often without finishing anything is not made again.
_BREAKS = 3
#: Idle processes have so long to end by themselves.
_END_S = 10.0


class FuturesExecutor(ForeignExecutor):
    """Runs tasks on a pool that you have: of loky, mpi4py, Flux, Dragon, the standard library.

    Functions and arguments travel by our own serialisation, so lambdas and functions of
    ``__main__`` work on every pool. ``walltime_s`` of Python apps is refused and a body
    that runs cannot be cancelled, because the interface has no way to kill.

    Parameters
    ----------
    pool : concurrent.futures.Executor or callable
        An executor, which stays yours: it is not shut down. Or a callable that makes
        one: it is called as the engine starts, and again if the pool breaks because a
        worker died; what it made is shut down with the engine.
    label : str, optional
        Its name, for ``executors=`` of apps.
    max_workers : int, optional
        Tasks that it runs at a time; the default is what the pool says of itself.
    pickled : bool, optional
        False hands objects over as they are, for pools in this process; the default is
        False for ``ThreadPoolExecutor`` and True for all others.

    Raises
    ------
    ConfigError
        `pool` is neither, or an option is out of range.

    Examples
    --------
    >>> FuturesExecutor(lambda: ProcessPoolExecutor(4))  # doctest: +SKIP
    """

    def __init__(
        self,
        pool: cf.Executor | Callable[[], cf.Executor],
        label: str = "futures",
        *,
        max_workers: int | None = None,
        pickled: bool | None = None,
    ) -> None:
        super().__init__(label)
        if isinstance(pool, type) or not (callable(pool) or hasattr(pool, "submit")):
            raise ConfigError(
                f"FuturesExecutor({pool!r}): an executor is needed, or a callable that makes one, "
                "such as lambda: ProcessPoolExecutor(4)"
            )
        if max_workers is not None and (
            isinstance(max_workers, bool) or not isinstance(max_workers, int) or max_workers < 1
        ):
            raise ConfigError(f"max_workers={max_workers!r}: an int of at least 1 is needed")
        self._make = None if hasattr(pool, "submit") else pool
        self._pool: Any = None if self._make else pool
        self._workers = max_workers
        self._pickled = pickled
        self._breaks = 0

    @property
    def capacity(self) -> int:
        """Tasks that the pool runs at a time."""
        if self._workers is not None:
            return self._workers
        said = getattr(self._pool, "_max_workers", None) or getattr(self._pool, "num_workers", None)
        return said if isinstance(said, int) and said > 0 else (os.cpu_count() or 1)

    def _open(self) -> None:
        if self._make is not None:
            self._pool = self._make()
        if not hasattr(self._pool, "submit"):
            raise ConfigError(
                f"executor {self.label!r}: {self._pool!r} has no submit(); "
                "a concurrent.futures.Executor is needed"
            )
        if self._pickled is None:
            self._pickled = not isinstance(self._pool, cf.ThreadPoolExecutor)
        if not self._pickled:
            self.reach = "memory"
        elif hasattr(self._pool, "_processes"):  # children of ours: the library's, loky's
            self.reach = "node"

    def _close(self) -> None:
        if self._make is None:
            return
        # Nobody can wait for a body that may never end.
        _end(self._pool, _END_S if self._sent == 0 else 0.0)

    def _send(
        self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any] | None
    ) -> cf.Future[Any]:
        function: Callable[..., Any] = run_call
        if self._pickled:
            args, kwargs = (pack_call(task, args, kwargs),), None
        else:
            args, kwargs = localize(args, kwargs)
            function = runnable(task.app.func)
        try:
            return self._submit(function, args, kwargs)
        except cf.BrokenExecutor:
            if not self._mend():
                raise
            return self._submit(function, args, kwargs)

    def _submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None
    ) -> cf.Future[Any]:
        future: cf.Future[Any] = self._pool.submit(function, *args, **(kwargs or {}))
        return future

    def _mend(self) -> bool:
        """Make another pool; False if it is not ours to make, or breaks all the time."""
        self._breaks += 1
        if self._make is None or self._breaks > _BREAKS or self._closed:
            return False
        _log.warning("the pool of executor %r broke and is made again", self.label)
        _end(self._pool, 0.0)
        self._pool = self._make()
        return True

    def _outcome(self, task: Task, handle: cf.Future[Any]) -> Outcome:
        if self._pickled:
            value, error, took = unpack_answer(handle.result())
        else:
            error, took = handle.exception(), 0.0
            value = handle.result() if error is None else None
        self._breaks = 0
        return self._timed(task, value, error, took)

    def _stop(self, task: Task, handle: cf.Future[Any]) -> bool:
        return handle.cancel()


def _end(pool: Any, patience_s: float) -> None:
    """Shut a pool down; processes of it that do not end in time are killed.

    Not by the pool's own wait: one that is broken may never come back from it.
    """
    processes = list((getattr(pool, "_processes", None) or {}).values())
    waits = patience_s > 0 and not processes
    try:
        pool.shutdown(wait=waits, cancel_futures=True)
    except TypeError:  # loky, whose option has another name
        pool.shutdown(wait=waits)
    end = time.monotonic() + patience_s
    for process in processes:
        if not _ended(process, max(0.0, end - time.monotonic())):
            with contextlib.suppress(ProcessLookupError):
                try:
                    os.kill(process.pid, signal.SIGKILL)  # loky's have no kill()
                except OverflowError:  # and Dragon's have numbers of their own
                    process.kill()
            _ended(process, _END_S)


def _ended(process: Any, patience_s: float) -> bool:
    """Wait for the end of a pool's process; return whether it has come."""
    try:
        return bool(wait([process.sentinel], patience_s))
    except OverflowError:  # Dragon's is no file descriptor
        process.join(patience_s)
        return not process.is_alive()
