# SPDX-License-Identifier: BSD-3-Clause
"""Tasks to managers: who gets how many, who may not have which, and back from the slow."""

from __future__ import annotations

import math
import pickle
import sys
import time
from typing import TYPE_CHECKING, Any

from ssdag.errors import UnsupportedError
from ssdag.executors.local.dispatch import FRAME_BYTES, pickled, unsendable
from ssdag.executors.local.link import absolute
from ssdag.executors.local.messages import PATH, Packer
from ssdag.executors.pilot.protocol import Kind
from ssdag.states import TaskState
from ssdag.tasks import Outcome, launch
from ssdag.wire.shared import SegmentPool

if TYPE_CHECKING:
    from ssdag.executors.pilot.hub import PilotHub
    from ssdag.executors.pilot.peers import Peer
    from ssdag.tasks import Task

#: Most tasks in one message.
_BATCH = 1024
#: A manager that has answered nothing for so long gives tasks back that wait there.
_SLOW_S = 0.05
#: Apps and options that the hub remembers before it starts afresh.
_MANY_SPECS = 4096
#: A task that was too long for so many blocks from their first moment fails.
_MISFITS = 3


class Specs:
    """Numbers what many tasks have in common, so that a manager learns it once."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Any, Any], int] = {}
        self._next = 0
        self.rows: dict[int, tuple[Any, ...]] = {}

    def number(self, hub: PilotHub, task: Task) -> int:
        """Return the number; raises SerializationError if the function cannot be sent."""
        key = task.app, task.options  # kept, so that their identities stay theirs
        number = self._numbers.get(key)
        if number is None:
            function = hub.functions.number(task.app.func)
            if len(self._numbers) >= _MANY_SPECS:
                self._numbers.clear()
                self.rows.clear()
            number = self._numbers[key] = self._next
            self._next += 1
            options = task.options
            row = (number, function, task.app.name, options.walltime_s, options.priority)
            self.rows[number] = row
        return number


def feed(hub: PilotHub) -> None:
    """Give queued tasks to managers that have room."""
    now = time.monotonic()
    given = True
    while given and hub.roomy and (len(hub.queue) or hub.parked):
        given = False
        peers = [peer for peer in hub.roomy if peer.room and not _is_slow(peer, now)]
        hub.roomy.intersection_update(peers)
        if not peers:
            return
        if hub.parked:
            _unpark(hub, peers, now)
            peers.sort(key=lambda peer: -peer.ends)  # who can take them comes first
        waiting = len(hub.queue)
        if not waiting:
            return
        free = [peer for peer in peers if len(peer.held) < peer.workers]
        if free and waiting <= sum(peer.workers - len(peer.held) for peer in free):
            peers = free  # nobody waits behind others while a worker is idle
        share = waiting / sum(peer.workers for peer in peers)
        for peer in peers:
            if peer.ends - now < hub.drain_s:
                peer.draining = True
            elif _give(hub, peer, min(peer.room, math.ceil(share * peer.workers), _BATCH), now):
                given = True


def count_misfits(hub: PilotHub, peer: Peer) -> None:
    """Fail tasks that wait for a longer block, should none ever be long enough."""
    hopeless: list[Outcome] = []
    for task in hub.parked:
        needed = task.options.walltime_s or 0.0
        if needed <= peer.life_s:
            continue
        missed = hub.misfits.setdefault(task, set())
        missed.add(peer.identity)
        if len(missed) >= _MISFITS:
            del hub.misfits[task]
            hopeless.append(Outcome(task, error=UnsupportedError(
                f"task {task.task_id} ({task.app.name}) with walltime_s={needed:g} fits into no "
                f"block of executor {hub.label!r}: {_MISFITS} of them had less left when they "
                f"began, the last one {peer.life_s:.0f} s; ask for blocks with a longer walltime"
            )))  # fmt: skip
    if hopeless:
        gone = {outcome.task for outcome in hopeless}
        hub.parked = [task for task in hub.parked if task not in gone]
        hub.sink.finished(hopeless)


def _is_slow(peer: Peer, now: float) -> bool:
    """Return True if all its workers have been busy for long: its credit is out of date."""
    return len(peer.held) >= peer.workers and now - peer.answered > _SLOW_S


def _unpark(hub: PilotHub, peers: list[Peer], now: float) -> None:
    """Let tasks try again that were too long for the managers of before."""
    longest = max(peer.ends for peer in peers) - now
    again = [t for t in hub.parked if (t.options.walltime_s or 0.0) <= longest]
    if again:
        hub.parked = [t for t in hub.parked if (t.options.walltime_s or 0.0) > longest]
        hub.queue.push_front([t for t in again if t.state == TaskState.READY])


def _give(hub: PilotHub, peer: Peer, limit: int, now: float) -> bool:
    """Give tasks to a manager; False if there were none for it."""
    tasks = hub.queue.pop(limit)
    left = peer.ends - now
    if left < float("inf"):
        fits = [t for t in tasks if t.options.walltime_s is None or t.options.walltime_s <= left]
        if len(fits) < len(tasks):
            hub.parked += [t for t in tasks if (t.options.walltime_s or 0.0) > left]
            count_misfits(hub, peer)
            tasks = fits
    batch = launch(tasks)
    if not batch:
        return False
    packer = Packer(_NO_POOL, 1 << 62)
    functions: list[tuple[int, bytes]] = []
    specs: list[tuple[Any, ...]] = []
    messages: list[tuple[Any, ...]] = []
    failed: list[Outcome] = []
    held = peer.held
    if not held:
        peer.answered = now  # it has been asked nothing before
    seq = hub.seq
    for index, (task, args, kwargs) in enumerate(batch):
        if packer.nbytes > FRAME_BYTES:
            hub.requeue([item[0] for item in batch[index:]])
            break
        try:
            spec = hub.specs.number(hub, task)
            if task.simple:
                arguments: Any = args
                count = 0
            else:
                arguments, entries = pickled(packer, task, args, kwargs)
                count = len(entries) if entries else 0
        except BaseException as raised:  # __reduce__ is user code, and may even exit
            failed.append(unsendable(task, raised))
            continue
        if spec not in peer.specs:
            peer.specs.add(spec)
            row = hub.specs.rows[spec]
            specs.append(row)
            _tell_function(hub, peer, row[1], functions)
        seq += 1
        messages.append((seq, task.task_id, spec, arguments, count))
        held[seq] = task
    hub.seq = seq
    if messages:
        body = pickle.dumps((functions, specs, messages), 5)
        peer.channel.post(Kind.TASKS, body, packer.buffers)
    if failed:
        hub.sink.finished(failed)
    return True


def _tell_function(
    hub: PilotHub, peer: Peer, function: int, functions: list[tuple[int, bytes]]
) -> None:
    if function in peer.known:
        return
    peer.known.add(function)
    if peer.path != sys.path:  # the function's module may lie in a folder added since
        peer.path = [*sys.path]
        functions.append((PATH, pickle.dumps(absolute(peer.path), 5)))
    functions.append((function, hub.functions.blob(function)))


def ask_back(hub: PilotHub, now: float) -> bool:
    """Ask for tasks that wait behind slow ones while another manager is idle.

    Returns
    -------
    bool
        True if there are such tasks, or may be soon.
    """
    if len(hub.queue) or not hub.roomy:
        return False
    free = sum(max(0, p.workers - len(p.held)) for p in hub.roomy if p.room)
    crowded = False
    for peer in hub.peers.values():
        if free <= 0:
            break
        waiting = len(peer.held) - peer.workers
        if waiting <= 0:
            continue
        crowded = True
        if now - peer.answered > _SLOW_S and now - peer.asked_back > _SLOW_S:
            peer.asked_back = now
            count = min(free, -(-waiting // 2))
            free -= count
            peer.channel.post(Kind.GIVE_BACK, pickle.dumps(count, 5))
    return crowded


_NO_POOL = SegmentPool(None, "")
