# SPDX-License-Identifier: BSD-3-Clause
"""What a user may choose about a server, checked once, and the configuration that follows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ssdag.errors import ConfigError
from ssdag.services.servers.cluster import FORMING_TIMEOUT_MS

if TYPE_CHECKING:
    from collections.abc import Mapping

Persistence = Literal["rdb", "aof"]

#: Keyspace notifications for strings, generic commands, lists, hashes and streams: what
#: futures of data wait for.
EVENTS = "K$glht"

#: Values larger than Redis's 512 MB; the memory limit is the limit.
_LARGEST_VALUE = 1 << 40

#: What becomes of data when the memory limit is reached.
EVICTIONS = (
    "noeviction",
    *(f"allkeys-{rule}" for rule in ("lru", "lfu", "random")),
    *(f"volatile-{rule}" for rule in ("lru", "lfu", "random", "ttl")),
)

#: The user for ourselves where everybody may come in without a password.
ADMIN = "ssdag"

#: The user as whom copies log in at what they copy. Every client can read that password
#: from the server's configuration, so it opens nothing else.
COPIER = "ssdag-copy"
_COPIER_MAY = "-@all +psync +replconf +ping"

#: What nobody may do who came in without a password: load code, reach other servers,
#: change options, take the cluster apart, or end the server.
_NOT_OPEN = (
    "-module -debug -replicaof -slaveof -failover -acl -shutdown -migrate -psync -sync "
    "-monitor -bgrewriteaof -swapdb -config +config|get -cluster +cluster|slots +cluster|info "
    "+cluster|nodes +cluster|myid +cluster|keyslot +cluster|countkeysinslot +cluster|shards"
)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of the servers of one orchestrator.

    The attributes are parameters of :class:`~ssdag.services.orchestrator.Orchestrator`.

    Raises
    ------
    ConfigError
        An option has no possible value.
    """

    memory_limit_bytes: int | None = None
    eviction: str = "noeviction"
    max_clients: int = 10_000
    max_message_bytes: int | None = None
    persistence: Persistence | None = None
    open_access: bool = False
    config: Mapping[str, str | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("memory_limit_bytes", "max_clients", "max_message_bytes"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value <= 0):
                raise ConfigError(f"{name}={value!r}: must be a whole number above 0")
        if self.eviction not in EVICTIONS:
            raise ConfigError(f"eviction={self.eviction!r}: one of {', '.join(EVICTIONS)}")
        if self.eviction != "noeviction" and self.memory_limit_bytes is None:
            raise ConfigError(f"eviction={self.eviction!r} needs memory_limit_bytes")
        if self.persistence not in (None, "rdb", "aof"):
            raise ConfigError(f"persistence={self.persistence!r}: 'rdb', 'aof' or None")
        for key, value in self.config.items():
            check_option(key, value)

    @property
    def forks(self) -> bool:
        """Whether the servers fork to store their data."""
        return self.persistence is not None

    def lines(
        self, password: str, *, shards: int, replicas: int, network: bool = False
    ) -> tuple[str, ...]:
        """Return the lines of a configuration file that hold on all nodes.

        They hold only the hash of the password.

        Parameters
        ----------
        password : str
            Of the default user, or with `open_access` of our own.
        shards, replicas : int
            How many there are, and how many copies of each.
        network : bool
            Whether others than this machine shall reach them.
        """
        largest = self.max_message_bytes or _LARGEST_VALUE
        digest = hashlib.sha256(password.encode()).hexdigest()
        lines = [
            # Without a password the server's own protection allows loopback only.
            f"protected-mode {'no' if self.open_access and network else 'yes'}",
            'save ""' if self.persistence != "rdb" else "save 60 1",
            f"appendonly {'yes' if self.persistence == 'aof' else 'no'}",
            f"notify-keyspace-events {EVENTS}",
            f"proto-max-bulk-len {largest}",
            f"client-query-buffer-limit {max(largest, 1 << 30)}",
            f"maxclients {self.max_clients}",
            # Where nothing forks, huge pages cost no copies and save page faults.
            f"disable-thp {'yes' if self.forks or replicas else 'no'}",
        ]
        if self.open_access:
            lines += [
                f"user default on nopass ~* &* +@all {_NOT_OPEN}",
                f"user {ADMIN} on #{digest} ~* &* +@all",
            ]
        else:
            lines += [f"user default on #{digest} ~* &* +@all"]
        if self.memory_limit_bytes is not None:
            lines += [
                f"maxmemory {self.memory_limit_bytes}",
                f"maxmemory-policy {self.eviction}",
            ]
        if shards > 1:
            lines += [
                f"cluster-node-timeout {FORMING_TIMEOUT_MS}",
                # What is on other shards stays usable when one is lost.
                "cluster-require-full-coverage no",
                "cluster-allow-replica-migration no",
            ]
        if replicas:
            digest = hashlib.sha256(copier_password(password).encode()).hexdigest()
            lines += [
                f"user {COPIER} on #{digest} {_COPIER_MAY}",
                "repl-diskless-sync yes",
                "repl-diskless-sync-delay 0",
                "repl-backlog-size 64mb",
                # A large value must not cut off the copies.
                "client-output-buffer-limit replica 0 0 0",
            ]
        lines += [f"{key} {value}" for key, value in self.config.items()]
        return tuple(lines)


def copier_password(password: str) -> str:
    """Return the password of the user as whom copies log in; it tells nothing of the other."""
    return hashlib.sha256(f"{COPIER} {password}".encode()).hexdigest()


def check_option(key: str, value: str | int) -> None:
    """Raise ConfigError if an option of the server cannot stand in its configuration file."""
    if not isinstance(key, str) or not key.strip():
        raise ConfigError(f"a server's option is a text, not {key!r}")
    if any(c in f"{key}{value}" for c in "\r\n"):
        raise ConfigError(f"config option {key!r} has a line end in it")
