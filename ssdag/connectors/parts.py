# SPDX-License-Identifier: BSD-3-Clause
"""Files that are written aside before they get their name, and what killed writers left."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from typing import TYPE_CHECKING, TypeVar

from ssdag.connectors.memory import fresh
from ssdag.wire.mapping import map_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

#: Where they lie, in the folder that they will be in.
PARTS = ".parts"

#: Smaller values are read, which is quicker than mapping them.
MAP_FROM = 64 << 10

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
    private : bool
        Whether nobody else may read the files, whatever the umask says.

    Raises
    ------
    OSError
        Nothing can be written there.
    """

    def __init__(self, folder: str, *, durable: bool = False, private: bool = True) -> None:
        self.folder = folder
        self._path = os.path.join(folder, PARTS)
        self._durable = durable
        self._mode = 0o600 if private else 0o666
        self._folder_mode = 0o700 if private else 0o777
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._path, self._folder_mode)

    def name(self) -> str:
        """Return the path of a file that is not there yet."""
        return os.path.join(self._path, secrets.token_hex(8))

    def replace(self, path: str, target: str) -> None:
        """Give a written file its name, in place of the file that has it."""
        os.rename(path, target)

    def add(self, path: str, target: str) -> bool:
        """Give a written file its name, unless there is one that has it; return whether."""
        try:
            os.link(path, target)
        except FileExistsError:
            # An NFS server that was asked twice says so too, and it is ours.
            return os.stat(path).st_nlink > 1
        return True

    def discard(self, path: str) -> None:
        """Remove a file whose value is not needed any more.

        Raises
        ------
        FileNotFoundError
            It is not there.
        """
        os.unlink(path)

    def link(self, source: str, path: str) -> None:
        """Give a value's file a second name.

        Raises
        ------
        OSError
            The file is not there, or the file system has no links.
        """
        os.link(source, path)

    def size(self, path: str) -> int:
        """Return the bytes of a value.

        Raises
        ------
        FileNotFoundError
            It is not there.
        """
        return os.stat(path).st_size

    def has(self, path: str) -> bool:
        """Return whether what has the name is a value.

        Raises
        ------
        FileNotFoundError
            There is nothing.
        """
        return stat.S_ISREG(os.stat(path).st_mode)

    @contextlib.contextmanager
    def moved(self, path: str, part: str) -> Iterator[None]:
        """Move a value's file aside, and keep others from sweeping it away meanwhile.

        Raises
        ------
        FileNotFoundError
            It is not there.
        OSError
            It was swept away, in the moment in which that is possible.
        """
        fds: list[int] = []
        try:
            fds.append(_locked(path))
            try:
                os.rename(path, part)
            except FileNotFoundError:
                if not os.path.exists(part):  # else an NFS server was asked twice
                    raise
            try:
                if not os.path.samestat(os.stat(part), os.fstat(fds[0])):
                    fds.append(_locked(part))  # another value had come
            except FileNotFoundError:
                raise OSError(errno.EIO, "the value was lost on the way") from None
            yield
        finally:
            for fd in fds:
                os.close(fd)

    def load(self, path: str, *, local: bool) -> memoryview:
        """Return a file's bytes: mapped if they are many and it is `local`, else read.

        Raises
        ------
        OSError
            It is not there, or cannot be read.
        """
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            if local and size >= MAP_FROM:
                return map_file(fd, size, shared=False)
            return read_all(fd, size)
        finally:
            os.close(fd)

    def begin(self, size: int) -> tuple[str, int]:
        """Make a file to write `size` bytes to; return its path and a descriptor.

        It holds a lock, as a sign that somebody uses it.
        """
        path = self.name()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            return path, _locked(path, flags, self._mode)
        except FileNotFoundError:  # somebody has tidied up, or made the folder again
            os.mkdir(self._path, self._folder_mode)
            return path, _locked(path, flags, self._mode)

    def fill(self, fd: int, views: list[memoryview]) -> None:
        """Write all bytes, without joining them."""
        left = list(views)
        while left:
            done = os.writev(fd, left[:64])
            while left and done >= len(left[0]):
                done -= len(left.pop(0))
            if done:
                left[0] = left[0][done:]
        if self._durable:
            os.fsync(fd)

    def publish(self, views: list[memoryview], give_name: Callable[[str], T]) -> T:
        """Write a file, and have `give_name` publish it; return what that returns.

        Raises
        ------
        OSError
            It cannot be written. Nothing is left of it.
        """
        size = sum(map(len, views))
        attempt = 0
        while True:
            attempt += 1
            path, fd = self.begin(size)
            try:
                self.fill(fd, views)
                result = give_name(path)
            except FileNotFoundError:
                # Somebody took it for an orphan, between its making and its lock.
                if attempt == _TRIES or not os.path.isdir(self.folder):
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
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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


def _locked(path: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open a file that others shall leave where it is; return the descriptor."""
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    with contextlib.suppress(OSError):  # not every file system has locks
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return fd


def read_all(fd: int, size: int) -> memoryview:
    """Read the first `size` bytes of a file into new memory.

    Raises
    ------
    OSError
        It cannot be read, or has fewer.
    """
    data = fresh(size)
    done = 0
    while done < size:
        count = os.preadv(fd, [data[done:]], done)
        if not count:
            raise OSError(errno.EIO, "the file is shorter than it was")
        done += count
    return data
