# SPDX-License-Identifier: BSD-3-Clause
"""Lost values that are made again, by running the task that made them once more.

It is done where that is allowed: for apps with retries, and for those with ``cache=True``,
whose calls give the same result each time. A task that could not get its arguments waits
meanwhile and is then run; its body has not begun.

What it takes is remembered with each stored result: the app, and small arguments. Of
arguments that are stored values themselves only their own origins are remembered, so
that nothing stays stored for this; such a value that has been freed is made again, too.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any

import ssdag.arguments as arguments
from ssdag.connectors.lazy import LazyReference
from ssdag.connectors.packing import pack
from ssdag.connectors.stored import StoredValue
from ssdag.connectors.storing import weight
from ssdag.errors import EngineClosedError, LostValueError, SsdagError
from ssdag.futures import LOCK, Future
from ssdag.references import Reference
from ssdag.states import TaskState
from ssdag.tasks import AppSpec, Outcome
from ssdag.wire.shared import SharedValue

if TYPE_CHECKING:
    from ssdag.dataflow.engine import Engine
    from ssdag.dataflow.keeper import Keeper
    from ssdag.dataflow.values import Values
    from ssdag.tasks import Options, Task

_log = logging.getLogger("ssdag")

#: A value is made again so often at most, or as often as its task may be retried: a store
#: that is too small loses it each time.
_MOST = 3
#: Tasks above a value that are remembered; a loop would make an endless chain.
_DEPTH = 100
_READY = TaskState.READY
#: Larger arguments are not kept for this.
_LIGHT_BYTES = 1 << 16


class Origin:
    """What it takes to make a value again.

    Attributes
    ----------
    depth : int
        Length of the longest chain of origins above it.
    """

    __slots__ = ("app", "args", "depth", "kwargs", "options", "task_id")

    def __init__(self, task: Task) -> None:
        self.app = task.app
        self.options: Options = task.options
        self.task_id = task.task_id
        self.depth = 0
        self.args, self.kwargs = arguments.change_all(task.args, task.kwargs, self._remember)

    def _remember(self, value: Any) -> Any:
        if isinstance(value, LazyReference):
            value = value.inner
        if isinstance(value, StoredValue):
            origin = value.origin
            if origin is not None:
                self.depth = max(self.depth, origin.depth + 1)
                if self.depth > _DEPTH:
                    origin = None
                    self.depth = 0
            return _Input(value, origin)
        if isinstance(value, SharedValue) or (
            not isinstance(value, Reference) and weight(value) > _LIGHT_BYTES
        ):
            raise _HeavyError
        return value


class _HeavyError(Exception):
    """An argument is too large to be kept."""


class _Input:
    """An argument that is a stored value, and does not keep it stored."""

    __slots__ = ("origin", "value")

    def __init__(self, value: StoredValue, origin: Origin | None) -> None:
        self.value = weakref.ref(value)
        self.origin = origin


class Remaking:
    """Makes lost values of an engine again.

    Parameters
    ----------
    engine : Engine
    values : Values
        Its values.
    """

    def __init__(self, engine: Engine, values: Values) -> None:
        self._engine = engine
        self._values = values
        self._lock = threading.Lock()
        #: Apps whose results are remembered, without that: it has the lost value.
        self._uncached: dict[AppSpec, AppSpec] = {}

    def origin(self, task: Task) -> Origin | None:
        """Return what it takes to run a task again; None if that is not allowed."""
        if not task.app.cache and not self._engine.retry_budget(task.options):
            return None
        try:
            return Origin(task)
        except Exception:  # a heavy argument, or hashing in a set, which is user code
            return None

    # -- tasks that did not get their arguments ----------------------------------------

    def takes(self, outcome: Outcome) -> bool:
        """Return True if a task failed for a lost value and will be run again."""
        task, error = outcome.task, outcome.error
        if not isinstance(error, LostValueError):
            return False
        found = self._values.find(error.key)
        # Ready: its arguments were needed for the key of the cache.
        if found is None or task.state not in (_READY, TaskState.LAUNCHED, TaskState.RUNNING):
            return False
        # A body that used a lazy argument has run in part, and has its own say.
        if error.in_body and not self._engine.retry_budget(task.options):
            return False
        with LOCK:
            if not task.move(TaskState.PENDING):
                return False
        keeper, value = found
        self._values.call(lambda: self._look(task, keeper, value, error))
        return True

    def _look(self, task: Task, keeper: Keeper, value: StoredValue, error: LostValueError) -> None:
        """See what is wrong; in the thread of values."""
        if value.key != error.key or value.kept:  # it has been made again meanwhile
            self._go(task)
            return
        if self._fetched(value):
            self._values.tell(
                "reach", "a worker did not get a value that is in %r, so it goes by the driver: %s",
                keeper.place, error,
            )  # fmt: skip
            self._values.unreached(keeper, task.executor)
            self._go(task)
            return
        remaking = self.remake(value)

        def then(done: Future[None]) -> None:
            failure = done.exception()
            if failure is None:
                self._go(task)
            else:
                self._engine.finished((Outcome(task, error=failure, state=TaskState.FAILED),))

        remaking.add_done_callback(then)

    def _fetched(self, value: StoredValue) -> bool:
        """Read a value that is there into the driver's memory; False if it is not."""
        try:
            value.keep()
        except (SsdagError, OSError):
            return False
        return True

    def _go(self, task: Task) -> None:
        with LOCK:
            if not task.move(TaskState.READY):
                return  # cancelled meanwhile
        self._engine.hand_over_again(task)

    # -- values ------------------------------------------------------------------------

    def mend(self, value: StoredValue) -> None:
        """Have a value made again for a user who asks for it in the driver; blocks.

        Raises
        ------
        LostValueError
            It cannot be.
        """
        if threading.current_thread().name.startswith("ssdag-"):
            # Others wait for threads of executors: the task that asks comes back as one
            # that did not get its arguments.
            raise LostValueError(f"the value {value.key} is lost", key=value.key)
        if self._engine.closed:
            raise LostValueError(
                f"the value {value.key} is gone with its engine: call result() before that ends",
                key=value.key,
            )
        if not self._is_there(value):
            self.remake(value).result()

    def _is_there(self, value: StoredValue) -> bool:
        """Say whether a value is where it was: a connection broke, say."""
        try:
            return value.place.connector.exists(value.key)
        except (SsdagError, OSError):
            return False

    def remake(self, value: StoredValue) -> Future[None]:
        """Begin to make a value again, if nobody has; the future ends when it is done."""
        with self._lock:
            if value.remaking is not None:
                return value.remaking
            future: Future[None] = Future()
            value.remaking = future
            value.remade += 1
        origin = value.origin
        source = None if value.source is None else value.source()
        try:
            if source is not None:
                self._take_again(value, source)
                self._end(value, None)
                return future
            if origin is None:
                raise self._lost(value, "only results of apps with retries or cache=True, and "
                                        "with small arguments, are made again")  # fmt: skip
            if value.remade > max(_MOST, self._engine.retry_budget(origin.options)):
                raise self._lost(value, f"it was made again {value.remade - 1} times before")
            again = self._run(value, origin)
        except Exception as error:  # building arguments hashes what stands in sets
            self._end(value, error)
            return future
        _log.warning("the result of task %d (%s) is lost, and made again by task %d",
                     origin.task_id, origin.app.name, again.task_id)  # fmt: skip
        again.add_done_callback(
            lambda done: self._values.call(lambda: self._made(value, origin, done))
        )
        return future

    def _run(self, value: StoredValue, origin: Origin) -> Any:
        """Run a task again; inputs of it that are gone are made by tasks before it."""

        def revive(item: Any) -> Any:
            if type(item) is not _Input:
                return item
            there = item.value()
            if there is not None:  # should it be lost, too, the task comes back with that
                return there
            if item.origin is None:
                raise self._lost(value, "an argument of its task is gone as well")
            return self._run(value, item.origin)

        args, kwargs = arguments.change_all(origin.args, origin.kwargs, revive)
        app = origin.app
        if app.cache:
            app = self._uncached.setdefault(app, _without_cache(app))
        return self._engine.call(app, args, kwargs, options=origin.options)

    def _made(self, value: StoredValue, origin: Origin, again: Future[Any]) -> None:
        """Let the value stand for what was made; in the thread of values."""
        try:
            error = again.exception()
            if error is not None:
                if isinstance(error, EngineClosedError):
                    raise error
                raise self._lost(value, "making it again failed") from error
            new = again._result
            if isinstance(new, StoredValue):
                origin.app.keeper.moved(value, new)
            else:  # the store did not take it
                self._take_again(value, new)
        except BaseException as raised:
            self._end(value, raised)
        else:
            self._end(value, None)

    def _take_again(self, value: StoredValue, whole: Any) -> None:
        """Take a value that the driver has, which goes by the driver from now on."""
        if isinstance(whole, Reference):
            whole = whole.resolve()
        value.keep(memoryview(bytearray(b"".join(pack(whole).parts()))))

    def _end(self, value: StoredValue, error: BaseException | None) -> None:
        with self._lock:
            future, value.remaking = value.remaking, None
        assert future is not None
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def _lost(self, value: StoredValue, why: str) -> LostValueError:
        where = value.place
        whose = ""
        if value.origin is not None:
            whose = f", the result of task {value.origin.task_id} ({value.origin.app.name}),"
        return LostValueError(
            f"the value {value.key}{whose} is lost from {where!r}, and is not made again: {why}",
            key=value.key,
        )


def _without_cache(app: AppSpec) -> AppSpec:
    return AppSpec(
        app.func, app.name, kind=app.kind, options=app.options, source=app.source,
        store=app.store, lazy=app.lazy, keeper=app.keeper,
    )  # fmt: skip
