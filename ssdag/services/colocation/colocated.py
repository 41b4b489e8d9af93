# SPDX-License-Identifier: BSD-3-Clause
"""The colocated orchestrator: a server on each node, for the tasks of that node."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError, SsdagError, StoreError, UnsupportedError
from ssdag.services.colocation.client import ColocatedReference
from ssdag.services.colocation.node_server import NodeServer
from ssdag.services.colocation.onward import recipe
from ssdag.services.keepers.lifeline import Lifeline
from ssdag.services.keepers.node_place import NodePlace
from ssdag.services.keepers.on_nodes import find_places
from ssdag.services.orchestrator import Orchestrator
from ssdag.services.servers.folder import interface_address
from ssdag.services.servers.network import LOOPBACK
from ssdag.services.servers.node_facts import node_name
from ssdag.services.servers.options import check_option
from ssdag.services.servers.places import ServerRequest
from ssdag.services.servers.server import how_ended, last_words, quote
from ssdag.services.servers.telemetry import sample_of
from ssdag.services.store_service import Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.client.client import Client
    from ssdag.services.servers.places import PlacedServer
    from ssdag.services.servers.telemetry import Sample

_log = logging.getLogger("ssdag")

#: How long a server may take to say how it is, and to take an option.
_PROBE_S = 0.5
_ASK_S = 5.0
_MOST_STARTERS = 32
_ALL_SLOTS = (0, 16383)
#: What a server beside tasks cannot have, and why.
_NOT_HERE = {
    "nodes": "there is one server on each node of the allocation; hosts= chooses nodes",
    "replicas": "each node's data are its own",
    "folder": "servers keep their data in the memory of their nodes",
    "persistent": "servers beside tasks end with the orchestrator",
    "persistence": "servers keep their data in the memory of their nodes",
}


class ColocatedOrchestrator(Orchestrator):
    """What ``Orchestrator(colocated=True)`` makes; see there.

    It has a server on each node of the allocation that we are in; elsewhere one here.
    """

    def __init__(
        self,
        *,
        colocated: bool = True,
        cpus: int | Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        for name, why in _NOT_HERE.items():
            if name in options:
                raise ConfigError(f"colocated=True takes no {name}: {why}")
        super().__init__(**options)
        if not (cpus is None or (isinstance(cpus, int) and cpus > 0)):
            try:
                cpus = tuple(int(core) for core in cpus)  # type: ignore[union-attr]
            except (TypeError, ValueError):
                cpus = ()
            if not cpus:
                raise ConfigError(f"cpus={cpus!r}: a number above 0, or a list of cores")
        self._cpus = cpus
        self._beside: list[NodeServer] = []
        self._reference: ColocatedReference | None = None
        self._lifeline: Lifeline | None = None
        self._find = partial(find_places, None, **self._find.keywords)

    # -- for users -------------------------------------------------------------------

    def client(self) -> Client:
        """Return this process's client of the server on its own node.

        Where the driver's node has none, its calls raise StoreError.
        """
        self.start()
        if self._reference is None:  # in a plan, which starts nothing
            return super().client()
        return self._reference.resolve()

    @property
    def checkpoint_file(self) -> str:
        """There is none: the servers end with this process.

        Raises
        ------
        UnsupportedError
            Always.
        """
        raise UnsupportedError(f"{self.name!r} is colocated: its servers end with this process")

    def environment(self) -> dict[str, str]:
        """Return what a simulation needs so that ``Client()`` reaches its node's server.

        Raises
        ------
        UnsupportedError
            The servers have not the same address on all nodes, since nodes share their
            temporary folder, or `port` was left out where `unix_socket` is False.
        """
        self.start()
        reference = self._reference
        if reference is not None and len({ways[1:] for ways in reference.servers}) > 1:
            raise UnsupportedError(
                f"{self.name!r} has not the same address on all nodes: pass it to apps, which "
                "find the server of their node, or give port="
            )
        return super().environment()

    def _lost(self) -> SsdagError | None:
        """Return why nobody can wait for data from here, None where that is possible."""
        lost = super()._lost()
        reference = self._reference
        if lost is not None or reference is None:
            return lost
        if len(reference.servers) > 1 or reference.here() is None:
            return UnsupportedError(
                f"{self.name!r} is colocated on {len(reference.servers)} nodes, whose data only "
                "their own tasks can reach: wait inside a task (db.wait_tensor), or use an "
                "orchestrator that is not colocated"
            )
        return None

    # -- life ------------------------------------------------------------------------

    def _servers(self) -> list[PlacedServer]:
        return [beside.server for beside in self._beside if beside.server is not None]

    def _here(self) -> tuple[str, str, str | None]:
        """Return the ways to this node's server, or if there is none to the first one."""
        reference = self._reference
        assert reference is not None
        name = node_name()
        return next((w for w in reference.servers if w[0] == name), reference.servers[0])

    @property
    def hosts(self) -> list[str]:
        """Names of the nodes that have a server now; tasks of a pilot start more."""
        nodes = [beside.node for beside in self._beside]
        return list(dict.fromkeys([*nodes, *(said["node"] for said in self._elsewhere())]))

    def _elsewhere(self) -> list[dict[str, Any]]:
        """Return node and keeper of each server that workers have started elsewhere."""
        return [] if self._lifeline is None else self._lifeline.keepers()

    def _address(self) -> str:
        return self._here()[1]

    def _password_file(self) -> str | None:
        return self._here()[2]

    def _start(self) -> Any:
        plan = self._plan
        places = self._open_places()
        socket = plan.unix_socket if plan.unix_socket is not None else plan.port in (None, 0)
        request = ServerRequest(
            name=plan.name,
            lines=plan.options.lines(plan.password, shards=1, replicas=0),
            user=plan.login.user,
            password=plan.password,
            program=plan.program,
            interface=LOOPBACK,
            port=0 if plan.port is None and socket else plan.port,
            unix_socket=socket,
            start_timeout_s=plan.start_timeout_s,
        )
        secret = not plan.options.open_access
        self._beside = [NodeServer(place, request, self._cpus, secret=secret) for place in places]
        name = f"ssdag-{secrets.token_hex(4)}"
        onward = ""
        try:
            self._each(lambda beside: beside.start(name))
            if not any(isinstance(place, NodePlace) for place in places):
                self._lifeline = Lifeline(interface_address(plan.interface))
                line = self._lifeline.plain
                onward = recipe(request, self._cpus, name, line, secret=secret)
        except BaseException:
            self._end_all()
            raise
        for beside in self._beside:
            self._supervise(beside)
        ways = tuple(beside.ways for beside in self._beside)
        self._reference = ColocatedReference(self.name, ways, onward, self._client_timeout_s)
        return self._reference

    def _each(self, do: Callable[[NodeServer], None]) -> None:
        """Do something for all servers at once, in threads that end with it."""
        if not self._beside:
            return
        with ThreadPoolExecutor(min(len(self._beside), _MOST_STARTERS), "ssdag-beside") as pool:
            done = [pool.submit(do, beside) for beside in self._beside]
        for each in done:
            each.result()

    def _supervise(self, beside: NodeServer) -> None:
        server = beside.server
        assert server is not None

        def watch() -> None:
            code = server.wait()
            if not self._stopping.is_set():
                self._server_gone(beside, server, code)

        threading.Thread(target=watch, name=f"ssdag-{self.name}-{beside.node}", daemon=True).start()

    def _server_gone(self, beside: NodeServer, server: PlacedServer, code: int | None) -> None:
        """A server has ended by itself; called by the thread that watched it."""
        tail = last_words(server.log_tail(), code)
        server.end(0.0)
        with self._work:
            if self._stopping.is_set() or beside.server is not server:
                return
            reason = how_ended(code)
            error: SsdagError = StoreError(
                f"the server of {self.name!r} on {beside.node} has died ({reason}), and its data "
                f"are lost; its last words:\n{tail}"
            )
            if not self._degrade(error):
                return
            restarted = False
            if self._asks(error):
                _log.warning("%s; starting it again", error)
                try:
                    beside.restart()
                    restarted = True
                except SsdagError as failure:
                    error = failure
            index = self._beside.index(beside)
            self._losses.append(Loss(time.time(), index, _ALL_SLOTS, restarted, reason))
            if restarted:
                self._supervise(beside)
                if all(other.alive for other in self._beside):
                    self._recover()
                return
            if any(other.alive for other in self._beside):
                _log.error("%s", error)
                with self._lock:
                    self._error = error
                return
            self._give_up(error)
        self._leave_scope()

    def _stop(self, error: SsdagError) -> None:
        reference, self._reference = self._reference, None
        self._end_all()
        if reference is not None:
            self._fail_futures(reference.resolve(), error)
            reference.forget()

    def _end_all(self) -> None:
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            lifeline.close()
        self._each(NodeServer.end)
        for beside in self._beside:
            beside.place.close()

    # -- telling and measuring ---------------------------------------------------------

    def _all_say(self, words: Sequence[bytes], timeout_s: float) -> list[str | SsdagError]:
        """Send all servers that run one command; return the answer of each, "" of the others."""
        said: dict[NodeServer, str | SsdagError] = {}

        def ask(beside: NodeServer) -> None:
            said[beside] = beside.ask(words, timeout_s) if beside.alive else ""

        self._each(ask)
        return [said[beside] for beside in self._beside]

    def set_db_conf(self, key: str, value: str | int) -> None:
        """Set an option of all servers; see :meth:`Orchestrator.set_db_conf`.

        Those that workers of a pilot have started are not told.
        """
        check_option(key, value)
        self.start()
        line = [b"CONFIG", b"SET", key.encode(), str(value).encode()]
        for answer in self._all_say(line, _ASK_S):
            if isinstance(answer, ConfigError):
                raise ConfigError(f"{self.name!r}: {key}={value!r} is refused: {answer}")
            if isinstance(answer, SsdagError):
                raise answer
        for beside in self._beside:
            beside.remember(f"{key} {quote(str(value))}")

    def _sample(self) -> list[Sample]:
        said = self._all_say([b"INFO"], _PROBE_S)
        now = time.time()
        return [
            sample_of(now, i, f"{b.node}:{b.ways[1]}", [a.encode()] if isinstance(a, str) else a)
            for i, (b, a) in enumerate(zip(self._beside, said, strict=True))
        ]

    def _probe(self) -> dict[str, Any]:
        samples = self._sample()
        silent = [s.address for s, b in zip(samples, self._beside, strict=True) if not s.answers]
        if silent:
            raise StoreError(f"{self.name!r}: no answer from {', '.join(silent)}")
        return {
            "servers": [
                {"node": b.node, "pid": b.server.pid if b.server else 0, "alive": b.alive}
                for b in self._beside
            ],
            "elsewhere": self._elsewhere(),
            "memory_bytes": sum(s.memory_bytes for s in samples),
            "clients": sum(s.clients for s in samples),
        }
