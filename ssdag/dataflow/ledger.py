# SPDX-License-Identifier: BSD-3-Clause
"""Who waits for whom: the algorithm of the graph, without executors or user code.

Everything here happens under :data:`ssdag.futures.LOCK`, one hold per submission and
one per batch of completions. A task counts its open parents; the end of a parent is
O(1) per child. Nothing recurses: a failure runs down a chain of any length by a stack.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from ssdag.dataflow.ends import dep_failed, end_event, finish_outputs
from ssdag.dataflow.history import History
from ssdag.dataflow.record import EdgeKind
from ssdag.errors import EngineClosedError
from ssdag.futures import LOCK
from ssdag.monitoring.listeners import Event
from ssdag.states import TaskState
from ssdag.tasks import AppFuture, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from ssdag.monitoring.listeners import Bus
    from ssdag.tasks import Task

_CANCELLED = "CANCELLED_AND_NOTIFIED"
_FINISHED = "FINISHED"
_PENDING, _READY, _JOINING = TaskState.PENDING, TaskState.READY, TaskState.JOINING
_DONE, _FAILED = TaskState.DONE, TaskState.FAILED
_DEP_FAILED, _RAN_CANCELLED = TaskState.DEP_FAILED, TaskState.CANCELLED


class Ledger:
    """The open tasks of an engine and their edges.

    Parameters
    ----------
    bus : Bus
        Where events go.
    max_pending : int or None
        Open tasks beyond which :meth:`add` blocks threads of the user.
    executors : sequence
        The engine's executors, whose places stand in the record.

    Attributes
    ----------
    tasks : dict of int to Task
        Tasks that are not done, by id.
    history : History
        What has happened, for the graph.
    """

    def __init__(self, bus: Bus, max_pending: int | None, executors: Sequence[Any] = ()) -> None:
        self.tasks: dict[int, Task] = {}
        self.history = History(executors)
        self.closed = False
        self._bus = bus
        self._next = 0
        self._max_pending = max_pending
        self._edge = self.history.record.edge
        #: Waits for room or for quiet; its lock is the one of all futures.
        self._changed = threading.Condition(LOCK)
        self._watchers = 0

    # -- adding ----------------------------------------------------------------------

    def add(
        self,
        task: Task,
        future: AppFuture[Any],
        parents: Sequence[Future[Any]],
        after: Sequence[Future[Any]],
        app_index: int,
    ) -> bool:
        """Number a task and count its open parents.

        Futures that are not tasks of ours count as open; the caller attaches a callback
        that leads to :meth:`parent_done`. Blocks while there are `max_pending` tasks.

        Returns
        -------
        bool
            True if it is ready at once.

        Raises
        ------
        EngineClosedError
            Nothing can be added any more.
        """
        task.future = future
        now = time.perf_counter()
        with LOCK:
            if self._max_pending is not None and len(self.tasks) >= self._max_pending:
                self._wait_for_room()
            self._refuse_if_closed()
            task_id = task.task_id = self._next
            self._next = task_id + 1
            self.tasks[task_id] = task
            self.history.record.add(app_index, now)
            if task.extras is not None and task.extras.outputs:
                self.history.note_outputs(task, "pending")
            failed: Future[Any] | None = None
            ready = True
            if parents or after:
                for parent in parents:
                    if type(parent) is AppFuture and parent._state == "PENDING":
                        # The usual case of _link, without calls.
                        above = parent._task
                        if above.engine is task.engine:
                            self._edge(above.task_id, task_id, 0)
                            if parent._children is None:
                                parent._children = [task]
                            else:
                                parent._children.append(task)
                        task.waiting += 1
                    else:
                        failed = self._link(task, parent, EdgeKind.DATA) or failed
                for parent in after:
                    failed = self._link(task, parent, EdgeKind.AFTER) or failed
                ready = failed is None and not task.waiting
            if ready:
                task.move(_READY)
            if self._bus.active:  # here, so that a task's events come in their order
                self._bus.emit([Event(task_id, task.state, now, task.app.name, "")])
        if failed is not None:
            self.finish([dep_failed(task, failed)])
            return False
        return ready

    def add_ready(self, tasks: Sequence[Task], app_index: int) -> list[AppFuture[Any]]:
        """Number tasks of one app that wait for nothing; return their futures.

        Raises
        ------
        EngineClosedError
            Nothing can be added any more.
        """
        futures: list[AppFuture[Any]] = [AppFuture(task) for task in tasks]
        now = time.perf_counter()
        with LOCK:
            self._refuse_if_closed()
            add = self.history.record.add
            for number, (task, future) in enumerate(zip(tasks, futures, strict=True), self._next):
                task.future = future
                task.task_id = number
                self.tasks[number] = task
                add(app_index, now)
                task.move(_READY)
            self._next += len(tasks)
            if self._bus.active:
                name = tasks[0].app.name
                self._bus.emit([Event(task.task_id, _READY, now, name, "") for task in tasks])
        return futures

    def _refuse_if_closed(self) -> None:
        if self.closed:
            raise EngineClosedError("the engine is closed; load another one with ssdag.load()")

    def _link(self, task: Task, parent: Future[Any], kind: EdgeKind) -> Future[Any] | None:
        """Add an edge; return the parent if it failed already. LOCK is held."""
        if not isinstance(parent, AppFuture):
            task.waiting += 1
            node = self.history.data_node(parent)
            if node is not None:
                self._edge(node, task.task_id, kind)
            return None
        above = parent._task
        if above.engine is not task.engine:  # its ledger must not count for us
            task.waiting += 1
            return None
        self._edge(above.task_id, task.task_id, kind)
        if parent.done():
            if parent._exception is None and not parent.cancelled():
                return None
            # It stays open: with the end of the others the task would count as ready
            # before the caller has failed it.
            task.waiting += 1
            return parent
        if parent._children is None:
            parent._children = [task]
        else:
            parent._children.append(task)
        task.waiting += 1
        return None

    def _wait_for_room(self) -> None:
        # A thread of ours must go on, or nothing would ever make room.
        if threading.current_thread().name.startswith("ssdag-"):
            return
        self._wait(lambda: self.closed or len(self.tasks) < (self._max_pending or 0), None)

    def _wait(self, ready: Callable[[], bool], timeout_s: float | None) -> bool:
        self._watchers += 1
        try:
            return self._changed.wait_for(ready, timeout_s)
        finally:
            self._watchers -= 1

    def wait_quiet(self, timeout_s: float | None = None) -> bool:
        """Block until no task is open; False after `timeout_s`."""
        with LOCK:
            return self._wait(lambda: not self.tasks, timeout_s)

    def join(self, task: Task, parts: Sequence[Future[Any]]) -> list[Task]:
        """Let a task whose body returned futures wait for them.

        Returns
        -------
        list of Task
            The task itself if all are done already.
        """
        failed: Future[Any] | None = None
        with LOCK:
            if not task.move(_JOINING):
                return []
            for part in parts:
                failed = self._link(task, part, EdgeKind.JOIN) or failed
            ready = failed is None and not task.waiting
            if self._bus.active:  # here, so that a task's events come in their order
                now = time.perf_counter()
                self._bus.emit([Event(task.task_id, _JOINING, now, task.app.name, "")])
        if failed is not None:
            return self.finish([dep_failed(task, failed)])
        return [task] if ready else []

    def follow(self, task: Task, first: AppFuture[Any]) -> bool:
        """Let a task wait for an identical call; False if that one is done. LOCK is held."""
        if first.done() or not task.move(_PENDING):
            return False
        task.more().follows = first
        task.waiting = 1
        if first._children is None:
            first._children = [task]
        else:
            first._children.append(task)
        self._edge(first.task_id, task.task_id, EdgeKind.MEMO)
        return True

    # -- finishing -------------------------------------------------------------------

    def parent_done(self, task: Task, parent: Future[Any]) -> list[Task]:
        """Take the end of a parent that is no task of ours; return what became ready."""
        cancelled = parent.cancelled()
        failed = cancelled or parent.exception() is not None
        with LOCK:
            node = self.history.data_node(parent)
            if node is not None:
                state = "cancelled" if cancelled else "failed" if failed else "done"
                self.history.record.node_state(node, state, ended=time.perf_counter())
        if failed:
            return self.finish([dep_failed(task, parent)])
        ready: list[Task] = []
        with LOCK:
            self._count_down(task, ready)
        return ready

    def _count_down(self, task: Task, ready: list[Task]) -> None:
        if task.state >= _DONE:
            return
        task.waiting -= 1
        if not task.waiting:
            if task.state == _PENDING:
                task.move(_READY)
            ready.append(task)

    def finish(self, outcomes: Iterable[Outcome]) -> list[Task]:
        """End tasks and all that fails with them.

        Returns
        -------
        list of Task
            Tasks that became ready, and joining tasks whose parts are all there.
        """
        ready: list[Task] = []
        ended: list[Outcome] = []
        callbacks: list[tuple[AppFuture[Any], Sequence[Callable[[Any], object]]]] = []
        #: Arguments die at the end of this function: their finalizers are user code.
        dropped: list[Any] = []
        stack = list(outcomes)
        stack.reverse()
        while stack:
            waited_for: list[tuple[Outcome, AppFuture[Any]]] = []
            with LOCK:
                while stack:
                    outcome = stack.pop()
                    task = outcome.task
                    if not task.move(outcome.state):
                        continue  # it was cancelled or failed meanwhile
                    future = task.future
                    assert future is not None
                    if not task.simple:
                        dropped.append((task.args, task.kwargs))
                    if future._cond is None:
                        self._end(outcome, future, stack, ready, callbacks)
                    else:
                        waited_for.append((outcome, future))
                    ended.append(outcome)
                if not self.tasks or self._watchers:
                    self._changed.notify_all()
            for outcome, future in waited_for:
                with future._condition:
                    with LOCK:
                        self._end(outcome, future, stack, ready, callbacks)
                        if not self.tasks or self._watchers:
                            self._changed.notify_all()
                    future._notify()
        if self._bus.active:
            self._bus.emit([end_event(outcome) for outcome in ended])
        for outcome in ended:
            if outcome.task.extras is not None:
                finish_outputs(outcome)
        for future, functions in callbacks:
            for function in functions:
                future._call(function)
        return ready

    def _end(
        self,
        outcome: Outcome,
        future: AppFuture[Any],
        stack: list[Outcome],
        ready: list[Task],
        callbacks: list[tuple[AppFuture[Any], Sequence[Callable[[Any], object]]]],
    ) -> None:
        """Complete a future and look after its children; LOCK is held."""
        task, error, state = outcome.task, outcome.error, outcome.state
        kind = _CANCELLED if state is _RAN_CANCELLED and error is None else _FINISHED
        functions = future._set_locked(kind, outcome.value, error)
        if functions:
            callbacks.append((future, functions))
        children, future._children = future._children, None
        del self.tasks[task.task_id]
        task.future = None
        task.args = ()
        task.kwargs = None
        self.history.ended(outcome)
        if not children:
            return
        if kind is _FINISHED and error is None:
            for child in children:
                self._count_down(child, ready)
            return
        if state is _RAN_CANCELLED and error is not None:
            return  # the engine closes, and every child has its own end
        for child in children:
            extras = child.extras
            if extras is not None and extras.follows is future:
                if state is _RAN_CANCELLED:  # nobody computes it now: the follower does
                    extras.follows = None
                    self._count_down(child, ready)
                else:
                    stack.append(Outcome(child, error=error, state=_FAILED))
            elif not child.state.final:
                stack.append(dep_failed(child, future))
