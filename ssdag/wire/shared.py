# SPDX-License-Identifier: BSD-3-Clause
"""Large buffers by reference on one machine: pooled files in ``/dev/shm``.

A writer copies a buffer into a file of its pool with ``pwrite`` (a full tmpfs is then
an error and not a SIGBUS) and sends the path. A reader maps the file privately: it sees
the writer's pages without a copy, and may write to its array without anybody noticing.
When the reader's last view is gone the file goes back to the writer's pool, warm: page
faults cost far more than the copy itself.

All files of an engine lie in one private folder: :mod:`ssdag.wire.segment_folder`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from ssdag.references import Reference
from ssdag.wire.mapping import map_file, map_private, use_huge_pages
from ssdag.wire.serialize import loads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_log = logging.getLogger("ssdag.wire")

#: Buffers of this many bytes or more travel by reference.
THRESHOLD_BYTES = 1 << 18
#: Free segments that a pool keeps warm, in bytes.
KEEP_BYTES = 256 << 20
#: Segments that a pool has mapped for writing at most; a process has 65,530 mappings.
_MOST_MAPS = 4096


class _Mapped:
    """Our view of a segment that is used again, and how much of it has pages."""

    __slots__ = ("filled", "memory")

    def __init__(self, memory: memoryview, filled: int) -> None:
        self.memory = memory
        self.filled = filled


class SegmentPool:
    """Writes buffers into files that are used again.

    Parameters
    ----------
    folder : str or None
        Where the files lie; None makes :meth:`store` refuse everything.
    prefix : str
        Begins each file's name; unique among the writers of a folder.
    """

    def __init__(self, folder: str | None, prefix: str) -> None:
        self._folder = folder
        self._prefix = prefix
        self._free: dict[int, list[str]] = {}
        self._sizes: dict[str, int] = {}
        self._kept = 0
        self._count = 0
        self._pid = os.getpid()
        self._warned = False
        self._lock = threading.Lock()
        self._returned: deque[str] = deque()
        self._maps: dict[str, _Mapped] = {}
        #: Files that have been filled before, so that mapping them pays.
        self._used: set[str] = set()

    def store(self, view: memoryview) -> str | None:
        """Copy a buffer into a segment and return its path; None if there is no room."""
        if self._folder is None:
            return None
        size = view.nbytes
        rounded = 1 << max(size - 1, 1).bit_length()
        with self._lock:
            self._take_returned()
            free = self._free.get(rounded)
            path = free.pop() if free else None
            if path is not None:
                self._kept -= rounded
            else:
                self._count += 1
                path = os.path.join(self._folder, f"{self._prefix}-{self._count}")
        mapped = self._maps.get(path)
        if mapped is not None and size <= mapped.filled:
            mapped.memory[:size] = view
        else:
            try:
                self._write(path, view, rounded, again=path in self._used)
            except OSError as error:
                self._no_room(path, size, error)
                return None
        self._sizes[path] = rounded
        self._used.add(path)
        return path

    def _write(self, path: str, view: memoryview, rounded: int, *, again: bool) -> None:
        """Write with ``pwrite``, which allocates; map a file that is used again.

        Copying into mapped memory is three times faster than ``pwrite``, but only pages
        that exist already may be touched: where tmpfs is full, others are a SIGBUS.
        """
        size = view.nbytes
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            done = 0
            while done < size:
                done += os.pwrite(fd, view[done:], done)
            if path in self._maps:
                self._maps[path].filled = size
            elif again and len(self._maps) < _MOST_MAPS:
                os.ftruncate(fd, rounded)
                memory = map_file(fd, rounded, shared=True)
                use_huge_pages(memory, size)
                self._maps[path] = _Mapped(memory, size)
        finally:
            os.close(fd)

    def _no_room(self, path: str, size: int, error: OSError) -> None:
        """Remove what was begun, and give the memory of free segments to whoever needs it."""
        if not self._warned:
            self._warned = True
            _log.warning(
                "no room for %d bytes in %s (%s): sent by socket", size, self._folder, error
            )
        with self._lock:
            unused = [path, *(name for names in self._free.values() for name in names)]
            self._free.clear()
            self._kept = 0
        for name in unused:
            self._remove(name)

    def _remove(self, path: str) -> None:
        self._sizes.pop(path, None)
        self._maps.pop(path, None)
        self._used.discard(path)
        with contextlib.suppress(OSError):
            os.unlink(path)

    def release(self, path: str) -> None:
        """Take a segment back that nobody reads any more.

        The garbage collector may call this in the middle of :meth:`store`, so it must
        not wait for the lock. In a forked copy of this process it does nothing.
        """
        if os.getpid() != self._pid:
            return
        self._returned.append(path)
        if self._lock.acquire(blocking=False):
            try:
                self._take_returned()
            finally:
                self._lock.release()

    def _take_returned(self) -> None:
        while self._returned:
            path = self._returned.popleft()
            rounded = self._sizes.pop(path, 0)
            if rounded and self._kept + rounded <= KEEP_BYTES:
                self._kept += rounded
                self._free.setdefault(rounded, []).append(path)
                continue
            self._remove(path)


class Handle:
    """One reader's hold on a segment; when it is collected, the segment is free.

    Parameters
    ----------
    path : str
        The file.
    size : int
        Bytes of it that count.
    release : callable
        Takes the path; tells the writer's pool. The garbage collector may call it.
    """

    __slots__ = ("__weakref__", "_kept", "path", "size")

    def __init__(self, path: str, size: int, release: Callable[[str], None]) -> None:
        self.path = path
        self.size = size
        self._kept: memoryview | None = None
        weakref.finalize(self, release, path).atexit = False

    def _hold(self) -> None:
        """Do nothing: a bound method of a handle keeps the handle alive."""

    @property
    def kept(self) -> memoryview | None:
        """The bytes, if :meth:`keep` has saved them."""
        return self._kept

    def keep(self) -> None:
        """Save the bytes: the file is about to be removed (its pages live while mapped)."""
        self._kept = map_private(self.path, self.size)

    def attach(self) -> memoryview:
        """Map the segment; the handle lives as long as the mapping does.

        Raises
        ------
        OSError
            The segment is gone.
        """
        if self._kept is None:
            try:
                return map_private(self.path, self.size, self._hold)
            except FileNotFoundError:
                if self._kept is None:  # not saved meanwhile by the thread that ends us
                    raise
        return memoryview(bytearray(self._kept))


class Lent:
    """Segments of other processes' pools that values of this process lie in."""

    def __init__(self) -> None:
        self._handles: dict[str, weakref.ref[Handle]] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._handles

    def add(self, handle: Handle) -> None:
        """Note a segment that is read from now on."""
        self._handles[handle.path] = weakref.ref(handle)

    def discard(self, path: str) -> None:
        """Forget a segment; its handle was collected."""
        self._handles.pop(path, None)

    def keep_all(self) -> None:
        """Save what is still read: the files are about to be removed."""
        for path, reference in self._handles.copy().items():
            handle = reference()
            if handle is not None:
                try:
                    handle.keep()
                except OSError as error:
                    _log.warning("the array in %s is lost: %s", path, error)


