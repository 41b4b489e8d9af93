# SPDX-License-Identifier: BSD-3-Clause
"""A cluster: each key goes to the node that has its slot, also while slots move.

The map of slots is learned from any node at the first call and corrected by the nodes
themselves: ``MOVED`` tells the new owner for good, ``ASK`` for one command. Such an
answer means that nothing was done, so the command is sent again even if it is not
idempotent. When a node is lost the map is asked anew from the others. If a replica can
take over, the call waits for that; else it fails at once and says what is lost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ssdag.client.transport.asking import AskingConnection
from ssdag.client.transport.attempts import Attempt
from ssdag.client.transport.pool import Access, Pool
from ssdag.client.transport.resp import ConnectionLostError, ReplyError, explain
from ssdag.client.transport.route import Route, ended, told
from ssdag.client.transport.slotmap import SlotMap
from ssdag.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.client.transport.address import Address
    from ssdag.client.transport.connection import Connection

T = TypeVar("T")

#: Answers after which nothing was done and the same may succeed soon, here or elsewhere.
_NOT_DONE = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN"})


class Cluster(Route):
    """The nodes of a cluster.

    Parameters
    ----------
    seeds : sequence of Address
        Some of its nodes; the others are learned from them.
    access : Access
        How to get in, the same for all.
    """

    def __init__(self, seeds: Sequence[Address], access: Access) -> None:
        self._map = SlotMap(seeds, access)
        super().__init__(replace(access, counts=self._map.still_counts))
        self._pools: dict[Address, Pool] = {}

    # -- one key ---------------------------------------------------------------------

    def run(
        self,
        what: str,
        work: Callable[[Connection], T],
        *,
        key: bytes | None = None,
        idempotent: bool = True,
    ) -> T:
        """Run `work` on the node that has `key`; see :meth:`Route.run`."""
        attempt: Attempt | None = None
        asked: Address | None = None
        while True:
            address = asked
            try:
                if address is None:
                    address = self._choose(key, attempt)
                pool = self._pool(address)
                if asked is None:
                    connection = pool.take(checked=not idempotent)
                else:
                    connection = Pool(asked, self.access, AskingConnection).connect()
            except StoreError as error:
                if not error.transient:
                    raise told(error, what) from error
                attempt = attempt or Attempt(self._map, self.access.timeout_s, what)
                attempt.unreachable(address, error, anyone=key is None)
                asked = None
                continue
            try:
                if asked is None:
                    return pool.use(connection, work)
                try:
                    return work(connection)
                finally:
                    connection.close()
            except ReplyError as error:
                if error.code not in _NOT_DONE:
                    raise explain(error, str(address), what) from None
                attempt = attempt or Attempt(self._map, self.access.timeout_s, what)
                asked = attempt.sent_away(address, error)
            except ConnectionLostError as error:
                if error.timed_out or not idempotent:
                    raise ended(error, what) from error
                attempt = attempt or Attempt(self._map, self.access.timeout_s, what)
                attempt.lost(address, error)
                asked = None

    def _choose(self, key: bytes | None, attempt: Attempt | None) -> Address:
        if key is not None:
            return self._map.owner(key)
        tried = attempt.tried if attempt is not None else {}
        address = self._map.anyone(tried)
        if address is None:
            raise next(iter(tried.values()))
        return address

    def _pool(self, address: Address) -> Pool:
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools.setdefault(address, Pool(address, self.access))
        return pool

    # -- many keys -------------------------------------------------------------------

    def run_many(
        self,
        what: str,
        keys: Sequence[bytes | None],
        send: Callable[[Connection, Sequence[int]], None],
        receive: Callable[[Connection, Sequence[int]], Sequence[Any]],
        *,
        idempotent: bool = True,
    ) -> list[Any]:
        """Send to all nodes, then read from all; see :meth:`Route.run_many`.

        What a node sends away, or was lost with it, is done again item by item.
        """
        values: list[Any] = [None] * len(keys)
        again: list[int] = []
        groups: dict[Address, list[int]] = {}
        try:
            for i, key in enumerate(keys):
                groups.setdefault(self._choose(key, None), []).append(i)
        except StoreError:  # nobody has a slot at the moment: run() knows how to wait
            groups, again = {}, list(range(len(keys)))
        taken: list[tuple[Pool, Connection, list[int]]] = []

        def lost(pool: Pool, connection: Connection, error: ConnectionLostError) -> None:
            connection.close()
            pool.drop()
            if error.timed_out or not idempotent:
                raise ended(error, what) from error

        try:
            for address, items in groups.items():
                pool = self._pool(address)
                try:
                    connection = pool.take(checked=not idempotent)
                except StoreError:
                    again += items
                    continue
                taken.append((pool, connection, items))
                try:
                    send(connection, items)
                except ReplyError as error:
                    raise explain(error, str(address), what) from None
                except ConnectionLostError as error:
                    lost(pool, connection, error)
                    again += items
                    taken.pop()
            for pool, connection, items in taken:
                try:
                    answers = receive(connection, items)
                except ConnectionLostError as error:
                    lost(pool, connection, error)
                    again += items
                    continue
                for i, answer in zip(items, answers, strict=True):
                    if isinstance(answer, ReplyError) and answer.code in _NOT_DONE:
                        again.append(i)
                    else:
                        values[i] = answer
        finally:
            for pool, connection, _ in taken:
                pool.give(connection)
        for i in sorted(again):
            values[i] = self._one(what, i, keys[i], send, receive, idempotent)
        return values

    def _one(
        self,
        what: str,
        item: int,
        key: bytes | None,
        send: Callable[[Connection, Sequence[int]], None],
        receive: Callable[[Connection, Sequence[int]], Sequence[Any]],
        idempotent: bool,
    ) -> Any:
        def work(connection: Connection) -> Any:
            send(connection, (item,))
            (answer,) = receive(connection, (item,))
            if isinstance(answer, ReplyError) and answer.code in _NOT_DONE:
                raise answer
            return answer

        return self.run(what, work, key=key, idempotent=idempotent)

    def run_each(
        self,
        what: str,
        work: Callable[[Connection], T],
        nodes: Sequence[Address] | None = None,
        *,
        idempotent: bool = True,
    ) -> list[tuple[Address, T]]:
        """Run `work` on every primary, or on these nodes; see :meth:`Route.run_each`."""
        if nodes is None:
            self._map.refresh()
            nodes = self._map.primaries()
        values = []
        for address in nodes:
            pool = self._pool(address)
            for last in (not idempotent, True):
                try:
                    values.append((address, pool.use(pool.take(checked=not idempotent), work)))
                    break
                except StoreError as error:
                    raise told(error, what) from error
                except ReplyError as error:
                    raise explain(error, str(address), what) from None
                except ConnectionLostError as error:
                    if error.timed_out or last:
                        raise ended(error, what) from error
        return values

    # -- the nodes -------------------------------------------------------------------

    def connect(self, node: Address | None = None) -> Connection:
        """Return a new connection to a node, by default to any primary that answers."""
        if node is not None:
            return self._pool(node).connect()
        failure: StoreError | None = None
        for address in self.nodes():
            try:
                return self._pool(address).connect()
            except StoreError as error:
                failure = error
        assert failure is not None
        raise failure

    def nodes(self) -> list[Address]:
        """Return the primaries, by their first slot."""
        return self._map.primaries()

    def node_of(self, key: bytes) -> Address:
        """Return the primary that has a key, as far as is known."""
        return self._map.owner(key)

    @property
    def version(self) -> int:
        """Counts how often the map was seen to change."""
        return self._map.version

    def refresh(self) -> None:
        """Ask a node who has which slots."""
        self._map.refresh()

    def release(self) -> None:
        """Close idle connections."""
        for pool in list(self._pools.values()):
            pool.drop()
