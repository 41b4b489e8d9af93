# SPDX-License-Identifier: BSD-3-Clause
"""The driver's hub: one thread that feeds all managers and takes their answers."""

from __future__ import annotations

import functools
import json
import logging
import pickle
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ssdag.errors import BlockError, SsdagError, WorkerLostError
from ssdag.executors.base import ReadyQueue
from ssdag.executors.local.hub import current_folder
from ssdag.executors.local.wake import Wake
from ssdag.executors.pilot import dispatch, inbox, losses
from ssdag.executors.pilot.protocol import ForeignMessageError, Kind, clock_of, kind_of, plain
from ssdag.executors.pilot.switchboard import Switchboard
from ssdag.executors.pool import Pool
from ssdag.executors.waiting import call_and_wait, refuse_waits
from ssdag.futures import LOCK, owns_lock
from ssdag.states import TaskState
from ssdag.wire.functions import FunctionTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.executors.base import Sink
    from ssdag.executors.pilot.blocks import Blocks
    from ssdag.executors.pilot.peers import Peer
    from ssdag.executors.pilot.security import Keys
    from ssdag.tasks import Outcome, Task

_log = logging.getLogger("ssdag.executors")

#: Messages of all managers together that the hub can take in a second, at ease.
_EASY_RATE = 10_000
_LONGEST_WINDOW_S = 0.02
_STEAL_EVERY_S = 0.02
#: Questions of workers that are answered at a time.
_ANSWERS = 4


