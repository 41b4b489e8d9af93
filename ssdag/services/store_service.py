# SPDX-License-Identifier: BSD-3-Clause
"""The life of a service made of servers: start, the death of one, end."""

from __future__ import annotations

import json
import logging
import time
from abc import abstractmethod
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdag.client import losses
from ssdag.client.shared import ClientReference, forget_client, shared_client
from ssdag.client.transport.slots import slot_of
from ssdag.errors import ServiceError, SsdagError, StoreError
from ssdag.services import checkpoint
from ssdag.services.data_futures import DataFutures
from ssdag.services.data_steering import DataSteering
from ssdag.services.keepers.on_nodes import check_seen, password_folder
from ssdag.services.servers.admin import ask, info
from ssdag.services.servers.cluster import slots_of
from ssdag.services.servers.deployment import Deployment
from ssdag.services.servers.folder import private_folder, remove_folder, write_private
from ssdag.services.servers.server import how_ended, last_words, quote
from ssdag.wire import routes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.client.client import Client
    from ssdag.client.waiting.conditions import Condition
    from ssdag.futures import DataFuture
    from ssdag.services.node import RestartPolicy
    from ssdag.services.servers.places import Place, PlacedServer
    from ssdag.services.servers.plan import Member, Plan
    from ssdag.services.servers.telemetry import Recording

_log = logging.getLogger("ssdag")

_PROBE_S = 0.5
_PASSWORD = "password"


@dataclass(frozen=True, slots=True)
class Loss:
    """Data that were lost because a server died.

    Attributes
    ----------
    time_s : float
        When, in seconds since 1970.
    shard : int
        Which shard held them; 0 for a single server.
    slots : tuple of int
        First and last slot of the shard, which
        :func:`ssdag.client.transport.slots.slot_of` tells for the bytes of a key. All slots for a
        single server.
    restarted : bool
        Whether the shard serves again, empty or with what it had stored on disk.
    reason : str
        How the server ended.
    """

    time_s: float
    shard: int
    slots: tuple[int, int]
    restarted: bool
    reason: str


