# SPDX-License-Identifier: BSD-3-Clause
"""One ssh connection that many commands share; it ends with the driver, and with its owner."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import subprocess
import tempfile
import threading
import time
import weakref
from typing import TYPE_CHECKING

from ssdag.errors import ProviderError
from ssdag.wire import guard
from ssdag.wire.process import spawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.wire.process import Process


class NotReachedError(ProviderError):
    """The host was not reached: nothing was run there."""


#: Bytes of a control socket's path, of which ssh needs 18 for itself.
_LONGEST_SOCKET_PATH = 85


class Connection:
    """An ssh connection that commands share. Threads may share it too.

    Parameters
    ----------
    host : str
        As ssh takes it.
    options : sequence of str
        Of ssh; they win over ours.
    connect_timeout_s : float
        So long a connection may take to come up.
    """

    def __init__(self, host: str, options: Sequence[str], connect_timeout_s: float) -> None:
        self.host = host
        self.limit_s = connect_timeout_s
        self._base = [
            "ssh", "-T", *options, "-oBatchMode=yes", f"-oConnectTimeout={connect_timeout_s:.0f}",
            "-oServerAliveInterval=10", "-oServerAliveCountMax=3", "-oClearAllForwardings=yes",
            "-oForwardX11=no", "-oForwardAgent=no", "-oLogLevel=ERROR", "-oEscapeChar=none",
            "-oRemoteCommand=none", "-oPermitLocalCommand=no",
        ]  # fmt: skip
        self._lock = threading.Lock()
        self._master: Process | None = None
        self._finalizer: weakref.finalize[[Process, str, int], Connection] | None = None
        self._pid = os.getpid()
        self._socket = ""

    def command(self, line: str) -> list[str]:
        """Return the argument list that runs a command line there, over what is open."""
        return [*self._base, "-oControlMaster=no", "-S", self._socket or "none", self.host, line]

    def forwarding(self, path: str, target: str, line: str) -> list[str]:
        """Return the argument list that runs a command line there, over a connection of its own.

        A socket there, `path`, then leads to a port or a socket of this machine.
        """
        # The first value of an option counts.
        forward = ("-oClearAllForwardings=no", "-R", f"{path}:{target}")
        head = [*self._base[:2], *forward, *self._base[2:]]
        return [*head, "-oControlMaster=no", "-S", "none", self.host, line]

    def open(self) -> str:
        """Connect, if that has not been done; returns why it is impossible, or nothing."""
        with self._lock:
            if self._pid != os.getpid():  # a fork: the connection is the parent's
                self._master, self._pid = None, os.getpid()
            if self._master is not None and self._master.poll() is None:
                return ""
            self._drop()
            return self._start()

    def close(self) -> None:
        """Disconnect; the next command connects again."""
        with self._lock:
            if self._pid == os.getpid():
                self._drop()

    def _drop(self) -> None:
        self._master, self._socket = None, ""
        if self._finalizer is not None:
            self._finalizer()
            self._finalizer = None

    def _start(self) -> str:
        folder = _private_folder()
        path = os.path.join(folder, "s")
        mark = secrets.token_hex(8)
        errors = os.memfd_create("ssdag-ssh")
        # Its remote end waits for the end of its input, which comes when we are gone.
        line = f"echo {mark}; exec cat"
        argv = [*self._base, "-M", "-oControlPersist=no", "-S", path, self.host, line]
        try:
            try:
                master = spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
            except OSError as error:
                guard.release_path(folder)
                shutil.rmtree(folder, ignore_errors=True)
                return f"ssh cannot be started: {error.strerror}"
            guard.session(master.pid)
            self._finalizer = weakref.finalize(self, _end, master, folder, self._pid)
            self._finalizer.atexit = False  # the guard sees to it
            if await_line(master, mark.encode(), self.limit_s + 5.0) is not None:
                self._master, self._socket = master, path
                return ""
            said = os.pread(errors, 4096, 0).decode(errors="replace").strip()
            self._drop()
            return said or f"no connection within {self.limit_s:g} s"
        finally:
            os.close(errors)


def _private_folder() -> str:
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _LONGEST_SOCKET_PATH - 24:
        parent = "/tmp"
    return guard.folder(parent, "ssdag-ssh-")


def _end(master: Process, folder: str, owner: int) -> None:
    if os.getpid() != owner:  # a fork: all is the parent's
        return
    for pipe in (master.stdin, master.stdout):
        if pipe is not None:
            pipe.close()
    master.kill_session()
    guard.release_session(master.pid)
    shutil.rmtree(folder, ignore_errors=True)
    guard.release_path(folder)


def await_line(process: Process, mark: bytes, limit_s: float) -> bytes | None:
    """Wait until the remote end has written a line with a mark; returns what follows the mark.

    None if it ends or takes too long. What its start-up files write before is dropped.
    """
    assert process.stdout is not None
    seen = b""
    poller = select.poll()
    poller.register(process.stdout, select.POLLIN)
    deadline = time.monotonic() + limit_s
    while True:
        _, found, rest = seen.partition(mark)
        if found and b"\n" in rest:
            return rest.partition(b"\n")[0]
        left_ms = (deadline - time.monotonic()) * 1000
        if left_ms <= 0 or not poller.poll(left_ms):
            return None
        part = os.read(process.stdout.fileno(), 4096)
        if not part:
            return None
        seen += part
