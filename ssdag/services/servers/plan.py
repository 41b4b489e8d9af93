# SPDX-License-Identifier: BSD-3-Clause
"""What servers an orchestrator has, and on which places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssdag.client.transport.address import Address
from ssdag.services.servers.admin import Login
from ssdag.services.servers.options import ADMIN, ServerOptions
from ssdag.services.servers.places import LocalPlace, Place, PlacedServer, ServerRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


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
        As in :class:`~ssdag.services.servers.places.ServerRequest`.
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


def members_of(plan: Plan, places: Sequence[Place], folder: Path) -> list[Member]:
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
            lines=plan.options.lines(
                plan.password,
                shards=plan.shards,
                replicas=plan.replicas,
                network=bool(plan.interface) or not isinstance(place, LocalPlace),
            ),
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
