# SPDX-License-Identifier: BSD-3-Clause
"""The hub: one thread that gives slots to steps, and watches the steps run.

It never blocks on a step or on user code: bodies, starts and ends are the pool's. A
slot comes back when no process of its step is left.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from ssdag.arguments import localize
from ssdag.errors import EngineClosedError, WorkerLostError
from ssdag.executors.allocation.schedule import Schedule
from ssdag.executors.allocation.step import Step
from ssdag.executors.calls import maker_of
from ssdag.executors.local.wake import Wake
from ssdag.executors.pool import Pool
from ssdag.tasks import Outcome, launch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.executors.allocation.launching import Launching
    from ssdag.executors.allocation.request import Request
    from ssdag.executors.base import Sink
    from ssdag.executors.program import Program
    from ssdag.providers.base import Node
    from ssdag.tasks import Task

_log = logging.getLogger("ssdag.executors")

_THREADS = 4
#: What a killed step may take to be gone, beyond its grace, before a shutdown gives up.
_PATIENCE_S = 15.0


class Hub(threading.Thread):
    """Runs steps on the nodes of an allocation.

    Parameters
    ----------
    label : str
        The executor's label, for messages.
    nodes : sequence of Node
        The allocation.
    launching : Launching
        Makes launch lines.
    folder : callable
        Returns the folder for files of steps, made on first use.
    reserve_after_s, grace_s : float
        See :class:`~ssdag.executors.allocation.executor.AllocationExecutor`.
    sink : Sink
        Who is told.
    """

    def __init__(
        self,
        label: str,
        nodes: Sequence[Node],
        launching: Launching,
        folder: Callable[[], str],
        reserve_after_s: float,
        grace_s: float,
        sink: Sink,
    ) -> None:
        super().__init__(name=f"ssdag-hub-{label}", daemon=True)
        self.label = label
        self._launching = launching
        self._folder = folder
        self._grace_s = grace_s
        self._sink = sink
        self._schedule: Schedule[Task] = Schedule(nodes, reserve_after_s)
        self._requests: dict[Task, Request] = {}
        self._steps: dict[Task, Step] = {}
        self._by_fd: dict[int, Step] = {}
        self._pumps: dict[int, Step] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = Wake()
        self._poll = select.epoll()
        self._poll.register(self._wake.fd, select.EPOLLIN)
        # Bodies may be slow; the ends of steps, which give slots back, do not wait for them.
        self._starts = Pool(f"{label}-start", _THREADS)
        self._ends = Pool(f"{label}-end", _THREADS)
        self._numbers = itertools.count()
        self._closing = False
        self._over = False
        self._ended = threading.Lock()  # held by who looks whether the thread is over

    # -- called from other threads ---------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Tasks that wait or run, about."""
        return len(self._schedule) + len(self._steps) + len(self._calls)

    def put(self, task: Task, request: Request) -> None:
        """Let a ready task wait for its slots."""
        with self._ended:
            if not self._over:
                self._calls.append(functools.partial(self._add, task, request))
                self._wake.set()
                return
        self._report(Outcome(task, error=self._gone()))

    def cancel(self, task: Task) -> None:
        """End a task's step, if it has one."""
        self._calls.append(functools.partial(self._cancel, task))
        self._wake.set()

    def stop(self) -> None:
        """End all steps and the thread; blocks until they are gone."""
        self._closing = True
        self._wake.set()
        # A done callback that ends the engine runs in one of the hub's own threads.
        ours = self._starts.here() or self._ends.here() or threading.current_thread() is self
        if self.is_alive() and not ours:
            self.join(self._grace_s + _PATIENCE_S + 5.0)

    # -- the loop --------------------------------------------------------------------

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        try:
            while not self._closing:
                self._turn()
        except BaseException as error:  # thread top: nobody may wait for ever for us
            _log.exception("the hub of executor %r failed", self.label)
            failure: BaseException = WorkerLostError(
                f"executor {self.label!r} cannot run tasks any more: {error}"
            )
        else:
            failure = self._gone()
        try:
            self._end_all(failure)
        finally:
            self._fail_all(failure)
            self._starts.close()
            self._ends.close()
            self._poll.close()

    def _gone(self) -> EngineClosedError:
        return EngineClosedError(f"executor {self.label!r} was shut down")

    def _turn(self, longest_s: float | None = None) -> None:
        self._do_calls()
        if not self._closing:
            self._begin()
        elif not self._steps:
            return
        timeout = self._look_at_clocks()
        if longest_s is not None:
            timeout = longest_s if timeout < 0 else min(timeout, longest_s)
        for fd, _ in self._poll.poll(0.0 if self._calls else timeout):
            if fd == self._wake.fd:
                self._wake.clear()
            elif (step := self._pumps.get(fd)) is not None:
                if step.pump is not None and step.pump.pass_on() is False:
                    self._drop_pump(step)
            elif (step := self._by_fd.pop(fd, None)) is not None:
                self._poll.unregister(fd)
                self._drop_pump(step)
                self._ends.put(functools.partial(self._finish, step))

    def _do_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    def _begin(self) -> None:
        """Start the steps that have room now."""
        for task, placement in self._schedule.take(time.monotonic()):
            request = self._requests.pop(task)
            step = self._steps[task] = Step(task, request, placement)
            self._starts.put(functools.partial(self._start, step))

    def _look_at_clocks(self) -> float:
        """End steps whose time is over; return seconds until the next look, -1 for none."""
        due = None
        now = time.monotonic()
        for step in self._by_fd.values():
            if step.kill_at is not None:
                if now >= step.kill_at:
                    step.kill_at = now + _PATIENCE_S
                    self._ends.put(step.kill)
                when = step.kill_at
            elif step.deadline is not None:
                if now >= step.deadline:
                    step.timed_out = True
                    self._end(step)
                when = step.kill_at or step.deadline
            else:
                continue
            due = when if due is None else min(due, when)
        return -1.0 if due is None else max(0.0, due - now)

    def _end(self, step: Step) -> None:
        if step.kill_at is None and step.process is not None:
            step.kill_at = time.monotonic() + self._grace_s
            step.terminate()

    def _drop_pump(self, step: Step) -> None:
        if step.pump is not None and self._pumps.pop(step.pump.fileno(), None) is not None:
            self._poll.unregister(step.pump.fileno())

    # -- what others ask for ---------------------------------------------------------

    def _add(self, task: Task, request: Request) -> None:
        if task.state.final:  # cancelled before we looked
            return
        self._requests[task] = request
        self._schedule.add(task, request, task.options.priority, time.monotonic())

    def _cancel(self, task: Task) -> None:
        if self._schedule.remove(task):
            del self._requests[task]
        elif (step := self._steps.get(task)) is not None:
            step.cancelled = True
            self._end(step)

    def _watch(self, step: Step) -> None:
        """A step runs now."""
        process = step.process
        assert process is not None
        fd = process.fileno()
        self._by_fd[fd] = step
        self._poll.register(fd, select.EPOLLIN)
        if step.pump is not None:
            self._pumps[step.pump.fileno()] = step
            self._poll.register(step.pump.fileno(), select.EPOLLIN)
        if step.cancelled or self._closing:
            self._end(step)

    def _free(self, step: Step) -> None:
        """A step is gone wholly."""
        del self._steps[step.task]
        self._schedule.release(step.placement)

    def _call(self, function: Callable[[Step], None], step: Step) -> None:
        """Have something done by the hub's thread."""
        self._calls.append(functools.partial(function, step))
        self._wake.set()

    # -- in the pool -----------------------------------------------------------------

    def _start(self, step: Step) -> None:
        task = step.task
        begun = time.monotonic()

        def make_folder() -> str:
            folder = os.path.join(self._folder(), f"{task.task_id}-{next(self._numbers)}")
            os.mkdir(folder, 0o700)
            step.folders.append(folder)
            return folder

        try:
            for _, args, kwargs in launch([task]):
                args, kwargs = localize(args, kwargs)
                program = step.prepare(maker_of(task), args, kwargs, make_folder)
                self._sink.running((task,))
                self._launch(step, program)
                self._call(self._watch, step)
                return
            error = None  # it was cancelled
        except BaseException as raised:  # the body is user code
            error = raised
        step.clean()
        self._call(self._free, step)
        if error is not None:
            self._sink.finished((Outcome(task, None, error, begun, time.monotonic()),))

    def _launch(self, step: Step, program: Program) -> None:
        # A folder of its own, made only if there is something to put there.
        name = f"launch-{step.task.task_id}-{next(self._numbers)}"
        place = os.path.join(self._folder(), name)
        made = self._launching.launch(program, step.request, step.placement, place)
        if made.files:
            os.mkdir(place, 0o700)
            step.folders.append(place)
        for name, text in made.files.items():
            with open(os.path.join(place, name), "w", encoding="utf-8") as file:
                file.write(text)
        step.start(made, self._grace_s)

    def _finish(self, step: Step) -> None:
        exit_code, tail = step.end()
        ended = time.monotonic()
        self._call(self._free, step)
        value, error = step.outcome(exit_code, tail)
        step.clean()
        if not step.cancelled:
            self._sink.finished((Outcome(step.task, value, error, step.started, ended),))

    def _report(self, outcome: Outcome) -> None:
        self._sink.finished((outcome,))

    # -- the end ---------------------------------------------------------------------

    def _end_all(self, error: BaseException) -> None:
        """End all steps; returns when they are gone, or after a while."""
        self._closing = True
        for step in list(self._steps.values()):
            step.cancelled = True
            if step.process is not None and step in self._by_fd.values():
                self._end(step)
            self._report(Outcome(step.task, error=error))
        give_up = time.monotonic() + self._grace_s + _PATIENCE_S
        while self._steps and (left := give_up - time.monotonic()) > 0:
            self._turn(left)

    def _fail_all(self, error: BaseException) -> None:
        with self._ended:
            self._over = True
            self._do_calls()
        waiting = self._schedule.drain()
        self._requests.clear()
        for task in waiting:
            self._report(Outcome(task, error=error))
