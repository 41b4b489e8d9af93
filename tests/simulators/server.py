# SPDX-License-Identifier: BSD-3-Clause
"""The process behind a simulated scheduler: takes requests, runs jobs, injects faults.

It ends, and kills everything that its jobs have started, when it is told to or when the
process that started it ends, however that happened.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import selectors
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

from tests.simulators.command import packed, unpacked
from tests.simulators.jobs import Cluster, Job, Stage, Timers

_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Request:
    """A command, as it was typed."""

    command: str
    argv: list[str]
    cwd: str
    env: dict[str, str]
    stdin: str | None = None


@dataclass
class Answer:
    """What a command prints and returns."""

    rc: int = 0
    out: str = ""
    err: str = ""
    wants_stdin: bool = False


class Dialect(Protocol):
    """What makes a simulated scheduler the one that it is."""

    HOST: str  # names of hosts, made of their number from 1
    COMMANDS: tuple[str, ...]

    def __init__(self, cluster: Cluster) -> None: ...

    def answer(self, request: Request) -> Answer:
        """Answer a command."""
        ...

    def down(self, request: Request) -> Answer:
        """Say what a command says while the scheduler cannot be reached."""
        ...


@dataclass
class Fault:
    """Something that goes wrong with a command."""

    command: str
    kind: str
    times: int
    seconds: float = 0.0
    answer: dict[str, Any] | None = None


class Server:
    """One simulated scheduler."""

    def __init__(self, kind: str, folder: str, nodes: int) -> None:
        dialect = importlib.import_module(f"tests.simulators.{kind}").Dialect
        self.timers = Timers()
        hosts = [dialect.HOST.format(number + 1) for number in range(nodes)]
        self.cluster = Cluster(folder, hosts, 4, self.timers)
        self.dialect: Dialect = dialect(self.cluster)
        self.faults: list[Fault] = []
        self.selector = selectors.DefaultSelector()
        self.running = True
        self.orphan = False  # nobody else will remove our folder
        self.waiting: dict[socket.socket, Request] = {}  # no answer until all is healed

    # -- the loop --------------------------------------------------------------------

    def serve(self, parent: int) -> None:
        """Answer until told to stop, or until the parent ends."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("socket")
        listener.listen(64)
        self.selector.register(listener, selectors.EVENT_READ, "connect")
        children = self._child_signals()
        self.selector.register(os.pidfd_open(parent), selectors.EVENT_READ, "parent")
        os.write(1, f"{os.getpid()}\n".encode())
        os.close(1)
        while self.running:
            for key, _ in self.selector.select(self.timers.wait_s()):
                if key.data == "connect":
                    connection, _ = listener.accept()
                    self.selector.register(connection, selectors.EVENT_READ, bytearray())
                elif key.data == "child":
                    children.recv(4096)
                    self.cluster.reap()
                elif key.data == "parent":
                    self.running, self.orphan = False, True
                else:
                    self._read(key)
            self.timers.run()
        self.cluster.kill_all()
        if self.orphan:
            shutil.rmtree(self.cluster.folder, ignore_errors=True)

    @staticmethod
    def _no_op(number: int, frame: object) -> None:
        pass

    def _child_signals(self) -> socket.socket:
        reading, writing = socket.socketpair()
        for end in (reading, writing):
            end.setblocking(False)
        self._writing = writing
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, self._no_op)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
        self.selector.register(reading, selectors.EVENT_READ, "child")
        return reading

    def _read(self, key: selectors.SelectorKey) -> None:
        connection = key.fileobj
        assert isinstance(connection, socket.socket)
        try:
            data = connection.recv(1 << 20)
        except ConnectionError:
            data = b""
        key.data.extend(data)
        request = unpacked(key.data)
        if data and request is None:
            return
        self.selector.unregister(connection)
        self.waiting.pop(connection, None)
        if not data or request is None:
            connection.close()
            return
        if "control" in request:
            self._send(connection, self._control(**request))
        else:
            self._answer(connection, Request(**request))

    def _send(self, connection: socket.socket, answer: dict[str, Any]) -> None:
        try:
            connection.setblocking(True)
            connection.sendall(packed(answer))
        except OSError:
            pass  # whoever asked has gone
        connection.close()

    # -- commands and faults ---------------------------------------------------------

    def _fault(self, command: str) -> Fault | None:
        for fault in self.faults:
            if fault.command in ("*", command) and fault.times:
                fault.times -= 1
                return fault
        return None

    def _answer(self, connection: socket.socket, request: Request) -> None:
        fault = self._fault(request.command)
        kind = fault.kind if fault else ""
        if kind == "hang":
            self.waiting[connection] = request
            self.selector.register(connection, selectors.EVENT_READ, bytearray())
            return
        if kind == "down":
            answer = self.dialect.down(request)
        elif kind == "empty":
            answer = Answer()
        elif kind == "answer":
            assert fault is not None
            answer = Answer(**(fault.answer or {}))
        else:
            answer = self.dialect.answer(request)
        if kind == "garbled":
            answer.out = answer.out[: len(answer.out) // 2] + "\x00\x1b[31m{{<"
        if kind == "slow":
            assert fault is not None
            self.timers.add(fault.seconds, lambda: self._send(connection, vars(answer)))
        else:
            self._send(connection, vars(answer))

    # -- what tests do to the scheduler ----------------------------------------------

    def _jobs(self, number: int, index: int | None) -> list[Job]:
        return [j for j in self.cluster.tasks(number) if index is None or j.index == index]

    def _control(
        self, control: str, number: int = 0, index: int | None = None, host: str = "", **more: Any
    ) -> dict[str, Any]:
        cluster = self.cluster
        jobs = self._jobs(number, index)
        if control == "stop":
            self.running = False
        elif control == "fault":
            self.faults.append(Fault(**more))
        elif control == "heal":
            self.faults.clear()
            while self.waiting:
                connection, request = self.waiting.popitem()
                self.selector.unregister(connection)
                self._answer(connection, request)
        elif control in ("hold", "release", "requeue", "cancel"):
            for job in jobs:
                getattr(cluster, control)(job)
        elif control == "lose":
            cluster.lose(host)
        elif control == "restore":
            cluster.down.discard(host)
            cluster.schedule()
        elif control == "freeze":
            cluster.frozen = more["on"]
            cluster.schedule()
        elif control == "forget":  # as after the end of the history's time
            for job in jobs:
                del cluster.jobs[job.key]
        elif control == "show":  # the scheduler calls the job's state so, whatever it is
            for job in jobs:
                job.facts["shown"] = more["state"]
        elif control == "look":
            jobs = jobs if number else list(cluster.jobs.values())
        elif control == "set":
            owner = cluster if hasattr(cluster, more["name"]) else self.dialect
            if not hasattr(owner, more["name"]):
                return {"error": f"nothing called {more['name']} can be set"}
            setattr(owner, more["name"], more["value"])
        else:
            return {"error": f"no control called {control}"}
        return {"jobs": [_described(job) for job in jobs]}


def _described(job: Job) -> dict[str, Any]:
    return {
        "stage": job.stage.name,
        "how": job.how,
        "runs": job.runs,
        "number": job.number,
        "index": job.index,
        "exit_code": job.exit_code,
        "signal": job.signal,
        "hosts": list(job.hosts),
        "pid": job.pid if job.stage is not Stage.ENDED else 0,
    }


def main() -> None:
    """Run with the arguments KIND, FOLDER, PARENT and NODES."""
    if os.fork():  # a scheduler is nobody's child
        os._exit(0)
    kind, folder, parent, nodes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    # Orphans of jobs fall to us, whatever sessions they have made.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.makedirs(f"{folder}/spool", exist_ok=True)
    os.chdir(folder)
    time.tzset()
    Server(kind, folder, nodes).serve(parent)
