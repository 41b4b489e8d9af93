# SPDX-License-Identifier: BSD-3-Clause
"""The one place that starts processes, and the way to end them wholly.

Every process gets its own session, so that it and all its descendants can be found and
killed together (also those that changed their process group), and Ctrl-C on the
terminal reaches the driver only. ``subprocess`` starts them by vfork: the cost does not
grow with the memory of the driver, as long as nobody uses ``preexec_fn``.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import threading
import time
from typing import IO, TYPE_CHECKING

from ssdag.wire import reaper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_log = logging.getLogger("ssdag")

#: Reported where somebody else has reaped the process, so that nobody knows its exit code.
UNKNOWN_EXIT_CODE = 255

_owned = False


def mark_owned() -> None:
    """Say that another process owns this one and will kill its whole session.

    A worker calls this once as it starts; commands that it runs then stay in its session.
    """
    global _owned
    _owned = True


def is_owned() -> bool:
    """Return True if :func:`mark_owned` was called in this process."""
    return _owned


class Process:
    """A child process.

    Threads may share it. It can be registered with a selector: it is readable once the
    process has ended; unregister it before asking for the exit code, which closes the
    descriptor.

    Attributes
    ----------
    pid : int
        Its number; also the number of its session (or process group).
    own_session : bool
        Whether it leads a session, or only a process group in ours.
    stdin, stdout, stderr : binary file or None
        Our ends, where ``subprocess.PIPE`` was asked for; the caller closes them.
    """

    __slots__ = (
        "__weakref__",
        "_exit_code",
        "_fd",
        "_lock",
        "_reaped_ticks",
        "_waiting",
        "own_session",
        "pid",
        "stderr",
        "stdin",
        "stdout",
    )

    def __init__(self, popen: subprocess.Popen[bytes], own_session: bool) -> None:
        self.pid = popen.pid
        self.own_session = own_session
        self.stdin: IO[bytes] | None = popen.stdin
        self.stdout: IO[bytes] | None = popen.stdout
        self.stderr: IO[bytes] | None = popen.stderr
        popen.returncode = 0  # from here on we reap it, and Popen must not
        self._lock = threading.Lock()
        self._exit_code: int | None = None
        self._reaped_ticks = 0
        self._waiting = 0
        self._fd = reaper.open_pidfd(self.pid)
        if self._fd < 0:
            self._fd = _watch_by_thread(self.pid)

    def __repr__(self) -> str:
        end = "running" if self._exit_code is None else f"exit code {self._exit_code}"
        return f"<Process {self.pid} {end}>"

    def __del__(self) -> None:
        # No lock: nobody else has it any more, and after a fork the lock may be taken.
        if getattr(self, "_fd", -1) >= 0:
            self._waiting = 0
            self._reap()  # a process that has ended leaves no zombie
            self._close()

    def fileno(self) -> int:
        """Return a descriptor that is readable once the process has ended.

        Raises
        ------
        ValueError
            The exit code has been fetched and the descriptor is closed (selectors know
            how to unregister by identity then).
        """
        if self._exit_code is not None:
            raise ValueError("the process has ended and its descriptor is closed")
        return self._fd

    def poll(self) -> int | None:
        """Return the exit code (negative: minus the signal number), None while it runs."""
        if self._exit_code is None:
            with self._lock:
                self._reap()
        return self._exit_code

    def _reap(self) -> None:
        if self._exit_code is not None:
            return
        try:
            info = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG)
        except ChildProcessError:  # SIGCHLD is ignored, or somebody waits for any child
            code = UNKNOWN_EXIT_CODE
        else:
            if info is None:  # it runs
                return
            code = info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
        self._reaped_ticks = reaper.ticks_now()
        self._exit_code = code
        if not self._waiting:
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def wait(self, timeout: float | None = None) -> int:
        """Block until it ends and return the exit code.

        Raises
        ------
        TimeoutError
            It still runs after `timeout` seconds.
        """
        fd = self.hold()
        try:
            if fd >= 0:
                _wait_readable(fd, timeout)
        finally:
            self.let_go()
        if (code := self.poll()) is None:
            raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
        return code

    def hold(self) -> int:
        """Return the descriptor of :meth:`fileno`, and keep it open; -1 if it is closed.

        For a thread that waits by other means than :meth:`wait` while another one may
        fetch the exit code; call :meth:`let_go` afterwards, in any case.
        """
        with self._lock:
            self._waiting += 1
            return self._fd

    def let_go(self) -> None:
        """End what :meth:`hold` began."""
        with self._lock:
            self._waiting -= 1
            if self._exit_code is not None and not self._waiting:
                self._close()

    def send_signal(self, signum: int) -> None:
        """Signal this process alone; nothing happens if it has ended."""
        with self._lock:  # not reaped, so the number is still its own
            if self._exit_code is None:
                os.kill(self.pid, signum)

    def terminate(self) -> None:
        """Send SIGTERM to this process alone."""
        self.send_signal(signal.SIGTERM)

    def terminate_session(self, grace_s: float) -> None:
        """Send SIGTERM to all its processes, and SIGKILL to those left after `grace_s`."""
        members = self._members()
        if self._is_ours(members):
            reaper.end([members], signal.SIGTERM, grace_s)
        self.kill_session()

    def kill_session(self) -> None:
        """Kill every process of its session, then fetch the exit code.

        Works when the process itself has ended, for what it left behind. One that was
        started with ``own_session=False`` has its process group and its descendants
        killed instead.
        """
        members = self._members()
        if self._is_ours(members) and not reaper.end(
            [members], signal.SIGKILL, reaper.KILL_PATIENCE_S
        ):
            _log.warning("processes that %d started cannot be killed", self.pid)
        try:
            self.wait(0.5)  # it is a zombie by now
        except TimeoutError:
            _log.warning("process %d cannot be killed", self.pid)

    def _members(self) -> reaper.Session | reaper.Group:
        if self.own_session:
            return reaper.Session(self.pid)
        return reaper.Group(self.pid, tree=self._exit_code is None)

    def _is_ours(self, members: reaper.Session | reaper.Group) -> bool:
        """Return False if it has ended wholly and its number may be another's by now."""
        return self._exit_code is None or reaper.is_older(members.find(), self._reaped_ticks)


