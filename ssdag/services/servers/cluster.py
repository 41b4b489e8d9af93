# SPDX-License-Identifier: BSD-3-Clause
"""Making servers a cluster, and one serve in place of another; no ``redis-cli`` needed.

The commands are those of https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/.
A cluster says by no event that it is ready, so it is asked with growing pauses.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ssdag.client.transport.resp import ReplyError
from ssdag.errors import ServiceStartError, SsdagError
from ssdag.services.servers.admin import ask, ask_each, info
from ssdag.services.servers.folder import BUS

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from ssdag.client.transport.address import Address
    from ssdag.client.transport.resp import Reply
    from ssdag.services.servers.admin import Login

SLOTS = 16384

#: After so long without an answer the others take a node for dead. The end of a process
#: is seen at once by who started it; this is for machines and networks. Nodes ask all
#: others twice in this time, so it is short while they have to get to know each other.
FORMING_TIMEOUT_MS = 2000
_NODE_TIMEOUT_MS = 5000

_ASK_S = 2.0
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.05


def slots_of(shard: int, shards: int) -> tuple[int, int]:
    """Return the first and the last slot of a shard."""
    return shard * SLOTS // shards, (shard + 1) * SLOTS // shards - 1


def form(
    servers: Sequence[Address],
    announced: Sequence[Address],
    shards: int,
    login: Login,
    timeout_s: float,
    stopping: threading.Event,
) -> None:
    """Make servers a cluster and wait until each says that it is whole.

    Servers that were one before, and have come back with their folders, find each other
    again.

    Parameters
    ----------
    servers : sequence of Address
        Where we reach them: first the shards, then their copies.
    announced : sequence of Address
        Where they reach each other.
    shards : int
        How many of them serve.
    login : Login
        Who may do everything.
    timeout_s : float
        How long it may take.
    stopping : threading.Event
        Cuts the wait short.

    Raises
    ------
    ServiceStartError
        They did not find together.
    """
    deadline = time.monotonic() + timeout_s
    known = [info(a[0]) for a in _all(ask(servers, [[b"CLUSTER", b"INFO"]], login, _ASK_S))]
    fresh = [facts.get("cluster_known_nodes") == "1" for facts in known]
    setup = []
    for i, server in enumerate(servers):
        lines: list[list[bytes]] = []
        if fresh[i]:
            lines.append([b"CLUSTER", b"SET-CONFIG-EPOCH", b"%d" % (i + 1)])
            if i < shards:
                first, last = slots_of(i, shards)
                slots = [b"%d" % slot for slot in range(first, last + 1)]
                lines.append([b"CLUSTER", b"ADDSLOTS", *slots])
        lines.append([b"CLUSTER", b"MYID"])
        setup.append((server, lines))
    ids = [replies[-1] for replies in _all(ask_each(setup, login, _ASK_S))]
    meet = [
        [b"CLUSTER", b"MEET", a.host.encode(), b"%d" % a.port, b"%d" % (a.port + BUS)]
        for a in announced[1:]
    ]
    _all(ask(servers[:1], meet, login, _ASK_S))
    copies = list(range(shards, len(servers)))
    _until(
        lambda: _know_all([servers[i] for i in copies], len(servers), login),
        deadline,
        stopping,
    )
    follow = []
    for i in copies:
        primary = ids[i % shards]
        assert isinstance(primary, bytes)
        if fresh[i]:
            follow.append((servers[i], [[b"CLUSTER", b"REPLICATE", primary]]))
    _all(ask_each(follow, login, _ASK_S))
    _until(lambda: _whole(servers, shards, login), deadline, stopping)
    _settle(servers, login)


def let_copy(server: Address, login: Login, copier: Login) -> None:
    """Tell a server how to log in at the one that it is, or will be, a copy of.

    Raises
    ------
    ServiceStartError
        It does not answer.
    """
    lines = [
        [b"CONFIG", b"SET", b"masteruser", copier.user.encode()],
        [b"CONFIG", b"SET", b"masterauth", copier.password.encode()],
    ]
    _all(ask([server], lines, login, _ASK_S))


def rejoin(
    servers: Sequence[Address],
    shards: int,
    login: Login,
    timeout_s: float,
    stopping: threading.Event,
    broken: Callable[[], bool],
) -> None:
    """Wait until all say that the cluster is whole, after some of them came back.

    A server that hangs is waited for.

    Parameters
    ----------
    servers, shards, login, timeout_s, stopping
        As in :func:`form`.
    broken : callable
        Returns True if there is no more hope.

    Raises
    ------
    ServiceStartError
        They do not find each other.
    """

    def look() -> str | None:
        try:
            return _whole(servers, shards, login)
        except ServiceStartError as error:
            if broken():
                raise
            return str(error)

    _until(look, time.monotonic() + timeout_s, stopping)
    _settle(servers, login)


def _settle(servers: Sequence[Address], login: Login) -> None:
    line = [b"CONFIG", b"SET", b"cluster-node-timeout", b"%d" % _NODE_TIMEOUT_MS]
    _all(ask(servers, [line], login, _ASK_S))


def take_over(server: Address, login: Login, stopping: threading.Event) -> None:
    """Have a copy serve its shard at once; the one that did so is dead for sure.

    Raises
    ------
    ServiceStartError
        It did not.
    """
    _all(ask([server], [[b"CLUSTER", b"FAILOVER", b"TAKEOVER"]], login, _ASK_S))

    def serves() -> str | None:
        (replies,) = _all(ask([server], [[b"ROLE"]], login, _ASK_S))
        role = replies[0]
        return None if isinstance(role, list) and role[0] == b"master" else "it is still a copy"

    _until(serves, time.monotonic() + _ASK_S, stopping)


def _know_all(servers: Sequence[Address], count: int, login: Login) -> str | None:
    for replies in _all(ask(servers, [[b"CLUSTER", b"NODES"]], login, _ASK_S)):
        known = sum(b"handshake" not in flags for flags in _flags(replies[0]))
        if known < count:
            return f"a copy knows {known} of {count} servers"
    return None


def _flags(nodes: Reply) -> list[bytes]:
    """Return the flags of each node in an answer to ``CLUSTER NODES``, without the dead."""
    lines = nodes.splitlines() if isinstance(nodes, bytes) else []
    flags = [line.split()[2] for line in lines]
    return [f for f in flags if b"fail" not in f]


def _whole(servers: Sequence[Address], shards: int, login: Login) -> str | None:
    """Return what keeps the servers from serving, None if nothing does.

    That each knows all copies is what a client relies on when a shard dies: it asks any
    of them whether to wait for one that takes over.
    """
    count = len(servers)
    copies = count // shards - 1
    lines = [[b"CLUSTER", b"INFO"], [b"INFO", b"replication"], [b"CLUSTER", b"NODES"]]
    for server, replies in zip(servers, _all(ask(servers, lines, login, _ASK_S)), strict=True):
        facts, role = info(replies[0]), info(replies[1])
        if facts.get("cluster_state") != "ok":
            return f"{server} says that the cluster is in state {facts.get('cluster_state')!r}"
        if int(facts.get("cluster_slots_assigned", 0)) < SLOTS:
            return f"{server} knows of {facts.get('cluster_slots_assigned')} of {SLOTS} slots"
        if int(facts.get("cluster_known_nodes", 0)) < count:
            return f"{server} knows {facts.get('cluster_known_nodes')} of {count} servers"
        if role.get("role") == "slave" and role.get("master_link_status") != "up":
            return f"{server} has not copied its shard yet"
        known = sum(b"slave" in flags for flags in _flags(replies[2]))
        if known < copies * shards:
            return f"{server} knows {known} of {copies * shards} copies"
    return None


def _until(
    what_is_wrong: Callable[[], str | None], deadline: float, stopping: threading.Event
) -> None:
    pause_s = _FIRST_PAUSE_S
    while (why := what_is_wrong()) is not None:
        if time.monotonic() > deadline:
            raise ServiceStartError(
                f"the servers did not become a cluster in time: {why}; raise start_timeout_s "
                "if the machine is slow"
            )
        if stopping.wait(pause_s):
            raise ServiceStartError("it was stopped before the cluster was whole")
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _all(answers: Sequence[list[Reply] | SsdagError]) -> list[list[Reply]]:
    """Return the replies of all servers.

    Raises
    ------
    ServiceStartError
        One did not answer, or refused.
    """
    out = []
    for answer in answers:
        if isinstance(answer, SsdagError):
            raise ServiceStartError(f"the servers cannot be made a cluster: {answer}") from answer
        for reply in answer:
            if isinstance(reply, ReplyError):
                raise ServiceStartError(f"the servers cannot be made a cluster: {reply}")
        out.append(answer)
    return out
