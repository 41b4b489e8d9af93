# SPDX-License-Identifier: BSD-3-Clause
"""What the hub and its workers say to one another.

A frame's body is a pickled tuple. To a worker: ``(functions, tasks, released)``, where
`functions` lists ``(number, bytes)`` (number :data:`PATH`: a changed ``sys.path``),
`tasks` lists ``(function number, arguments, buffers)`` in the order in which they run,
and `released` lists segments of the worker's pool that are free again. Back:
``(results, released)``, where `results` lists ``(code, value, buffers, started_ns,
ended_ns)`` in the same order, so that no frame carries ids.

Arguments are the tuple itself if all of it is plain, else a pickle of ``(args,
kwargs)`` of their own: one bad argument fails one task. `buffers` lists what the pickle
left out of band: -1 for the next buffer of the frame, ``(path, size)`` for a segment.
Where arguments lie in segments it is a tuple of that list and the paths of all segments
that the worker holds for this task.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any

from ssdag.wire.serialize import Encoder
from ssdag.wire.shared import LEASES

if TYPE_CHECKING:
    import pickle
    from collections.abc import Callable, Iterable, Iterator

    from ssdag.wire.shared import SegmentPool

#: Codes of a result: a plain value, a pickled one, an error, a task that was taken back.
PLAIN, PICKLED, ERROR, SKIPPED = range(4)

#: Stands for a function's number in front of a pickled ``sys.path``.
PATH = -1

#: What a worker makes of the flag of a task that it has skipped.
SKIPPED_FLAG = 2

#: Smaller buffers stay inside their pickle: a piece of its own costs more than a copy.
OUT_OF_BAND_BYTES = 16 * 1024

#: Most tasks that a worker holds at a time. The revocation flags are a ring of twice
#: that many, so that a flag is never read for another task.
MAX_CREDIT = 512
_RING = 2 * MAX_CREDIT


class Packer:
    """Pickles values for one frame, collecting its buffers.

    Parameters
    ----------
    pool : SegmentPool
        Takes buffers over `threshold`.
    threshold : int
        Bytes from which a buffer goes by reference.
    """

    def __init__(self, pool: SegmentPool, threshold: int) -> None:
        self.pool = pool
        self._threshold = threshold
        self._encoder = Encoder(self._accept, self._reset)
        self.buffers: list[memoryview] = []
        self._entries: list[Any] = []
        self._mark = 0
        #: Bytes packed so far, segments included.
        self.nbytes = 0

    def pack(self, value: Any) -> tuple[bytes, list[Any] | None]:
        """Return the pickle of a value and where its buffers are.

        Raises
        ------
        SerializationError
            It cannot be pickled; the frame is as it was before.
        """
        self._mark = len(self.buffers)
        try:
            payload = self._encoder.dumps(value)
        except BaseException:  # __reduce__ is user code
            self._reset()
            raise
        self.nbytes += len(payload)
        entries = self._entries
        if not entries:
            return payload, None
        self._entries = []
        return payload, entries

    def pack_again(self, payload: bytes, buffers: Iterable[Any]) -> list[Any] | None:
        """Take a pickle of somebody else's with its buffers; return where these are."""
        self._mark = len(self.buffers)
        self.nbytes += len(payload)
        for buffer in buffers:
            raw = memoryview(buffer)
            self.nbytes += raw.nbytes
            path = self.pool.store(raw) if raw.nbytes >= self._threshold else None
            if path is None:
                self._entries.append(-1)
                self.buffers.append(raw)
            else:
                self._entries.append((path, raw.nbytes))
        entries, self._entries = self._entries, []
        return entries or None

    def take_buffers(self) -> list[memoryview]:
        """Return the buffers collected since the last call, and forget them."""
        buffers, self.buffers = self.buffers, []
        return buffers

    def _accept(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        size = raw.nbytes
        if size < OUT_OF_BAND_BYTES:
            return True
        self.nbytes += size
        if size >= self._threshold:
            path = self.pool.store(raw)
            if path is not None:
                self._entries.append((path, size))
                return False
        self._entries.append(-1)
        self.buffers.append(raw)
        return False

    def _reset(self) -> None:
        del self.buffers[self._mark :]
        if LEASES.taken:  # the second attempt takes them again
            LEASES.taken.clear()
        for entry in self._entries:
            if entry != -1:
                self.pool.release(entry[0])
        self._entries = []


def collect(
    entries: list[Any], frame_buffers: Iterator[Any], segment: Callable[[str, int], Any]
) -> list[Any]:
    """Return the buffers of one pickle: those of the frame, and what `segment` makes."""
    return [next(frame_buffers) if e == -1 else segment(*e) for e in entries]


class Page:
    """A page of memory that a worker and its hub share, to see without asking.

    The worker writes how many tasks it has started and finished and when the last one
    started; the hub writes which tasks are taken back. With it the hub knows, when a
    worker dies, which task was running, which results are lost, and which tasks never
    started.

    Parameters
    ----------
    fd : int
        A descriptor of the memory; :meth:`create` makes one.
    """

    SIZE = 4096
    _FLAGS = 64

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, self.SIZE)
        view = memoryview(self._memory)
        #: [0] when the last task started (monotonic ns), [1] started, [2] finished.
        self.counters = view[:24].cast("Q")
        #: One byte for each task in the ring: 1 means taken back; then SKIPPED_FLAG.
        self.flags = view[self._FLAGS : self._FLAGS + _RING]

    @classmethod
    def create(cls) -> tuple[Page, int]:
        """Return a page and the descriptor to pass on; the caller closes it."""
        fd = os.memfd_create("ssdag-page", os.MFD_CLOEXEC)
        os.ftruncate(fd, cls.SIZE)
        return cls(fd), fd

    def revoke(self, number: int) -> None:
        """Take task `number` (counted from 1) back, unless it has started."""
        self.flags[number % _RING] = 1

    def was_skipped(self, number: int) -> bool:
        """Return True if the worker passed task `number` over, which was taken back."""
        return self.flags[number % _RING] == SKIPPED_FLAG

    def clear(self, number: int) -> None:
        """Make the place of task `number` ready for another."""
        self.flags[number % _RING] = 0