def _wait_readable(fd: int, timeout: float | None) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if timeout is None:
        poller.poll()
        return
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        if poller.poll(min(int(left * 1000) + 1, 1 << 30)):
            return


def _watch_by_thread(pid: int) -> int:
    """Stand in for pidfd_open on kernels before 5.3: a pipe that a thread closes at the end."""
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def watch() -> None:
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass
        finally:
            os.close(writing)

    threading.Thread(target=watch, name=f"ssdag-wait-{pid}", daemon=True).start()
    return reading


def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
    own_session: bool = True,
) -> Process:
    """Start a program; returns once it executes.

    Parameters
    ----------
    argv : sequence of str
        Program and arguments, no shell. A program without a slash is looked up in PATH.
    env : mapping, optional
        The whole environment; by default ours.
    cwd : path, optional
        Working folder; by default ours.
    stdin, stdout, stderr : int or file, optional
        As ``subprocess.Popen`` takes them. By default stdin is ``/dev/null`` and the
        others are ours.
    pass_fds : sequence of int
        Descriptors that stay open in the child; all others are closed.
    own_session : bool
        False: lead a process group inside our own session, for the command of a worker,
        so that the end of the worker's session ends the command too.

    Raises
    ------
    OSError
        The program or the folder does not exist or cannot be executed.
    """
    popen = subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=stdout,
        stderr=stderr,
        bufsize=0,
        pass_fds=pass_fds,
        start_new_session=own_session,
        process_group=None if own_session else 0,
    )
    return Process(popen, own_session)
