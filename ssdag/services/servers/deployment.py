# SPDX-License-Identifier: BSD-3-Clause
"""The servers of one orchestrator: where they run, who replaces whom, their end."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ssdag.client.transport.address import Address
from ssdag.errors import ServiceStartError, SsdagError
from ssdag.services.servers import cluster
from ssdag.services.servers.admin import Login, ask
from ssdag.services.servers.newcomer import introduce
from ssdag.services.servers.options import COPIER, copier_password
from ssdag.services.servers.places import Place, PlacedServer, ServerRequest
from ssdag.services.servers.plan import Member, Plan, members_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ssdag.client.transport.resp import Reply

_log = logging.getLogger("ssdag")

#: How long an orderly end may take: servers that store their data need it.
_STORING_S = 60.0
_LAST_STEPS_S = 2.0

_MOST_STARTERS = 32

#: While dead servers are started again others may die; so often they are started as well.
_ROUNDS = 4
_ASK_S = 2.0
_ROLE_S = 0.5

#: A cluster has replaced a dead node by itself after so long, if it can.
_ELECTION_S = 30.0

#: A cluster may take so many times as long as a server to be ready: its nodes tell each
#: other of the slots by chance meetings.
_FORMING = 3


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
        #: Whether others command the servers: we only watch them.
        self.foreign = False
        self.members = members_of(plan, places, folder)

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

    def adopt(self, servers: Sequence[PlacedServer], on_end: EndCallback) -> None:
        """Watch servers that run already, in the order of the members.

        Raises
        ------
        ServiceStartError
            None of them answers.
        """
        for member, server in zip(self.members, servers, strict=True):
            member.server = server
        for member, primary in zip(self.members, self._roles(), strict=True):
            member.primary = primary
        for member in self.members:
            self._supervise(member, on_end)

    def _roles(self) -> list[bool]:
        """Return who serves a shard; those who do not answer are taken to be as planned."""
        addresses = [m.address for m in self.members]
        answers = ask(addresses, [[b"ROLE"]], self.plan.login, _ASK_S)
        failures = [answer for answer in answers if isinstance(answer, SsdagError)]
        if len(failures) == len(answers):
            raise ServiceStartError(f"{self.plan.name!r} has ended: {failures[0]}") from failures[0]
        roles = []
        for member, answer in zip(self.members, answers, strict=True):
            roles.append(_serves(answer) if isinstance(answer, list) else member.primary)
        return roles

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
            copier = Login(copier_password(self.plan.password), COPIER)
            cluster.let_copy(member.address, self.plan.login, copier)

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

    def _dead(self) -> list[Member]:
        return [m for m in self.members if not m.alive]

    def restart_dead(self, on_end: EndCallback) -> None:
        """Start all that has died again where it was, and wait until it serves or copies.

        Raises
        ------
        ServiceStartError
            Something did not come back.
        """
        for last in (False,) * _ROUNDS + (True,):
            for member in self._dead():
                old = member.server
                assert old is not None
                again = dataclasses.replace(member.request, port=old.port, folder=old.folder)
                self._place(member, again)
                self._supervise(member, on_end)
            if not self.clustered:
                return
            plan, limit_s = self.plan, _FORMING * self.plan.start_timeout_s
            try:
                introduce(self.members, plan.shards, plan.login, limit_s, self._stopping)
                cluster.rejoin(
                    [m.address for m in self.members],
                    plan.shards,
                    plan.login,
                    limit_s,
                    self._stopping,
                    lambda: bool(self._dead()),
                )
            except ServiceStartError:
                if last or not self._dead():
                    raise
            else:
                return  # else others have died meanwhile

    # -- death -------------------------------------------------------------------------

    def fail_over(self, dead: Member) -> bool:
        """Have a living copy serve the shard of a member that is dead for sure.

        Returns
        -------
        bool
            Whether the shard is served: by the copy, or because the dead one was a copy.
        """
        with self._failover_lock:
            living = [m for m in self.of_shard(dead.shard) if m is not dead and m.alive]
            if self._serving(living):
                return True  # the servers have decided so themselves, or it was a copy
            if self.foreign:
                return self._wait_for_heir(living)
            for copy in living if dead.primary else ():
                try:
                    cluster.take_over(copy.address, self.plan.login, self._stopping)
                except SsdagError as error:
                    if self._serving(living):  # somebody else who watches was quicker
                        return True
                    _log.warning("%s cannot take over: %s", copy.request.name, error)
                else:
                    dead.primary, copy.primary = False, True
                    return True
            # Who serves may hang just now.
            return not dead.primary and any(m.primary for m in living)

    def _wait_for_heir(self, living: Sequence[Member]) -> bool:
        """Wait until servers that are not ours to command have chosen who serves."""
        deadline = time.monotonic() + _ELECTION_S
        while living and not self._serving(living):
            if time.monotonic() > deadline or self._stopping.wait(_ROLE_S):
                return False
        return bool(living)

    def _serving(self, living: Sequence[Member]) -> bool:
        """Return whether one of the living members of a shard serves it, and note who."""
        answers = ask([m.address for m in living], [[b"ROLE"]], self.plan.login, _ROLE_S)
        for member, answer in zip(living, answers, strict=True):
            if _serves(answer):
                for other in self.of_shard(member.shard):
                    other.primary = other is member
                return True
        return False

    # -- end ---------------------------------------------------------------------------

    def end(self, *, store: bool) -> None:
        """End all servers; they have stored their data before if they shall.

        Without threads of its own: it may be called as the interpreter ends.
        """
        started = [m.server for m in self.members if m.server is not None]
        if store and self.plan.options.persistence:
            self._have_stored()
        for server in started:
            server.end(0.0)
            server.clear()

    def _have_stored(self) -> None:
        """Have servers store their data and end; say so where they do not."""
        living = [m for m in self.members if m.alive]
        # What is appended write by write is whole at any orderly end.
        how = b"SAVE" if self.plan.options.persistence == "rdb" else b"NOSAVE"
        line = [b"SHUTDOWN", how]
        answers = ask([m.address for m in living], [line], self.plan.login, _STORING_S)
        for member, answer in zip(living, answers, strict=True):
            server = member.server
            assert server is not None
            why: object = answer
            if isinstance(answer, list):
                why = answer[0]
            else:
                # One that has stored all hangs up without an answer.
                with contextlib.suppress(TimeoutError):
                    server.wait(_LAST_STEPS_S)
                    continue
            _log.error(
                "%s has not stored its data in %s: %s; its last words:\n%s",
                member.request.name,
                server.folder,
                why,
                server.log_tail(),
            )

    def let_go(self) -> None:
        """Watch the servers no more; they outlive us."""
        for member in self.members:
            if member.server is not None:
                member.server.let_go()

    def close(self) -> None:
        """Let the places go."""
        for place in self.places:
            place.close()


def _serves(answer: list[Reply] | SsdagError) -> bool:
    """Return what an answer to ``ROLE`` says."""
    role = answer[0] if isinstance(answer, list) else None
    return isinstance(role, list) and role[0] == b"master"


def _tcp(member: Member) -> Address:
    assert member.server is not None
    return Address.parse(member.server.address)
