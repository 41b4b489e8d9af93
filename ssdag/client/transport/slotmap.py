# SPDX-License-Identifier: BSD-3-Clause
"""Who has which slots of a cluster: learned from its nodes and kept up to date."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from ssdag.client.transport.connection import Connection
from ssdag.client.transport.resp import ConnectionLostError, ReplyError, command, explain
from ssdag.client.transport.slots import Topology, parse_nodes, slot_of
from ssdag.errors import DataTimeoutError, StoreError

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from ssdag.client.transport.address import Address
    from ssdag.client.transport.pool import Access
    from ssdag.client.transport.slots import Redirection

#: A node that does not describe the cluster within this time is passed over.
_LOOK_S = 2.0

#: For how long a look at the map answers for all silent connections.
_STALE_S = 0.5

#: So many corrections of single slots, then the whole map is asked.
_CORRECTIONS = 64


class SlotMap:
    """The map of a cluster's slots; threads may use it together.

    Parameters
    ----------
    seeds : sequence of Address
        Nodes that are asked first, and again if nobody else answers.
    access : Access
        How to get in.
    """

    def __init__(self, seeds: Sequence[Address], access: Access) -> None:
        self._seeds = tuple(seeds)
        self._access = access
        self._topology = Topology(())
        self._table: list[Address | None] = []
        self._corrections = 0
        self._turn = 0
        self._looked_s = -_STALE_S
        #: Counts changes of the map.
        self.version = 0
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<SlotMap {len(self._topology.nodes)} nodes, version {self.version}>"

    def anyone(self, tried: Container[Address] = ()) -> Address | None:
        """Return a primary that was not `tried`, of those thought to be well if possible."""
        if not self._table:
            self.refresh()
        left = [node for node in self._topology.primaries if node.address not in tried]
        return min(left, key=lambda node: node.failed).address if left else None

    def owner(self, key: bytes) -> Address:
        """Return the node that has a key.

        Raises
        ------
        StoreError
            No node answers, or nobody has the slot.
        """
        if not self._table:
            self.refresh()
        address = self._table[slot_of(key)]
        if address is None:
            self.refresh()
            address = self._table[slot_of(key)]
        if address is None:
            raise StoreError(
                f"no node of the cluster has slot {slot_of(key)}, in which key {key!r:.80} is"
            )
        return address

    def primaries(self) -> list[Address]:
        """Return the nodes that have slots, by their first slot."""
        if not self._table:
            self.refresh()
        return [node.address for node in self._topology.primaries]

    def has(self, address: Address) -> bool:
        """Return whether a node has slots."""
        return any(node.address == address for node in self._topology.primaries)

    def orphaned(self, address: Address) -> str | None:
        """Return what is lost with a node that nobody can replace; None if somebody can."""
        node = self._topology.at(address)
        if node is None or not node.ranges or self._topology.has_heir(node):
            return None
        ranges = ", ".join(f"{a}-{b}" for a, b in node.ranges)
        return (
            f"the node at {address} is lost, with the keys in slots {ranges}, and has no replica "
            "that could take over"
        )

    def hopeless(self) -> str | None:
        """Return what is lost with primaries that the others have given up, if anything."""
        for node in self._topology.primaries:
            if node.failed and (gone := self.orphaned(node.address)) is not None:
                return gone
        return None

    def still_counts(self, address: Address) -> bool:
        """Return whether a silent node is still worth waiting for; asks another one.

        Not if it has lost its slots to a replica, or was given up by the others.
        """
        if time.monotonic() - self._looked_s >= _STALE_S:
            try:
                self.refresh(avoid=address)
            except (StoreError, DataTimeoutError):
                return True
        node = self._topology.at(address)
        return node is not None and bool(node.ranges) and not node.failed

    def moved(self, to: Redirection) -> None:
        """Note that a slot has another owner; ask for the whole map if that is unknown."""
        with self._locked():
            self._corrections += 1
            known = bool(self._table) and self._topology.at(to.address) is not None
            if known:
                self._table[to.slot] = to.address
                self.version += 1
        if not known or self._corrections >= _CORRECTIONS:
            try:
                self.refresh(first=to.address)
            except StoreError:
                return  # the next call will tell
            self._table[to.slot] = to.address

    def refresh(self, avoid: Address | None = None, first: Address | None = None) -> None:
        """Ask a node for the map; another one each time, as one alone may be behind.

        Parameters
        ----------
        avoid : Address, optional
            Ask this one last.
        first : Address, optional
            Ask this one first.

        Raises
        ------
        StoreError
            No node answers.
        """
        asked_s = time.monotonic()
        with self._locked():
            if self._looked_s > asked_s:
                return  # another thread has just asked
            known = [node.address for node in self._topology.nodes if not node.failed]
            turn = self._turn = self._turn + 1 if known else 0
            known = known[turn % len(known) :] + known[: turn % len(known)] if known else []
            rest = [node.address for node in self._topology.nodes]
            order = dict.fromkeys([*([first] if first else ()), *known, *self._seeds, *rest])
            if avoid in order:
                del order[avoid]
                order[avoid] = None
            older: Topology | None = None
            failure: StoreError | None = None
            for address in order:
                try:
                    found = self._describe(address)
                except StoreError as error:
                    failure = error
                    if not error.transient:
                        raise
                    continue
                if found.epoch >= self._topology.epoch:
                    self._install(found)
                    return
                older = older or found
            if older is not None:  # all are behind what we know: another cluster took its place
                self._install(older)
                return
            assert failure is not None
            raise StoreError(f"no node of the cluster answers: {failure}") from failure

    def _describe(self, address: Address) -> Topology:
        """Return the cluster as one node sees it.

        Raises
        ------
        StoreError
            It does not answer, or belongs to no cluster.
        """
        access = self._access
        limit_s = _LOOK_S if access.timeout_s is None else min(_LOOK_S, access.timeout_s)
        connection = Connection(address, access.password(), limit_s)
        try:
            connection.send(command(b"CLUSTER", b"NODES"))
            text = connection.reply()
        except ReplyError as error:
            failure = explain(error, str(address), "ask for the slots of the cluster")
            if "cluster support disabled" in str(error):
                failure = StoreError(
                    f"the server at {address} belongs to no cluster: give its address alone, "
                    "without a comma and cluster=True, and set SR_DB_TYPE=Standalone"
                )
                failure.transient = False
            raise failure from None
        except ConnectionLostError as error:
            raise StoreError(str(error)) from error
        finally:
            connection.close()
        assert isinstance(text, bytes)
        found = parse_nodes(text.decode("utf-8", "replace"), address)
        if not found.primaries:
            raise StoreError(f"the node at {address} knows of no slots")
        return found

    def _install(self, found: Topology) -> None:
        table = found.table()
        if table != self._table or found.primaries != self._topology.primaries:
            self.version += 1
        self._topology, self._table = found, table
        self._corrections = 0
        self._looked_s = time.monotonic()

    def _locked(self) -> threading.Lock:
        if self._pid != os.getpid():  # the lock is that of a thread that does not exist here
            self._pid, self._lock = os.getpid(), threading.Lock()
        return self._lock
