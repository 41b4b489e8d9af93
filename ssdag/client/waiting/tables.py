# SPDX-License-Identifier: BSD-3-Clause
"""Who waits for what: the tables of a watcher, without threads or connections."""

from __future__ import annotations

import heapq
import itertools
import threading
from typing import TYPE_CHECKING, Any

from ssdag.client.transport.resp import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.client.transport.address import Address
    from ssdag.client.waiting.conditions import Condition
    from ssdag.futures import DataFuture


class Watch:
    """Somebody who waits.

    Attributes
    ----------
    condition : Condition
        What for.
    future : DataFuture
        Completed when it holds.
    result : object
        What the future will hold.
    timeout_s : float or None
        How long he waits, as he said it.
    looks : tuple of Look
        The questions that tell.
    failing_s : float
        Since when a function of the user cannot reach its server; 0 if it can.
    """

    __slots__ = ("condition", "failing_s", "future", "looks", "result", "timeout_s")

    def __init__(
        self,
        condition: Condition,
        future: DataFuture[Any],
        result: object,
        timeout_s: float | None,
        looks: tuple[Look, ...],
    ) -> None:
        self.condition = condition
        self.future = future
        self.result = result
        self.timeout_s = timeout_s
        self.looks = looks
        self.failing_s = 0.0


class Look:
    """A question to a server, and all who wait for its answer.

    Attributes
    ----------
    keys : tuple of bytes
        It is asked again when one of them changes; they say whom to ask.
    words : tuple of bytes
        The command,
    line : bytes
        and as it is sent.
    watches : dict of DataFuture to Watch
        Who waits, in the order in which they came.
    node : Address or None
        Who was asked last; None if somebody must be asked.
    asked : bool
        Whether an answer is on its way,
    again : bool
        and whether it may be too old when it comes.
    joined : bool
        Somebody has come since it was asked last: what is told until he has an answer may
        be from before he waited.
    refused : bool
        Whether the last answer was that it cannot be told just now.
    since_s : float
        Since when there is no answer because of some trouble; 0 if there is none.
    """

    __slots__ = (
        "again",
        "asked",
        "joined",
        "keys",
        "line",
        "node",
        "refused",
        "since_s",
        "watches",
        "words",
    )

    def __init__(self, words: tuple[bytes, ...], keys: tuple[bytes, ...]) -> None:
        self.keys = keys
        self.words = words
        self.line = command(*words)
        self.watches: dict[DataFuture[Any], Watch] = {}
        self.node: Address | None = None
        self.asked = self.again = self.joined = self.refused = False
        self.since_s = 0.0


class Waiting:
    """All who wait at one watcher; threads may use it together."""

    def __init__(self) -> None:
        #: Taken again by its holder, as the garbage collector may cancel futures anywhere.
        self.lock = threading.RLock()
        self._watches: dict[DataFuture[Any], Watch] = {}
        self._looks: dict[tuple[tuple[bytes, ...], tuple[bytes, ...]], Look] = {}
        self._by_key: dict[bytes, list[Look]] = {}
        self._new: dict[Look, None] = {}
        self._gone: dict[bytes, None] = {}
        self._deadlines: list[tuple[float, int, Watch]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._watches)

    def __contains__(self, future: object) -> bool:
        return future in self._watches

    def add(
        self,
        condition: Condition,
        future: DataFuture[Any],
        result: object,
        timeout_s: float | None,
        now_s: float,
    ) -> None:
        """Note that somebody waits."""
        with self.lock:
            looks = tuple(self._look(words, keys) for words, keys in condition.looks())
            watch = Watch(condition, future, result, timeout_s, looks)
            self._watches[future] = watch
            for look in looks:
                look.watches[future] = watch
                look.joined = True
                self._new[look] = None
            if timeout_s is not None:
                heapq.heappush(self._deadlines, (now_s + timeout_s, next(self._numbers), watch))

    def _look(self, words: tuple[bytes, ...], keys: tuple[bytes, ...]) -> Look:
        look = self._looks.get((words, keys))
        if look is None:
            look = self._looks[words, keys] = Look(words, keys)
            for key in keys:
                self._by_key.setdefault(key, []).append(look)
        return look

    def remove(self, future: DataFuture[Any]) -> bool:
        """Note that somebody waits no more; False if he did not."""
        with self.lock:
            watch = self._watches.pop(future, None)
            if watch is None:
                return False
            for look in watch.looks:
                del look.watches[future]
                if not look.watches:
                    del self._looks[look.words, look.keys]
                    for key in look.keys:
                        looks = self._by_key[key]
                        looks.remove(look)
                        if not looks:
                            del self._by_key[key]
                            self._gone[key] = None
            if watch.timeout_s is not None:
                self._tidy()
            return True

    def _tidy(self) -> None:
        """Drop deadlines of those who are gone, once they are most of them."""
        if len(self._deadlines) > 2 * len(self._watches) + 64:
            self._deadlines = [d for d in self._deadlines if d[2].future in self._watches]
            heapq.heapify(self._deadlines)

    def clear(self) -> list[DataFuture[Any]]:
        """Forget all; return the futures of those who waited."""
        with self.lock:
            futures = list(self._watches)
            for table in (self._watches, self._looks, self._by_key, self._new, self._gone):
                table.clear()
            self._deadlines = []
            return futures

    def changes(self) -> tuple[list[Look], list[bytes]]:
        """Return looks to be asked, and keys that nobody waits for, since the last call."""
        with self.lock:
            new = [look for look in self._new if look.watches]
            gone = [key for key in self._gone if key not in self._by_key]
            self._new.clear()
            self._gone.clear()
            return new, gone

    def begin(self) -> None:
        """Make all that is waited for a change, as nobody listens yet."""
        with self.lock:
            self._new = dict.fromkeys(self._looks.values())
            self._gone.clear()
            for look in self._new:
                look.node, look.asked, look.since_s = None, False, 0.0

    def keys(self) -> list[bytes]:
        """Return all keys that matter."""
        with self.lock:
            return list(self._by_key)

    def awaits(self, key: bytes) -> bool:
        """Return whether somebody waits for a change of a key."""
        return key in self._by_key

    def looks(self) -> list[Look]:
        """Return all questions."""
        with self.lock:
            return list(self._looks.values())

    def looks_of(self, key: bytes) -> Sequence[Look]:
        """Return the questions that a change of a key concerns."""
        with self.lock:
            return tuple(self._by_key.get(key, ()))

    def at(self, look: Look) -> list[Watch]:
        """Return who waits for the answer to a question."""
        with self.lock:
            return list(look.watches.values())

    def next_s(self) -> float | None:
        """Return when the next one's time is over."""
        with self.lock:
            return self._deadlines[0][0] if self._deadlines else None

    def due(self, now_s: float) -> list[Watch]:
        """Return, and forget, those whose time is over."""
        found = []
        with self.lock:
            while self._deadlines and self._deadlines[0][0] <= now_s:
                watch = heapq.heappop(self._deadlines)[2]
                if self.remove(watch.future):
                    found.append(watch)
        return found
