# SPDX-License-Identifier: BSD-3-Clause
"""The servers of one orchestrator: where they run, who replaces whom, their end."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssdag.client.address import Address
from ssdag.errors import ServiceStartError, SsdagError, StoreError
from ssdag.services import cluster
from ssdag.services.admin import Login, tell
from ssdag.services.options import ADMIN, ServerOptions
from ssdag.services.places import LocalPlace, Place, PlacedServer, ServerRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_log = logging.getLogger("ssdag")

#: How long an orderly end may take: servers that store their data need it.
_STORING_S = 60.0

_MOST_STARTERS = 32

#: A cluster may take so many times as long as a server to be ready: its nodes tell each
#: other of the slots by chance meetings.
_FORMING = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall run.

    Attributes
    ----------
    name : str
        Of the orchestrator.
    shards, replicas : int
        How many shards, and how many copies of each.
    options : ServerOptions
        Of all servers.
    password : str
        Of all servers.
    port : int, optional
        Of the first server on each node; the others there get the next ones.
    unix_socket, interface, program : optional
        As in :class:`~ssdag.services.places.ServerRequest`.
    folder : str, optional
        Where the data of all servers are, for places that see it.
    outlives : bool
        Whether the servers go on when we end.
    start_timeout_s : float
        For each server, and for the cluster.
    """

    name: str
    options: ServerOptions
    password: str
    shards: int = 1
    replicas: int = 0
    port: int | None = None
    unix_socket: bool | str | None = None
    interface: str = ""
    program: str | None = None
    folder: str | None = None
    outlives: bool = False
    start_timeout_s: float = 10.0

    @property
    def login(self) -> Login:
        """Who may do everything."""
        return Login(self.password, ADMIN if self.options.open_access else "default")


class Member:
    """One server of an orchestrator.

    Attributes
    ----------
    index : int
        Its number: first the shards, then their first copies, and so on.
    shard : int
        The shard that it holds, or is a copy of.
    primary : bool
        Whether it serves the shard now.
    place : Place
        Where it is started.
    request : ServerRequest
        What is started there.
    server : PlacedServer or None
        What runs, or ran last.
    """

    def __init__(self, index: int, shards: int, place: Place, request: ServerRequest) -> None:
        self.index = index
        self.shard = index % shards
        self.primary = index < shards
        self.place = place
        self.request = request
        self.server: PlacedServer | None = None

    def __repr__(self) -> str:
        kind = "primary" if self.primary else "copy"
        return f"<Member {self.index} {kind} of {self.shard} {self.server}>"

    @property
    def alive(self) -> bool:
        """Whether its server runs."""
        return self.server is not None and self.server.running()

    @property
    def address(self) -> Address:
        """Where we ask it; it has been started."""
        assert self.server is not None
        return Address.parse(self.server.address_here)


#: Called with a member, its server that has ended, and the exit code.
EndCallback = Callable[[Member, PlacedServer, "int | None"], None]


