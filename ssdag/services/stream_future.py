# SPDX-License-Identifier: BSD-3-Clause
"""The future of a stream, which the driver may use as the stream itself."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from ssdag.client.streams.stream import Stream
from ssdag.errors import SsdagError
from ssdag.futures import DataFuture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from ssdag.client.streams.core import StreamInfo
    from ssdag.client.streams.keys import Options
    from ssdag.client.streams.reader import StreamReader
    from ssdag.client.streams.steps import Entry
    from ssdag.client.streams.writer import StreamWriter

_log = logging.getLogger("ssdag")


class StreamFuture(DataFuture[Stream]):
    """The future of a stream; see :meth:`ssdag.Orchestrator.stream`.

    A task that takes it gets the :class:`~ssdag.client.streams.stream.Stream`. In the driver it
    has all methods of the stream, which wait for the server first, and is iterated over as
    the stream is. As a future it is always true.
    """

    __slots__ = ("_stream",)

    def __init__(self, name: str, kind: str = "stream", target: Any = None, source: Any = None):
        super().__init__(name, kind, target, source)
        self._stream: Stream | None = None

    @property
    def stream(self) -> Stream:
        """The stream itself; blocks until the future is done.

        Raises
        ------
        StoreError
            The server cannot be started or reached.
        """
        if self._stream is None:
            self._stream = self.result()
        return self._stream

    @property
    def options(self) -> Options:
        """What was asked for here; blocks until the future is done."""
        return self.stream.options

    def append(self, value: Any, *, timeout_s: float | None = None) -> None:
        """Append a record; see :meth:`ssdag.client.streams.stream.Stream.append`."""
        self.stream.append(value, timeout_s=timeout_s)

    def end(self) -> None:
        """Say that nothing more comes; see :meth:`ssdag.client.streams.stream.Stream.end`."""
        self.stream.end()

    def fail(self, reason: str) -> None:
        """Say that the writer gave up; see :meth:`ssdag.client.streams.stream.Stream.fail`."""
        self.stream.fail(reason)

    def writer(self) -> StreamWriter:
        """Return one more writer; see :meth:`ssdag.client.streams.stream.Stream.writer`."""
        return self.stream.writer()

    def begin_step(self) -> None:
        """Begin a step; see :meth:`ssdag.client.streams.stream.Stream.begin_step`."""
        self.stream.begin_step()

    def put(self, name: str, value: Any) -> None:
        """Add a value to the step; see :meth:`ssdag.client.streams.stream.Stream.put`."""
        self.stream.put(name, value)

    def end_step(self, *, timeout_s: float | None = None) -> None:
        """Append the step, one record; see :meth:`ssdag.client.streams.stream.Stream.end_step`."""
        self.stream.end_step(timeout_s=timeout_s)

    def reader(self, group: str = "default", **options: Any) -> StreamReader:
        """Return a reader; see :meth:`ssdag.client.streams.stream.Stream.reader`."""
        return self.stream.reader(group, **options)

    def add_group(self, group: str, **options: Any) -> StreamFuture:
        """Make a group before its readers come, and return the future.

        See :meth:`ssdag.client.streams.stream.Stream.add_group`.
        """
        self.stream.add_group(group, **options)
        return self

    def remove_group(self, group: str) -> bool:
        """Forget a group, for which writers would wait; return whether there was one.

        See :meth:`ssdag.client.streams.stream.Stream.remove_group`.
        """
        return self.stream.remove_group(group)

    def __len__(self) -> int:
        return len(self.stream)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(self.stream)

    def newest(self) -> Entry | None:
        """Look at the newest record; see :meth:`ssdag.client.streams.stream.Stream.newest`."""
        return self.stream.newest()

    def info(self) -> StreamInfo:
        """Return what it holds; see :meth:`ssdag.client.streams.stream.Stream.info`."""
        return self.stream.info()

    def delete(self) -> bool:
        """Delete all of it; see :meth:`ssdag.client.streams.stream.Stream.delete`."""
        return self.stream.delete()

    def ends_with(self, *futures: Future[Any]) -> StreamFuture:
        """End the stream when these tasks, its writers, have ended; return it.

        So its readers end too when a writer was killed, and need not end the stream
        themselves: if a task fails or is cancelled readers get DataError with its error as
        the reason, else the stream ends when the last of them is done.

        Parameters
        ----------
        *futures : Future
            Futures of the tasks.
        """
        left = set(futures)
        lock = threading.Lock()

        def done(future: Future[Any]) -> None:
            if future.cancelled():
                reason = "its task was cancelled"
            else:
                error = future.exception()
                reason = "" if error is None else f"{type(error).__name__}: {error}"
            with lock:
                left.discard(future)
                last = not left
            if reason or last:
                # Callbacks run where all tasks are served, which must wait for no server.
                threading.Thread(
                    target=self._end, args=(reason,), name="ssdag-stream-end", daemon=True
                ).start()

        for future in tuple(left):
            future.add_done_callback(done)
        return self

    def _end(self, reason: str) -> None:
        try:
            self.stream.writer()._end(reason, all_writers=True)
        except SsdagError as error:  # without the server nobody reads it
            _log.debug("the end of stream %r was not told: %s", self.name, error)
