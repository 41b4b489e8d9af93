# SPDX-License-Identifier: BSD-3-Clause
"""Values by reference, as an engine looks after them: where they go, and when they end.

Which way a large value takes:

* Workers of a ``LocalExecutor`` and its driver share memory; that is theirs
  (:mod:`ssdag.wire.shared`) and nothing here, unless an app names a store of its own.
* Elsewhere it goes into the store of the app, or else of the configuration: a worker puts
  its result there, and the driver an argument, and what passes between them is its name.
* Without a store, other executors whose workers are on this machine share memory by a
  ``SharedMemoryConnector``; for executors elsewhere it goes to the first orchestrator that
  tasks take and that is reached from there (:mod:`ssdag.dataflow.borrowed`).
* Everything else, and what a store does not take, goes by the driver.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
from typing import TYPE_CHECKING, Any

import ssdag.arguments as arguments
from ssdag.connectors.chosen import connector_of
from ssdag.connectors.lazy import lazily
from ssdag.connectors.packing import Packed, pack
from ssdag.connectors.stored import Arrived, StoredValue
from ssdag.connectors.storing import is_light, weight
from ssdag.dataflow.borrowed import Borrowed
from ssdag.dataflow.keeper import KEEP_BYTES, Keeper
from ssdag.dataflow.remaking import Remaking
from ssdag.errors import SsdagError
from ssdag.futures import LOCK, DataFuture
from ssdag.references import Reference
from ssdag.states import TaskState
from ssdag.tasks import AppSpec
from ssdag.wire.shared import SharedValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ssdag.connectors.base import Connector
    from ssdag.dataflow.engine import Engine
    from ssdag.executors.base import Executor
    from ssdag.tasks import Outcome, Task

_log = logging.getLogger("ssdag")

#: Values that are deleted with one call.
_BATCH = 256
#: As an engine ends, a store may do nothing for so long.
PATIENCE_S = 20.0


class Values:
    """The values of an engine that travel by reference.

    Parameters
    ----------
    engine : Engine
        Whose they are.
    store : object
        What its configuration says; None for no store, False for never.
    threshold : int
        Bytes from which a value is large.
    """

    def __init__(self, engine: Engine, store: Any, threshold: int) -> None:
        self._engine = engine
        self._store = store
        self._threshold = threshold
        self._lock = threading.Lock()
        #: No call is left in the queue when the thread ends; the collector may call in between.
        self._calling = threading.RLock()
        self._keepers: dict[int | str, tuple[Any, Keeper]] = {}
        #: What the thread has to do: keys to delete, calls, None to end.
        self.released: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._memory: Any = None
        self._borrowed = Borrowed(self._change)
        #: Whether tasks that wait may have to be run as something else than when called.
        self.varies = False
        #: The apps of users, by what they are run as.
        self._apps: dict[AppSpec, AppSpec] = {}
        self._specs: dict[tuple[AppSpec, Keeper], AppSpec] = {}
        #: Grows with whatever stores have done.
        self.steps = 0
        self._told: set[str] = set()
        self.remaking = Remaking(engine, self)

    # -- apps ------------------------------------------------------------------------

    def offer(self, services: Iterable[Any]) -> None:
        """A task takes services, which may be of use here."""
        if self._store is None and self._far() is not None:
            for service in services:
                self._borrowed.offer(service)

    def _far(self) -> Executor | None:
        """Return an executor whose workers may be on other machines."""
        return next((each for each in self._engine.executors if each.reach == "anywhere"), None)

    def _change(self, gone: Connector | None) -> None:
        """There is an orchestrator to store in, for some; or one is about to end."""
        self.varies = True
        self._engine.reroute()
        if gone is not None and not self._closed:
            self.keeper(gone).end(KEEP_BYTES, "it is stopped")

    def unreached(self, keeper: Keeper, executor: Executor) -> None:
        """Workers of an executor do not get a value that is there."""
        self._borrowed.avoid(keeper.place.connector, executor)

    def spec(self, app: AppSpec, executor: Executor | None) -> AppSpec:
        """Return the app, or one of the engine's own whose large results are stored.

        Starts the store if it is a service that nobody has started.

        Parameters
        ----------
        app : AppSpec
            The app, or what it was run as elsewhere or before.
        executor : Executor or None
            Where it is to run; None if that is not known yet.

        Raises
        ------
        ConfigError, SsdagError
            The store is none, or does not start.
        """
        app = self._apps.get(app, app)
        if app.kind != "python" or app.keeper is not None or False in (app.store, self._store):
            return app
        store = self._default(executor) if app.store is None else app.store
        if store is None:
            return app
        keeper = self.keeper(store)
        with self._lock:
            spec = self._specs.get((app, keeper))
            if spec is None:
                spec = self._specs[app, keeper] = self._storing(app, keeper)
                self._apps[spec] = app
        return spec

    def _storing(self, app: AppSpec, keeper: Keeper) -> AppSpec:
        func = keeper.storing(app.func, self._threshold, always=app.store is not None)
        return AppSpec(
            func,
            app.name,
            kind=app.kind,
            options=app.options,
            cache=app.cache,
            ignore=app.ignore,
            source=app.source,
            store=app.store,
            lazy=app.lazy,
            keeper=keeper,
        )

    def _default(self, executor: Executor | None) -> Any:
        """Return the store of apps that have none of their own."""
        if self._store is not None:
            return self._store
        if self._borrowed.serves(executor):
            return self._borrowed.connector
        if self._memory is None:
            self._memory = False
            if any(each.reach == "node" for each in self._engine.executors):
                from ssdag.connectors.shared_memory import SharedMemoryConnector

                try:
                    self._memory = SharedMemoryConnector()
                except SsdagError as error:
                    _log.warning("large values go by the driver: %s", error)
        return self._memory or None

    def keeper(self, store: Any) -> Keeper:
        """Return what looks after the values in a store."""
        name = store if isinstance(store, str) else id(store)
        with self._lock:
            known = self._keepers.get(name)
            if known is None:
                known = self._keepers[name] = store, Keeper(self, connector_of(store))
            return known[1]

    # -- arguments -------------------------------------------------------------------

    def prepares(self, task: Task, executor: Executor) -> bool:
        """Put references in place of a task's large arguments, before it is handed over.

        Returns
        -------
        bool
            True if that is done by a thread, which then hands the task over.
        """
        keeper = task.app.keeper
        if keeper is not None and executor.reach != "memory":
            if not keeper.reaches(executor):
                self.tell(
                    executor.label,
                    "executor %r may have workers on other machines, which do not reach the store "
                    "%r: large values go by the driver", executor.label, keeper.place,
                )  # fmt: skip
            elif self._heavy(task):
                if threading.current_thread().name.startswith("ssdag-"):
                    # Others wait for the threads of executors.
                    self.call(lambda: self._lighten_and_go(task, keeper, executor))
                    return True
                self._lighten(task, keeper)
        _make_lazy(task)
        return False

    def _heavy(self, task: Task) -> bool:
        found = False

        def look(value: Any) -> Any:
            nonlocal found
            found = found or self._is_heavy(value)
            return value

        arguments.change_all(task.args, task.kwargs, look)
        return found

    def _is_heavy(self, value: Any) -> bool:
        if isinstance(value, SharedValue):
            return value.nbytes >= self._threshold
        return not isinstance(value, Reference) and weight(value) >= self._threshold

    def _lighten_and_go(self, task: Task, keeper: Keeper, executor: Executor) -> None:
        try:
            self._lighten(task, keeper)
            _make_lazy(task)
        finally:
            executor.submit(task)

    def _lighten(self, task: Task, keeper: Keeper) -> None:
        def light(value: Any) -> Any:
            if not self._is_heavy(value):
                return value
            if isinstance(value, SharedValue):
                if value.elsewhere is None or value.elsewhere.place is not keeper.place:
                    value.elsewhere = keeper.put(Packed(*value.pieces()), value)
                return value.elsewhere
            packed = pack(value)  # which may be small: a recipe for a large array, say
            return keeper.put(packed, value) if packed.nbytes >= self._threshold else value

        with LOCK:
            args, kwargs = task.args, task.kwargs
        try:
            args, kwargs = arguments.change_all(args, kwargs, light)
        except Exception as error:  # pickling is user code; the executor says it better
            self.tell("put", "an argument cannot be stored in %r, and goes by the driver: %s",
                      keeper.place, error)  # fmt: skip
            return
        _set_arguments(task, args, kwargs)

    def put(self, value: Any) -> DataFuture[Any]:
        """Store a value for tasks; see :meth:`Engine.put`."""
        name = f"{type(value).__name__} {secrets.token_hex(4)}"
        store = self._default(self._far())
        if store not in (None, False) and not is_light(value, self._threshold):
            packed = pack(value)
            if packed.nbytes >= self._threshold:
                value = self.keeper(store).put(packed, value)
        future: DataFuture[Any] = DataFuture(name, "value")
        future.set_result(value)
        return future

    # -- results ---------------------------------------------------------------------

    def arrived(self, outcome: Outcome) -> None:
        """Make a reference of a result that a worker has stored."""
        value = outcome.value
        if type(value) is Arrived:
            stored = outcome.task.app.keeper.take(value.key, value.nbytes)
            stored.origin = self.remaking.origin(outcome.task)
            outcome.value = stored

    def find(self, key: str) -> tuple[Keeper, StoredValue] | None:
        """Return the value that has, or had, a name, and who looks after it."""
        for _, keeper in tuple(self._keepers.values()):
            value = keeper.live.get(key)
            if value is not None:
                return keeper, value
        return None

    # -- the thread ------------------------------------------------------------------

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called by the thread, or here if that has ended."""
        with self._calling:
            if not self._closed:
                self.released.put(function)
                self.wake()
                return
        _call(function)

    def wake(self) -> None:
        """Start the thread, if there is none."""
        if self._thread is None and not self._closed:
            thread = threading.Thread(target=self._run, name="ssdag-values", daemon=True)
            with LOCK:
                first = self._thread is None and not self._closed
                if first:
                    self._thread = thread
            if first:
                thread.start()

    def _run(self) -> None:
        while True:
            batch = [self.released.get()]
            while len(batch) < _BATCH and not self.released.empty():
                batch.append(self.released.get())
            freed: dict[Keeper, list[str]] = {}
            for item in batch:
                if item is None:
                    self._end()
                    return
                if isinstance(item, tuple):
                    freed.setdefault(item[0], []).append(item[1])
                else:
                    _call(item)
            for keeper, keys in freed.items():
                try:
                    keeper.place.connector.delete_many(keys)
                except (SsdagError, OSError) as error:
                    self.tell("delete", "values in %r cannot be deleted now: %s",
                              keeper.place, error)  # fmt: skip
                self.steps += 1
            del batch, freed, item  # references of values, which would live until the next

    def tell(self, what: str, text: str, *details: Any) -> None:
        """Log something that may happen often once."""
        if what not in self._told:
            self._told.add(what)
            _log.warning(text, *details)

    def close(self) -> None:
        """Delete all values; those that futures hold are read into memory before.

        Blocks until that is done, or nothing of it is done for a while: a server that
        does not answer cannot keep an engine from its end.
        """
        with self._lock:
            keepers = bool(self._keepers)
        with self._calling:
            if keepers:
                self.wake()
            self._closed = True
            thread = self._thread
            if thread is not None:
                self.released.put(None)
        if thread is None:
            return
        if thread is threading.current_thread():
            self._end()
            return
        done = -1
        while thread.is_alive() and done != self.steps:
            done = self.steps
            thread.join(PATIENCE_S)
        if thread.is_alive():
            _log.warning(
                "a store has not answered for %g s: values in it are left there or lost", PATIENCE_S
            )

    def _end(self) -> None:
        room = KEEP_BYTES
        for _, keeper in tuple(self._keepers.values()):
            room = keeper.end(room)


def _call(function: Callable[[], None]) -> None:
    try:
        function()
    except Exception:  # thread top
        _log.exception("looking after values by reference failed")


def _make_lazy(task: Task) -> None:
    if task.app.lazy:
        _set_arguments(task, *arguments.change_all(task.args, task.kwargs, lazily))


def _set_arguments(task: Task, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> None:
    with LOCK:
        if task.state < TaskState.DONE:
            task.args, task.kwargs = args, kwargs