class Deployment:
    """The running servers.

    Parameters
    ----------
    plan : Plan
        What shall run.
    places : sequence of Place
        Where; shards take turns.
    folder : Path
        The orchestrator's private folder on this machine.
    stopping : threading.Event
        Set when the orchestrator shall end: waits are cut short.
    """

    def __init__(
        self, plan: Plan, places: Sequence[Place], folder: Path, stopping: threading.Event
    ) -> None:
        self.plan = plan
        self.places = places
        self._stopping = stopping
        self._failover_lock = threading.Lock()
        self.members = _members(plan, places, folder)

    @property
    def clustered(self) -> bool:
        """Whether there are several shards."""
        return self.plan.shards > 1

    def primaries(self) -> list[Member]:
        """Return the members that serve a shard, in the order of the shards."""
        found = [m for m in self.members if m.primary]
        return sorted(found, key=lambda m: m.shard)

    def of_shard(self, shard: int) -> list[Member]:
        """Return the members that hold a shard, the serving one first."""
        found = [m for m in self.members if m.shard == shard]
        return sorted(found, key=lambda m: not m.primary)

    def address(self) -> str:
        """Return where clients connect, in the form that ``Client`` takes."""
        servers = [m.server for m in self.members if m.server is not None]
        if not self.clustered and not self.plan.interface:
            return servers[0].address_here
        return ",".join(server.address for server in servers)

    # -- start -------------------------------------------------------------------------

    def start(self, on_end: EndCallback) -> None:
        """Start all servers at once, and make them a cluster if they are several.

        Parameters
        ----------
        on_end : callable
            Called when a server has ended, by a thread of its own.

        Raises
        ------
        ServiceStartError
            One did not start, or they did not find together. All have been ended.
        """
        try:
            self._start_all()
            if self.clustered:
                cluster.form(
                    [m.address for m in self.members],
                    [_tcp(m) for m in self.members],
                    self.plan.shards,
                    self.plan.login,
                    _FORMING * self.plan.start_timeout_s,
                    self._stopping,
                )
        except BaseException:
            self.end(store=False)
            raise
        for member in self.members:
            self._supervise(member, on_end)

    def _start_all(self) -> None:
        if len(self.members) == 1:
            self._start_member(self.members[0])
            return
        with ThreadPoolExecutor(
            min(len(self.members), _MOST_STARTERS), "ssdag-start-shard"
        ) as starters:
            started = [starters.submit(self._start_member, m) for m in self.members]
        for each in started:
            each.result()

    def _start_member(self, member: Member) -> None:
        if self._stopping.is_set():
            raise ServiceStartError(f"{member.request.name} was stopped while it started")
        self._place(member, member.request)

    def _place(self, member: Member, request: ServerRequest) -> None:
        member.server = member.place.start(request)
        if self.plan.replicas:
            # By a command and not in the file, which holds no password.
            cluster.let_copy(member.address, self.plan.login)

    def _supervise(self, member: Member, on_end: EndCallback) -> None:
        server = member.server
        assert server is not None

        def watch() -> None:
            code = server.wait()
            if not self._stopping.is_set():
                on_end(member, server, code)

        threading.Thread(
            target=watch, name=f"ssdag-{member.request.name}".replace(" ", "-"), daemon=True
        ).start()

    def restart_dead(self, on_end: EndCallback) -> None:
        """Start all that has died again where it was, and wait until it serves or copies.

        Raises
        ------
        ServiceStartError
            Something did not come back.
        """
        dead = [m for m in self.members if not m.alive]
        for member in dead:
            old = member.server
            assert old is not None
            again = dataclasses.replace(member.request, port=old.port, folder=old.folder)
            self._place(member, again)
            self._supervise(member, on_end)
        if self.clustered:
            cluster.rejoin(
                [m.address for m in dead],
                self.plan.login,
                _FORMING * self.plan.start_timeout_s,
                self._stopping,
            )

    # -- death -------------------------------------------------------------------------

    def fail_over(self, dead: Member) -> bool:
        """Have a living copy serve the shard of a member that is dead for sure.

        Returns
        -------
        bool
            Whether the shard is served: by the copy, or because the dead one was a copy.
        """
        with self._failover_lock:
            if not dead.primary:
                return any(m.alive for m in self.of_shard(dead.shard) if m.primary)
            for copy in self.of_shard(dead.shard):
                if copy is dead or not copy.alive:
                    continue
                try:
                    cluster.take_over(copy.address, self.plan.login, self._stopping)
                except SsdagError as error:
                    _log.warning("%s cannot take over: %s", copy.request.name, error)
                else:
                    dead.primary, copy.primary = False, True
                    return True
            return False

    # -- end ---------------------------------------------------------------------------

    def end(self, *, store: bool) -> None:
        """End all servers; they have stored their data before if they shall.

        Without threads of its own: it may be called as the interpreter ends.
        """
        started = [(m, m.server) for m in self.members if m.server is not None]
        grace_s = {m: self._ask_to_store(m) if store else 0.0 for m, _ in started}
        for member, server in started:
            server.end(grace_s[member])
            server.clear()

    def _ask_to_store(self, member: Member) -> float:
        """Ask a server to store its data and end; return how long it may take."""
        stored = self.plan.options.persistence
        if not stored or not member.alive:
            return 0.0
        how = b"SAVE" if stored == "rdb" else b"NOSAVE"  # the other one is always stored
        try:
            tell(member.address, [b"SHUTDOWN", how], self.plan.login, 1.0)
        except StoreError as error:
            _log.warning("%s cannot be asked to store its data: %s", member.request.name, error)
            return 0.0
        return _STORING_S

    def close(self) -> None:
        """Let the places go."""
        for place in self.places:
            place.close()


def _tcp(member: Member) -> Address:
    assert member.server is not None
    return Address.parse(member.server.address)


def _members(plan: Plan, places: Sequence[Place], folder: Path) -> list[Member]:
    """Return a member for each shard and copy; copies stand on other places if they can."""
    members: list[Member] = []
    taken: dict[int, int] = {}
    count = plan.shards * (1 + plan.replicas)
    for index in range(count):
        copy, shard = divmod(index, plan.shards)
        at = (shard + copy) % len(places)
        place = places[at]
        port = plan.port
        if port:
            port += taken.get(at, 0)
            taken[at] = taken.get(at, 0) + 1
        own: str | None = None
        if plan.folder is not None or isinstance(place, LocalPlace):
            alone = count == 1 and plan.folder is None
            own = str(folder if alone else folder / str(index))
        request = ServerRequest(
            name=plan.name if count == 1 else f"{plan.name} shard {index}",
            lines=plan.options.lines(plan.password, shards=plan.shards, replicas=plan.replicas),
            user=plan.login.user,
            password=plan.password,
            program=plan.program,
            interface=plan.interface,
            port=port,
            unix_socket=plan.unix_socket,
            cluster=plan.shards > 1,
            folder=own,
            outlives=plan.outlives,
            grace_s=5.0 if plan.options.forks else 0.0,
            huge_pages=not (plan.options.forks or plan.replicas),
            start_timeout_s=plan.start_timeout_s,
        )
        members.append(Member(index, plan.shards, place, request))
    return members
