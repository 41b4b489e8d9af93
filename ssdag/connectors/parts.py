# SPDX-License-Identifier: BSD-3-Clause
"""Files that are written aside before they get their name, and what killed writers left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Where they lie, in the folder that they will be in.
PARTS = ".parts"

#: So often at most somebody who sweeps may take a fresh file away.
_TRIES = 10


class Parts:
    """The files of one folder that are being written.

    Parameters
    ----------
    folder : str
        The folder.
    durable : bool
        Whether the disk must have a file before it is published.

    Raises
    ------
    OSError
        Nothing can be written there.
    """

    def __init__(self, folder: str, *, durable: bool = False) -> None:
        self._folder = folder
        self._path = os.path.join(folder, PARTS)
        self._durable = durable
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._path, 0o700)

    def name(self) -> str:
        """Return the path of a file that is not there yet."""
        return os.path.join(self._path, secrets.token_hex(8))

    def publish(self, views: list[memoryview], give_name: Callable[[str], T]) -> T:
        """Write a file, and have `give_name` publish it; return what that returns.

        Raises
        ------
        OSError
            It cannot be written. Nothing is left of it.
        """
        attempt = 0
        while True:
            attempt += 1
            path = self.name()
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with contextlib.suppress(OSError):  # not every file system has locks
                    fcntl.flock(fd, fcntl.LOCK_SH)
                write_all(fd, views)
                if self._durable:
                    os.fsync(fd)
                result = give_name(path)
            except FileNotFoundError:
                # Somebody took it for an orphan, between its making and its lock.
                if attempt == _TRIES or not os.path.isdir(self._folder):
                    raise
            else:
                if self._durable:
                    self._sync_folder()
                return result
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                os.close(fd)

    def _sync_folder(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sweep(self) -> int:
        """Remove what killed writers have left; return how many files.

        A living writer holds a lock, and the kernel drops it with its holder, on every
        machine. Where there are no locks everything stays.
        """
        removed = 0
        with contextlib.suppress(OSError):
            for name in os.listdir(self._path):
                path = os.path.join(self._path, name)
                with contextlib.suppress(OSError):
                    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.unlink(path)
                        removed += 1
                    finally:
                        os.close(fd)
        return removed


def write_all(fd: int, views: list[memoryview]) -> None:
    """Write all bytes at the file's position, without joining them."""
    left = list(views)
    while left:
        done = os.writev(fd, left[:64])
        while left and done >= len(left[0]):
            done -= len(left.pop(0))
        if done:
            left[0] = left[0][done:]
