# SPDX-License-Identifier: BSD-3-Clause
"""The hub's side of one worker: its process, its connection, what it was given."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from ssdag.executors.local.messages import MAX_CREDIT, Page
from ssdag.wire import guard
from ssdag.wire.frames import FrameReader, FrameWriter, encode
from ssdag.wire.process import Process, spawn
from ssdag.wire.shared import Handle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssdag.tasks import Task
    from ssdag.wire.shared import Lent

#: The folder of ssdag counts only until ssdag is found: what else lies in it (all of
#: site-packages) must not come before the standard library.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); import ssdag; del sys.path[0]; "
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


class Doom(NamedTuple):
    """A worker is to be killed for the sake of the task that it runs.

    Attributes
    ----------
    task : Task
        The one that must end.
    error : BaseException or None
        What it ends with; None if that is settled.
    since : float
        ``time.monotonic()`` in seconds.
    """

    task: Task
    error: BaseException | None
    since: float


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
    dooms : list of Doom
        Running tasks that are to be killed with the worker.
    taken_back : list of (int, Task, bool)
        Tasks whose revocation waits for confirmation, with their numbers, and whether
        they must be killed if they have begun.
    path : list of str
        The ``sys.path`` that it was told.

    Raises
    ------
    OSError
        It cannot be started.
    """

    def __init__(
        self,
        name: str,
        folder: str | None,
        threshold: int,
        env: Mapping[str, str],
        cwd: str | None,
        lent: Lent,
        *,
        near: bool = True,
    ) -> None:
        self.name = name
        self.fifo: deque[Task | None] = deque()
        self.known: set[int] = set()
        self.done = 0
        self.credit = 1
        self.heavy = False
        self.alive = True
        self.leases: dict[str, list[Handle]] = {}
        self.to_release: list[str] = []
        self.dooms: list[Doom] = []
        self.taken_back: list[tuple[int, Task, bool]] = []
        self.taken_back_at = 0.0
        self.path = [*sys.path]
        self._folder = folder
        self._lent = lent
        self._pid = os.getpid()
        self._mean_ns = 0.0
        hello: dict[str, Any] = {
            "path": absolute(self.path),
            "argv": sys.argv,
            "cwd": cwd,
            "folder": folder,
            "name": name,
            "threshold": threshold,
            "near": near and folder is not None,
        }
        greeting = encode(pickle.dumps(hello, 5), ())
        guard.ensure()  # before the process, so that it is guarded from its first moment
        ours, self.page, self.process = _start(env)
        try:
            guard.session(self.process.pid)
            ours.setblocking(False)
            self.sock = ours
            self.reader = FrameReader(ours)
            self.writer = FrameWriter(ours)
            self.ended_fd = self.process.fileno()
            with contextlib.suppress(ConnectionError):  # it ended at once: the hub will see
                self.writer.send(greeting)
        except BaseException:
            ours.close()
            self.process.kill_session()
            raise

    @property
    def room(self) -> int:
        """Tasks that it should be given now; 0 while it has half of its credit left."""
        held = len(self.fifo)
        if held > self.credit >> 1 or self.writer.backlog or (self.heavy and held):
            return 0
        return 0 if self.dooms else self.credit - held

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

    def lend(self, path: str, size: int) -> Handle:
        """Return a hold on a segment of the worker's pool, where a result lies."""
        handle = Handle(path, size, self.take_back)
        self._lent.add(handle)
        return handle

    def take_back(self, path: str) -> None:
        """Give a segment of the worker's pool back; called when nobody here reads it.

        May be called from any thread, also by the garbage collector. In a forked copy of
        this process it does nothing.
        """
        if os.getpid() != self._pid:
            return
        self._lent.discard(path)  # first: close() looks there after it has cleared `alive`
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
        self._remove_segments()
        try:
            return self.process.wait(5.0)
        except TimeoutError:
            return None

    def _remove_segments(self) -> None:
        """Remove the files of the worker's pool, except those with results in use."""
        if self._folder is None:
            return
        with contextlib.suppress(FileNotFoundError):
            for entry in os.listdir(self._folder):
                path = os.path.join(self._folder, entry)
                if entry.startswith(f"{self.name}-") and path not in self._lent:
                    with contextlib.suppress(OSError):
                        os.unlink(path)


def absolute(path: list[str]) -> list[str]:
    """Return a ``sys.path`` that means the same in a process with another folder."""
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it was removed
        return path
    return [os.path.join(here, entry) if entry else here for entry in path]


def _start(env: Mapping[str, str]) -> tuple[socket.socket, Page, Process]:
    """Start the process; returns our end of its connection and the shared page."""
    ours, theirs = socket.socketpair()
    page_fd = -1
    try:
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        page, page_fd = Page.create()
        process = spawn(
            [
                # -P: what lies in the current folder must not shadow the standard library.
                *(sys.executable, "-P", "-c", _BOOT, _PACKAGE_ROOT),
                *(str(theirs.fileno()), str(page_fd)),
            ],
            env={**os.environ, **env},
            pass_fds=(theirs.fileno(), page_fd),
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        if page_fd >= 0:
            os.close(page_fd)
    return ours, page, process
