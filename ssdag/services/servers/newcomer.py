# SPDX-License-Identifier: BSD-3-Clause
"""Servers that come back to a cluster without what they knew of it: new members of it.

A server that is started again on its node finds the cluster by its own notes. Where they
were lost with the node it is a stranger: the others forget the one before it, and it
takes that one's slots, or copies who has them now.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ssdag.client.transport.address import Address
from ssdag.errors import ServiceStartError, SsdagError
from ssdag.services.servers.admin import ask, info
from ssdag.services.servers.cluster import slots_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from ssdag.client.transport.resp import Reply
    from ssdag.services.servers.admin import Login
    from ssdag.services.servers.plan import Member

_ASK_S = 5.0
_PAUSE_S = 0.02
#: The servers listen for each other at their port plus this.
_BUS = 10_000


def introduce(
    members: Sequence[Member],
    shards: int,
    login: Login,
    timeout_s: float,
    stopping: threading.Event,
) -> None:
    """Make members of a cluster of those that came back to it as strangers, if any did.

    Parameters
    ----------
    members : sequence of Member
        All of the cluster; all run.
    shards : int
        How many of them serve.
    login : Login
        Who may do everything.
    timeout_s : float
        How long it may take for them to find each other.
    stopping : threading.Event
        Cuts the wait short.

    Raises
    ------
    ServiceStartError
        A server does not answer, or refuses.
    """
    strangers = [m for m in members if _facts(m, login).get("cluster_known_nodes") == "1"]
    known = [m for m in members if m not in strangers]
    if not strangers or not known:
        return
    # Who serves comes first: a copy needs somebody to copy.
    strangers.sort(key=lambda m: not m.primary)
    deadline = time.monotonic() + timeout_s
    epoch = max(int(_facts(m, login).get("cluster_current_epoch", 0)) for m in known)
    for member in strangers:
        epoch += 1
        ours = _tcp(member)
        for other in known:
            for name in _names_at(_nodes(other, login), ours):
                _tell(other, login, b"CLUSTER", b"FORGET", name)
        _tell(member, login, b"CLUSTER", b"SET-CONFIG-EPOCH", b"%d" % epoch)
        if member.primary:
            first, last = slots_of(member.shard, shards)
            slots = [b"%d" % slot for slot in range(first, last + 1)]
            _tell(member, login, b"CLUSTER", b"ADDSLOTS", *slots)
        host, port = ours.host.encode(), ours.port
        _tell(known[0], login, b"CLUSTER", b"MEET", host, b"%d" % port, b"%d" % (port + _BUS))
        if not member.primary:
            serving = next(m for m in members if m.primary and m.shard == member.shard)
            primary = _tell(serving, login, b"CLUSTER", b"MYID")
            assert isinstance(primary, bytes)
            while not any(line.startswith(primary) for line in _nodes(member, login)):
                if time.monotonic() > deadline or stopping.wait(_PAUSE_S):
                    raise ServiceStartError(f"{member.request.name} does not find its primary")
            _tell(member, login, b"CLUSTER", b"REPLICATE", primary)
        known.append(member)


def _tcp(member: Member) -> Address:
    assert member.server is not None
    return Address.parse(member.server.address)


def _facts(member: Member, login: Login) -> dict[str, str]:
    return info(_tell(member, login, b"CLUSTER", b"INFO"))


def _nodes(member: Member, login: Login) -> list[bytes]:
    """Return the nodes that a server knows, a line for each, without strangers."""
    reply = _tell(member, login, b"CLUSTER", b"NODES")
    lines = reply.splitlines() if isinstance(reply, bytes) else []
    return [line for line in lines if b"handshake" not in line.split()[2]]


def _names_at(lines: Sequence[bytes], address: Address) -> list[bytes]:
    """Return the ids of nodes at an address, of lines such as ``id host:port@bus flags ...``."""
    wanted = b"%s:%d@" % (address.host.encode(), address.port)
    return [line.split()[0] for line in lines if line.split()[1].startswith(wanted)]


def _tell(member: Member, login: Login, *words: bytes) -> Reply:
    (answer,) = ask([member.address], [list(words)], login, _ASK_S)
    reply = answer if isinstance(answer, SsdagError) else answer[0]
    if isinstance(reply, Exception):
        raise ServiceStartError(
            f"{member.request.name} cannot become a member of its cluster again: {reply}"
        ) from reply
    return reply
