# SPDX-License-Identifier: BSD-3-Clause
"""The file by which a later run finds a running orchestrator again: plain JSON, no secret.

.. code-block:: json

   {"format": "ssdag orchestrator", "version": 1, "name": "orchestrator", "identifier": "",
    "shards": 1, "replicas": 0, "interface": "", "program": null, "outlives": true,
    "folder": "/scratch/me/store", "given_folder": true, "password_file": "/scratch/...",
    "options": {"persistence": "aof"},
    "servers": [{"index": 0, "hostname": "n7", "host": "127.0.0.1", "port": 12345,
                 "socket": "/scratch/me/store/0/server.sock", "folder": "/scratch/me/store/0",
                 "pid": 4711, "started": 123456}]}
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssdag.errors import CheckpointError, ServiceStartError
from ssdag.services.servers.folder import write_private
from ssdag.wire import reaper

if TYPE_CHECKING:
    from pathlib import Path

    from ssdag.services.servers.places import PlacedServer

#: Its name in the orchestrator's folder.
NAME = "orchestrator.json"

_FORMAT = "ssdag orchestrator"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """One server; `index` counts the shards first, then their copies.

    `started` is the start of process `pid` in clock ticks since its node's boot, 0 if it
    is not known: it tells whether the number still means that process.
    """

    index: int
    hostname: str
    host: str
    port: int
    socket: str | None
    folder: str
    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Record:
    """What a checkpoint file holds.

    Attributes
    ----------
    name, identifier, shards, replicas, interface, program, outlives
        As in :class:`~ssdag.services.servers.deployment.Plan`.
    folder : str
        The orchestrator's own folder.
    given_folder : bool
        Whether the user named it; else it is removed at the end.
    password_file : str or None
        None: the servers ask for no password.
    options : dict
        The attributes of :class:`~ssdag.services.servers.options.ServerOptions`.
    servers : tuple of ServerRecord
        All of them.
    """

    name: str
    identifier: str
    shards: int
    replicas: int
    interface: str
    program: str | None
    outlives: bool
    folder: str
    given_folder: bool
    password_file: str | None
    options: dict[str, Any] = field(default_factory=dict)
    servers: tuple[ServerRecord, ...] = ()


def write(path: Path, record: Record) -> None:
    """Write a checkpoint file, mode 0600; a reader sees the old one or the new one.

    Raises
    ------
    CheckpointError
        It cannot be written.
    """
    values = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(record)}
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        write_private(aside, json.dumps(values, indent=1) + "\n")
        os.replace(aside, path)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror}", path=str(path)
        ) from error


def read(path: Path) -> Record:
    """Return what a checkpoint file holds; `path` may be the folder where it is.

    Raises
    ------
    CheckpointError
        There is none, or it is something else.
    """
    if path.is_dir():
        path = path / NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"no checkpoint of an orchestrator at {path}: {error.strerror}", path=str(path)
        ) from error
    except ValueError as error:
        raise _strange(path, f"it is no JSON ({error})") from error
    if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
        raise _strange(path, "it is something else")
    version = values.pop("version", None)
    if version != _VERSION:
        raise _strange(path, f"its version is {version!r}, not {_VERSION}")
    try:
        servers = tuple(ServerRecord(**server) for server in values.pop("servers"))
        return Record(**values, servers=servers)
    except (TypeError, KeyError) as error:
        raise _strange(path, f"it is damaged ({error})") from error


def record_of(index: int, server: PlacedServer) -> ServerRecord:
    """Return the record of a running server."""
    here = server.hostname == socket.gethostname()
    return ServerRecord(
        index=index,
        hostname=server.hostname,
        host=server.host,
        port=server.port,
        socket=server.socket,
        folder=server.folder,
        pid=server.pid,
        started=started(server.pid) if here else 0,
    )


def check_unused(folder: Path, shards: int, replicas: int) -> None:
    """Raise ServiceStartError if a folder has the data of other servers, or is in use."""
    path = folder / NAME
    if not path.exists():
        return
    record = read(path)
    for server in record.servers:
        here = server.hostname == socket.gethostname()
        if here and server.started and started(server.pid) == server.started:
            raise ServiceStartError(
                f"folder {folder} is that of a running orchestrator (process {server.pid}): "
                f"use it by Orchestrator.attach({str(path)!r}), or give another folder"
            )
    if (record.shards, record.replicas) != (shards, replicas):
        raise ServiceStartError(
            f"folder {folder} has the data of {record.shards} shards with {record.replicas} copies "
            f"of each, not of {shards} with {replicas}: give the same numbers, or another folder"
        )


def started(pid: int) -> int:
    """Return the start of a process of this machine in clock ticks; 0 if it is gone."""
    fields = reaper.stat_fields(pid)
    return fields[2] if fields is not None and fields[0] else 0


def _strange(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is no checkpoint of an orchestrator: {why}", path=str(path))
