# SPDX-License-Identifier: BSD-3-Clause
"""Waiting for a name to appear in a folder: the kernel tells, nothing is polled.

See inotify(7). A user has 128 instances on many systems; whoever gets none falls back on
looking again with growing pauses, and so do file systems where other machines write,
which the kernel does not hear of.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import struct
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

_MOVED_TO, _CREATE = 0x80, 0x100
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_UNMOUNT, _OVERFLOW, _IGNORED = 0x2000, 0x4000, 0x8000
_ONLY_FOLDERS = 0x0100_0000
_MASK = _MOVED_TO | _CREATE | _DELETE_SELF | _MOVE_SELF | _ONLY_FOLDERS
_GONE = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _IGNORED

_EVENT = struct.Struct("iIII")


#: Instances kept for the next who wait: the kernel takes milliseconds to end one.
_KEEP = 4

_idle: list[int] = []


class FolderWatch:
    """Tells of names that appear in one folder, from its making on.

    Parameters
    ----------
    folder : str
        The folder.

    Raises
    ------
    OSError
        The folder is not there, or the system has no watch to give.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        libc = _libc()
        try:
            self._fd = _idle.pop()
        except IndexError:
            self._fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
            if self._fd < 0:
                raise _failure("no inotify instance is left") from None
        self._watch = libc.inotify_add_watch(self._fd, os.fsencode(folder), _MASK)
        if self._watch < 0:
            error = _failure(f"cannot watch {folder}")
            self._give_back()
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _libc().inotify_rm_watch(self._fd, self._watch)
        self._give_back()

    def _give_back(self) -> None:
        if len(_idle) < _KEEP:
            _idle.append(self._fd)  # what it still tells is of watches with other numbers
        else:
            os.close(self._fd)

    def wait(self, name: str, timeout_s: float) -> bool:
        """Block until something appears under `name`, or the time is over.

        Returns
        -------
        bool
            False if nothing was heard of it; True if it is worth a look.

        Raises
        ------
        FileNotFoundError
            The folder was removed or moved away.
        """
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            return False
        data = os.read(self._fd, 1 << 16)
        wanted, heard, at = os.fsencode(name), False, 0
        while at < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            if mask & _OVERFLOW:
                heard = True
            elif watch == self._watch:
                if mask & _GONE:
                    raise FileNotFoundError(2, "the folder is gone", self._folder)
                heard = heard or data[at : at + length].rstrip(b"\0") == wanted
            at += length
        return heard


def _after_fork() -> None:
    # The instances are the parent's, which would miss what we read.
    for fd in _idle:
        os.close(fd)
    _idle.clear()


os.register_at_fork(after_in_child=_after_fork)


def _failure(what: str) -> OSError:
    import ctypes

    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


@functools.cache
def _libc() -> Any:
    try:
        import ctypes
    except ImportError as error:  # a Python built without it
        raise OSError(f"no inotify without ctypes: {error}") from error
    return ctypes.CDLL(None, use_errno=True)


#: What :func:`wait_for_name` sleeps first, and at most, where nothing tells.
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.25
#: Also where the kernel tells there is a look so often.
_LOOK_S = 1.0


def wait_for_name(
    folder: str, name: str, look: Callable[[], bool], end_s: float | None, *, told: bool
) -> bool:
    """Block until `look` returns True.

    Parameters
    ----------
    folder, name : str
        What appears where, if it becomes True.
    look : callable
        Says whether it is there. It may raise.
    end_s : float or None
        When to give up, as ``time.monotonic()`` counts; None for never.
    told : bool
        Whether the kernel hears of all writers, so that it can be asked to tell.

    Returns
    -------
    bool
        False if the time is over.
    """
    with contextlib.ExitStack() as stack:
        watch = None
        if told:
            # The system may have no more of them; if the folder is gone, `look` says so.
            with contextlib.suppress(OSError):
                watch = stack.enter_context(FolderWatch(folder))
        pause_s = _FIRST_PAUSE_S if watch is None else _LOOK_S
        while not look():
            now_s = time.monotonic()
            until_s = now_s + pause_s if end_s is None else min(now_s + pause_s, end_s)
            if until_s <= now_s:
                return False
            if watch is None:
                time.sleep(until_s - now_s)
                pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
                continue
            while until_s > now_s and not watch.wait(name, until_s - now_s):
                now_s = time.monotonic()
        return True
