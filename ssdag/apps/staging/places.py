# SPDX-License-Identifier: BSD-3-Clause
"""The folder in which a node keeps staged files, shared by all processes of a user there.

It is ``ssdag-staging-UID`` in ``$SSDAG_STAGING_DIR``, or else in the node's folder for
temporary files. A file in it is there whole or not at all, and never changes: another
version of it is another file. Each process that uses the folder holds a lock as long as it
lives; the last one that ends well empties it, and else the first one that comes later.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import threading
from typing import TYPE_CHECKING

from ssdag.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Names the folder in which the folder is made.
VARIABLE = "SSDAG_STAGING_DIR"

_lock = threading.Lock()
#: The folder that this process uses, the process's number, and its descriptor of the lock.
_used: dict[str, tuple[int, int]] = {}


def folder() -> str:
    """Return the folder; from now on this process uses it.

    Raises
    ------
    ConfigError
        It is somebody else's.
    OSError
        It cannot be made.
    """
    parent = os.environ.get(VARIABLE) or tempfile.gettempdir()
    path = os.path.join(os.path.abspath(parent), f"ssdag-staging-{os.getuid()}")
    with _lock:
        fd, owner = _used.get(path, (-1, 0))
        if owner == os.getpid() and os.path.isdir(path):
            return path
        if fd >= 0:
            os.close(fd)  # of a folder that is gone, or of the process that we were forked from
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise ConfigError(f"{path} is not a folder of ours; set {VARIABLE} to another place")
        os.chmod(path, 0o700)
        fd = os.open(os.path.join(path, "users"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _take(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
            _empty(path)  # left by processes that were killed
        _take(fd, fcntl.LOCK_SH)
        if not _used:
            atexit.register(leave)
        _used[path] = (fd, os.getpid())
    return path


def leave() -> None:
    """Use no folder any more; one that nobody else uses is emptied."""
    with _lock:
        for path, (fd, owner) in _used.items():
            if owner == os.getpid() and _take(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
                _empty(path)
            os.close(fd)
        _used.clear()


def keep(what: str, version: str, name: str, fetch: Callable[[str], None]) -> str:
    """Return the path of a file on this node; fetches it if no process here has done so.

    Parameters
    ----------
    what : str
        Which file it is.
    version : str
        Tells two versions of it apart; empty: a copy is never taken for the file.
    name : str
        Its name.
    fetch : callable
        Writes it to the path that it is given.
    """
    base = folder()
    version = version or secrets.token_hex(8)
    key = hashlib.blake2b(f"{what}\0{version}".encode(), digest_size=16).hexdigest()
    kept = os.path.join(base, key)
    target = os.path.join(kept, name)
    if os.path.exists(target):
        return target
    with locked(f"{kept}.lock"):
        if os.path.exists(target):
            return target
        part = tempfile.mkdtemp(prefix=f"{key}.part-", dir=base)
        try:
            fetch(os.path.join(part, name))
            os.chmod(os.path.join(part, name), 0o400)  # others use it too
            try:
                os.rename(part, kept)
            except OSError:  # where there are no locks, another process may have been first
                if not os.path.exists(target):
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def own() -> str:
    """Return a new folder for the outputs of one task."""
    return tempfile.mkdtemp(prefix="task-", dir=folder())


def link(path: str, target: str) -> str:
    """Make `target` a symbolic link to a file, in one step; return it."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    aside = f"{target}.{secrets.token_hex(4)}"
    os.symlink(path, aside)
    try:
        os.replace(aside, target)
    except BaseException:
        os.unlink(aside)
        raise
    return target


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock of a name, which other processes wait for; ends with the process.

    The file is removed at the end. Who waited for it then takes a new one.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _take(fd, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(fd), os.stat(path))
            except FileNotFoundError:
                same = False
            if same:
                try:
                    yield
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                return
        finally:
            os.close(fd)


def _take(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: files still appear in one step
        return False
    return True


def _empty(path: str) -> None:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name == "users":
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
