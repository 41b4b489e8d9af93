# SPDX-License-Identifier: BSD-3-Clause
"""What keepers left in a node's temporary folder that were killed with all around them.

A scheduler that ends a step kills a keeper together with its guard. So each keeper marks
the folders of its servers with a file that it holds a lock on, which the kernel drops with
it, and the next keeper of the same user on that node removes those whose mark is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARK = ".keeper"
_FOLDER = re.compile(r"ssdag-[0-9a-f]{8}(-.+)?")
_FOUND_BY = re.compile(r"ssdag-[0-9a-f]{8}-.+\.json")


def is_ours(path: str) -> bool:
    """Say whether a folder is one that is made for a server in the temporary folder."""
    parent, name = os.path.split(path)
    return parent == tempfile.gettempdir() and _FOLDER.fullmatch(name) is not None


def mark(folder: str) -> int:
    """Mark a folder as that of a keeper that lives; returns a descriptor to keep open."""
    new = os.path.join(folder, f"{_MARK}-{os.getpid()}")
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.replace(new, os.path.join(folder, _MARK))  # nobody sees it unlocked
    return fd


def sweep() -> list[str]:
    """Remove what killed keepers of this user have left here; return the paths."""
    parent = tempfile.gettempdir()
    removed = []
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        with contextlib.suppress(OSError, ValueError):
            if _FOUND_BY.fullmatch(name):
                gone = _remove_file(path)
            elif _FOLDER.fullmatch(name):
                gone = _remove_folder(path)
            else:
                continue
            if gone:
                removed.append(path)
    return removed


def _remove_folder(path: str) -> bool:
    if os.lstat(path).st_uid != os.geteuid():
        return False
    with _locked(os.path.join(path, _MARK)) as fd:
        if fd is None:
            return False
        shutil.rmtree(path, ignore_errors=True)
    return True


def _remove_file(path: str) -> bool:
    """Remove the file by which a server was found, if nobody makes one and it is gone."""
    with _locked(path) as fd:
        if fd is None:
            return False
        text = os.read(fd, 1 << 16)
        if text and os.path.exists(json.loads(text)["folder"]):
            return False
        os.unlink(path)
    return True


@contextlib.contextmanager
def _locked(path: str) -> Iterator[int | None]:
    """Give a descriptor of a file of ours with a lock on it, None if somebody has that."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        same = os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
        yield fd if same and os.fstat(fd).st_uid == os.geteuid() else None
    finally:
        os.close(fd)
