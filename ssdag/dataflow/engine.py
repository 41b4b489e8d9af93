# SPDX-License-Identifier: BSD-3-Clause
"""The engine: takes calls, keeps the graph, hands ready tasks to executors."""

from __future__ import annotations

import functools
import itertools
import time
from typing import TYPE_CHECKING, Any

import ssdag.arguments as arguments
from ssdag.config import Config
from ssdag.dataflow import joining
from ssdag.dataflow.cancelling import cancel_alone
from ssdag.dataflow.ends import unfinished
from ssdag.dataflow.filling import fill_arguments
from ssdag.dataflow.ledger import Ledger
from ssdag.dataflow.memoizing import Memoizing
from ssdag.dataflow.placement import Placement, least_loaded
from ssdag.dataflow.retrying import Retrying
from ssdag.dataflow.values import Values
from ssdag.errors import EngineClosedError, NestedCallError, SsdagError
from ssdag.executors.local.executor import LocalExecutor
from ssdag.executors.threads import ThreadExecutor
from ssdag.futures import LOCK
from ssdag.monitoring.listeners import Bus, Event
from ssdag.states import TaskState
from ssdag.tasks import AppFuture, AppSpec, Options, Outcome, Task
from ssdag.wire import context, lifetime

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future
    from types import TracebackType

    import networkx

    from ssdag.executors.base import Executor
    from ssdag.futures import DataFuture
    from ssdag.monitoring.listeners import Listener
    from ssdag.tasks import Extras

#: Threads for join bodies, lifted items and memo look-ups; a join holds one only while
#: its body runs.
_INTERNAL_THREADS = 8
_INTERNAL = ("join", "lift")
#: Calls that are taken at a time from a long list of them: the lock is held so long.
_CHUNK = 256
_JOINING, _DONE = TaskState.JOINING, TaskState.DONE


