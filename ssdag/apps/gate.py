# SPDX-License-Identifier: BSD-3-Clause
"""Waiting for many futures at once.

What ``concurrent.futures`` has for that holds the conditions of all futures for a while,
one after the other. Ctrl-C in that while leaves some locked for ever, against the thread
that completes them; and for futures of ours conditions would have to be made first.
"""

from __future__ import annotations

import concurrent.futures as cf
import math
import queue
import time
from _thread import allocate_lock
from typing import TYPE_CHECKING, Any

from ssdag.futures import LOCK, Future

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


#: A signal that comes in the instant before a thread falls asleep does not wake it, so
#: that Ctrl-C would have to wait for the futures: the thread looks up so often.
_LOOK_UP_S = 0.5


def _step_s(end: float) -> float:
    return min(_LOOK_UP_S, max(0.0, end - time.monotonic()))


class _Part:
    """Stands among the sleepers of a future, and tells of its end instead of waking up."""

    __slots__ = ("_future", "_tell")

    def __init__(self, tell: Callable[[Any], object], future: Future[Any]) -> None:
        self._tell = tell
        self._future = future

    def release(self) -> None:
        """Tell; the future is done, and LOCK is held."""
        self._tell(self._future)


def _watch(
    futures: Iterable[cf.Future[Any]], tell: Callable[[Any], object]
) -> list[tuple[Future[Any], _Part]]:
    """Have ``tell(future)`` called for each, once it is done; perhaps under LOCK."""
    parts: list[tuple[Future[Any], _Part]] = []
    for future in futures:
        if not isinstance(future, Future):
            future.add_done_callback(tell)
            continue
        with LOCK:
            if not future.done():
                part = _Part(tell, future)
                parts.append((future, part))
                if future._sleepers is None:
                    future._sleepers = [part]
                else:
                    future._sleepers.append(part)
                continue
        tell(future)
    return parts


def _forget(parts: list[tuple[Future[Any], _Part]]) -> None:
    with LOCK:
        for future, part in parts:
            if future._sleepers is not None and part in future._sleepers:
                future._sleepers.remove(part)


class _Gate:
    """Opens when enough futures have ended."""

    def __init__(self, count: int, when: str) -> None:
        self._left = count
        self._when = when
        self._shut = True
        self.lock = allocate_lock()
        self.lock.acquire()

    def __call__(self, future: cf.Future[Any]) -> None:
        failed = not future.cancelled() and future.exception() is not None  # it is done
        with LOCK:
            self._left -= 1
            enough = (
                self._left == 0
                or self._when == cf.FIRST_COMPLETED
                or (failed and self._when == cf.FIRST_EXCEPTION)
            )
            if enough and self._shut:
                self._shut = False
                self.lock.release()


def wait_for(
    futures: Iterable[cf.Future[Any]], timeout: float | None, when: str
) -> tuple[set[cf.Future[Any]], set[cf.Future[Any]]]:
    """Do what ``concurrent.futures.wait`` does; raises ValueError for another `when`."""
    if when not in (cf.FIRST_COMPLETED, cf.FIRST_EXCEPTION, cf.ALL_COMPLETED):
        raise ValueError(f"Invalid return condition: {when!r}")
    unique = dict.fromkeys(futures)
    if unique:
        gate = _Gate(len(unique), when)
        parts: list[tuple[Future[Any], _Part]] = []
        try:
            parts = _watch(unique, gate)
            end = math.inf if timeout is None else time.monotonic() + timeout
            while not gate.lock.acquire(timeout=_step_s(end)) and time.monotonic() < end:
                pass
        finally:
            _forget(parts)
    done = {future for future in unique if future.done()}
    return done, unique.keys() - done


def completed(futures: Iterable[cf.Future[Any]], timeout: float | None) -> Iterator[Any]:
    """Do what ``concurrent.futures.as_completed`` does."""
    end = math.inf if timeout is None else time.monotonic() + timeout
    unique = dict.fromkeys(futures)
    ended: queue.SimpleQueue[cf.Future[Any]] = queue.SimpleQueue()
    parts = _watch(unique, ended.put)
    try:
        for number in range(len(unique)):
            while True:
                try:
                    future = ended.get(timeout=_step_s(end))
                    break
                except queue.Empty:
                    if time.monotonic() < end:
                        continue
                    text = f"{len(unique) - number} (of {len(unique)}) futures unfinished"
                    raise TimeoutError(text) from None
            yield future
            del future  # not held while its user works
    finally:
        _forget(parts)
