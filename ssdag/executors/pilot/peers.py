# SPDX-License-Identifier: BSD-3-Clause
"""A manager as the driver's hub sees it: what it was given, what it can take."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from ssdag.executors.local.messages import MAX_CREDIT

if TYPE_CHECKING:
    from ssdag.executors.pilot.protocol import Channel
    from ssdag.tasks import Task

#: Work that is kept queued at each worker, in nanoseconds of run time: it covers the way
#: to the hub and back.
_QUEUED_NS = 10_000_000
#: From this mean run time on nothing waits at a manager: every task goes where a worker
#: is free.
_NO_RESERVE_NS = 50_000_000
#: A manager holds so many tasks more than it has workers, at most.
_MOST_RESERVE = 4096
#: With so many bytes on their way to it, it gets no more.
_MOST_UNSENT_BYTES = 64 << 20


class Peer:
    """A manager; used by the hub's thread only.

    Parameters
    ----------
    identity : bytes
        Of its connection; new for each start of a manager.
    block : int
        Its block's number.
    name : str
        Of its node, for messages.
    workers : int
        Tasks that it runs at a time.
    channel : Channel

    Attributes
    ----------
    held : dict of int to Task
        What it was given and has not answered, in the order of giving.
    begun : set of int
        Those of them that a worker holds, as far as is known.
    credit : int
        Most tasks that it may hold now.
    ends : float
        ``time.monotonic()`` at which its block ends.
    life_s : float
        What was left of its block when it came.
    draining : bool
        It gets no more tasks.
    """

    __slots__ = (
        "_mean_ns",
        "answered",
        "asked_back",
        "begun",
        "block",
        "channel",
        "credit",
        "done",
        "draining",
        "ends",
        "heard",
        "held",
        "identity",
        "idle_since",
        "known",
        "life_s",
        "name",
        "offset_ns",
        "path",
        "specs",
        "unreachable_since",
        "workers",
    )

    def __init__(
        self, identity: bytes, block: int, name: str, workers: int, channel: Channel
    ) -> None:
        self.identity = identity
        self.block = block
        self.name = name
        self.workers = workers
        self.channel = channel
        self.held: dict[int, Task] = {}
        self.begun: set[int] = set()
        self.known: set[int] = set()
        self.specs: set[int] = set()
        self.credit = workers
        self.done = 0
        self.draining = False
        self.ends = self.life_s = float("inf")
        now = time.monotonic()
        self.heard = self.idle_since = self.answered = now
        self.asked_back = 0.0
        self.unreachable_since = 0.0
        self.path: list[str] = [*sys.path]
        #: Our clock minus its clock, as well as is known.
        self.offset_ns = 1 << 62
        self._mean_ns = 0.0

    def __repr__(self) -> str:
        return f"<manager {self.name} of block {self.block}: {len(self.held)} tasks>"

    @property
    def room(self) -> int:
        """Tasks that it should be given now."""
        held = len(self.held)
        if held >= self.workers and held > self.credit >> 1:
            return 0
        if self.draining or self.channel.unacked_bytes > _MOST_UNSENT_BYTES:
            return 0
        return self.credit - held

    def learn(self, count: int, total_s: float) -> None:
        """Adapt the credit to the run times of the last answers."""
        self.done += count
        mean = total_s * 1e9 / count + 1.0
        self._mean_ns = mean if not self._mean_ns else 0.5 * (self._mean_ns + mean)
        if self._mean_ns > _NO_RESERVE_NS:
            self.credit = self.workers
            return
        each = max(2, min(MAX_CREDIT, int(_QUEUED_NS / self._mean_ns)))
        wanted = min(self.workers * each, self.workers + _MOST_RESERVE)
        self.credit = min(wanted, 2 * self.credit)
