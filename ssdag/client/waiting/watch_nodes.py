# SPDX-License-Identifier: BSD-3-Clause
"""The nodes that a watcher listens to: one server, or all primaries of a cluster.

A cluster's notifications are per node and tell nothing of a slot that moves. So the
watcher subscribes at every primary, whoever has the slot now: a key that is written at
its new place is heard of there. The map, which says where to look, is asked for once a
second and whenever something is amiss.
"""

from __future__ import annotations

import contextlib
import select
import time
from typing import TYPE_CHECKING, Any, Protocol

from ssdag.client.transport.link import Link, Push
from ssdag.client.transport.resp import ConnectionLostError, ReplyError, command, explain
from ssdag.client.transport.slots import parse_redirection
from ssdag.client.waiting.watch_map import WatchMap
from ssdag.client.waiting.watch_node import WatchedNode, check_events
from ssdag.errors import SsdagError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ssdag.client.transport.address import Address, Place
    from ssdag.client.transport.resp import Reply

_CHANNEL = b"__keyspace@0__:"

#: Channels in one command.
_BATCH = 500

_MAP = "MAP"
_FLAGS = "FLAGS"
_ASKING = "ASKING"

#: Answers of a server that is alive and will be able to say more soon.
_SOON = frozenset({"LOADING", "BUSY"})
#: Answers of a node that does not have the key just now, but soon somebody has.
_ELSEWHERE = frozenset({"MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "MOVED", "ASK"})


class Listener(Protocol):
    """What hears of it all; called in the thread that calls :meth:`Nodes.poll`."""

    def on_event(self, key: bytes, word: bytes) -> None:
        """Hear that something happened to a key."""

    def on_answer(self, asked: Any, reply: Reply) -> None:
        """Take the answer to a look; an error is one that does not pass."""

    def on_ready(self, *, moved: bool) -> None:
        """Hear that what was put off may be asked now; `moved`: keys have other owners."""

    def on_lost(self, address: Address, error: SsdagError, *, alive: bool) -> None:
        """Hear that what was asked of a node must be asked again.

        `alive` says that the server answers, so that patience begins anew.
        """

    def on_put_off(self, asked: Any, error: SsdagError) -> None:
        """Hear that one look must be asked again."""

    def channels(self) -> Iterable[bytes]:
        """Return all keys that are to be subscribed to."""


class Nodes:
    """Links to all servers of a place; used by one thread.

    Parameters
    ----------
    place : Place
        The server, or some nodes of the cluster.
    password : callable
        Returns the password of the default user, or None.
    wake_fd : int
        Descriptor that ends :meth:`poll` early; -1 for none.
    listener : Listener
        Who hears.
    """

    def __init__(
        self,
        place: Place,
        password: Callable[[], str | None],
        wake_fd: int,
        listener: Listener,
    ) -> None:
        self._map = WatchMap(place)
        self._password = password
        self._wake_fd = wake_fd
        self._listener = listener
        self._poller = select.poll()
        if wake_fd >= 0:
            self._poller.register(wake_fd, select.POLLIN)
        self._by_fd: dict[int, WatchedNode] = {}
        self._seeds = place.addresses
        self._nodes: dict[Address, WatchedNode] = {a: WatchedNode(a) for a in place.addresses}
        self._turn = 0

    def close(self) -> None:
        """Close all links."""
        for node in list(self._nodes.values()):
            self._drop(node)

    # -- who has what ----------------------------------------------------------------

    def owner(self, key: bytes) -> Address | None:
        """Return the node that has a key; None while that is unknown."""
        return self._map.owner(key)

    def ask(self, key: bytes, line: bytes, asked: object) -> bool:
        """Send a look to the owner of a key; False if that cannot be asked now."""
        address = self.owner(key)
        node = None if address is None else self._nodes.get(address)
        if node is None or node.link is None or not node.ready:
            return False
        return self._try(node, lambda link: link.ask(line, (asked, key, line)))

    def hopeful(self, key: bytes) -> bool:
        """Return whether somebody listens where the key is, though he may be slow."""
        address = self.owner(key)
        if address is not None:
            nodes: Iterable[WatchedNode | None] = [self._nodes.get(address)]
        else:
            nodes = () if self._map.known else self._nodes.values()
        now = time.monotonic()
        return any(node is not None and node.hopeful(now) for node in nodes)

    def subscribe(self, keys: Sequence[bytes]) -> None:
        """Hear of changes of these keys, at all nodes that are there."""
        for node in list(self._nodes.values()):
            self._subscribe(node, keys)

    def unsubscribe(self, keys: Sequence[bytes]) -> None:
        """Hear of these keys no more."""
        for node in list(self._nodes.values()):
            known = [key for key in keys if key in node.subscribed]
            node.subscribed.difference_update(known)
            self._tell(node, b"UNSUBSCRIBE", known)

    def _subscribe(self, node: WatchedNode, keys: Iterable[bytes]) -> None:
        if node.ready:
            new = [key for key in keys if key not in node.subscribed]
            node.subscribed.update(new)
            self._tell(node, b"SUBSCRIBE", new)

    def _tell(self, node: WatchedNode, word: bytes, keys: Sequence[bytes]) -> None:
        for i in range(0, len(keys), _BATCH):
            line = command(word, *[_CHANNEL + key for key in keys[i : i + _BATCH]])
            if not self._try(node, lambda link, line=line: link.tell(line)):  # type: ignore[misc]
                return

    # -- the loop's step -------------------------------------------------------------

    def poll(self, timeout_s: float | None) -> None:
        """Sleep until something happens or somebody wakes us, and tell the listener.

        Parameters
        ----------
        timeout_s : float or None
            At most so long; less if a node is to be tried again.
        """
        now = time.monotonic()
        self._connect(now)
        next_s = self._next_s()
        if next_s is not None:
            left = max(next_s - time.monotonic(), 0.0)
            timeout_s = left if timeout_s is None else min(left, timeout_s)
        # Rounded up: waking a moment too early would only mean to sleep again.
        limit = None if timeout_s is None else int(timeout_s * 1000) + 1
        for fd, events in self._poller.poll(limit):
            if fd != self._wake_fd:
                node = self._by_fd.get(fd)
                if node is not None:
                    self._serve(node, events)

    def _next_s(self) -> float | None:
        times = [node.next_s for node in self._nodes.values() if node.link is None]
        if self._map.clustered and self._by_fd:
            times.append(self._map.due_s)
        return min(times, default=None)

    def _serve(self, node: WatchedNode, events: int) -> None:
        link = node.link
        assert link is not None
        try:
            if events & select.POLLOUT:
                link.flush()
                if not link.writing:
                    self._poller.modify(link, select.POLLIN)
            if events & ~select.POLLOUT:
                for item in link.receive():
                    if node.link is not link:
                        return
                    if isinstance(item, Push):
                        self._pushed(item.parts)
                    else:
                        self._answered(node, link, item.asked, item.value)
        except ConnectionLostError as error:
            if node.link is link:
                self._lost(node, StoreError(str(error)))

    def _pushed(self, parts: tuple[Any, ...]) -> None:
        if parts[0] == b"message":
            self._listener.on_event(parts[1][len(_CHANNEL) :], parts[2])

    # -- links -----------------------------------------------------------------------

    def _try(self, node: WatchedNode, work: Callable[[Link], None]) -> bool:
        link = node.link
        if link is None:
            return False
        try:
            work(link)
        except ConnectionLostError as error:
            self._lost(node, StoreError(str(error)))
            return False
        if link.writing:
            self._poller.modify(link, select.POLLIN | select.POLLOUT)
        return True

    def _connect(self, now: float) -> None:
        """Connect what is due, and ask for the map if that is due."""
        if not self._by_fd:  # nobody is left whom we know: begin anew
            for address in self._seeds:
                self._nodes.setdefault(address, WatchedNode(address))
        for node in list(self._nodes.values()):
            if node.link is None and node.next_s <= now:
                node.began_s = now
                try:
                    link = Link(node.address, self._password())
                except StoreError as error:
                    self._lost(node, error)
                    continue
                node.link = link
                self._by_fd[link.fileno()] = node
                self._poller.register(link, select.POLLIN | select.POLLOUT)
        if self._map.clustered and self._map.due_s <= now:
            self._ask_map(now)

    def _drop(self, node: WatchedNode) -> None:
        link, node.link = node.link, None
        node.ready = False
        node.subscribed.clear()
        if link is not None:
            with contextlib.suppress(KeyError):
                self._poller.unregister(link)
            self._by_fd.pop(link.fileno(), None)
            link.close()

    def _lost(self, node: WatchedNode, error: StoreError, *, alive: bool = False) -> None:
        self._drop(node)
        now = time.monotonic()
        node.put_off(now)
        self._map.hasten(now)
        self._listener.on_lost(node.address, error, alive=alive)

    def _answered(self, node: WatchedNode, link: Link, asked: Any, value: Reply) -> None:
        error = value if isinstance(value, ReplyError) else None
        if asked == Link.HELLO:
            if error is not None:
                self._refused(node, error, "log in")
            else:
                link.ask(command(b"CONFIG", b"GET", b"notify-keyspace-events"), _FLAGS)
        elif asked == _FLAGS:
            self._check_flags(node, value)
        elif asked == _MAP:
            if error is not None:
                self._refused(node, error, "ask for the slots of the cluster")
            elif isinstance(value, bytes):
                self._learn(node, value)
        elif asked is None:
            assert error is not None
            self._refused(node, error, "subscribe")
        elif asked != _ASKING:
            self._looked(node, asked, value)

    def _refused(self, node: WatchedNode, error: ReplyError, what: str) -> None:
        failure = explain(error, str(node.address), what)
        if "cluster support disabled" in str(error):
            failure = StoreError(f"the server at {node.address} belongs to no cluster")
            failure.transient = False
        if not failure.transient or not isinstance(failure, StoreError):
            raise failure
        self._lost(node, failure, alive=error.code in _SOON)

    def _check_flags(self, node: WatchedNode, value: Reply) -> None:
        """Begin, if the server sends notifications."""
        if isinstance(value, ReplyError) and value.code == "LOADING":
            self._refused(node, value, "ask for its configuration")
            return
        check_events(value, node.address)
        node.ready = True
        self._subscribe(node, self._listener.channels())
        if self._map.clustered:
            self._ask_map(time.monotonic())
        self._listener.on_ready(moved=False)

    def _looked(self, node: WatchedNode, asked: tuple[Any, bytes, bytes], value: Reply) -> None:
        """Hand an answer on, or what to make of an error."""
        what, key, line = asked
        if not isinstance(value, ReplyError):
            self._map.calm()
            self._listener.on_answer(what, value)
            return
        code = value.code
        failure = explain(value, str(node.address), f"look for {key!r:.80}")
        if code in _SOON:
            self._lost(node, StoreError(str(failure)), alive=True)
        elif self._map.clustered and code in _ELSEWHERE:
            if code != "ASK" or not self._ask_there(node, value, asked, line):
                # Only this key is concerned; the next map says who has it.
                self._map.hasten(time.monotonic())
                self._listener.on_put_off(what, failure)
        elif code == "NOPERM" and ("channel" in str(value) or "subscribe" in str(value)):
            # The answer to a subscription, which else is answered by messages.
            raise explain(value, str(node.address), "listen to changes of keys")
        else:
            self._listener.on_answer(what, value)

    # -- the map ---------------------------------------------------------------------

    def _ask_there(self, node: WatchedNode, value: ReplyError, asked: object, line: bytes) -> bool:
        """Look at a slot's next owner, which is just getting it."""
        to = parse_redirection(str(value), node.address)
        other = None if to is None else self._nodes.get(to.address)
        if other is None or not other.ready:
            return False
        self._try(other, lambda link: link.ask(command(b"ASKING"), _ASKING))
        return self._try(other, lambda link: link.ask(line, asked))

    def _ask_map(self, now: float) -> None:
        """Ask another node than last time: a single one may be cut off from the rest."""
        self._map.asked(now)
        ready = [node for node in self._nodes.values() if node.ready]
        if ready:
            self._turn += 1
            line = command(b"CLUSTER", b"NODES")
            self._try(ready[self._turn % len(ready)], lambda link: link.ask(line, _MAP))

    def _learn(self, node: WatchedNode, text: bytes) -> None:
        """Take over a description of the cluster, unless a newer one is known."""
        moved = self._map.learn(text, node.address)
        if moved is None:
            self._map.hasten(time.monotonic())
            return
        wanted = self._map.writers()
        for address in [a for a in self._nodes if a not in wanted]:
            self._drop(self._nodes.pop(address))
        for address, described in wanted.items():
            known = self._nodes.get(address)
            if known is None:
                known = self._nodes[address] = WatchedNode(address)
            if described.failed and known is not node and not known.failed:
                self._lost(known, StoreError(f"the cluster has lost its node at {address}"))
            known.failed = described.failed
        self._listener.on_ready(moved=moved)
