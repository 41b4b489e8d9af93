# SPDX-License-Identifier: BSD-3-Clause
"""Orchestrators whose servers another process has started."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdag.client.transport.address import Address, Place, read_password
from ssdag.client.transport.resp import ReplyError, explain
from ssdag.errors import ServiceStartError, SsdagError, StoreError
from ssdag.services import checkpoint
from ssdag.services.orchestrator import Orchestrator
from ssdag.services.servers.admin import Login, ask, info
from ssdag.services.servers.deployment import Deployment
from ssdag.services.servers.places import LocalPlace
from ssdag.services.servers.watching import Elsewhere, FoundServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.client.shared import ClientReference
    from ssdag.client.transport.resp import Reply
    from ssdag.services.checkpoint import Record, ServerRecord
    from ssdag.services.node import RestartPolicy

_ASK_S = 5.0


class AttachedOrchestrator(Orchestrator):
    """What :meth:`Orchestrator.attach` returns.

    Parameters
    ----------
    record : Record
        What is known of the servers.
    ours : bool
        Whether we may end them, start them again, and write their checkpoint.
    restart : callable or int, optional
        As in :class:`Orchestrator`.
    client_timeout_s : float, optional
        As in :class:`Orchestrator`.
    """

    def __init__(
        self,
        record: Record,
        *,
        ours: bool,
        restart: RestartPolicy | int | None,
        client_timeout_s: float | None = None,
    ) -> None:
        options = {**record.options}
        super().__init__(
            record.shards,
            replicas=record.replicas,
            identifier=record.identifier,
            interface=record.interface,
            server=record.program,
            name=record.name,
            folder=record.folder if record.given_folder else None,
            persistent=True,
            restart=restart,
            client_timeout_s=client_timeout_s,
            **options,
        )
        self._record = record
        self._ours = ours

    def _password_file(self) -> str | None:
        return self._record.password_file

    def _start(self) -> ClientReference:
        if self._deployment is not None:  # only the first time
            raise ServiceStartError(f"{self.name!r} cannot be attached to again")
        record = self._record
        secret = "" if record.password_file is None else read_password(record.password_file)
        self._plan = plan = dataclasses.replace(self._plan, password=secret)
        folder = Path(record.folder)
        here = socket.gethostname()
        deployment = Deployment(plan, [LocalPlace()], folder, self._stopping)
        deployment.foreign = not self._ours
        for member, server in zip(deployment.members, record.servers, strict=True):
            if server.hostname != here or not self._ours:
                member.place = Elsewhere(server.hostname)
        found = [FoundServer(s, plan.login, ours=self._ours) for s in record.servers]
        self._folder, self._deployment = folder, deployment
        try:
            deployment.adopt(found, self._server_ended)
        except BaseException:
            self._deployment = None
            raise
        return self._reference_here()

    def _stop(self, error: SsdagError) -> None:
        if self._ours:
            super()._stop(error)
        else:
            self._detach(error)

    def _write_record(self) -> None:
        if self._ours:
            super()._write_record()


def attached(
    where: str | os.PathLike[str],
    password_file: str | os.PathLike[str] | None,
    restart: RestartPolicy | int | None,
    client_timeout_s: float | None = None,
) -> Orchestrator:
    """Return a started orchestrator; see :meth:`Orchestrator.attach`."""
    text = os.fspath(where)
    if os.path.exists(text) or not _is_address(text):
        record = checkpoint.read(Path(text))
        if password_file is not None:
            record = dataclasses.replace(record, password_file=os.path.abspath(password_file))
        return AttachedOrchestrator(
            record, ours=True, restart=restart, client_timeout_s=client_timeout_s
        ).start()
    path = None if password_file is None else os.path.abspath(password_file)
    record = _look(Place.parse(text), path)
    return AttachedOrchestrator(
        record, ours=False, restart=None, client_timeout_s=client_timeout_s
    ).start()


def _is_address(text: str) -> bool:
    return text.startswith(("unix://", "tcp://")) or (":" in text and "/" not in text)


def _look(place: Place, password_file: str | None) -> Record:
    """Ask a server what it is a part of, and return it as a checkpoint would have it."""
    login = Login("" if password_file is None else read_password(password_file))
    seed, facts = _first_answer(place.addresses, login)
    if facts.get("cluster_enabled") != "1":
        servers = [_server(0, seed, facts)]
        shards, replicas = 1, 0
    else:
        primaries, copies = _nodes(seed, login)
        shards, replicas = len(primaries), len(copies) // len(primaries)
        ordered = primaries + copies[: shards * replicas]
        answers = ask(ordered, [[b"INFO"]], login, _ASK_S)
        servers = [
            _server(i, address, info(answer[0]) if isinstance(answer, list) else {})
            for i, (address, answer) in enumerate(zip(ordered, answers, strict=True))
        ]
    return checkpoint.Record(
        name=str(place),
        identifier="",
        shards=shards,
        replicas=replicas,
        interface="" if seed.path or seed.host.startswith("127.") else seed.host,
        program=None,
        outlives=True,
        folder="",
        given_folder=False,
        password_file=password_file,
        options={"open_access": password_file is None},
        servers=tuple(servers),
    )


def _first_answer(seeds: Sequence[Address], login: Login) -> tuple[Address, dict[str, str]]:
    failure: Exception = StoreError("no address")
    for seed, answer in zip(seeds, ask(seeds, [[b"INFO"]], login, _ASK_S), strict=True):
        if not isinstance(answer, list):
            failure = answer
        elif isinstance(answer[0], ReplyError):
            failure = explain(answer[0], str(seed), "log in")
        else:
            return seed, info(answer[0])
    raise ServiceStartError(f"cannot attach: {failure}") from failure


def _server(index: int, address: Address, facts: dict[str, str]) -> ServerRecord:
    pid = int(facts.get("process_id", 0))
    here = bool(address.path) or address.host.startswith("127.")
    return checkpoint.ServerRecord(
        index=index,
        hostname=socket.gethostname() if here else address.host,
        host=address.host,
        port=address.port,
        socket=address.path or None,
        folder="",
        pid=pid,
        started=checkpoint.started(pid) if here else 0,
    )


def _nodes(seed: Address, login: Login) -> tuple[list[Address], list[Address]]:
    """Return the primaries of a cluster by their first slot, and their copies likewise."""
    (answer,) = ask([seed], [[b"CLUSTER", b"SLOTS"]], login, _ASK_S)
    ranges: Any = answer[0] if isinstance(answer, list) else None
    if not isinstance(ranges, list) or not ranges:
        raise ServiceStartError(f"cannot attach: the cluster of {seed} has no slots ({answer})")
    groups: dict[Address, list[Address]] = {}
    for entry in sorted(ranges, key=lambda r: r[0]):
        nodes = [_node(n, seed) for n in entry[2:]]
        groups.setdefault(nodes[0], nodes[1:])
    rounds = max(map(len, groups.values()))
    copies = [group[i] for i in range(rounds) for group in groups.values() if i < len(group)]
    return list(groups), copies


def _node(entry: Reply, seed: Address) -> Address:
    assert isinstance(entry, list)
    host, port = entry[0], entry[1]
    assert isinstance(port, int)
    name = host.decode() if isinstance(host, bytes) else ""
    return Address(host=name or seed.host, port=port)
