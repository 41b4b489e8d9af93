# SPDX-License-Identifier: BSD-3-Clause
"""Which waiting step starts next: by priority, then by age, with holes filled.

A step that does not fit is passed over by smaller ones behind it, so that no slot idles.
One that has waited too long gets a reservation: some nodes are kept for it, and nothing
of the same or lower priority starts there until it fits. Pure: the time comes in.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from ssdag.executors.allocation.slots import SlotTable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ssdag.executors.allocation.request import Request
    from ssdag.executors.allocation.slots import Placement
    from ssdag.providers.base import Node

K = TypeVar("K")


class _Entry(Generic[K]):
    __slots__ = ("key", "number", "priority", "request", "since")

    def __init__(self, key: K, request: Request, priority: int, number: int, since: float) -> None:
        self.key = key
        self.request = request
        self.priority = priority
        self.number = number
        self.since = since


class Schedule(Generic[K]):
    """Steps that wait for slots.

    Parameters
    ----------
    nodes : sequence of Node
        Those of the allocation.
    reserve_after_s : float
        A step that waited longer gets nodes reserved.
    """

    def __init__(self, nodes: Sequence[Node], reserve_after_s: float = 30.0) -> None:
        self.table = SlotTable(nodes)
        self._reserve_after_s = reserve_after_s
        self._waiting: dict[K, _Entry[K]] = {}
        #: Equal steps wait in one line: if the first does not fit, none does.
        self._lines: dict[tuple[int, Request], deque[_Entry[K]]] = {}
        self._numbers = itertools.count()
        self._reserved: tuple[_Entry[K], frozenset[int]] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K, request: Request, priority: int, now: float) -> None:
        """Let a step wait from `now` on."""
        entry = _Entry(key, request, priority, next(self._numbers), now)
        self._waiting[key] = entry
        self._lines.setdefault((priority, request), deque()).append(entry)

    def remove(self, key: K) -> bool:
        """Forget a step; False if it does not wait."""
        entry = self._waiting.pop(key, None)
        if entry is None:
            return False
        if self._reserved is not None and self._reserved[0] is entry:
            self._reserved = None
        return True

    def drain(self) -> list[K]:
        """Forget all steps, and return them."""
        keys = list(self._waiting)
        self._waiting.clear()
        self._lines.clear()
        self._reserved = None
        return keys

    def take(self, now: float, limit: int | None = None) -> list[tuple[K, Placement]]:
        """Return the steps that start now, with their slots; at most `limit`."""
        started: list[tuple[K, Placement]] = []
        heads = [
            (-entry.priority, entry.number, line)
            for line in list(self._lines)
            if (entry := self._first(line)) is not None
        ]
        heapq.heapify(heads)
        while heads and (limit is None or len(started) < limit):
            line = heads[0][2]
            entry = self._first(line)
            assert entry is not None
            placement = self.table.place(entry.request, self._forbidden(entry))
            if placement is None:
                self._reserve(entry, now)
                heapq.heappop(heads)
                continue
            self._lines[line].popleft()
            self.remove(entry.key)
            started.append((entry.key, placement))
            following = self._first(line)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (-following.priority, following.number, line))
        return started

    def release(self, placement: Placement) -> None:
        """Give the slots of a step back."""
        self.table.release(placement)

    def _first(self, line: tuple[int, Request]) -> _Entry[K] | None:
        """Return the first of a line that still waits; forget an empty line."""
        entries = self._lines[line]
        while entries and self._waiting.get(entries[0].key) is not entries[0]:
            entries.popleft()
        if entries:
            return entries[0]
        del self._lines[line]
        return None

    def _forbidden(self, entry: _Entry[K]) -> Collection[int]:
        """Return the nodes that are kept for somebody else."""
        if self._reserved is None:
            return ()
        holder, nodes = self._reserved
        return () if entry is holder or entry.priority > holder.priority else nodes

    def _reserve(self, entry: _Entry[K], now: float) -> None:
        if self._reserved is None and now - entry.since >= self._reserve_after_s:
            nodes = self.table.reserve(entry.request)
            if nodes is not None:
                self._reserved = entry, nodes
