# SPDX-License-Identifier: BSD-3-Clause
"""The hub: one thread that feeds all workers of a machine and takes their answers."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from ssdag.errors import WalltimeExceededError, WorkerLostError
from ssdag.executors.base import ReadyQueue
from ssdag.executors.local import answers, dispatch
from ssdag.executors.local.link import Link
from ssdag.futures import LOCK
from ssdag.states import TaskState
from ssdag.tasks import Outcome
from ssdag.wire.functions import FunctionTable
from ssdag.wire.shared import Handle, SegmentPool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ssdag.executors.base import Sink
    from ssdag.tasks import Task

_log = logging.getLogger("ssdag.executors")

#: A running task that blocks others behind it for so long has them taken back.
_STEAL_NS = 3_000_000
#: A revocation is believed this long after it was written.
_CONFIRM_S = 0.001
_TICK_S = 0.002
#: Results that a doomed worker has finished may arrive for so long before it is killed.
_LAST_WORDS_S = 0.1
#: Workers that die in a row before they finish anything, until the executor gives up.
_BAD_STARTS = 3


class Hub(threading.Thread):
    """Feeds workers and takes their answers.

    Parameters
    ----------
    label : str
        The executor's label, for messages.
    max_workers : int
        Processes at most; they are started as work needs them.
    folder : str or None
        Where segments lie.
    threshold : int
        Bytes from which a buffer goes by reference.
    env : mapping
        Added to the workers' environment.
    sink : Sink
        Who is told.
    """

    def __init__(
        self,
        label: str,
        max_workers: int,
        folder: str | None,
        threshold: int,
        env: Mapping[str, str],
        sink: Sink,
    ) -> None:
        super().__init__(name=f"ssdag-hub-{label}", daemon=True)
        self.label = label
        self.max_workers = max_workers
        self.threshold = threshold
        self.sink = sink
        self.queue = ReadyQueue()
        self.functions = FunctionTable()
        self.pool = SegmentPool(folder, "hub")
        self.links: list[Link] = []
        self._folder = folder
        self._env = env
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.epoll()
        self._poll.register(self._wake_fd, select.EPOLLIN)
        self._by_fd: dict[int, Link] = {}
        self._writing: set[int] = set()
        #: True while the thread sleeps and new work could be given to a worker.
        self._hungry = False
        self._calls: deque[Callable[[], None]] = deque()
        self._closing = False
        self._bad_starts = 0
        self._spawned = 0
        #: Tasks with a walltime that workers hold.
        self.timed = 0

    # -- called from other threads ---------------------------------------------------

    def put(self, task: Task) -> None:
        """Queue a ready task."""
        self.queue.push(task)
        if self._hungry:
            self._hungry = False
            os.eventfd_write(self._wake_fd, 1)

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called by the hub's thread."""
        self._calls.append(function)
        os.eventfd_write(self._wake_fd, 1)

    def stop(self) -> None:
        """End the thread and all workers; blocks until they are gone."""
        self._closing = True
        if self.is_alive():
            os.eventfd_write(self._wake_fd, 1)
            self.join(30.0)

    # -- the loop --------------------------------------------------------------------

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        try:
            while not self._closing:
                self._turn()
        except Exception as error:  # thread top: nobody may wait for ever for us
            _log.exception("the hub of executor %r failed", self.label)
            self._fail_everything(error)
        finally:
            for link in self.links:
                link.close()
            self._poll.close()
            os.close(self._wake_fd)

    def _turn(self) -> None:
        dispatch.feed(self)
        timeout = self._tick()
        self._hungry = self._has_room()
        if (self._hungry and len(self.queue)) or self._calls:
            timeout = 0.0
        events = self._poll.poll(timeout)
        self._hungry = False
        for fd, mask in events:
            if fd == self._wake_fd:
                os.eventfd_read(fd)
                while self._calls:
                    self._calls.popleft()()
                continue
            link = self._by_fd.get(fd)
            if link is None:
                continue
            if mask & select.EPOLLOUT:
                self._write(link)
            if link.alive and mask & ~select.EPOLLOUT:
                self._read(link)

    def _has_room(self) -> bool:
        return len(self.links) < self.max_workers or any(link.room for link in self.links)

    def spawn(self) -> Link | None:
        """Start a worker; None if the machine refuses."""
        self._spawned += 1
        try:
            link = Link(f"w{self._spawned}", self._folder, self.threshold, self._env)
        except OSError as error:
            if self.links:
                _log.warning("cannot start another worker: %s", error)
                self.max_workers = len(self.links)
            else:
                self._fail_everything(error)
            return None
        self.links.append(link)
        self._by_fd[link.sock.fileno()] = link
        self._poll.register(link.sock.fileno(), select.EPOLLIN)
        return link

    def own_handle(self, path: str, size: int) -> Handle:
        """Return a hold on a segment of our own pool, for a worker that reads it."""
        return Handle(path, size, self.pool.release)

    def watch_writes(self, link: Link) -> None:
        """Poll for room in the link's socket exactly while it has a backlog."""
        fd = link.sock.fileno()
        if link.writer.backlog != (fd in self._writing):
            if link.writer.backlog:
                self._writing.add(fd)
                self._poll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
            else:
                self._writing.discard(fd)
                self._poll.modify(fd, select.EPOLLIN)

    def _write(self, link: Link) -> None:
        try:
            link.writer.flush()
        except OSError:
            self.lost(link)
            return
        self.watch_writes(link)

    def _read(self, link: Link) -> None:
        try:
            link.reader.read()
        except BlockingIOError:
            return
        except (EOFError, ConnectionError):
            self.lost(link)
            return
        outcomes: list[Outcome] = []
        while (frame := link.reader.take()) is not None:
            outcomes += answers.read(self, link, frame)
            self._bad_starts = 0
        if outcomes:
            self.sink.finished(outcomes)
        self.show_running(link)

    def show_running(self, link: Link) -> None:
        """Tell the sink what a worker executes now: the head of its fifo."""
        if link.fifo:
            head = link.fifo[0]
            if head is not None and head.state == TaskState.LAUNCHED:
                self.sink.running((head,))

    # -- time ------------------------------------------------------------------------

    def _tick(self) -> float | None:
        """Do what is due; return seconds until the next time, or None."""
        due: float | None = None
        for link in tuple(self.links):
            if link.taken_back:
                self._confirm(link)
                due = _TICK_S
            if link.doom is not None:
                due = _TICK_S
                self._kill_if_alone(link)
            elif self.timed and link.fifo:
                left = self._check_walltime(link)
                due = left if due is None else min(due, left)
        if self._steal():
            due = _TICK_S if due is None else min(due, _TICK_S)
        return due

    def _check_walltime(self, link: Link) -> float:
        task, _, since_ns = link.running()
        if task is None or task.options.walltime_s is None:
            return 0.01  # a task with a walltime may begin behind it
        left = task.options.walltime_s - (time.monotonic_ns() - since_ns) / 1e9
        if left > 0:
            return min(left, 0.05) if len(link.fifo) > 1 else left
        limit = task.options.walltime_s
        error = WalltimeExceededError(
            f"task {task.task_id} ({task.app.name}) ran longer than its walltime of {limit:g} s "
            "and was killed",
            walltime_s=limit,
            task_id=task.task_id,
        )
        self.doom(link, task, error)
        return _TICK_S

    def doom(self, link: Link, task: Task, error: BaseException | None) -> None:
        """Kill a worker for the sake of its running task, once earlier results are here."""
        if link.doom is None:
            link.doom = task, error, time.monotonic() + _LAST_WORDS_S
            self._kill_if_alone(link)

    def _kill_if_alone(self, link: Link) -> None:
        assert link.doom is not None
        task, _, deadline = link.doom
        place = link.place_of(task)
        if place < 0:  # it ended by itself meanwhile
            link.doom = None
        elif place == 0 or time.monotonic() > deadline:
            self.lost(link)

    def _steal(self) -> bool:
        """Take tasks back that wait behind a slow one while another worker is idle."""
        if len(self.queue):
            return False
        idle = len(self.links) < self.max_workers or any(not k.fifo for k in self.links)
        if not idle:
            return False
        crowded = [k for k in self.links if len(k.fifo) > 1 and not k.taken_back and not k.doom]
        for link in crowded:
            task, place, since_ns = link.running()
            if task is None or time.monotonic_ns() - since_ns < _STEAL_NS:
                continue
            waiting = len(link.fifo) - place - 1
            first = len(link.fifo) - (waiting + 1) // 2
            for at in range(max(first, place + 1), len(link.fifo)):
                held = link.fifo[at]
                if held is not None:
                    number = link.done + 1 + at
                    link.page.revoke(number)
                    link.taken_back.append((number, held))
                    link.taken_back_at = time.monotonic()
        return bool(crowded)

    def _confirm(self, link: Link) -> None:
        """Requeue revoked tasks that the worker has surely not begun.

        Worker and hub each write, then read what the other wrote; a while later both
        writes are visible, so a task that has not started then never will there.
        """
        if time.monotonic() - link.taken_back_at < _CONFIRM_S:
            return
        started = link.page.counters[1]
        taken = []
        for number, task in link.taken_back:
            at = number - link.done - 1
            if number > started and 0 <= at < len(link.fifo) and link.fifo[at] is task:
                link.fifo[at] = None
                taken.append(task)
        link.taken_back.clear()
        self.requeue(taken)

    def requeue(self, tasks: list[Task]) -> None:
        """Put tasks back that were handed out and did not begin."""
        self.timed -= sum(task.options.walltime_s is not None for task in tasks)
        with LOCK:
            tasks = [task for task in tasks if task.move(TaskState.READY)]
        self.queue.push_front(tasks)

    # -- ends ------------------------------------------------------------------------

    def cancel(self, task: Task) -> None:
        """Take a task back from its worker, or kill the worker if it runs."""
        for link in self.links:
            place = link.place_of(task)
            if place >= 0:
                number = link.done + 1 + place
                link.page.revoke(number)
                if number <= link.page.counters[1]:
                    self.doom(link, task, None)
                return

    def lost(self, link: Link) -> None:
        """Deal with a worker that died or is to be killed."""
        if not link.alive:
            return
        fd = link.sock.fileno()
        self._by_fd.pop(fd, None)
        self._writing.discard(fd)
        self._poll.unregister(fd)
        self.links.remove(link)
        exit_code = link.close()
        counters = link.page.counters
        started, finished = counters[1], counters[2]
        if not finished and link.doom is None:
            self._bad_starts += 1
        outcomes: list[Outcome] = []
        again: list[Task] = []
        for number, task in enumerate(link.fifo, link.done + 1):
            if task is None:
                continue
            if number > started:
                again.append(task)
                continue
            self.timed -= task.options.walltime_s is not None
            error = self._loss(link, task, exit_code, number <= finished)
            outcomes.append(Outcome(task, error=error, started=counters[0] / 1e9,
                                    ended=time.monotonic()))  # fmt: skip
        link.fifo.clear()
        self.requeue(again)
        if outcomes:
            self.sink.finished(outcomes)
        if self._bad_starts >= _BAD_STARTS and not self.links:
            self._bad_starts = 0
            self._fail_queue(WorkerLostError(
                f"{_BAD_STARTS} workers of executor {self.label!r} died as they started (the last "
                f"one with {_exit_text(exit_code)}); what they wrote to stderr says why",
                exit_code=exit_code,
            ))  # fmt: skip

    def _loss(self, link: Link, task: Task, exit_code: int | None, ended: bool) -> BaseException:
        if link.doom is not None and link.doom[0] is task and link.doom[1] is not None:
            return link.doom[1]
        what = "died after the task, before its result was sent" if ended else "died under it"
        return WorkerLostError(
            f"task {task.task_id} ({task.app.name}): its worker process {what} "
            f"({_exit_text(exit_code)})",
            exit_code=exit_code,
            task_id=task.task_id,
        )

    def _fail_queue(self, error: BaseException) -> None:
        outcomes = [Outcome(task, error=error) for task in self.queue.drain()]
        if outcomes:
            self.sink.finished(outcomes)

    def _fail_everything(self, error: BaseException) -> None:
        lost = WorkerLostError(f"executor {self.label!r} cannot run tasks: {error}")
        lost.__cause__ = error
        held = [task for link in self.links for task in link.fifo if task is not None]
        for link in self.links:
            link.fifo.clear()
        self.sink.finished([Outcome(task, error=lost) for task in held])
        self._fail_queue(lost)


def _exit_text(exit_code: int | None) -> str:
    if exit_code is None:
        return "exit code unknown"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    from signal import Signals

    try:
        name = Signals(-exit_code).name
    except ValueError:
        name = str(-exit_code)
    hint = "; the kernel kills so when memory runs out" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"
