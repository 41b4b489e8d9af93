# SPDX-License-Identifier: BSD-3-Clause
"""The life of a service: what is started once and outlives the tasks that use it."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ssdag.errors import SerializationError, ServiceError, ServiceStartError, SsdagError
from ssdag.futures import Future
from ssdag.states import ServiceState
from ssdag.wire import lifetime

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

_log = logging.getLogger("ssdag")

_S = ServiceState

#: Which state may follow which.
SERVICE_TRANSITIONS: dict[ServiceState, frozenset[ServiceState]] = {
    _S.PENDING: frozenset({_S.STARTING, _S.STOPPED}),
    _S.STARTING: frozenset({_S.READY, _S.STOPPED, _S.FAILED}),
    _S.READY: frozenset({_S.DEGRADED, _S.STOPPED, _S.FAILED}),
    _S.DEGRADED: frozenset({_S.READY, _S.STOPPED, _S.FAILED}),
    _S.STOPPED: frozenset(),
    _S.FAILED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Health:
    """How a service is.

    Attributes
    ----------
    state : ServiceState
        Where it stands.
    ok : bool
        Whether it answers now.
    detail : str
        What is wrong, or a short word that nothing is.
    facts : dict
        What else it says about itself.
    """

    state: ServiceState
    ok: bool
    detail: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class RestartPolicy(Protocol):
    """Decides what happens when a service dies by itself."""

    def __call__(self, node: ServiceNode, error: SsdagError, deaths: int) -> bool:
        """Return True to start it again; `deaths` counts from 1. Must not block long."""


class _Ready(Future[Any]):
    """The future of being ready; nobody who waits for it may cancel it for the others."""

    __slots__ = ()

    def cancel(self) -> bool:
        return False


class ServiceNode(ABC):
    """A service with a lifetime independent of tasks.

    Passed to an app it makes an edge: the service is started if need be, and the task
    runs when it is ready, with :attr:`ready`'s result in its place. A subclass says how
    to start (:meth:`_start`), to stop (:meth:`_stop`) and to ask it how it is
    (:meth:`_probe`); it reports an end that nobody asked for by :meth:`_died`.

    Parameters
    ----------
    name : str
        Shown in errors and in the graph.
    restart : RestartPolicy, optional
        Asked when the service dies by itself; by default it stays dead.
    """

    def __init__(self, name: str, restart: RestartPolicy | None = None) -> None:
        self.name = name
        self._restart = restart
        #: Guards the state; held for moments only.
        self._lock = threading.Lock()
        #: Held while it is being started or stopped, which may take seconds.
        self._work = threading.RLock()
        self._state = _S.PENDING
        self._ready: Future[Any] = _Ready()
        self._scope: tuple[lifetime.Scope, int] | None = None
        self._pid = os.getpid()
        self._started_s = 0.0
        self._deaths = 0
        self._error: SsdagError | None = None
        self._stopping = threading.Event()
        self._leaving: list[weakref.WeakMethod[Callable[[], None]]] = []

    # -- for users -------------------------------------------------------------------

    @property
    def state(self) -> ServiceState:
        """Where it stands."""
        return self._state

    @property
    def ready(self) -> Future[Any]:
        """Done when it is first ready, or failed to start; looking does not start it."""
        return self._ready

    def start(self) -> Self:
        """Start it and return when it is ready; at once if it is.

        Threads may call it together: it starts once.

        Raises
        ------
        ServiceStartError
            It did not start: its own last words.
        ServiceError
            It was stopped before, or died.
        """
        if self._claim():
            self._begin()
        # A time limit, because a wait without one is refused where a task waits for a task.
        error = self._ready.exception(timeout=3600)
        if error is None and self._state.final:
            error = self._error
        if error is not None:
            raise error
        if self._state is _S.STOPPED:
            raise ServiceError(f"{self.name} is stopped; make a new one to start again")
        return self

    def start_in_background(self) -> Future[Any]:
        """Start it if nobody has, and return :attr:`ready` at once."""
        if self._claim():
            threading.Thread(
                target=self._begin, name=f"ssdag-start-{self.name}", daemon=True
            ).start()
        return self._ready

    def stop(self) -> None:
        """End it and what it left behind; nothing happens if it has ended."""
        self._finish(ServiceError(f"{self.name} was stopped"), self._stop)

    def before_end(self, method: Callable[[], None]) -> None:
        """Have a bound method called before it is stopped, while it still serves.

        It is not called if the service dies. What it raises is logged, and the service
        ends all the same. Does not block.

        Parameters
        ----------
        method : callable
            A bound method, held weakly. It may block: the end waits for it.
        """
        self._leaving.append(weakref.WeakMethod(method))

    def _finish(self, error: SsdagError, end: Callable[[SsdagError], None]) -> None:
        """Become stopped by `end`, which gets what those who still wait shall get."""
        if os.getpid() != self._pid:
            return  # a forked child: the service is the parent's
        while self._leaving:
            if leave := self._leaving.pop()():
                try:
                    leave()
                except Exception:  # it ends all the same
                    _log.exception("what uses %s did not let go of it", self.name)
        self._stopping.set()
        with self._work:
            with self._lock:
                if self._state.final:
                    return
                begun = self._state is not _S.PENDING
                self._become(_S.STOPPED)
            if begun:
                end(error)
        self._leave_scope()
        self._settle(error)

    def _scope_ends(self) -> None:
        """The engine, the ``with`` block or the process ends: it ends too."""
        self.stop()

    def health(self) -> Health:
        """Ask it how it is; blocks for a second at most."""
        state = self._state
        if state in (_S.READY, _S.DEGRADED):
            trouble = self._error
            try:
                facts = self._probe()
            except SsdagError as error:
                return Health(self._state, False, str(trouble or error))
            facts["uptime_s"] = time.monotonic() - self._started_s
            return Health(self._state, trouble is None, str(trouble or "ready"), facts)
        return Health(state, False, str(self._error) if self._error else state.name.lower())

    def __ssdag_future__(self) -> Future[Any]:
        return self.start_in_background()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scope_ends()

    def __reduce__(self) -> tuple[Any, ...]:
        raise SerializationError(
            f"service {self.name!r} cannot be sent to another process: pass it to an app as an "
            "argument of its own (or inside a list, tuple, set or dict), where it is replaced "
            "by a connected client"
        )

    # -- for subclasses --------------------------------------------------------------

    @abstractmethod
    def _start(self) -> Any:
        """Start and return what the ready future holds; blocks until ready.

        It must leave nothing behind if it raises. It is called again, with the same
        addresses, if the restart policy says so.
        """

    @abstractmethod
    def _stop(self, error: SsdagError) -> None:
        """End everything; `error` is what those who still wait shall get."""

    @abstractmethod
    def _probe(self) -> dict[str, Any]:
        """Return facts about the running service, or raise an SsdagError."""

    def _died(self, error: SsdagError) -> None:
        """Report that it ended by itself; restarts it or gives it up."""
        with self._work:
            if not self._degrade(error):
                return
            if self._asks(error):
                _log.warning("%s; starting it again", error)
                try:
                    self._start()
                except SsdagError as failure:
                    error = failure
                else:
                    self._recover()
                    return
            self._give_up(error)
        self._leave_scope()

    def _degrade(self, error: SsdagError) -> bool:
        """Note a death; False if the service has ended anyway. Holds :attr:`_work`."""
        with self._lock:
            if self._state not in (_S.READY, _S.DEGRADED):
                return False
            self._deaths += 1
            self._error = error
            if self._state is _S.READY:
                self._become(_S.DEGRADED)
            return True

    def _recover(self) -> None:
        """Note that all is well again."""
        with self._lock:
            self._error = None
            if self._state is _S.DEGRADED:
                self._become(_S.READY)

    def _give_up(self, error: SsdagError) -> None:
        """End what is left of it; holds :attr:`_work`."""
        _log.error("%s", error)
        with self._lock:
            self._error = error
            self._become(_S.FAILED)
        self._stop(error)

    def _asks(self, error: SsdagError) -> bool:
        """Ask the policy whether to start again after the death just noted."""
        try:
            return self._restart is not None and bool(self._restart(self, error, self._deaths))
        except Exception:  # user code
            _log.exception("the restart policy of %s raised", self.name)
            return False

    # -- inside ----------------------------------------------------------------------

    def _become(self, new: ServiceState) -> None:
        if new not in SERVICE_TRANSITIONS[self._state]:
            raise ServiceError(f"{self.name} cannot go from {self._state.name} to {new.name}")
        self._state = new

    def _claim(self) -> bool:
        """Return True to the one caller that shall start it."""
        with self._lock:
            if self._state is not _S.PENDING:
                return False
            self._become(_S.STARTING)
            self._pid = os.getpid()
            return True

    def _begin(self) -> None:
        """Start; the ready future tells how it went."""
        try:
            scope = lifetime.current()
            self._scope = (scope, scope.add(self._scope_ends))
            with self._work:
                if self._state is not _S.STARTING:  # stopped meanwhile
                    return
                value = self._start()
                self._started_s = time.monotonic()
                with self._lock:
                    self._become(_S.READY)
        except Exception as error:  # the top of a thread
            failure = error
            if not isinstance(error, SsdagError):
                failure = ServiceStartError(f"{self.name} did not start: {error!r}")
                failure.__cause__ = error
            assert isinstance(failure, SsdagError)
            with self._lock:
                self._error = failure
                if not self._state.final:
                    self._become(_S.FAILED)
            self._leave_scope()
            self._settle(failure)
        else:
            self._settle(None, value)

    def _settle(self, error: SsdagError | None, value: Any = None) -> None:
        if self._ready.done():
            return
        if error is None:
            self._ready.set_result(value)
        else:
            self._ready.set_exception(error)

    def _leave_scope(self) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            scope[0].remove(scope[1])

    def _when_ready(self, then: Callable[[Future[Any]], object]) -> None:
        self.start_in_background().add_done_callback(then)
