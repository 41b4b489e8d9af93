# SPDX-License-Identifier: BSD-3-Clause
"""Lean futures that are ``concurrent.futures.Future``.

``concurrent.futures.wait``, ``as_completed`` and ``asyncio.wrap_future`` work on them
as on any other, and ``await`` works on them as they are. They differ in cost only: no
instance dictionary, no condition variable until somebody waits.

Lock order. :data:`LOCK` guards the state of every future and of every engine; it is
also the lock under which a condition is made. The order is condition, then LOCK,
never the reverse. Whoever completes a future changes its state under LOCK; if the
future has a condition, it holds that condition around LOCK. "State first, then look
for a condition" is not enough: ``wait`` reads states twice while it holds the
conditions, and would return early.
"""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import logging
import os
import threading
from _thread import allocate_lock
from concurrent.futures import CancelledError, InvalidStateError
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ssdag.errors import SerializationError, WouldDeadlockError
from ssdag.references import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

T = TypeVar("T")
_log = logging.getLogger("ssdag")

#: The one lock of all futures and engines of this process; see the module docstring. It
#: can be taken again by its holder, because the garbage collector may run finalizers of
#: users anywhere, and these may cancel a future or submit a task.
LOCK = threading.RLock()

# A forked child gets the lock free, and what it guards whole, whoever held it.
os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)


def owns_lock() -> bool:
    """Return True if this thread holds :data:`LOCK`, and so must wait for nobody."""
    return bool(LOCK._is_owned())  # type: ignore[attr-defined]


_PENDING = "PENDING"
_RUNNING = "RUNNING"
_CANCELLED = "CANCELLED_AND_NOTIFIED"
_FINISHED = "FINISHED"


class WaitGuard(threading.local):
    """What the current thread must ask before it blocks on a future.

    Executors whose workers are threads set ``before_wait`` in them, so that a wait
    that could never end raises instead of hanging.
    """

    before_wait: Callable[[Future[Any]], Callable[[], None]] | None = None


WAIT_GUARD = WaitGuard()


