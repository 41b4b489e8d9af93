# SPDX-License-Identifier: BSD-3-Clause
"""The hub's side of one worker: its process, its connection, what it was given."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from ssdag.executors.local.messages import MAX_CREDIT, Page
from ssdag.wire import guard
from ssdag.wire.frames import FrameReader, FrameWriter, encode
from ssdag.wire.process import Process, spawn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssdag.tasks import Task
    from ssdag.wire.shared import Handle

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from ssdag.executors.local.worker import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
_PACKAGE_ROOT = os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
)
_SOCKET_BYTES = 1 << 20
#: Work that is kept queued at a worker, in nanoseconds of run time.
_QUEUED_NS = 2_000_000
#: Below this mean run time a worker always has a task in reserve.
_RESERVE_NS = 5_000_000


class Link:
    """A worker process as the hub sees it; used by the hub's thread only.

    Attributes
    ----------
    fifo : deque of (Task or None)
        What it was given and has not answered, oldest first. None stands for a task
        that was taken back and given to another worker.
    done : int
        Answers so far, so that ``fifo[i]`` is task number ``done + 1 + i`` of the worker.
    credit : int
        Most tasks that it may hold now.
    heavy : bool
        True if the last frames carried many bytes; it gets no more until they are done.
    leases : dict
        Segments that it has mapped, by path.
    to_release : list of str
        Segments of its own pool that are free again; told with the next frame.
    doom : tuple or None
        ``(task, error)`` once a running task is to be killed with the worker.
    taken_back : list of (int, Task)
        Tasks whose revocation waits for confirmation.
    """

    def __init__(self, name: str, folder: str | None, threshold: int, env: Mapping[str, str]):
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self.page, page_fd = Page.create()
        try:
            self.process: Process = spawn(
                [sys.executable, "-c", _BOOT, _PACKAGE_ROOT, str(theirs.fileno()), str(page_fd)],
                env={**os.environ, **env},
                pass_fds=(theirs.fileno(), page_fd),
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(page_fd)
        guard.session(self.process.pid)
        ours.setblocking(False)
        self.name = name
        self.sock = ours
        self.reader = FrameReader(ours)
        self.writer = FrameWriter(ours)
        self.fifo: deque[Task | None] = deque()
        self.known: set[int] = set()
        self.done = 0
        self.credit = 1
        self.heavy = False
        self.alive = True
        self.leases: dict[str, list[Handle]] = {}
        self.to_release: list[str] = []
        self.doom: tuple[Task, BaseException | None, float] | None = None
        self.taken_back: list[tuple[int, Task]] = []
        self.taken_back_at = 0.0
        self._mean_ns = 0.0
        hello: dict[str, Any] = {
            "path": [entry or os.getcwd() for entry in sys.path],
            "argv": sys.argv,
            "cwd": os.getcwd(),
            "folder": folder,
            "name": name,
            "threshold": threshold,
        }
        self.writer.send(encode(pickle.dumps(hello, 5), ()))

    @property
    def room(self) -> int:
        """Tasks that it should be given now; 0 while it has half of its credit left."""
        held = len(self.fifo)
        if held > self.credit >> 1 or self.writer.backlog or (self.heavy and held):
            return 0
        return 0 if self.doom is not None else self.credit - held

    def learn(self, count: int, total_ns: int) -> None:
        """Adapt the credit to the run times of the last answers."""
        mean = total_ns / count + 1.0
        self._mean_ns = mean if not self._mean_ns else 0.5 * (self._mean_ns + mean)
        least = 2 if self._mean_ns < _RESERVE_NS else 1
        wanted = max(least, min(MAX_CREDIT, int(_QUEUED_NS / self._mean_ns)))
        self.credit = min(wanted, 2 * self.credit)

    def running(self) -> tuple[Task | None, int, int]:
        """Return what runs now, its place in the fifo, and since when (monotonic ns).

        The task is None if the worker is between tasks.
        """
        counters = self.page.counters
        started, finished = counters[1], counters[2]
        if started == finished:
            return None, 0, 0
        place = started - self.done - 1
        if not 0 <= place < len(self.fifo):
            return None, 0, 0
        return self.fifo[place], place, counters[0]

    def place_of(self, task: Task) -> int:
        """Return where a task stands in the fifo, or -1."""
        for place, held in enumerate(self.fifo):
            if held is task:
                return place
        return -1

    def take_back(self, path: str) -> None:
        """Give a segment of the worker's pool back; called when nobody here reads it.

        May be called from any thread, also by the garbage collector.
        """
        if self.alive:
            self.to_release.append(path)
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def close(self) -> int | None:
        """End the process and all that it started; returns its exit code if it is known."""
        self.alive = False
        self.sock.close()
        self.process.kill_session()
        guard.release_session(self.process.pid)
        self.leases.clear()
        try:
            return self.process.wait(5.0)
        except TimeoutError:
            return None