class PilotHub(threading.Thread):
    """Feeds managers and takes their answers.

    Parameters
    ----------
    label : str
        The executor's label, for messages.
    keys : Keys
    sink : Sink
        Who is told.
    beat_s, limit_s : float
        How often each side says that it lives, and how long it may be silent.
    drain_s : float
        No task is given to a block whose end is so near.
    """

    def __init__(
        self, label: str, keys: Keys, sink: Sink, beat_s: float, limit_s: float, drain_s: float
    ) -> None:
        super().__init__(name=f"ssdag-pilot-{label}", daemon=True)
        self.label = label
        self.keys = keys
        self.sink = sink
        self.beat_s = beat_s
        self.limit_s = limit_s
        self.drain_s = drain_s
        self.queue = ReadyQueue()
        #: Tasks that are too long for what is left of the blocks that live.
        self.parked: list[Task] = []
        self.functions = FunctionTable()
        self.specs = dispatch.Specs()
        self.peers: dict[bytes, Peer] = {}
        #: Managers that may have room.
        self.roomy: set[Peer] = set()
        self.seq = 0
        self.outcomes: list[Outcome] = []
        #: Managers whose blocks were too short for a task from the beginning.
        self.misfits: dict[Task, set[bytes]] = {}
        #: How often tasks were cut by the end of their block.
        self.cuts: dict[Task, int] = {}
        #: Cancelled tasks whose managers have not confirmed it.
        self.confirms: dict[int, threading.Event] = {}
        #: Tells workers elsewhere how servers of ours are reached.
        self.answer: Callable[[str, str], Any] = _nothing
        self.answers = Pool(f"pilot-{label}-answers", _ANSWERS)
        self.cwd = current_folder()
        self.blocks: Blocks | None = None
        self._wake = Wake()
        self.switchboard = Switchboard(keys, self._wake.fd)
        self._hungry = False
        self._calls: deque[Callable[[], None]] = deque()
        self._closing = False
        self._over = False
        #: Why nothing can be run any more.
        self.failure: BaseException | None = None
        self._beaten = self._stolen = 0.0
        self._turned = time.monotonic()

    # -- called from other threads ---------------------------------------------------

    def put(self, task: Task) -> None:
        """Queue a ready task."""
        self.queue.push(task)
        self._stir()

    def put_many(self, tasks: Sequence[Task]) -> None:
        """Queue ready tasks with the same options."""
        self.queue.push_many(tasks)
        self._stir()

    def _stir(self) -> None:
        if self._hungry:
            self._hungry = False
            self._wake.set()
        elif self._over and self.failure is not None:
            losses.fail_waiting(self, self.failure)  # there is nobody to do it any more
        elif self.failure is not None:
            self.call(self.fail_if_hopeless)
        elif not self.peers:
            self.changed()

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called by the hub's thread."""
        self._calls.append(function)
        self._wake.set()

    def call_and_wait(self, function: Callable[[], None], limit_s: float) -> None:
        """Have a function called by the hub's thread; wait for that if it is safe."""
        if threading.current_thread() is self or not self._over:
            call_and_wait(self, self.call, function, limit_s)

    def cancel(self, task: Task, limit_s: float) -> None:
        """Take a task back from its manager; wait until it has confirmed it, if that is safe."""
        confirmed = threading.Event()
        self.call(lambda: self._cancel(task, confirmed))
        if threading.current_thread() is not self and not owns_lock():
            confirmed.wait(limit_s)

    def _cancel(self, task: Task, confirmed: threading.Event) -> None:
        for peer in self.peers.values():
            for seq, held in peer.held.items():
                if held is task:
                    self.confirms[seq] = confirmed
                    peer.channel.post(Kind.CANCEL, pickle.dumps([seq], 5))
                    return
        confirmed.set()

    def stop(self) -> None:
        """End the thread; managers are told to end."""
        self._closing = True
        if threading.current_thread() is not self and self.is_alive():
            self._wake.set()
            self.join(30.0)

    # -- the loop --------------------------------------------------------------------

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        refuse_waits(self.sink)
        error: SsdagError = WorkerLostError(f"executor {self.label!r} was shut down")
        try:
            while not self._closing:
                self._turn()
        except BaseException as raised:  # thread top: nobody may wait for ever for us
            _log.exception("the hub of executor %r failed", self.label)
            error = WorkerLostError(f"executor {self.label!r} cannot run tasks any more: {raised}")
            error.__cause__ = raised
        finally:
            self._end(error)

    def _turn(self) -> None:
        dispatch.feed(self)
        timeout_s = self._tick(time.monotonic())
        self._hungry = bool(self.roomy)
        if (self._hungry and len(self.queue)) or self._calls:
            timeout_s = 0.0
        messages, woken = self.switchboard.poll(timeout_s)
        self._hungry = False
        if messages:
            self._receive()
        if woken:
            self._wake.clear()
        while self._calls:
            self._calls.popleft()()

    def _receive(self) -> None:
        for identity, parts in self.switchboard.messages():
            try:
                self._take(identity, kind_of(parts[0], self.keys.manager_token), parts)
            except ForeignMessageError:
                _log.warning("executor %r: a message of nobody's was dropped", self.label)
            except Exception:  # a manager gone mad must not end the others' hub
                _log.exception("executor %r: a message cannot be understood", self.label)
                peer = self.peers.get(identity)
                if peer is not None:  # and its tasks must not wait for it
                    losses.lost(self, peer, "what it said made no sense", cut=False)
        if self.outcomes:
            outcomes, self.outcomes = self.outcomes, []
            self.sink.finished(outcomes)

    def _take(self, identity: bytes, kind: Kind, parts: list[Any]) -> None:
        if kind == Kind.HELLO:
            inbox.greet(self, identity, parts[1])
            return
        peer = self.peers.get(identity)
        if peer is None:
            if kind != Kind.BYE:
                self.refuse(identity, "it was given up, and its tasks have gone elsewhere")
            return
        peer.heard = time.monotonic()
        peer.unreachable_since = 0.0
        taken = peer.channel.take(parts[0], sum(map(len, parts)) - len(parts[0]))
        if taken == Kind.BEAT:
            inbox.see_clock(peer, clock_of(parts[1]))
        elif taken is not None:
            inbox.take(self, peer, taken, parts[1:])
        if identity in self.peers and peer.room:
            self.roomy.add(peer)

    def _tick(self, now: float) -> float:
        """Do what is due; return seconds until the next time."""
        if now - self._turned > self.limit_s / 2:
            # It is we who were away: suspended, or without the interpreter lock.
            for peer in self.peers.values():
                peer.heard = now
        self._turned = now
        left = self._beaten + self.beat_s - now
        if left <= 0:
            left = self.beat_s
            self._beaten = now
            window = int(self.window_s() * 1e6).to_bytes(8, "big")
            for peer in tuple(self.peers.values()):
                peer.channel.beat(window)
                self._see_life(peer, now)
        if self.roomy and now - self._stolen >= _STEAL_EVERY_S:
            self._stolen = now
            if dispatch.ask_back(self, now):
                left = min(left, _STEAL_EVERY_S)
        return left

    def _see_life(self, peer: Peer, now: float) -> None:
        silent = now - peer.heard
        if silent > self.limit_s:
            losses.lost(self, peer, f"it was silent for {self.limit_s:g} s", cut=False)
        elif peer.unreachable_since and now - peer.unreachable_since > self.limit_s / 2:
            losses.lost(self, peer, "its connection broke and did not come back", cut=False)

    # -- what its parts need ---------------------------------------------------------

    def sender(self, identity: bytes) -> Callable[[Sequence[Any]], None]:
        """Return what sends to a connection."""
        return functools.partial(self._send, identity)

    def _send(self, identity: bytes, parts: Sequence[Any]) -> None:
        if self.switchboard.send(identity, parts):
            return
        peer = self.peers.get(identity)  # it will be sent again when the connection is back
        if peer is not None and not peer.unreachable_since:
            peer.unreachable_since = time.monotonic()
            if self.blocks is not None:
                self.blocks.look()

    def refuse(self, identity: bytes, reason: str) -> None:
        """Tell a manager to end, and why."""
        body = json.dumps({"reason": reason}).encode()
        self._send(identity, plain(self.keys.hub_token, Kind.REFUSED, body))

    def window_s(self) -> float:
        """Return how long managers may hold results back to send more of them at once."""
        return min(len(self.peers) / _EASY_RATE, _LONGEST_WINDOW_S)

    def requeue(self, tasks: list[Task]) -> None:
        """Put tasks back that were handed out and did not begin, or not to their end."""
        with LOCK:
            tasks = [task for task in tasks if task.move(TaskState.READY)]
        self.queue.push_front(tasks)
        if self.failure is not None and tasks:
            self.fail_if_hopeless()

    def block_deadline(self, block: int) -> float | None:
        """Return when a block ends at the latest; None if there is no such block."""
        return None if self.blocks is None else self.blocks.deadline(block)

    def block_walltime_s(self) -> float:
        """Return the time limit of blocks."""
        return float("inf") if self.blocks is None else self.blocks.walltime_s

    def arrived(self, peer: Peer) -> None:
        """Take note of a manager that has come."""
        if self.parked:
            dispatch.count_misfits(self, peer)
        if self.blocks is not None:
            self.blocks.arrived(peer.block, peer.workers)

    def proved(self, peer: Peer) -> None:
        """Tell that a block has done something."""
        if self.blocks is not None and peer.done and peer.block in self.blocks.unproved:
            self.blocks.proved(peer.block)

    def changed(self) -> None:
        """Have the blocks looked at."""
        if self.blocks is not None:
            self.blocks.wake()

    def give_up(self, error: BlockError) -> None:
        """Fail what waits, and what will come, once no manager lives."""
        self.failure = self.failure or error
        self.fail_if_hopeless()

    def fail_if_hopeless(self) -> None:
        """Fail what waits if nobody will ever run it."""
        if self.failure is None:
            return
        if not self.peers:
            losses.fail_waiting(self, self.failure)
        elif self.parked:
            losses.fail_parked(self, self.failure)

    # -- the end ---------------------------------------------------------------------

    def _end(self, error: SsdagError) -> None:
        """Leave nobody waiting, and no manager that thinks that it is needed."""
        self.failure = self.failure or error
        self._over = True  # whoever comes now learns of the failure
        try:
            losses.fail_everything(self, error)
        finally:
            while self._calls:  # somebody waits for them
                self._calls.popleft()()
            for peer in self.peers.values():
                peer.channel.post(Kind.SHUTDOWN, b"")
            for confirm in self.confirms.values():
                confirm.set()
            self.switchboard.close()
            self.answers.close()


def _nothing(what: str, name: str) -> None:
    """Answer that there is nothing to say."""
