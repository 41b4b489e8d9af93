# SPDX-License-Identifier: BSD-3-Clause
"""The private folders in ``/dev/shm`` where segments lie, and the removal of orphans.

An engine removes its folder when it ends, and the guard does if the driver is killed.
Where both were killed, the next engine of the same user removes what they left. Whether
somebody still needs a folder is told by a lock on it, which the kernel drops with its
holder: containers may share ``/dev/shm`` and not see one another's processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil

from ssdag.wire import guard

_log = logging.getLogger("ssdag.wire")

SHARED_MEMORY = "/dev/shm"
_NAME = re.compile(r"ssdag-([1-9]\d*)-[0-9a-f]{8}")
_TRIES = 20

#: Descriptors that hold the locks of our folders, by path.
_locks: dict[str, int] = {}


def make_folder() -> str | None:
    """Make a private folder for segments; None where ``/dev/shm`` cannot be used.

    The guard removes it if this process is killed; otherwise :func:`remove_folder` does.
    """
    if not os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        return None
    try:
        sweep()
        for _ in range(_TRIES):
            path = guard.folder(SHARED_MEMORY, f"ssdag-{os.getpid()}-")
            fd = _lock(path)
            if fd is not None:
                _locks[path] = fd
                return path
            guard.release_path(path)
        raise FileExistsError("other programs take every folder away")
    except OSError as error:
        _log.warning("large arrays go by socket: no folder in %s (%s)", SHARED_MEMORY, error)
        return None


def remove_folder(path: str) -> None:
    """Remove a folder of :func:`make_folder` with all that is in it."""
    shutil.rmtree(path, ignore_errors=True)
    guard.release_path(path)
    fd = _locks.pop(path, -1)
    if fd >= 0:
        os.close(fd)


def sweep() -> list[str]:
    """Remove folders that killed drivers of this user have left; return their paths.

    A folder stays that somebody holds the lock of, that is not ours, whose name we would
    not give, or that belongs to the number of a process that lives here.
    """
    removed = []
    for name in os.listdir(SHARED_MEMORY):
        match = _NAME.fullmatch(name)
        if match is None or os.path.exists(f"/proc/{match[1]}"):
            continue
        path = os.path.join(SHARED_MEMORY, name)
        with contextlib.suppress(OSError):
            if os.lstat(path).st_uid != os.geteuid():
                continue
            fd = _lock(path)
            if fd is None:
                continue
            try:
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)
            removed.append(path)
    return removed


def _lock(path: str) -> int | None:
    """Return a descriptor that holds the lock of a folder, or None if another one does.

    The lock may have been got after its last holder removed the folder: then, too, None.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _after_fork() -> None:
    # The lock is the parent's, and ends with it.
    for fd in _locks.values():
        os.close(fd)
    _locks.clear()


os.register_at_fork(after_in_child=_after_fork)