class StoreService(DataFutures, DataSteering):
    """A service whose servers hold data; see :class:`ssdag.Orchestrator`."""

    def __init__(
        self,
        name: str,
        restart: RestartPolicy | None,
        plan: Plan,
        identifier: str,
        client_timeout_s: float | None = None,
    ) -> None:
        super().__init__(name, restart)
        self._client_timeout_s = client_timeout_s
        self.identifier = identifier
        self._plan = plan
        self._folder: Path | None = None
        self._deployment: Deployment | None = None
        self._losses: list[Loss] = []
        self._given_up: list[tuple[int, int, SsdagError]] = []
        self._recordings: list[Recording] = []

    @abstractmethod
    def _open_places(self) -> Sequence[Place]:
        """Return where the servers shall run; called by a start, may block."""

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What was lost when servers died, oldest first; empty if nothing was."""
        return tuple(self._losses)

    def client(self) -> Client:
        """Return this process's client of the servers; starts them if need be."""
        self.start()
        return self._reference_here().resolve()

    def _reference_here(self) -> ClientReference:
        """Return what tasks get."""
        address, password_file = self._address(), self._password_file()
        routes.serve(address, password_file)
        return ClientReference(address, password_file, self._client_timeout_s)

    # -- life ------------------------------------------------------------------------

    def _servers(self) -> list[PlacedServer]:
        """Return what runs, or ran last: the shards, then their copies."""
        members = [] if self._deployment is None else self._deployment.members
        return [m.server for m in members if m.server is not None]

    def _address(self) -> str:
        assert self._deployment is not None
        return self._deployment.address()

    def _password_file(self) -> str | None:
        if self._plan.options.open_access:
            return None
        assert self._folder is not None
        return str(self._folder / _PASSWORD)

    def _remember(self, key: str, value: str | int) -> None:
        """Have servers that are started again know an option that was set."""
        members = [] if self._deployment is None else self._deployment.members
        for member in members:
            lines = (*member.request.lines, f"{key} {quote(str(value))}")
            member.request = replace(member.request, lines=lines)

    def _start(self) -> ClientReference:
        plan = self._plan
        given = plan.folder is not None
        places = self._open_places()
        try:
            folder = Path(
                plan.folder
                or password_folder(places, interface=plan.interface, outlives=plan.outlives)
            )
            try:
                private_folder(folder)
                checkpoint.check_unused(folder, plan.shards, plan.replicas)
                write_private(folder / _PASSWORD, plan.password + "\n")
                check_seen(places, folder / _PASSWORD)
                self._folder = folder
                self._deployment = Deployment(plan, places, folder, self._stopping)
                self._deployment.start(self._server_ended)
                self._write_record()
            except BaseException:
                self._deployment = None
                self._clear_folder(folder, given)
                raise
        except BaseException:
            for place in places:
                place.close()
            raise
        if plan.options.open_access:
            _log.warning(
                "%r asks nobody for a password: whoever reaches %s may read and change its data",
                self.name,
                ", ".join(s.address_here for s in self._servers()),
            )
        return self._reference_here()

    def _write_record(self) -> None:
        """Write the file by which another run finds the servers."""
        plan, folder = self._plan, self._folder
        assert folder is not None
        record = checkpoint.Record(
            name=self.name,
            identifier=self.identifier,
            shards=plan.shards,
            replicas=plan.replicas,
            interface=plan.interface,
            program=plan.program,
            outlives=plan.outlives,
            folder=str(folder),
            given_folder=plan.folder is not None,
            password_file=self._password_file(),
            options=asdict(plan.options),
            servers=tuple(checkpoint.record_of(i, s) for i, s in enumerate(self._servers())),
        )
        checkpoint.write(folder / checkpoint.NAME, record)

    def _stop(self, error: SsdagError) -> None:
        deployment, folder = self._deployment, self._folder
        if deployment is None or folder is None:
            return
        deployment.end(store=True)
        deployment.close()
        self._forget(error)
        self._clear_folder(folder, self._plan.folder is not None)

    def detach(self) -> None:
        """Let go of servers that outlive us; this object has ended then, they have not.

        Servers that are not persistent are ended, as by :meth:`stop`.
        """
        if self._plan.outlives:
            self._finish(ServiceError(f"{self.name} was detached"), self._detach)
        else:
            self.stop()

    def _scope_ends(self) -> None:
        self.detach()

    def _detach(self, error: SsdagError) -> None:
        deployment = self._deployment
        if deployment is not None:
            deployment.let_go()
            deployment.close()
            self._forget(error)

    def _forget(self, error: SsdagError) -> None:
        """Fail what waits for data, and close the connections."""
        for recording in self._recordings:
            recording.close()
        address, password_file = self._address(), self._password_file()
        routes.withdraw(address)
        self._fail_futures(shared_client(address, password_file), error)
        forget_client(address, password_file)

    def _clear_folder(self, folder: Path, given: bool) -> None:
        if given:
            (folder / _PASSWORD).unlink(missing_ok=True)
        else:
            remove_folder(folder)

    # -- death -----------------------------------------------------------------------

    def _server_ended(self, member: Member, server: PlacedServer, code: int | None) -> None:
        """A server has ended by itself; called by the thread that watched it."""
        deployment = self._deployment
        reason = how_ended(code)
        tail = last_words(server.log_tail(), code)
        server.end(0.0)
        was_primary = member.primary
        # Before anything else: those who wait for the shard wait for this.
        served = deployment is not None and deployment.fail_over(member)
        with self._work:
            deployment = self._deployment
            if self._stopping.is_set() or deployment is None:
                return
            again = member.server is not server  # it came back together with another one
            if not served:
                slots = slots_of(member.shard, self._plan.shards)
                self._losses.append(Loss(time.time(), member.shard, slots, again, reason))
            if again:
                self._deaths += 1
                return
            what = self._what_is_lost(member, was_primary, served)
            error: SsdagError = StoreError(
                f"{what[0]} of {self.name!r} at {server.address_here} has died ({reason}), "
                f"{what[1]}; its last words:\n{tail}"
            )
            if not self._degrade(error):
                return
            if self._asks(error):
                _log.warning("%s; starting it again", error)
                try:
                    deployment.restart_dead(self._server_ended)
                except SsdagError as failure:
                    error = failure
                else:
                    self._losses = [replace(loss, restarted=True) for loss in self._losses]
                    self._write_record()
                    self._write_losses()
                    self._recover()
                    return
            if any(m.alive for m in deployment.primaries()):
                _log.error("%s", error)
                with self._lock:
                    self._error = error
                if not served:
                    self._given_up.append((*slots_of(member.shard, self._plan.shards), error))
                    self._fail_given_up()
                return
            self._give_up(error)
        self._leave_scope()

    def _future(
        self,
        condition: Condition,
        result: Callable[[Client], object],
        timeout_s: float | None,
        future: DataFuture[Any] | None = None,
    ) -> DataFuture[Any]:
        future = super()._future(condition, result, timeout_s, future)
        if self._given_up:
            self._fail_given_up()
        return future

    def _fail_given_up(self) -> None:
        """Fail what waits for data in slots that nobody will serve any more."""
        if self._state.final:
            return  # all has failed
        client = self._reference_here().resolve()
        for first, last, error in self._given_up:
            self._fail_slots(client, first, last, error)

    def _write_losses(self) -> None:
        """Leave word for those who miss data; see :mod:`ssdag.client.losses`."""
        deployment = self._deployment
        if deployment is None or not self._losses:
            return
        text = json.dumps([asdict(loss) for loss in self._losses]).encode()
        slot = slot_of(losses.KEY)
        for member in deployment.primaries():
            first, last = slots_of(member.shard, self._plan.shards)
            if first <= slot <= last and member.alive:
                ask([member.address], [[b"SET", losses.KEY, text]], self._plan.login, _PROBE_S)

    def _what_is_lost(self, member: Member, was_primary: bool, served: bool) -> tuple[str, str]:
        """Return what died, and what that means, in words."""
        stored = self._plan.options.persistence
        if self._plan.shards == 1:
            lost = "what it had not stored on disk is lost" if stored else "its data are lost"
            return "the server", f"and {lost}"
        who = f"shard {member.shard}"
        if not was_primary:
            return f"a copy of {who}", "and nothing is lost"
        if served:
            return who, "its copy serves in its place"
        first, last = slots_of(member.shard, self._plan.shards)
        lost = f"the data in its slots {first} to {last}"
        return who, f"and {lost} are lost" + (", as far as not stored on disk" if stored else "")

    def _probe(self) -> dict[str, Any]:
        deployment = self._deployment
        if deployment is None:
            raise StoreError(f"{self.name!r} has no servers")
        members = [m for m in deployment.members if m.alive]
        answers = ask([m.address for m in members], [[b"INFO"]], self._plan.login, _PROBE_S)
        facts: list[dict[str, Any]] = []
        for member, answer in zip(members, answers, strict=True):
            if isinstance(answer, SsdagError):
                raise StoreError(f"{self.name!r}: {answer}") from answer
            assert member.server is not None
            said = info(answer[0])
            facts.append(
                {
                    "address": member.server.address_here,
                    "pid": member.server.pid,
                    "server": f"{said.get('server_name', 'redis')} "
                    f"{said.get('valkey_version') or said.get('redis_version')}",
                    "memory_bytes": int(said.get("used_memory", 0)),
                    "clients": int(said.get("connected_clients", 0)),
                }
            )
        if len(facts) == 1:
            return facts[0]
        return {
            "address": self._address(),
            "memory_bytes": sum(f["memory_bytes"] for f in facts),
            "clients": sum(f["clients"] for f in facts),
            "servers": facts,
        }
