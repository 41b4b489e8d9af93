# SPDX-License-Identifier: BSD-3-Clause
"""Dependency counting by hand, for executors that have no graph.

This is what a careful user writes around a standard-library pool: one counter per
node, one callback per edge, the call submitted when the counter reaches zero.
"""

from __future__ import annotations

import concurrent.futures as cf
import threading
from typing import TYPE_CHECKING, Any

from benchmarks.peers.contract import WORKERS, Backend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _Node(cf.Future[Any]):
    """A call that waits for its parents."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], open_parents: int) -> None:
        super().__init__()
        self.call = (fn, args)
        self.open_parents = open_parents


class CountingBackend(Backend):
    """A backend around any ``concurrent.futures.Executor``."""

    pending = 100_000

    def __init__(self) -> None:
        self.pool: Any = None
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        parents = [a for a in args if isinstance(a, cf.Future)]
        if not parents:
            return self.pool.submit(fn, *args)
        node = _Node(fn, args, len(parents))
        for parent in parents:
            parent.add_done_callback(lambda _done, node=node: self._parent_done(node))  # type: ignore[misc]
        return node

    def _parent_done(self, node: _Node) -> None:
        with self._lock:
            node.open_parents -= 1
            if node.open_parents:
                return
        fn, args = node.call
        try:
            values = [a.result() if isinstance(a, cf.Future) else a for a in args]
            running = self.pool.submit(fn, *values)
        except BaseException as error:  # a parent's failure is the node's
            node.set_exception(error)
            return
        running.add_done_callback(lambda done: _copy(done, node))

    def map(self, fn: Callable[..., Any], arguments: Sequence[Any]) -> list[Any]:
        # Four chunks a worker, as multiprocessing.Pool chooses by itself.
        size = -(-len(arguments) // (4 * WORKERS))
        return list(self.pool.map(fn, arguments, chunksize=size))

    def gather(self, futures: Sequence[Any]) -> list[Any]:
        return [f.result() for f in futures]

    def result(self, future: Any) -> Any:
        return future.result()

    def stop(self) -> None:
        self.pool.shutdown(wait=True)


def _copy(done: cf.Future[Any], node: cf.Future[Any]) -> None:
    error = done.exception()
    if error is None:
        node.set_result(done.result())
    else:
        node.set_exception(error)
