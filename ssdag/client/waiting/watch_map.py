# SPDX-License-Identifier: BSD-3-Clause
"""Who has which key, for a watcher: the map of a cluster, and when to ask for it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdag.client.transport.slots import Topology, parse_nodes, slot_of

if TYPE_CHECKING:
    from ssdag.client.transport.address import Address, Place
    from ssdag.client.transport.slots import Node

#: How often a cluster is asked for its map; and how soon when something is amiss.
_MAP_S = 1.0
_FIRST_DELAY_S = 0.01
_LONGEST_DELAY_S = 0.5

#: After so many older descriptions in a row, of several nodes, another cluster has taken
#: the place of the one that was known.
_OLDER = 8


class WatchMap:
    """The map of a place; a single server has all keys.

    Parameters
    ----------
    place : Place
        The server, or some nodes of the cluster.
    """

    def __init__(self, place: Place) -> None:
        self.clustered = place.clustered
        self._single = place.addresses[0]
        self._topology = Topology(())
        self._table: list[Address | None] = []
        self._delay_s = _FIRST_DELAY_S
        self._older = 0
        #: When to ask for it.
        self.due_s = 0.0

    def owner(self, key: bytes) -> Address | None:
        """Return the node that has a key; None if that is unknown, or nobody has it."""
        if not self.clustered:
            return self._single
        return self._table[slot_of(key)] if self._table else None

    @property
    def known(self) -> bool:
        """Whether it is known who has what."""
        return not self.clustered or bool(self._table)

    def asked(self, now_s: float) -> None:
        """Note that it is asked for."""
        self.due_s = now_s + _MAP_S

    def hasten(self, now_s: float) -> None:
        """Let it be asked for soon, less soon each time: something is amiss."""
        soon_s = now_s + self._delay_s
        if soon_s < self.due_s:
            self.due_s = soon_s
            self._delay_s = min(2 * self._delay_s, _LONGEST_DELAY_S)

    def calm(self) -> None:
        """Note that all is well."""
        self._delay_s = _FIRST_DELAY_S

    def learn(self, text: bytes, said_by: Address) -> bool | None:
        """Take over a description of the cluster.

        Returns
        -------
        bool or None
            Whether a slot has another owner; None if the description is older than what
            is known, or of a cluster that is not formed yet.

        Raises
        ------
        StoreError
            It is not understood.
        """
        found = parse_nodes(text.decode("utf-8", "replace"), said_by)
        if not found.primaries:
            return None
        if found.epoch < self._topology.epoch:
            self._older += 1
            if self._older < _OLDER:
                return None
        self._older = 0
        before = self._table
        self._topology, self._table = found, found.table()
        return self._table != before

    def writers(self) -> dict[Address, Node]:
        """Return the nodes at which somebody may write now or soon.

        A primary that failed and has no slots was replaced.
        """
        return {
            node.address: node
            for node in self._topology.nodes
            if not node.primary and (node.ranges or not node.failed)
        }
