# SPDX-License-Identifier: BSD-3-Clause
"""A connector whose values are in the memory of one machine."""

from __future__ import annotations

import functools
import os
from typing import Any

from ssdag.connectors.directory import DirectoryConnector, check_place
from ssdag.connectors.filesystem import machine
from ssdag.connectors.segments import Segments
from ssdag.errors import ConfigError, StoreError
from ssdag.wire import lifetime
from ssdag.wire.segment_folder import make_folder, remove_folder


class SharedMemoryConnector(DirectoryConnector):
    """Values in ``/dev/shm``, mapped by readers; the memory of deleted ones is used again.

    It lives as long as the process that made it, or the engine in whose ``with`` it was
    made, or until :meth:`close` there; then its values are gone. Memory that is mapped
    then stays until it is let go.

    Parameters
    ----------
    keep_bytes : int
        How much memory of deleted values is kept for new ones, which are written two to
        four times as fast then; 0 for none.

    Raises
    ------
    StoreError
        This machine has no ``/dev/shm`` that can be used.
    """

    kind = "shared_memory"

    _segments: Segments
    #: The process that removes the values; 0 after that, and in processes that attach.
    _owner = 0

    def __init__(self, *, keep_bytes: int = 256 << 20) -> None:
        if keep_bytes < 0:
            raise ConfigError(f"keep_bytes={keep_bytes!r}: must be at least 0")
        folder = make_folder()
        if folder is None:
            raise StoreError("no folder can be made in /dev/shm; take a DirectoryConnector")
        try:
            self._keep_bytes = keep_bytes
            super().__init__(folder, scope="node")
            self._owner = os.getpid()
            self._scope_of_life = lifetime.current()
            self._token = self._scope_of_life.add(self.close)
        except BaseException:
            remove_folder(folder)
            raise

    def _make_parts(self) -> Segments:
        self._segments = Segments(self._path, self._keep_bytes)
        return self._segments

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (self._path, self._keep_bytes, machine())

    def __ssdag_hash__(self) -> bytes:
        return b"shared_memory"  # the folder is another one in each run

    def reserve(self, nbytes: int, count: int = 1) -> None:
        """Make memory ready for `count` values of `nbytes` bytes each.

        The first value of a size is then written as fast as later ones. Blocks while the
        kernel provides the pages: about ten times a copy of them.

        Raises
        ------
        ConfigError
            A number is not positive, or they are more than `keep_bytes`.
        StoreError
            There is not so much memory.
        """
        if nbytes < 1 or count < 1 or nbytes * count > self._keep_bytes:
            raise ConfigError(
                f"reserve({nbytes}, {count}): numbers above 0 whose product is at most "
                f"keep_bytes={self._keep_bytes}"
            )
        try:
            self._segments.reserve(nbytes, count)
        except OSError as error:
            self._fail(f"reserve {count} times {nbytes} bytes", error)

    def close(self) -> None:
        """Where it was made: remove all values. Elsewhere it does nothing."""
        if self._owner == os.getpid():
            self._owner = 0
            self._scope_of_life.remove(self._token)
            remove_folder(self._path)


@functools.lru_cache(maxsize=64)
def _attach(path: str, keep_bytes: int, where: str) -> SharedMemoryConnector:
    """Open a folder of another process; a process does it once."""
    check_place(path, where, shared=False)
    made = SharedMemoryConnector.__new__(SharedMemoryConnector)
    made._keep_bytes = keep_bytes
    DirectoryConnector.__init__(made, path, scope="node")
    return made
