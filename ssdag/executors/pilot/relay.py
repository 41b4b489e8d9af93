# SPDX-License-Identifier: BSD-3-Clause
"""The hub of a node: feeds its workers with what the driver sends, unopened.

It is the hub of the local executor with another source and another sink: arguments and
results stay pickled, functions are kept under the driver's numbers and sent to each
worker once. The connection to the driver is served by the same loop: one thread, no
hand-over.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import time
from typing import TYPE_CHECKING, Any

from ssdag.executors.local import dispatch, revoking
from ssdag.executors.local.hub import Hub
from ssdag.executors.local.messages import ERROR, PATH, PLAIN, SKIPPED, collect
from ssdag.executors.pilot.parcels import ForeignFunctions, Parcel, Raw
from ssdag.executors.pilot.protocol import CANCELLED, Kind, clock
from ssdag.states import TaskState
from ssdag.tasks import AppSpec, Options, Task
from ssdag.wire.serialize import dump_error
from ssdag.wire.shared import Handle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ssdag.executors.local.link import Link
    from ssdag.executors.local.messages import Packer
    from ssdag.executors.pilot.questions import Questions
    from ssdag.executors.pilot.session import Session
    from ssdag.tasks import Outcome

_log = logging.getLogger("ssdag.executors")

#: Why a manager ends in peace.
SHUTDOWN = "the driver said so"
#: So many results go at once, whatever the window says.
_FULL_BATCH = 64
#: While more tasks are here than workers can begin, results wait so long for others.
_STOCKED_WINDOW_S = 0.002
#: What workers hold is told once it is so old, and so often at most.
_NOTE_S = 0.003
_NOTE_EVERY_S = 0.02
#: A task that has run for less is not worth telling.
_QUICK_NS = 2_000_000
#: With so many bytes on their way to the driver no more tasks begin.
_MOST_UNSENT_BYTES = 256 << 20


class Relay(Hub):
    """Runs what the driver sends; :meth:`run` is called in the manager's main thread.

    Parameters
    ----------
    session : Session
        The connection.
    workers : int
        Processes at most.
    folder : str or None
        Where segments lie.
    threshold : int
        Bytes from which a buffer goes through a segment.
    worker_env : callable
        Gives the environment and the cores of the worker of a rank.
    """

    near = False

    def __init__(
        self,
        session: Session,
        workers: int,
        folder: str | None,
        threshold: int,
        worker_env: Callable[[int], tuple[dict[str, str], Sequence[int]]],
    ) -> None:
        super().__init__(session.label, workers, folder, threshold, {}, self)
        self.functions: ForeignFunctions = ForeignFunctions()
        self.session = session
        #: Why the loop ended; empty if it failed.
        self.why = ""
        #: Of workers, which the driver answers; None where it need not.
        self.questions: Questions | None = None
        self._worker_env = worker_env
        self._specs: dict[int, tuple[AppSpec, Options]] = {}
        #: Tasks that have not been answered, by the driver's number.
        self.open: dict[int, Parcel] = {}
        self._ranks: dict[str, int] = {}
        self._results: list[tuple[Any, ...]] = []
        self._buffers: list[Any] = []
        self._begun: list[int] = []
        self._running: list[int] = []
        self._owed = 0
        self._stirred = False
        self._flushed = self._note_due = self._last_note = 0.0
        self.also_wake(session.fd)

    def end(self, why: str) -> None:
        """End the loop soon; may be called by a signal handler."""
        self.why = why
        self._closing = True
        self._wake.set()

    def ask(self, number: int, what: str, name: str) -> None:
        """Send a worker's question to the driver; called by other threads."""
        body = pickle.dumps((number, what, name), 5)
        self.call(lambda: self.session.channel.post(Kind.QUESTION, body))

    # -- the driver's side -----------------------------------------------------------

    def tick(self) -> float | None:
        """Serve the connection, then do what a hub does."""
        session = self.session
        before = len(self.open)
        while not self._closing and (message := session.receive()) is not None:
            self._take(*message)
        if session.over is not None and not self._closing:
            self.end(session.over)
        if len(self.open) != before:
            self.feed()
        due = revoking.tick(self)
        now = time.monotonic()
        for left in (session.tick(now), self._flush_if_due(now)):
            if left is not None and (due is None or left < due):
                due = left
        return 0.0 if self._closing or session.readable() else due

    def _take(self, kind: Kind, parts: list[Any]) -> None:
        if kind == Kind.TASKS:
            self._take_tasks(parts)
        elif kind == Kind.CANCEL:
            for seq in pickle.loads(parts[0]):
                self._cancel(seq)
        elif kind == Kind.GIVE_BACK:
            self._give_back(pickle.loads(parts[0]))
        elif kind == Kind.ANSWER and self.questions is not None:
            self.questions.answered(*pickle.loads(parts[0]))
        elif kind == Kind.SHUTDOWN:
            self.end(SHUTDOWN)

    def _take_tasks(self, parts: list[Any]) -> None:
        functions, specs, tasks = pickle.loads(parts[0])
        for number, blob in functions:
            if number == PATH:
                sys.path[:] = pickle.loads(blob)
            else:
                self.functions.keep(number, blob)
        for number, function, name, walltime_s, priority in specs:
            options = Options(walltime_s=walltime_s, priority=priority)
            self._specs[number] = AppSpec(function, name), options
        buffers = iter(parts)
        next(buffers)
        for seq, task_id, spec, arguments, count in tasks:
            app, options = self._specs[spec]
            if type(arguments) is tuple:
                parcel = Parcel(app, arguments, options, seq, task_id)
                parcel.simple = True
            else:
                own = [next(buffers) for _ in range(count)]
                parcel = Parcel(app, (arguments, own), options, seq, task_id)
            self.open[seq] = parcel
            self.queue.push(parcel)
        self._stirred = True

    def _cancel(self, seq: int) -> None:
        parcel = self.open.pop(seq, None)
        if parcel is None:  # it ended meanwhile
            return
        if parcel.state == TaskState.READY:
            parcel.state = TaskState.CANCELLED  # the queue drops it
        else:
            revoking.cancel(self, parcel)
        self._results.append((seq, CANCELLED, None, 0, 0.0, 0.0))
        self._flushed = 0.0  # somebody waits for this

    def _give_back(self, count: int) -> None:
        """Give tasks back to the driver that have not begun."""
        given = self._surrender(count)
        self._owed = count - given
        for link in self.links:
            if self._owed <= 0:
                break
            if link.taken_back or link.dooms:
                continue
            for place in range(len(link.fifo) - 1, 0, -1):
                parcel = link.fifo[place]
                if parcel is not None and len(link.taken_back) < self._owed:
                    revoking.take_back(link, place, parcel, kill=False)
        self._flushed = 0.0

    def _surrender(self, count: int) -> int:
        given = self.queue.pop(count)
        for parcel in given:
            assert isinstance(parcel, Parcel)
            if self.open.pop(parcel.seq, None) is not None:
                self._results.append((parcel.seq, SKIPPED, None, 0, 0.0, 0.0))
        return len(given)

    # -- to the driver ---------------------------------------------------------------

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """Take results of workers (it is its own sink)."""
        for outcome in outcomes:
            parcel = outcome.task
            assert isinstance(parcel, Parcel)
            if self.open.pop(parcel.seq, None) is None or outcome.state is TaskState.CANCELLED:
                continue
            value = outcome.value
            code, count = PLAIN, 0
            if outcome.error is not None:
                code, value = ERROR, dump_error(outcome.error)
            elif type(value) is Raw:
                code, value, buffers = value
                count = len(buffers)
                self._buffers += buffers
            self._results.append((parcel.seq, code, value, count, outcome.started, outcome.ended))
        self._stirred = True

    def running(self, tasks: Sequence[Task]) -> None:
        """Note that something has begun."""
        self._stirred = True

    def _flush_if_due(self, now: float) -> float | None:
        """Send what there is, or return how long it may wait for more."""
        left: float | None = None
        if self._note_due and self._note_due <= now:
            self._note_due, self._last_note = 0.0, now
            self._note()
        if self._stirred and not self._note_due:
            self._note_due = max(now + _NOTE_S, self._last_note + _NOTE_EVERY_S)
        self._stirred = False
        if self._note_due:
            left = self._note_due - now
        if not (self._results or self._begun or self._running):
            return left
        window_s = self.session.window_s
        if len(self.open) > 2 * self.max_workers:  # the driver has us in stock
            window_s = max(window_s, _STOCKED_WINDOW_S)
        wait = self._flushed + window_s - now
        if wait <= 0 or len(self._results) >= _FULL_BATCH or not self.open:
            self.flush()
            return left
        return wait if left is None else min(left, wait)

    def _note(self) -> None:
        """Note which tasks workers hold, for the case that we vanish.

        Not those of a worker that does one after the other: they end before it is known.
        """
        now_ns = time.monotonic_ns()
        for link in self.links:
            if not link.fifo:
                continue
            since_ns = link.running()[2]
            if now_ns - since_ns < _QUICK_NS or not since_ns:
                self._stirred = True  # look again
                continue
            for parcel in reversed(link.fifo):
                if parcel is None:
                    continue
                assert isinstance(parcel, Parcel)
                if parcel.told:
                    break  # and so are those before it
                parcel.told = True
                self._begun.append(parcel.seq)
            head = link.fifo[0]
            if head is not None and head.state == TaskState.LAUNCHED:
                assert isinstance(head, Parcel)
                head.state = TaskState.RUNNING
                self._running.append(head.seq)

    def flush(self) -> None:
        """Send what there is."""
        self._flushed = time.monotonic()
        results, self._results = self._results, []
        buffers, self._buffers = self._buffers, []
        begun, self._begun = self._begun, []
        running, self._running = self._running, []
        body = pickle.dumps((clock(), begun, running, results), 5)
        self.session.channel.post(Kind.RESULTS, body, buffers)

    # -- what a hub beneath another one does in its own way ----------------------------

    def feed(self) -> None:
        """Give tasks to workers, unless the driver is far behind with their results."""
        if self._has_room():
            dispatch.feed(self)

    def _has_room(self) -> bool:
        return self.session.channel.unacked_bytes < _MOST_UNSENT_BYTES and super()._has_room()

    def requeue(self, tasks: list[Task]) -> None:
        """Put tasks back; those that the driver wants back go there."""
        for parcel in tasks:
            assert isinstance(parcel, Parcel)
            if parcel.told:
                parcel.told = False
                self._begun.append(-parcel.seq)
        super().requeue(tasks)
        for parcel in tasks:
            if isinstance(parcel, Parcel) and parcel.seq not in self.open:
                parcel.state = TaskState.CANCELLED
        if self._owed > 0:
            self._owed -= self._surrender(min(self._owed, len(tasks)))
        self._stirred = True

    def start_link(self, name: str, env: Mapping[str, str]) -> Link:
        """Start a worker on the lowest free place of the node."""
        taken = {self._ranks[link.name] for link in self.links}
        rank = next(i for i in range(len(taken) + 1) if i not in taken)
        self._ranks[name] = rank
        own, cores = self._worker_env(rank)
        before = os.sched_getaffinity(0)
        try:
            if cores:  # a child has the cores of the thread that starts it, from its first moment
                os.sched_setaffinity(0, cores)
            return super().start_link(name, {**env, **own})
        finally:
            if cores:
                os.sched_setaffinity(0, before)

    def pack(
        self, link: Link, packer: Packer, task: Task, args: tuple[Any, ...], kwargs: Any
    ) -> tuple[bytes, Any]:
        """Pass arguments on."""
        payload, buffers = args
        entries = packer.pack_again(payload, buffers)
        return payload, dispatch.lease(self, link, entries, [])

    def unpack(
        self, link: Link, code: int, value: Any, entries: Any, buffers: Iterator[Any]
    ) -> tuple[Any, BaseException | None]:
        """Pass a result on."""
        own = collect(entries, buffers, link.lend) if entries else []
        return Raw(code, value, [b.attach() if isinstance(b, Handle) else b for b in own]), None
