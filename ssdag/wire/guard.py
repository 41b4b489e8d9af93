# SPDX-License-Identifier: BSD-3-Clause
"""A guard process that cleans up after us, however we end.

Started by the first call: a bare interpreter (6 MB, asleep) that runs
:mod:`ssdag.wire.reaper` in its own session. It holds a pidfd of this process, so it
learns of any end at once, also of ``kill -9``, and also while a forked child still holds
our descriptors. Then it kills the sessions and removes the paths that were registered
and not released; at a normal exit too.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import threading

from ssdag.wire import reaper
from ssdag.wire.process import Process, spawn

_log = logging.getLogger("ssdag")

_NAME_TRIES = 20


class Guard:
    """The guard of this process; see the module's functions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._pipe = -1
        # All that is registered, for the case that the guard itself is killed.
        self._records: dict[bytes, bytes] = {}

    @property
    def pid(self) -> int | None:
        """Number of the guard process; None while there is none."""
        return None if self._process is None else self._process.pid

    def ensure(self) -> None:
        """Start the guard process if there is none."""
        if self._pipe < 0:
            with self._lock:
                if self._pipe < 0:
                    self._start()

    def add(self, key: bytes, record: bytes) -> None:
        """Register; `key` is what :meth:`remove` takes."""
        with self._lock:
            self._records[key] = record
            self._send(record)

    def remove(self, key: bytes) -> None:
        """Release; unknown keys are ignored."""
        with self._lock:
            if self._records.pop(key, None) is not None:
                self._send(key[:1].lower() + key[1:] + b"\0")

    def _send(self, record: bytes) -> None:
        if self._pipe >= 0:
            try:
                self._write(record)
                return
            except BrokenPipeError:
                _log.warning("the guard process was killed; starting another")
                self.drop()
        self._start()
        if self._pipe >= 0:
            try:
                self._write(b"".join(self._records.values()))
            except BrokenPipeError:
                self.drop()

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._pipe, data) :]

    def _start(self) -> None:
        python = sys.executable or shutil.which("python3")
        if not python:
            _log.warning("no Python interpreter found: nothing cleans up if we are killed")
            return
        reading, self._pipe = os.pipe2(os.O_CLOEXEC)
        driver = reaper.open_pidfd(os.getpid())
        argv = [python, "-I", "-S", reaper.__file__, str(reading), str(driver)]
        quiet = os.open(os.devnull, os.O_RDWR)
        try:
            # Our stdout and stderr are not for the guard: who reads them waits for their end.
            passed = [fd for fd in (reading, driver) if fd >= 0]
            self._process = spawn(argv, stdout=quiet, stderr=quiet, pass_fds=passed)
        except OSError as error:
            _log.warning("cannot start the guard process: %s", error)
            os.close(self._pipe)
            self._pipe = -1
        finally:
            for fd in (reading, driver, quiet):
                if fd >= 0:
                    os.close(fd)

    def drop(self) -> None:
        """Let go of the guard process without telling it anything."""
        if self._pipe >= 0:
            os.close(self._pipe)
        self._pipe = -1
        self._process = None


_guard = Guard()


def ensure() -> None:
    """Start the guard process if there is none.

    Called before a process is started, it makes the moment shorter in which that process
    is not registered yet: microseconds instead of the time that the guard takes to start.
    """
    _guard.ensure()


def session(pid: int, grace_s: float = 0.0, alone_s: float = 0.0) -> None:
    """Have all processes of session `pid` killed when this process ends.

    Parameters
    ----------
    pid : int
        A child of ours that leads a session (see :func:`ssdag.wire.process.spawn`) and
        was not reaped yet.
    grace_s : float
        More than 0: they get SIGTERM first, and so many seconds to end by themselves. For
        launchers that must tell other machines.
    alone_s : float
        With a grace: so many seconds before the SIGTERM, for those that end by themselves
        when this process does, since it held the other end of their input.
    """
    key = b"S%d" % pid
    _guard.add(key, b"%s %d %g %g\0" % (key, reaper.ticks_now(), grace_s, alone_s))


def release_session(pid: int) -> None:
    """Take back :func:`session`: call it once the session has ended."""
    _guard.remove(b"S%d" % pid)


def path(target: str | os.PathLike[str]) -> None:
    """Have a file or folder tree removed when this process ends.

    Raises
    ------
    ValueError
        The path is empty or the root folder.
    """
    key = _path_key(target)
    _guard.add(key, key + b"\0")


def release_path(target: str | os.PathLike[str]) -> None:
    """Take back :func:`path`; the file stays."""
    _guard.remove(_path_key(target))


def folder(parent: str, prefix: str) -> str:
    """Make a folder that nobody else may read, and have it removed when this process ends.

    The guard knows of it before it exists: there is no moment in which a killed driver
    would leave it behind. Take it back with :func:`release_path`.

    Raises
    ------
    OSError
        It cannot be made.
    """
    for _ in range(_NAME_TRIES):
        made = os.path.join(parent, prefix + secrets.token_hex(4))
        path(made)
        try:
            os.mkdir(made, 0o700)
        except FileExistsError:  # somebody else's
            release_path(made)
        except BaseException:
            release_path(made)
            raise
        else:
            return made
    raise FileExistsError(f"no free name for a folder in {parent}")


def pid() -> int | None:
    """Return the number of the guard process; None while none was needed."""
    return _guard.pid


def _path_key(target: str | os.PathLike[str]) -> bytes:
    name = os.path.abspath(os.fspath(target)) if os.fspath(target) else ""
    if name.strip("/") == "":
        raise ValueError(f"{os.fspath(target)!r} is not a path that may be removed")
    return b"P" + os.fsencode(name)


def _after_fork() -> None:
    # The child owns nothing of ours; if it starts things, it gets a guard of its own.
    global _guard
    _guard.drop()
    _guard = Guard()


os.register_at_fork(after_in_child=_after_fork)