class Leases(threading.local):
    """Where a pickler in this thread notes the segments that it sends on."""

    taken: list[Handle] | None = None


LEASES = Leases()


class SharedValue(Reference):
    """A value whose large buffers lie in segments; kept as it came until it is used.

    As a task's argument it is sent on as it is: the driver neither loads nor copies it.

    Parameters
    ----------
    payload : bytes
        The pickle.
    buffers : sequence of bytearray or Handle
        Its buffers out of band, in order.

    Attributes
    ----------
    elsewhere : Reference or None
        The same value in a place that other machines reach.
    """

    __slots__ = ("_buffers", "_payload", "elsewhere")

    def __init__(self, payload: bytes, buffers: Sequence[Any]) -> None:
        self._payload = payload
        self._buffers = tuple(buffers)
        self.elsewhere: Any = None

    @property
    def nbytes(self) -> int:
        """Its size."""
        sizes = (b.size if isinstance(b, Handle) else len(b) for b in self._buffers)
        return len(self._payload) + sum(sizes)

    def pieces(self) -> tuple[bytes, list[memoryview]]:
        """Return the pickle and its buffers, in memory that may be read only."""
        views = [b.attach() if isinstance(b, Handle) else memoryview(b) for b in self._buffers]
        return self._payload, views

    def resolve(self) -> Any:
        """Load the value; arrays are views of mapped memory, private to the caller."""
        return loads(
            self._payload,
            [b.attach() if isinstance(b, Handle) else bytearray(b) for b in self._buffers],
        )

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return self._payload, self._buffers

    def __reduce__(self) -> tuple[Any, ...]:
        taken = LEASES.taken
        if taken is None:  # somebody else pickles: give the value itself
            return _same, (self.resolve(),)
        parts: list[Any] = []
        for buffer in self._buffers:
            if not isinstance(buffer, Handle):
                parts.append(buffer)
            elif buffer.kept is not None:  # its engine has ended
                parts.append(bytearray(buffer.kept))
            else:
                taken.append(buffer)
                parts.append((buffer.path, buffer.size))
        return _load_shared, (self._payload, parts)


def _same(value: Any) -> Any:
    return value


#: Paths whose last view in this process is gone; a worker reports them to its hub.
RELEASED: list[str] = []

#: Paths mapped since a worker began to load the arguments of its task.
MAPPED: list[str] = []


def take_released() -> list[str]:
    """Return and forget what is in :data:`RELEASED`, also while finalizers append to it."""
    count = len(RELEASED)
    released = RELEASED[:count]
    del RELEASED[:count]
    return released


def attach_leased(path: str, size: int) -> memoryview:
    """Map a segment in a worker; its release is reported through :data:`RELEASED`."""
    view = map_private(path, size, lambda: RELEASED.append(path))
    MAPPED.append(path)
    return view


def _load_shared(payload: bytes, parts: Sequence[Any]) -> Any:
    return loads(
        payload, [attach_leased(*part) if isinstance(part, tuple) else part for part in parts]
    )