class Engine:
    """Runs a graph of tasks. Made by :func:`ssdag.load`.

    As a context manager it waits for all tasks at the end of the block, or cancels them
    if the block raised; either way executors and services are gone afterwards.

    Parameters
    ----------
    config : Config, optional
        The default runs tasks in a process for each core.

    Raises
    ------
    NestedCallError
        Inside a worker process.
    ConfigError
        An executor of the configuration already belongs to an engine.
    CheckpointError
        The checkpoint file cannot be used.
    """

    def __init__(self, config: Config | None = None) -> None:
        if context.in_worker():
            raise NestedCallError(
                "an app was called inside a worker process, where no engine lives; call it "
                "from a join_app, or pass its future as an argument"
            )
        self.config = config or Config()
        self.executors: tuple[Executor, ...] = tuple(self.config.executors) or (LocalExecutor(),)
        #: Number of each app in the record, its executor if only one can run it, and the
        #: app as it is run here.
        self._routes: dict[AppSpec, tuple[int, Executor | None, AppSpec]] = {}
        self._by_func: dict[int, AppSpec] = {}
        self._retrying = Retrying(self.config, self.hand_over_again)
        self._placement = Placement(self.executors)
        self._internal = ThreadExecutor(_INTERNAL_THREADS, label="internal")
        self._scope = lifetime.Scope("the engine")
        self._closed = False
        self._memo = Memoizing(self.config.checkpoint)
        self._values = Values(self, self.config.store, self.config.by_reference_bytes)
        started: list[Executor] = []
        try:
            self._internal.start(joining.JoinSink(self))
            for executor in self.executors:
                executor.start(self)
                started.append(executor)
        except BaseException:
            for executor in started:
                executor.shutdown()
            self._memo.close()
            raise
        self._bus = Bus(self.config.listeners, sum(e.capacity for e in self.executors))
        self._ledger = Ledger(self._bus, self.config.max_pending, self.executors)
        lifetime.push(self._scope)

    # -- submitting ------------------------------------------------------------------

    def submit(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AppFuture[Any]:
        """Run a plain function as a task; arguments may be or hold futures.

        Returns at once, unless ``max_pending`` is reached.

        Raises
        ------
        EngineClosedError
            The engine is closed.

        Examples
        --------
        >>> engine.submit(pow, 2, 10).result()
        1024
        """
        spec = self._by_func.get(id(func))
        if spec is None:
            if not callable(func):
                raise SsdagError(f"submit() needs a callable first, not {func!r}")
            if len(self._by_func) > 4096:
                self._by_func.clear()
            spec = AppSpec(func, getattr(func, "__name__", type(func).__name__))
            self._by_func[id(func)] = spec
        return self.call(spec, args, kwargs)

    def put(self, value: Any) -> DataFuture[Any]:
        """Store a value once that many tasks will take; returns a future that is done.

        With a store (``Config(store=...)``) a value of ``by_reference_bytes`` or more is
        written there now (it blocks for that), and tasks that take the future fetch it
        where they run. It is deleted when the future and all tasks that took it are gone.
        A smaller value, and any without a store, stays in memory and travels by value.

        Raises
        ------
        SerializationError
            It cannot be pickled.
        StoreError
            The store has no room or cannot be reached.
        """
        if self._closed:
            raise EngineClosedError("the engine is closed; load another one with ssdag.load()")
        return self._values.put(value)

    def call(
        self,
        app: AppSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        *,
        options: Options | None = None,
        after: Sequence[Future[Any]] = (),
        extras: Extras | None = None,
    ) -> AppFuture[Any]:
        """Make a task of an app; what :meth:`submit` and the decorators use.

        Parameters
        ----------
        app : AppSpec
            What runs.
        args, kwargs
            Its arguments.
        options : Options, optional
            Instead of the app's own.
        after : sequence of futures
            Must end well before it starts, without giving it a value.
        extras : Extras, optional
            Output files, streams, label.

        Raises
        ------
        EngineClosedError, UnknownExecutorError, UnsupportedError
            It cannot be run; nothing was submitted.
        """
        index, executor, app = self._routes.get(app) or self._register(app)
        task = Task(app, args, kwargs or None, options or app.options, self)
        task.extras = extras
        task.executor = executor
        if options is not None and app.kind not in _INTERNAL:
            found = self._placement.candidates(options, app.kind)
            task.executor = found[0] if len(found) == 1 else None
        futures, waitables, task.simple = arguments.find(args, kwargs)
        future: AppFuture[Any] = AppFuture(task)
        if not futures and not waitables and not after:
            self._ledger.add(task, future, (), (), index)
            if task.executor is None or (app.indirect and (app.cache or not task.simple)):
                self._begin(task)
            else:
                task.executor.submit(task)
            return future
        task.has_futures = bool(futures or waitables)
        parents = futures
        if waitables:
            parents = [*futures, *(service.__ssdag_future__() for service in waitables)]
            self._values.offer(waitables)
        ready = self._ledger.add(task, future, parents, after, index)
        if waitables:
            with LOCK:
                for service in waitables:
                    self._ledger.history.service(service, task)
        self._watch_foreign(task, (*parents, *after))
        if ready:
            self._begin(task)
        return future

    def call_many(
        self, app: AppSpec, calls: Iterable[tuple[Any, ...]], *, after: Sequence[Future[Any]] = ()
    ) -> list[AppFuture[Any]]:
        """Make a task of each tuple of arguments; what ``app.map`` uses.

        The same as :meth:`call` for each of them, but calls whose arguments hold no
        futures are taken in batches, at half the cost.
        """
        futures: list[AppFuture[Any]] = []
        left = iter(calls)
        while chunk := list(itertools.islice(left, _CHUNK)):
            tasks = None if after else self._plain_tasks(app, chunk)
            if tasks is None:
                futures += [self.call(app, args, after=after) for args in chunk]
                continue
            futures += self._ledger.add_ready(tasks, self._routes[app][0])
            tasks[0].executor.submit_many(tasks)
        return futures

    def _plain_tasks(self, app: AppSpec, chunk: Sequence[tuple[Any, ...]]) -> list[Task] | None:
        """Return tasks that can begin at once on one executor; None if some cannot."""
        _, executor, app = self._routes.get(app) or self._register(app)
        if executor is None or app.cache or self.config.max_pending is not None:
            return None
        tasks = []
        for args in chunk:
            task = Task(app, args, None, app.options, self)
            futures, waitables, task.simple = arguments.find(args, None)
            if futures or waitables or (app.indirect and not task.simple):
                return None
            task.executor = executor
            tasks.append(task)
        return tasks

    def _register(self, app: AppSpec) -> tuple[int, Executor | None, AppSpec]:
        """Number an app for the record, and choose its executor if there is no choice."""
        executor: Executor | None = self._internal
        if app.kind not in _INTERNAL:
            found = self._placement.candidates(app.options, app.kind)
            executor = found[0] if len(found) == 1 else None
        spec = self._values.spec(app, executor)
        with LOCK:
            route = self._routes.get(app)
            if route is None:
                route = self._routes[app] = self._ledger.history.app(app), executor, spec
        return route

    def reroute(self) -> None:
        """Ask anew what apps are run as."""
        for app, (number, executor, _) in tuple(self._routes.items()):
            self._routes[app] = number, executor, self._values.spec(app, executor)

    def _begin(self, task: Task) -> None:
        """Take a ready task to an executor, in the thread of the user."""
        if failed := fill_arguments((task,)):
            self.finished(failed)
        elif task.app.cache:
            self._begin_cached(task)
        elif task.state < _DONE:
            self._hand_over(task)

    def _run_ready(self, tasks: list[Task]) -> None:
        """Take tasks to executors; `tasks` grows by those that become ready meanwhile.

        A loop and no recursion: joins may nest a thousand deep, and all end at once.
        """
        done = 0
        while done < len(tasks):
            batch = tasks[done:]
            done = len(tasks)
            if failed := fill_arguments(batch):
                tasks.extend(self._settle(failed))
            ends: list[Outcome] = []
            for task in batch:
                if task.state >= _DONE:  # failed just now, or cancelled meanwhile
                    continue
                if task.state == _JOINING:
                    ends.append(joining.collected(task))
                elif task.app.cache:
                    # Threads of executors must not hash large arguments.
                    self._memo.in_thread(functools.partial(self._begin_cached, task))
                else:
                    self._hand_over(task)
            if ends:
                tasks.extend(self._settle(ends))

    def _begin_cached(self, task: Task) -> None:
        """End a call whose result is known; else it runs, or follows an identical one."""
        outcome = self._memo.before(task, self._ledger)
        if outcome is None:
            self._hand_over(task)
        elif outcome is not Memoizing.FOLLOWS:
            self.finished((outcome,))

    def _hand_over(self, task: Task) -> None:
        executor = task.executor
        if executor is None:
            found = self._placement.candidates(task.options, task.app.kind)
            executor = task.executor = least_loaded(found)
        if self._values.varies:
            task.app = self._values.spec(task.app, executor)
        if task.app.indirect and not task.simple and self._values.prepares(task, executor):
            return
        executor.submit(task)

    def hand_over_again(self, task: Task) -> None:
        """Take a task to an executor that was ready before, and failed or was held up."""
        if task.app.cache and task.more().memo_key is None:  # its arguments were not there
            self._memo.in_thread(functools.partial(self._begin_cached, task))
            return
        if len(self.executors) > 1 and task.executor is not self._internal:
            task.executor = None  # perhaps elsewhere this time
        self._hand_over(task)

    # -- what executors report (Sink) ------------------------------------------------

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """Take the ends of attempts; failed ones may be tried again."""
        ready = self._settle(outcomes)
        if ready:
            self._run_ready(ready)

    def _settle(self, outcomes: Sequence[Outcome]) -> list[Task]:
        """End tasks, or have them tried again; return what became ready."""
        final = outcomes
        for outcome in outcomes:
            if outcome.error is not None:
                if outcome.state is TaskState.FAILED and (
                    self._values.remaking.takes(outcome) or self._retrying.takes(outcome)
                ):
                    final = [o for o in final if o is not outcome]
            elif outcome.task.app.indirect and outcome.state is TaskState.DONE:
                self._values.arrived(outcome)
                if outcome.task.app.cache:
                    self._memo.after(outcome)
        ready = self._ledger.finish(final)
        for outcome in final:
            if outcome.task.app.cache:
                self._memo.release(outcome.task)
        return ready

    def running(self, tasks: Sequence[Task]) -> None:
        """Mark tasks as running."""
        with LOCK:
            moved = [task for task in tasks if task.move(TaskState.RUNNING)]
            if self._bus.active:  # here, so that a task's events come in their order
                now = time.perf_counter()
                self._bus.emit(
                    [Event(t.task_id, TaskState.RUNNING, now, t.app.name, t.executor.label)
                     for t in moved]
                )  # fmt: skip

    def join(self, task: Task, value: Any, parts: Sequence[Future[Any]]) -> None:
        """Let a join task wait for the futures that its body returned."""
        task.more().join_parts = value
        self._run_ready(self._ledger.join(task, parts))
        self._watch_foreign(task, parts)

    def _watch_foreign(self, task: Task, parents: Iterable[Future[Any]]) -> None:
        """Learn of the end of futures that are no tasks of this engine."""

        def ended(parent: Future[Any]) -> None:
            self._run_ready(self._ledger.parent_done(task, parent))

        for parent in parents:
            if not isinstance(parent, AppFuture) or parent._task.engine is not self:
                parent.add_done_callback(ended)

    # -- futures' requests (Manager) -------------------------------------------------

    def cancel(self, task: Task) -> bool:
        """Cancel a task in any state; see :meth:`AppFuture.cancel`."""
        parts = cancel_alone(self, task)
        while parts:  # no recursion: joins may nest deeply
            parts += cancel_alone(self, parts.pop())
        return task.state == TaskState.CANCELLED

    def lift(self, future: AppFuture[Any], kind: str, key: Any) -> AppFuture[Any]:
        """Return a future of an item or attribute of a future's result."""
        return self.call(joining.LIFTS[kind], (future, key))

    def retry_budget(self, options: Options) -> float:
        """Return how many failures of a task with these options may be retried."""
        return self._retrying.budget(options)

    # -- looking ---------------------------------------------------------------------

    def graph(self) -> networkx.DiGraph:
        """Return the graph of all tasks so far.

        Returns
        -------
        networkx.DiGraph
            Nodes are task ids (services and data: their names) with ``app``, ``state``,
            ``executor``, ``submitted_s``, ``started_s``, ``ended_s``; edges have a
            ``kind``: data, after, join, memo or service.
        """
        return self._ledger.history.graph(self._ledger.tasks)

    def draw(self, path: str | os.PathLike[str]) -> str:
        """Draw the graph as SVG; large graphs are drawn by groups of equal tasks.

        Returns
        -------
        str
            The path.
        """
        from ssdag.dataflow.draw import draw_svg

        return str(draw_svg(self.graph(), path))

    @property
    def open_tasks(self) -> int:
        """Tasks that are not done."""
        return len(self._ledger.tasks)

    def add_listener(self, listener: Listener) -> None:
        """Tell a listener what happens from now on; EngineClosedError if nothing will."""
        if self._closed:
            raise EngineClosedError("the engine is closed: there is nothing to listen to")
        self._bus.add(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Stop telling a listener; it gets what has happened so far first."""
        self._bus.remove(listener)

    @property
    def closed(self) -> bool:
        """True once :meth:`close` has begun."""
        return self._closed

    # -- ending ----------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Block until no task is open; False after `timeout` seconds."""
        return self._ledger.wait_quiet(timeout)

    def close(self, *, wait: bool = False) -> None:
        """End the engine: executors, workers and services are gone when it returns.

        Parameters
        ----------
        wait : bool, optional
            Wait for all open tasks first; otherwise they are cancelled, and their
            futures raise :class:`~ssdag.EngineClosedError`.
        """
        if wait and not self._closed:
            self.wait()
        with LOCK:
            if self._closed:
                return
            self._closed = self._ledger.closed = True
            left = list(self._ledger.tasks.values())
        self._ledger.finish([unfinished(task) for task in left])
        self._retrying.close()
        for executor in (*self.executors, self._internal):
            executor.shutdown()
        self._values.close()
        self._scope.close()
        lifetime.pop(self._scope)
        self._memo.close()
        self._bus.close()

    def abandon(self) -> None:
        """Count as closed without ending anything: in a forked child, all is the parent's."""
        self._closed = self._ledger.closed = True

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and not self._closed:
                self.wait()
        finally:
            self.close()

    def __repr__(self) -> str:
        labels = ", ".join(executor.label for executor in self.executors)
        state = "closed" if self._closed else f"{self.open_tasks} open tasks"
        return f"<Engine on {labels}: {state}>"
