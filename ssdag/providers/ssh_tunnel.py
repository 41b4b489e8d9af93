# SPDX-License-Identifier: BSD-3-Clause
"""A way for nodes behind a login host to a port of this machine, which they cannot reach.

ssh ties a socket on that host to our port, and a small program there (:mod:`gateway`) passes
on to it what comes from the nodes. Nothing listens here but on loopback. A connection that is
lost is made again, with the same port there if that can be had.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import secrets
import select
import signal
import subprocess
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ssdag.errors import BlockError, ProviderError
from ssdag.providers import gateway
from ssdag.providers.ssh_connection import NotReachedError, await_line
from ssdag.providers.ssh_texts import join
from ssdag.wire import guard
from ssdag.wire.process import spawn

if TYPE_CHECKING:
    from ssdag.providers.ssh_connection import Connection
    from ssdag.wire.process import Process

_log = logging.getLogger("ssdag")

_BOOTSTRAP = (
    "import sys,zlib,base64;"
    "exec(zlib.decompress(base64.b64decode(sys.argv.pop(1))),{'__name__':'__main__'})"
)
#: Shell text: $0 the socket, which sshd leaves behind, then a command.
_THEN_REMOVE = 'trap "" HUP; "$@"; c=$?; rm -f -- "$0"; exit "$c"'
_LONGEST_PAUSE_S = 10.0
_NOT_REACHED = 255
#: Of the time that both sides may be silent, how long passes between two beats.
_BEATS = 4


class Entry(NamedTuple):
    """Where nodes connect.

    Attributes
    ----------
    host : str
        The login host, as it calls itself.
    port : int
    addresses : list of str
        Of that host, the likeliest first.
    """

    host: str
    port: int
    addresses: list[str]


class Tunnel:
    """A port of this machine, for nodes that reach only the host that ssh reaches.

    Parameters
    ----------
    connection : Connection
        Says how ssh gets there; the tunnel has a connection of its own.
    python : str
        An interpreter there, 3.7 or later.
    """

    def __init__(self, connection: Connection, python: str) -> None:
        self._connection = connection
        self._python = python
        self._target = ""
        self._silence_s = 10.0
        self._entry: Entry | None = None
        self._process: Process | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._is_open = threading.Event()
        self._wake: tuple[int, int] = (-1, -1)

    def __repr__(self) -> str:
        return f"<Tunnel by {self._connection.host}: {self._entry or 'not open'}>"

    @property
    def entry(self) -> Entry | None:
        """Where nodes connect, now or when it is open again; None before :meth:`open`."""
        return self._entry

    def reopened(self, timeout_s: float) -> Entry | None:
        """Return where nodes connect; blocks while it is being opened again."""
        self._is_open.wait(timeout_s)
        return self._entry

    def open(self, target: str, silence_s: float) -> Entry:
        """Open it, and keep it open until :meth:`close`; blocks until nodes can connect.

        Parameters
        ----------
        target : str
            A port of this machine as ``host:port``, or the path of a socket.
        silence_s : float
            A connection that is silent for so long is lost, on both sides.

        Raises
        ------
        NotReachedError
            The host is not reached now.
        BlockError
            It lets nobody through, or has no such interpreter.
        """
        self._target, self._silence_s = target, silence_s
        entry = self._connect()
        with self._lock:
            if self._closed:
                self._drop()
                raise NotReachedError("the tunnel was closed")
            self._wake = os.pipe2(os.O_CLOEXEC)
            self._thread = threading.Thread(
                target=self._keep, name=f"ssdag-tunnel-{self._connection.host}", daemon=True
            )
            self._thread.start()
        return entry

    def close(self) -> None:
        """Close it for good, also while it is being opened; blocks for a moment."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            process = self._process
        if thread is not None:
            os.write(self._wake[1], b"x")
        if process is not None:
            process.send_signal(signal.SIGKILL)  # who waits for it to connect goes on
        if thread is None:
            return
        thread.join()
        for fd in self._wake:
            os.close(fd)
        self._entry = None

    def _connect(self) -> Entry:
        host = self._connection.host
        path = f"/tmp/ssdag-{secrets.token_hex(8)}.sock"
        mark = f"ssdag-{secrets.token_hex(8)} "
        again = 0 if self._entry is None else self._entry.port
        source = Path(gateway.__file__).read_bytes()
        program = [self._python, "-c", _BOOTSTRAP, base64.b64encode(zlib.compress(source)).decode()]
        program += [path, str(again), f"{self._silence_s:g}", mark]
        line = "exec " + join(["/bin/sh", "-c", _THEN_REMOVE, path, *program])
        errors = os.memfd_create("ssdag-tunnel")
        try:
            argv = self._connection.forwarding(path, self._target, line)
            try:
                process = spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
            except OSError as error:
                raise NotReachedError(f"ssh cannot be started: {error.strerror}") from error
            self._process = process
            guard.session(process.pid)
            if self._closed:  # before it could be killed by who closed it
                self._drop()
                raise NotReachedError("the tunnel was closed")
            found = await_line(process, mark.encode(), self._connection.limit_s)
            if found is None:
                away = _was_away(process)
                self._drop()
                said = os.pread(errors, 4096, 0).decode(errors="replace").strip()
                said = said or f"no answer within {self._connection.limit_s:g} s"
                raise (NotReachedError if away else BlockError)(f"no tunnel by {host}: {said}")
        finally:
            os.close(errors)
        try:
            self._entry = Entry(**json.loads(found))
        except (ValueError, TypeError) as error:
            self._drop()
            raise BlockError(f"no tunnel by {host}: its answer is {found!r}") from error
        self._is_open.set()
        return self._entry

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.kill_session()
        guard.release_session(process.pid)

    def _keep(self) -> None:
        """Beat, and connect again when the connection is lost; a thread of its own."""
        host = self._connection.host
        while True:
            why = self._beat()
            self._is_open.clear()
            self._drop()
            if why is None or self._closed:
                return
            _log.warning("the tunnel by %s was lost (%s); opening it again", host, why)
            pause_s = 0.2
            while True:
                try:
                    self._connect()
                    break
                except (ProviderError, OSError) as error:
                    _log.info("%s", error)
                if self._closes_within(pause_s):
                    return
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            _log.warning("the tunnel by %s is open again", host)

    def _closes_within(self, seconds: float) -> bool:
        return bool(select.select([self._wake[0]], [], [], seconds)[0])

    def _beat(self) -> str | None:
        """Beat while the other side does; returns why it does not, or None to close."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        poller = select.poll()
        poller.register(self._wake[0], select.POLLIN)
        poller.register(process.stdout, select.POLLIN)
        heard = time.monotonic()
        due = heard
        while True:
            now = time.monotonic()
            if now - heard > self._silence_s:
                return f"silent for {self._silence_s:g} s"
            if now >= due:
                due = now + self._silence_s / _BEATS
                try:
                    os.write(process.stdin.fileno(), b"\n")
                except OSError as error:
                    return str(error.strerror)
            ready = {fd for fd, _ in poller.poll((due - now) * 1000)}
            if self._wake[0] in ready:
                return None
            if ready:
                if not os.read(process.stdout.fileno(), 4096):
                    return "the connection was closed"
                heard = time.monotonic()


def _was_away(process: Process) -> bool:
    """Say whether ssh did not reach the host, rather than a program there failed."""
    try:
        return process.wait(1.0) == _NOT_REACHED
    except TimeoutError:
        return True
