# SPDX-License-Identifier: BSD-3-Clause
"""Files in shared memory whose pages are used again, by all processes of a machine.

New pages cost several times the copy into them. So the file of a value that nobody needs
is not removed but moved to the hidden folder ``.free``, and the next value of about its
size is written over it. Whether somebody still reads it is told by locks on the file,
which the kernel drops with their holders: a reader keeps a shared one as long as the
value is mapped, and only who gets an exclusive one may write. A reader that comes late
finds that its file is no longer the one of that name, and looks again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
from typing import TYPE_CHECKING, TypeVar

from ssdag.connectors.memory import exchange
from ssdag.connectors.parts import MAP_FROM, Parts, read_all
from ssdag.wire.mapping import map_file, use_huge_pages

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_FREE = ".free"
_NAME = re.compile(r"(\d+)-[0-9a-f]{16}")

#: A process keeps so many files open at most for what it reads; beyond it, it copies.
_MOST_LEASES = 256

#: A segment that a process writes so often is worth its huge pages, which cost ten copies.
_WORTH_HUGE = 3
#: In smaller ones they change nothing.
_HUGE_FROM = 4 << 20

#: A name may point elsewhere so often while its file is opened.
_TRIES = 1000

#: Descriptors of files that this process has mapped, with their locks.
_leases: set[int] = set()


class Segments(Parts):
    """The files of one folder in shared memory.

    Parameters
    ----------
    folder : str
        The folder.
    keep_bytes : int
        What free files may take together.
    """

    def __init__(self, folder: str, keep_bytes: int) -> None:
        super().__init__(folder)
        self._keep_bytes = keep_bytes
        self._free = os.path.join(folder, _FREE)
        #: How often this process has written a segment, by inode number.
        self._written: dict[int, int] = {}
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._free, 0o700)

    # -- writing ---------------------------------------------------------------------

    def publish(self, views: list[memoryview], give_name: Callable[[str], T]) -> T:
        """Write a file and publish it; see :class:`Parts`.

        Where there is no room, the free ones are given up.
        """
        try:
            return super().publish(views, give_name)
        except OSError as error:
            if error.errno != errno.ENOSPC or not self.give_up():
                raise
        return super().publish(views, give_name)

    def begin(self, size: int) -> tuple[str, int]:
        """Return a free segment if one fits, else a new file."""
        if size >= MAP_FROM:
            for name, _ in sorted(self.free(), key=lambda entry: abs(entry[1] - size)):
                found = self._take_free(name, size)
                if found is not None:
                    return found
        return super().begin(size)

    def free(self) -> list[tuple[str, int]]:
        """Return the names of free segments and their bytes."""
        found = (_NAME.fullmatch(name) for name in os.listdir(self._free))
        return [(match[0], int(match[1])) for match in found if match]

    def _take_free(self, name: str, size: int) -> tuple[str, int] | None:
        path, part = os.path.join(self._free, name), self.name()
        had = int(name.partition("-")[0])
        if not size // 2 <= had <= 2 * size:
            return None
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Nobody reads it. A second name is a copy that is still needed.
            found = os.fstat(fd)
            if found.st_nlink == 1:
                os.rename(path, part)
                fcntl.flock(fd, fcntl.LOCK_SH)
                if found.st_size > size:  # its name may be wrong
                    os.ftruncate(fd, size)
                return part, fd
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def fill(self, fd: int, views: list[memoryview]) -> None:
        """Write all bytes; into mapped memory where that is quicker.

        Only pages that exist may be touched: where memory is full, others are a SIGBUS.
        """
        size = sum(map(len, views))
        found = os.fstat(fd)
        if size < _HUGE_FROM or found.st_size < size or found.st_blocks * 512 < size:
            return super().fill(fd, views)
        count = self._written[found.st_ino] = self._written.get(found.st_ino, 0) + 1
        if len(self._written) > 4096:
            self._written.clear()
        if count < _WORTH_HUGE:
            return super().fill(fd, views)
        memory = map_file(fd, size, shared=True)
        if count == _WORTH_HUGE:
            use_huge_pages(memory, size)
        at = 0
        for view in views:
            memory[at : at + len(view)] = view
            at += len(view)
        return None

    def replace(self, path: str, target: str) -> None:
        """Give a written file its name, and keep the pages of the one that had it."""
        if os.stat(path).st_size >= MAP_FROM:
            with contextlib.suppress(FileNotFoundError):  # most often there is none
                if exchange(path, target):
                    self.discard(path)
                    return
        super().replace(path, target)

    def discard(self, path: str) -> None:
        """Remove a file, and keep its pages for the next value."""
        found = os.stat(path)
        size = found.st_size
        if size >= MAP_FROM and found.st_nlink == 1:
            kept = sum(bytes_ for _, bytes_ in self.free())
            if kept + size <= self._keep_bytes:
                os.rename(path, os.path.join(self._free, f"{size}-{secrets.token_hex(8)}"))
                return
        super().discard(path)

    def link(self, source: str, path: str) -> None:
        """Give a value's file a second name, unless it is written again just now."""
        for _ in range(_TRIES):
            fd = self._lease(source)
            try:
                os.link(source, path)
                if os.path.samestat(os.stat(path), os.fstat(fd)):
                    return
                os.unlink(path)
            finally:
                os.close(fd)
        raise OSError(errno.EBUSY, f"{source} is written again and again")

    def give_up(self) -> int:
        """Remove all free segments; return how many."""
        count = 0
        for name, _ in self.free():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._free, name))
                count += 1
        return count

    def reserve(self, size: int, count: int) -> None:
        """Make free segments with all their pages, in huge ones where the kernel can."""
        for _ in range(count):
            path, fd = super().begin(size)
            try:
                os.posix_fallocate(fd, 0, size)
                use_huge_pages(map_file(fd, size, shared=True), size)
                self._written[os.fstat(fd).st_ino] = _WORTH_HUGE
                os.rename(path, os.path.join(self._free, f"{size}-{secrets.token_hex(8)}"))
            except BaseException:
                os.unlink(path)
                raise
            finally:
                os.close(fd)

    # -- reading ---------------------------------------------------------------------

    def load(self, path: str, *, local: bool) -> memoryview:
        """Return a file's bytes, mapped under a lock if they are many."""
        fd = self._lease(path)
        try:
            size = os.fstat(fd).st_size
            if local and size >= MAP_FROM and len(_leases) < _MOST_LEASES:
                _leases.add(fd)
                try:
                    return map_file(fd, size, shared=False, on_release=lambda: _end_lease(fd))
                except OSError:  # no room for another mapping
                    _leases.discard(fd)
            return read_all(fd, size)
        finally:
            if fd not in _leases:
                os.close(fd)

    def _lease(self, path: str) -> int:
        """Open a file for reading, with a lock that keeps it as it is."""
        for _ in range(_TRIES):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if os.path.samestat(os.stat(path), os.fstat(fd)):
                    return fd
            except (BlockingIOError, FileNotFoundError):
                pass  # it is written again by now: look what has the name
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise OSError(errno.EBUSY, f"{path} is written again and again")


def _end_lease(fd: int) -> None:
    """Unlock a file; called by the garbage collector, so it waits for nothing."""
    _leases.discard(fd)
    os.close(fd)