class Future(cf.Future[T], Generic[T]):
    """A ``concurrent.futures.Future`` of 130 bytes.

    ``result()`` resolves a :class:`~ssdag.references.Reference`; everything else
    behaves as the standard library documents it.
    """

    __slots__ = (
        "_cond",
        "_done_callbacks",
        "_exception",
        "_result",
        "_sleepers",
        "_state",
        "_waiters",
    )

    if TYPE_CHECKING:
        _state: str
        _result: Any
        _exception: BaseException | None
        _done_callbacks: list[Callable[[Any], object]] | None
        _waiters: Any
        _cond: threading.Condition | None
        _sleepers: list[Any] | None

    def __init__(self) -> None:  # the base initialiser would build a condition and a dict
        self._state = _PENDING
        self._result = None
        self._exception = None
        self._done_callbacks = None
        self._cond = None
        self._sleepers = None

    if not TYPE_CHECKING:  # to a type checker it is the attribute that the base class has

        @property
        def _condition(self) -> threading.Condition:
            """The condition that the standard library's functions use; made on demand."""
            cond = self._cond
            if cond is None:
                with LOCK:
                    cond = self._cond
                    if cond is None:
                        self._waiters = []
                        cond = self._cond = threading.Condition()
            return cond

    # -- looking ---------------------------------------------------------------------

    def done(self) -> bool:
        """Return True if the future has a result, an error, or was cancelled."""
        state = self._state
        return state is _FINISHED or state is _CANCELLED

    def cancelled(self) -> bool:
        """Return True if the future was cancelled."""
        return self._state is _CANCELLED

    def running(self) -> bool:
        """Return True while it executes and cannot be taken from a queue any more."""
        return self._state is _RUNNING

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._describe()}>"

    def _describe(self) -> str:
        if self._state is _FINISHED:
            if self._exception is not None:
                return f"failed with {type(self._exception).__name__}"
            return f"done with {type(self._result).__name__}"
        return "cancelled" if self._state is _CANCELLED else self._state.lower()

    # -- waiting ---------------------------------------------------------------------

    def _wait(self, timeout: float | None) -> None:
        """Block until done; raise TimeoutError after `timeout` seconds.

        Not by the condition: Ctrl-C may come just when ``with condition`` has its lock,
        which would then be held for ever, against the thread that completes us.
        """
        release = None
        if timeout is None and WAIT_GUARD.before_wait is not None:
            release = WAIT_GUARD.before_wait(self)
        try:
            sleeper = allocate_lock()
            sleeper.acquire()
            with LOCK:
                if self.done():
                    return
                if self._sleepers is None:
                    self._sleepers = [sleeper]
                else:
                    self._sleepers.append(sleeper)
            limit = -1.0 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX)
            if not sleeper.acquire(timeout=limit):
                with LOCK:
                    if self._sleepers is None:  # done just now
                        return
                    self._sleepers.remove(sleeper)
                raise TimeoutError(f"not done within {timeout} s")
        finally:
            if release is not None:
                release()

    def result(self, timeout: float | None = None) -> T:
        """Return the value; blocks until it is there.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most; None waits for ever.

        Raises
        ------
        TimeoutError
            The time is over; the task goes on.
        concurrent.futures.CancelledError
            The task was cancelled.
        WouldDeadlockError
            Called inside a task on a thread executor that has no thread left to run
            what it waits for.
        BaseException
            What the body raised.
        """
        if not self.done():
            self._wait(timeout)
        if self._state is _CANCELLED:
            raise CancelledError
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                del self  # breaks the cycle through the traceback, as the stdlib does
        value = self._result
        if isinstance(value, Reference):
            value = value.resolve()
        return value  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the body raised, or None; blocks as :meth:`result` does."""
        if not self.done():
            self._wait(timeout)
        if self._state is _CANCELLED:
            raise CancelledError
        return self._exception

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call ``fn(self)`` when done: at once if it is; errors in it are logged."""
        with LOCK:
            if not self.done():
                if self._done_callbacks is None:
                    self._done_callbacks = [fn]
                else:
                    self._done_callbacks.append(fn)
                return
        self._call(fn)

    def _call(self, fn: Callable[[Any], object]) -> None:
        try:
            fn(self)
        except (Exception, SystemExit):  # user code, perhaps in a thread that serves all
            _log.exception("a done callback of %s raised", type(self).__name__)

    def __await__(self) -> Generator[Any, None, T]:
        """``await future`` in an asyncio coroutine: the value, without blocking the loop.

        What must be fetched is fetched in a thread. A coroutine that is cancelled while
        it awaits leaves the future alone, unlike ``asyncio.wrap_future``.
        """
        return self._in_loop().__await__()

    async def _in_loop(self) -> T:
        import asyncio

        loop = asyncio.get_running_loop()
        if not self.done():
            woken = loop.create_future()

            def settle() -> None:
                if not woken.done():
                    woken.set_result(None)

            def wake(_: object) -> None:
                with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                    loop.call_soon_threadsafe(settle)

            self.add_done_callback(wake)
            await woken
        if isinstance(self._result, Reference):
            return await loop.run_in_executor(None, self.result)
        return self.result()

    # -- completing ------------------------------------------------------------------

    def _set_locked(
        self, state: str, result: Any, error: BaseException | None
    ) -> Sequence[Callable[[Any], object]]:
        """Change the state; LOCK is held, and the condition too if there is one.

        Returns the callbacks to run once no lock is held.
        """
        self._result = result
        self._exception = error
        self._state = state
        if self._sleepers is not None:
            for sleeper in self._sleepers:
                sleeper.release()
            self._sleepers = None
        callbacks = self._done_callbacks
        self._done_callbacks = None
        return callbacks or ()

    def _notify(self) -> None:
        """Wake waiters; the condition is held."""
        for waiter in self._waiters:
            if self._state is _CANCELLED:
                waiter.add_cancelled(self)
            elif self._exception is not None:
                waiter.add_exception(self)
            else:
                waiter.add_result(self)
        assert self._cond is not None
        self._cond.notify_all()

    def _complete(self, state: str, result: Any, error: BaseException | None) -> bool:
        """Finish from outside an engine batch; False if it was done already."""
        with LOCK:
            cond = self._cond
            if cond is None:
                if self.done():
                    return False
                callbacks = self._set_locked(state, result, error)
        if cond is not None:
            with cond:
                with LOCK:
                    if self.done():
                        return False
                    callbacks = self._set_locked(state, result, error)
                self._notify()
        for fn in callbacks:
            self._call(fn)
        return True

    def set_result(self, result: T) -> None:
        """Finish with a value; for executors and tests.

        Raises
        ------
        concurrent.futures.InvalidStateError
            It is done already.
        """
        if not self._complete(_FINISHED, result, None):
            raise InvalidStateError(f"{self._state}: {self!r}")

    def set_exception(self, exception: BaseException | None) -> None:
        """Finish with an error; raises InvalidStateError if done already."""
        if not self._complete(_FINISHED, None, exception):
            raise InvalidStateError(f"{self._state}: {self!r}")

    def set_running_or_notify_cancel(self) -> bool:
        """Mark as running; False if it was cancelled."""
        with LOCK:
            if self._state is _PENDING:
                self._state = _RUNNING
                return True
            if self._state is _CANCELLED:
                return False
        raise InvalidStateError(f"{self._state}: {self!r}")

    def cancel(self) -> bool:
        """Cancel if it has not begun; False if it runs or is done otherwise."""
        if self._state is _RUNNING:
            return False
        return self._complete(_CANCELLED, None, None) or self._state is _CANCELLED

    def __reduce__(self) -> tuple[Any, ...]:
        raise SerializationError(
            "a future cannot be sent to another process: pass it as an argument of an app "
            "(directly, or inside a list, tuple, set or dict), where it is replaced by its value"
        )


class DataFuture(Future[T]):
    """A future of data: a tensor that somebody will put, or a file that a task will write.

    As an argument of an app it makes the task wait for the data; the value itself is
    fetched where the task runs. ``result()`` fetches it here. It waits for ever for a
    tensor that nobody puts: limit it by ``result(timeout)``, :meth:`cancel` it, or give
    the task that takes it the writer's future as ``after=``.

    Attributes
    ----------
    name : str
        What the data is called (tensor name, file path).
    """

    __slots__ = ("_on_cancel", "kind", "name", "source", "target")

    def __init__(
        self, name: str, kind: str = "data", target: Any = None, source: Any = None
    ) -> None:
        super().__init__()
        self.name = name
        #: The service that will hold it, which the graph shows; None for files.
        self.source = source
        #: What it will be completed with, where that is known beforehand (a ``File``).
        self.target = target
        #: What it stands for, shown in the graph: "tensor", "file", ...
        self.kind = kind
        self._on_cancel: Callable[[DataFuture[Any]], None] | None = None

    def cancel(self) -> bool:
        """Stop waiting; the data itself is left alone."""
        done = super().cancel()
        if done and self._on_cancel is not None:
            hook, self._on_cancel = self._on_cancel, None
            hook(self)
        return done

    def __repr__(self) -> str:
        return f"<DataFuture {self.kind} {self.name!r} {self._describe()}>"


__all__ = ["LOCK", "WAIT_GUARD", "CancelledError", "DataFuture", "Future", "WouldDeadlockError"]
