# SPDX-License-Identifier: BSD-3-Clause
"""The keeper: a small process on a node of an allocation that keeps servers there.

``python -m ssdag.services.keepers.keeper`` is started by a launcher, and driven by lines of JSON:
orders on stdin, reports on stdout. What is secret (passwords) comes that way too, never as
an argument or a variable.

Orders, each for the keeper whose rank is in ``to``, or for all if there is none:

========  ===================================  ==========================================
``do``    with                                 report
========  ===================================  ==========================================
(none)                                         ``hello``: facts about the node
look      paths: {path: sha256}                ``looked``: paths that are not seen here
start     id, request, cpus, folder            ``started`` with facts, or ``failed``
end       id, grace_s                          ``ended``, as if it had ended by itself
log       id                                   ``log``, ``text``: the last lines
tell      id, seq, words, timeout_s            ``told`` with the same seq: text, refused, lost
clear     id                                   ``cleared``: its files are removed
follow    pid, lifeline, leaves                (``failed``) lives with a process, see below
ping                                           ``pong``
========  ===================================  ==========================================

Reports carry the keeper's rank as ``from``; ``ended`` has ``code`` and ``text``, the last
lines of the log. When stdin ends, because the driver or the launcher is gone, so do the
servers, and their folders go, then the keeper; servers that outlive their driver keep it.
One that follows a process, and a service by its lifeline, ends when one of these two does,
and not with stdin; it removes the file ``leaves``.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # as a file, where ssdag need not be installed
    from importlib import import_module

    _ROOT = os.path.dirname(os.path.abspath(__file__)).rsplit(os.sep, 3)[0]
    sys.path.insert(0, _ROOT)
    import_module("ssdag")
    sys.path.remove(_ROOT)  # what else lies there must not come before the standard library
    sys.exit(import_module("ssdag.services.keepers.keeper").main())

import contextlib
import hashlib
import json
import queue
import select
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

from ssdag.client.transport.address import Address
from ssdag.errors import ServiceStartError, SsdagError
from ssdag.launchers.world import RANK_VARIABLES
from ssdag.services.colocation.beside import bind, make_folder, prepared
from ssdag.services.keepers import leftovers
from ssdag.services.keepers.kept import Kept
from ssdag.services.keepers.lifeline import hold_on
from ssdag.services.servers.admin import ask
from ssdag.services.servers.node_facts import addresses_here, machine, node_name
from ssdag.services.servers.places import LocalPlace, ServerRequest
from ssdag.wire import guard, reaper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Servers get so long to end in order when the driver is gone.
_GRACE_S = 3.0
#: What ends the keeper, among lines.
_OVER = b"\0"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Keeper:
    """Serves orders until its input ends.

    Parameters
    ----------
    reading, writing : int
        Descriptors of orders and reports.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        rank = next((os.environ[n] for n in RANK_VARIABLES if os.environ.get(n)), "0")
        self.rank = int(rank) if rank.isdigit() else 0
        self._place = LocalPlace()
        self._kept: dict[str, Kept] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._saying = threading.Lock()
        self._heard = True
        self._follows = False
        self._leaves = ""
        self._orders: dict[str, Callable[[dict[str, Any]], None]] = {
            "look": self._look,
            "start": self._start,
            "end": self._end,
            "log": self._log,
            "tell": self._tell,
            "clear": self._clear,
            "follow": self._follow,
            "ping": lambda _: self.say(pong=True),
        }

    def run(self) -> None:
        """Serve; returns when nothing is left."""
        threading.Thread(target=self._read, name="ssdag-keeper-read", daemon=True).start()
        self.say(hello={
            "host": socket.gethostname(), "node": node_name(), "machine": machine(),
            "pid": os.getpid(), "cpus": sorted(os.sched_getaffinity(0)),
            "addresses": addresses_here(),
        })  # fmt: skip
        leftovers.sweep()
        try:
            while (line := self._lines.get()) != _OVER:
                if line is not None:
                    self._obey(line)
                elif not self._follows:
                    break
            self._heard = False
            self._end_all([kept for kept in self._kept.values() if not kept.request.outlives])
            for name in list(self._kept):
                self._threads[name].join()
        finally:
            for signum in _SIGNALS:
                signal.signal(signum, signal.SIG_IGN)
            self._end_all(list(self._kept.values()))
            if self._leaves:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._leaves)

    def stop(self, signum: int, frame: object) -> None:
        """End with all servers; a handler of signals."""
        sys.exit(128 + signum)

    def say(self, **report: Any) -> None:
        """Report; nobody may listen any more."""
        if not self._heard:  # a launcher would fail at it, and take the others along
            return
        data = json.dumps({"from": self.rank, **report}).encode() + b"\n"
        with self._saying, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while data:
                data = data[os.write(self._writing, data) :]

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                data = os.read(self._reading, 1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                self._lines.put(None)
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._lines.put(line)

    def _obey(self, line: bytes) -> None:
        order = json.loads(line)
        if order.get("to", self.rank) == self.rank:
            self._orders[order["do"]](order)

    def _end_all(self, those: Iterable[Kept]) -> None:
        kept_by_name = {name: kept for name, kept in self._kept.items() if kept in those}
        for kept in kept_by_name.values():
            kept.terminate()
        for name, kept in kept_by_name.items():
            grace_s = max(_GRACE_S, kept.request.grace_s)  # those that store data need more
            kept.end(grace_s)
            self._threads[name].join(kept.request.start_timeout_s + grace_s)
            kept.clear()
            self._kept.pop(name, None)

    def _follow(self, order: dict[str, Any]) -> None:
        """Live as long as a process here and a service elsewhere."""
        self._follows = True
        try:
            about = {"node": node_name(), "pid": os.getpid()}
            line = hold_on(order["lifeline"], about)
        except OSError as error:
            there = "{host}:{port}".format(**order["lifeline"])
            advice = "give the orchestrator a network that nodes and driver share by interface="
            text = f"the driver cannot be reached at {there} ({error}): {advice}"
            self.say(failed="", error=text)
            self._lines.put(_OVER)
            return
        self._leaves = order["leaves"]
        guard.path(self._leaves)

        def watch() -> None:
            poller = select.poll()
            poller.register(line, select.POLLIN)
            fd = reaper.open_pidfd(order["pid"])
            if fd >= 0:
                poller.register(fd, select.POLLIN)
            # Without such a descriptor, on old kernels or as it is gone: look now and then.
            pause_ms = None if fd >= 0 else 1000
            while not poller.poll(pause_ms) and reaper.is_live(order["pid"]):
                pass
            self._lines.put(_OVER)

        threading.Thread(target=watch, name="ssdag-keeper-follow", daemon=True).start()

    def _is_left(self, folder: str | None) -> bool:
        """Return whether a folder was made by a keeper that is gone; ours are in use."""
        if folder is None:
            return False
        known = [k.folder or (k.server and k.server.folder) for k in self._kept.values()]
        return leftovers.is_ours(folder) and folder not in known

    # -- orders ----------------------------------------------------------------------

    def _look(self, order: dict[str, Any]) -> None:
        paths = order["paths"].items()
        self.say(looked=[path for path, digest in paths if _digest(path) != digest])

    def _start(self, order: dict[str, Any]) -> None:
        name = order["id"]
        kept = self._kept[name] = Kept(ServerRequest.from_plain(order["request"]))
        thread = threading.Thread(
            target=self._keep, args=(name, kept, order), name=f"ssdag-keep-{name}", daemon=True
        )
        self._threads[name] = thread
        thread.start()

    def _keep(self, name: str, kept: Kept, order: dict[str, Any]) -> None:
        """Start a server and report its end; in a thread of its own."""
        try:
            request = kept.request
            if order.get("folder"):
                kept.folder = make_folder(order["folder"])
                request = prepared(request, kept.folder)
            elif self._is_left(request.folder):
                # That of a server before it, which is gone with the keeper before us.
                assert request.folder is not None
                kept.folder = request.folder
                guard.path(request.folder)
                os.makedirs(request.folder, 0o700, exist_ok=True)
                request = prepared(request, request.folder)
            bind(order.get("cpus"))
            server = self._place.start(request)
        except (SsdagError, OSError, ValueError) as error:
            kept.clear()
            self._kept.pop(name, None)
            tail, code = "", None
            if isinstance(error, ServiceStartError):
                tail, code = error.log_tail, error.exit_code
            self.say(failed=name, error=str(error), text=tail, code=code)
            return
        kept.server = server
        if not request.outlives and leftovers.is_ours(server.folder):
            with contextlib.suppress(OSError):
                kept.mark = leftovers.mark(server.folder)
        if kept.unwanted:
            server.end(0.0)
        self.say(started=name, pid=server.pid, host=server.host, port=server.port,
                 socket=server.socket, folder=server.folder)  # fmt: skip
        code = server.wait()
        server.end(0.0)  # what it may have started
        self.say(ended=name, code=code, text=server.log_tail())

    def _end(self, order: dict[str, Any]) -> None:
        kept = self._kept.get(order["id"])
        if kept is not None:
            threading.Thread(
                target=kept.end, args=(order["grace_s"],), name="ssdag-keeper-end", daemon=True
            ).start()

    def _log(self, order: dict[str, Any]) -> None:
        kept = self._kept.get(order["id"])
        server = None if kept is None else kept.server
        self.say(log=order["id"], text="" if server is None else server.log_tail())

    def _tell(self, order: dict[str, Any]) -> None:
        threading.Thread(
            target=self._ask, args=(order,), name="ssdag-keeper-ask", daemon=True
        ).start()

    def _ask(self, order: dict[str, Any]) -> None:
        """Send a server a command and report its answer; in a thread of its own."""
        kept = self._kept.get(order["id"])
        text = refused = ""
        lost = "it has ended"
        if kept is not None and kept.server is not None:
            where = Address.parse(kept.server.address_here)
            line = [word.encode() for word in order["words"]]
            (answer,) = ask([where], [line], kept.request.login, order["timeout_s"])
            lost = str(answer) if isinstance(answer, SsdagError) else ""
            reply = answer[0] if isinstance(answer, list) else b""
            if isinstance(reply, Exception):
                refused = str(reply)
            elif isinstance(reply, bytes):
                text = reply.decode("utf-8", "replace")
            else:
                text = str(reply)
        self.say(told=order["id"], seq=order["seq"], text=text, refused=refused, lost=lost)

    def _clear(self, order: dict[str, Any]) -> None:
        kept = self._kept.pop(order["id"], None)
        if kept is not None:
            kept.clear()
        self.say(cleared=order["id"])


def _digest(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


def main() -> int:
    """Keep servers as stdin says; returns the exit code."""
    keeper = Keeper(0, 1)
    for signum in _SIGNALS:
        signal.signal(signum, keeper.stop)
    keeper.run()
    return 0
