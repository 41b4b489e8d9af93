# SPDX-License-Identifier: BSD-3-Clause
"""The hub: one thread that feeds all workers of a machine and takes their answers."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from ssdag.errors import WorkerLostError
from ssdag.executors.base import ReadyQueue
from ssdag.executors.local import answers, dispatch, losses, revoking
from ssdag.executors.local.link import Link
from ssdag.executors.local.wake import Wake
from ssdag.executors.waiting import refuse_waits
from ssdag.futures import LOCK
from ssdag.states import TaskState
from ssdag.wire.functions import FunctionTable
from ssdag.wire.shared import Handle, Lent, SegmentPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ssdag.executors.base import Sink
    from ssdag.executors.local.messages import Packer
    from ssdag.tasks import Outcome, Task

_log = logging.getLogger("ssdag.executors")


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

    #: Whether what workers return is mapped by the driver itself.
    near = True

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
        self.env = env
        self._cwd = current_folder()
        self._wake = Wake()
        self._poll = select.epoll()
        self._poll.register(self._wake.fd, select.EPOLLIN)
        self._by_fd: dict[int, Link] = {}
        self._writing: set[int] = set()
        #: True while the thread sleeps and new work could be given to a worker.
        self._hungry = False
        self._calls: deque[Callable[[], None]] = deque()
        self._closing = False
        #: Why nothing can be run any more; set as the thread ends.
        self._failure: WorkerLostError | None = None
        self._spawned = 0
        #: Workers in a row that died before they began anything.
        self.bad_starts = 0
        #: Segments of workers that values in this process lie in.
        self.lent = Lent()
        #: Tasks with a walltime that workers hold.
        self.timed = 0

    # -- called from other threads ---------------------------------------------------

    def put(self, task: Task) -> None:
        """Queue a ready task."""
        self.queue.push(task)
        if self._hungry:
            self._wake_up()

    def put_many(self, tasks: Sequence[Task]) -> None:
        """Queue ready tasks with the same options."""
        self.queue.push_many(tasks)
        if self._hungry:
            self._wake_up()

    def _wake_up(self) -> None:
        self._hungry = False
        self._wake.set()
        if self._failure is not None:  # there is nobody to wake any more
            self._hungry = True
            losses.fail_queue(self, self._failure)

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called by the hub's thread."""
        self._calls.append(function)
        self._wake.set()

    def stop(self) -> None:
        """End the thread and all workers; blocks until they are gone."""
        self._closing = True
        if threading.current_thread() is self:  # a done callback ends the engine
            self._close_links()
        elif self.is_alive():
            self._wake.set()
            self.join(30.0)

    # -- the loop --------------------------------------------------------------------

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        refuse_waits(self.sink)
        error = WorkerLostError(f"executor {self.label!r} was shut down")
        try:
            while not self._closing:
                self._turn()
        except BaseException as raised:  # thread top: nobody may wait for ever for us
            _log.exception("the hub of executor %r failed", self.label)
            error = WorkerLostError(f"executor {self.label!r} cannot run tasks any more: {raised}")
            error.__cause__ = raised
        finally:
            self._end(error)
            self._poll.close()

    def _turn(self) -> None:
        self.feed()
        timeout = self.tick()
        self._hungry = self._has_room()
        if (self._hungry and len(self.queue)) or self._calls:
            timeout = 0.0
        events = self._poll.poll(timeout)
        self._hungry = False
        for fd, mask in events:
            if fd == self._wake.fd:
                self._wake.clear()
                while self._calls:
                    self._calls.popleft()()
                continue
            link = self._by_fd.get(fd)
            if link is None:
                continue
            if fd == link.ended_fd:
                self._read_rest(link)
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
            link = self.start_link(f"w{self._spawned}", self.env)
        except OSError as error:
            if self.links:
                _log.warning("cannot start another worker: %s", error)
                self.max_workers = len(self.links)
            else:
                refusal = WorkerLostError(
                    f"executor {self.label!r} cannot start a worker process: {error}"
                )
                refusal.__cause__ = error
                losses.fail_queue(self, refusal)
            return None
        self.links.append(link)
        for fd in (link.sock.fileno(), link.ended_fd):
            self._by_fd[fd] = link
            self._poll.register(fd, select.EPOLLIN)
        return link

    # -- what a hub beneath another one does in its own way ----------------------------

    def feed(self) -> None:
        """Give queued tasks to workers that have room."""
        dispatch.feed(self)

    def tick(self) -> float | None:
        """Do what is due; return seconds until the next time, or None."""
        return revoking.tick(self)

    def start_link(self, name: str, env: Mapping[str, str]) -> Link:
        """Start a worker with additions to its environment; raises OSError."""
        return Link(name, self._folder, self.threshold, env, self._cwd, self.lent, near=self.near)

    def pack(
        self,
        link: Link,
        packer: Packer,
        task: Task,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
    ) -> tuple[bytes, Any]:
        """Return the pickle of a task's arguments and where its buffers are."""
        return dispatch.pack(self, link, packer, task, args, kwargs)

    def unpack(
        self, link: Link, code: int, value: Any, entries: Any, buffers: Iterator[Any]
    ) -> tuple[Any, BaseException | None]:
        """Return the value or the error of a result that is not plain."""
        return answers.load(link, code, value, entries, buffers)

    def also_wake(self, fd: int) -> None:
        """Have the loop turn, too, when a descriptor is readable."""
        self._poll.register(fd, select.EPOLLIN)

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
            losses.lost(self, link)
            return
        self.watch_writes(link)

    def _read(self, link: Link) -> bool:
        """Take what a worker has sent; False if there is nothing."""
        try:
            link.reader.read()
        except BlockingIOError:
            return False
        except (EOFError, OSError, MemoryError, OverflowError):  # gone, or not our frames
            losses.lost(self, link)
            return False
        outcomes: list[Outcome] = []
        while (frame := link.reader.take()) is not None:
            try:
                answer = answers.parse(frame)
            except Exception:  # user code wrote to our connection
                _log.exception("a worker of executor %r sent nonsense", self.label)
                losses.lost(self, link)
                break
            outcomes += answers.read(self, link, answer, frame.buffers)
        if outcomes:
            self.sink.finished(outcomes)
        self.show_running(link)
        return True

    def _read_rest(self, link: Link) -> None:
        """Take what a process had sent before it ended.

        Its end is an event of its own: something that it had started may hold a copy of
        the connection, which then never closes.
        """
        while link.alive and self._read(link):
            pass
        losses.lost(self, link)

    def show_running(self, link: Link) -> None:
        """Tell the sink what a worker executes now: the head of its fifo."""
        if link.fifo:
            head = link.fifo[0]
            if head is not None and head.state == TaskState.LAUNCHED:
                self.sink.running((head,))

    def requeue(self, tasks: list[Task]) -> None:
        """Put tasks back that were handed out and did not begin."""
        self.timed -= sum(task.options.walltime_s is not None for task in tasks)
        with LOCK:
            tasks = [task for task in tasks if task.move(TaskState.READY)]
        self.queue.push_front(tasks)

    def forget(self, link: Link) -> None:
        """Stop polling a worker's connection, which is about to be closed."""
        for fd in (link.sock.fileno(), link.ended_fd):
            self._by_fd.pop(fd, None)
            self._writing.discard(fd)
            self._poll.unregister(fd)
        self.links.remove(link)

    # -- the end ---------------------------------------------------------------------

    def _end(self, error: WorkerLostError) -> None:
        """Leave nobody waiting and no process behind."""
        self._failure = error
        self._hungry = True  # whoever comes now learns of the failure
        try:
            losses.fail_everything(self, error)
        finally:
            self._close_links()

    def _close_links(self) -> None:
        for link in tuple(self.links):
            try:
                self.forget(link)
                link.close()
            except OSError:
                _log.exception("a worker of executor %r could not be ended", self.label)


def current_folder() -> str | None:
    """Return where we are; None if that folder was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
